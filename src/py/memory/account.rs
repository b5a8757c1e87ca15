//! Who has the memory of the process: CPython's arenas, and the C library.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::allocators::{Access, OBJ, RAW, find};
use crate::clock::cpu::{monotonic_ns, thread_cpu_ns, thread_id};
use crate::clock::resident::resident;
use crate::heap::account::{Account, CLibrary};
use crate::heap::report;

type AllocateArena = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
type FreeArena = unsafe extern "C" fn(*mut c_void, *mut c_void, usize);

/// `PyObjectArenaAllocator` (`Include/cpython/objimpl.h`).
#[repr(C)]
#[derive(Clone, Copy)]
struct ArenaAllocator {
    context: *mut c_void,
    allocate: AllocateArena,
    free: FreeArena,
}

type GetArenaAllocator = unsafe extern "C" fn(*mut ArenaAllocator);
type SetArenaAllocator = unsafe extern "C" fn(*mut ArenaAllocator);
/// `_PyObject_DebugMallocStats`; 0 where small objects are not in arenas, or somebody's hook is in
/// front of these.
type WriteStatistics = unsafe extern "C" fn(*mut libc::FILE) -> c_int;

/// What was there before us.
static ALLOCATE: AtomicUsize = AtomicUsize::new(0);
static FREE: AtomicUsize = AtomicUsize::new(0);
/// Bytes of all arenas.
static BYTES: AtomicI64 = AtomicI64::new(0);
static IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// In front of the interpreter's: called when it needs an arena, which is a mebibyte in most versions.
unsafe extern "C" fn allocate(context: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: saved before this function was installed.
    let original =
        unsafe { std::mem::transmute::<usize, AllocateArena>(ALLOCATE.load(Ordering::Acquire)) };
    // SAFETY: called with what the interpreter passes to it.
    let arena = unsafe { original(context, size) };
    if !arena.is_null() {
        BYTES.fetch_add(size as i64, Ordering::Relaxed);
    }
    arena
}

unsafe extern "C" fn free(context: *mut c_void, arena: *mut c_void, size: usize) {
    // SAFETY: as in `allocate`.
    let original = unsafe { std::mem::transmute::<usize, FreeArena>(FREE.load(Ordering::Acquire)) };
    BYTES.fetch_sub(size as i64, Ordering::Relaxed);
    // SAFETY: as in `allocate`.
    unsafe { original(context, arena, size) };
}

/// Counts arenas from now on, with those that there are; once. As other hooks it stays for ever, and the
/// context is what it was: whoever calls it at this moment may read half of it.
pub(super) fn count_arenas(_: Python<'_>, access: Access) {
    if ALLOCATE.load(Ordering::Acquire) != 0 {
        return;
    }
    let (Ok(get), Ok(set)) = (
        find(c"PyObject_GetArenaAllocator"),
        find(c"PyObject_SetArenaAllocator"),
    ) else {
        return;
    };
    // With PYTHONMALLOC=malloc there are none. Hooks that are one function for both domains, as those of
    // tracemalloc, tell them apart by the context.
    let (small, raw) = (access.get(OBJ), access.get(RAW));
    let has_none = small.malloc as usize == raw.malloc as usize && small.context == raw.context;
    let Some(bytes) = has_none.then_some(0).or_else(arena_bytes) else {
        return;
    };
    let mut allocator = std::mem::MaybeUninit::<ArenaAllocator>::uninit();
    // SAFETY: these are CPython's functions of these names, with these signatures since 3.4; the first
    // fills the whole structure in, and the second copies it. The GIL is held, with which arenas are
    // made.
    unsafe {
        std::mem::transmute::<*mut c_void, GetArenaAllocator>(get)(allocator.as_mut_ptr());
        let mut allocator = allocator.assume_init();
        ALLOCATE.store(allocator.allocate as usize, Ordering::Release);
        FREE.store(allocator.free as usize, Ordering::Release);
        (allocator.allocate, allocator.free) = (allocate, free);
        std::mem::transmute::<*mut c_void, SetArenaAllocator>(set)(&raw mut allocator);
    }
    BYTES.fetch_add(bytes, Ordering::Relaxed);
    IS_KNOWN.store(true, Ordering::Release);
}

/// Bytes of the arenas that there are, as CPython's own statistics have it.
fn arena_bytes() -> Option<i64> {
    let write = find(c"_PyObject_DebugMallocStats").ok()?;
    let mut text: *mut libc::c_char = std::ptr::null_mut();
    let mut length = 0;
    // SAFETY: a stream in memory is opened, written to by the function that this is since 3.3, and
    // closed, upon which `text` has `length` bytes that are ours to free.
    unsafe {
        let stream = libc::open_memstream(&raw mut text, &raw mut length);
        if stream.is_null() {
            return None;
        }
        let has_arenas = std::mem::transmute::<*mut c_void, WriteStatistics>(write)(stream) != 0;
        if libc::fclose(stream) != 0 || text.is_null() {
            libc::free(text.cast());
            return None;
        }
        let bytes = std::slice::from_raw_parts(text.cast::<u8>(), length);
        let told = has_arenas
            .then(|| total_of(&String::from_utf8_lossy(bytes)))
            .flatten();
        libc::free(text.cast());
        told
    }
}

/// The total of `12 arenas * 1048576 bytes/arena    =           12,582,912`.
fn total_of(statistics: &str) -> Option<i64> {
    let mut lines = statistics.lines();
    let line = lines.find(|line| line.contains(" arenas * "))?;
    let number = line.rsplit('=').next()?.trim().replace(',', "");
    number.parse().ok()
}

/// `struct mallinfo2` (glibc, `malloc/malloc.h`, since 2.33).
#[repr(C)]
struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

/// CPU time in ns of an answer of glibc after which it is not asked in passing any more: it goes through all
/// free blocks of an arena and keeps its lock, so that whoever allocates there waits as long.
const MAX_COST_NS: u64 = 5_000_000;
/// In passing, an answer does for so many times what it has cost.
const KEPT_FOR: u64 = 1_000;

/// Why somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asking {
    /// The program has asked for it, and waits.
    Expressly,
    /// It is written beside something else.
    InPassing,
}

/// An answer of glibc's.
struct Told {
    answer: CLibrary,
    at_ns: u64,
    cost_ns: u64,
}

/// The last one.
static TOLD: Mutex<Option<Told>> = Mutex::new(None);

/// What glibc has; `None` where there is no `mallinfo2`, or where it takes too long to be asked in passing. It
/// takes the locks of its arenas, one after another: not to be called where the calling thread may hold one,
/// as in a signal handler.
fn c_library(asking: Asking) -> Option<CLibrary> {
    let mut told = TOLD.try_lock()?;
    let now_ns = monotonic_ns();
    if let Some(last) = told.as_ref().filter(|_| asking == Asking::InPassing) {
        let is_cheap = last.cost_ns <= MAX_COST_NS;
        if !is_cheap || now_ns < last.at_ns.saturating_add(KEPT_FOR * last.cost_ns) {
            return is_cheap.then_some(last.answer);
        }
    }
    let function = find(c"mallinfo2").ok()?;
    let began_ns = thread_cpu_ns(thread_id())?;
    // SAFETY: this is glibc's function of this name, which returns such a structure.
    let info = unsafe {
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> Mallinfo2>(function)()
    };
    let answer = CLibrary {
        used: (info.uordblks + info.hblkhd) as u64,
        free: info.fordblks as u64,
    };
    *told = Some(Told {
        answer,
        at_ns: now_ns,
        cost_ns: thread_cpu_ns(thread_id())?.saturating_sub(began_ns),
    });
    Some(answer)
}

/// The account as it is now; needs no GIL, and is for threads that hold no lock of ours.
pub(crate) fn account(asking: Asking) -> Account {
    let bytes = BYTES.load(Ordering::Relaxed);
    let is_known = IS_KNOWN.load(Ordering::Acquire);
    Account {
        resident: resident(),
        python: report::in_use(),
        arenas: is_known.then(|| u64::try_from(bytes).unwrap_or(0)),
        c_library: c_library(asking),
    }
}

#[cfg(test)]
mod tests {
    use super::total_of;

    #[test]
    fn statistics_tell_how_much_arenas_have() {
        let text = "# arenas allocated current         =                   12\n\
                    12 arenas * 1048576 bytes/arena    =           12,582,912\n";
        assert_eq!(total_of(text), Some(12_582_912));
        assert_eq!(total_of("nothing"), None);
    }
}
