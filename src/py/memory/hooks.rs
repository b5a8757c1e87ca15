//! The functions that stand in CPython's allocators: they count bytes, and now and then take a sample.
//!
//! **What they never do**: allocate, take the GIL, call Python, wait, or change `errno`. They run
//! without the GIL (RAW), within `realloc`, in the collector, in threads that Python does not know or
//! that are ending, before and after the interpreter's life.
//!
//! **Small blocks without a hook on free.** A small block that is sampled is asked for as one of
//! [`LARGE`] bytes. That is more than pymalloc serves itself, so it comes from RAW, and its free arrives
//! there by CPython's own rules; RAW's free is hooked, for it is rare. Where that does not hold, as with
//! `PYTHONMALLOC=debug` or `malloc`, the free of small blocks is hooked as well; both are shown when the
//! hooks are installed (`trial.rs`).
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::allocators::{Allocator, GENERATION, GENERATIONS, MEM, OBJ, RAW, current};
use super::walk::Own;
use crate::clock::cpu::{monotonic_ns, process_cpu_ns, thread_id};
use crate::heap::countdown::{self, ThreadCountdown};
use crate::heap::live::Live;
use crate::heap::missed::MISSED;
use crate::heap::{self, Hit, filter};

/// The least that pymalloc does not serve itself (`SMALL_REQUEST_THRESHOLD` is 512, 3.10-3.15).
pub(super) const LARGE: usize = 513;

/// What an allocator of RAW was last asked for, in a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The block that is freed, or changed in size.
    pub(super) old: usize,
    /// The block that was returned.
    pub(super) new: usize,
}

/// What a thread has: of plain numbers, so that it is there before the thread's first instruction and
/// after its last.
pub(super) struct OwnThread {
    pub(super) count: ThreadCountdown,
    /// Whether this thread tries the hooks out, upon which `seen` tells what comes.
    pub(super) is_trying: Cell<bool>,
    pub(super) seen: Cell<Seen>,
    thread_id: Cell<u32>,
    /// Of how many forks that was read after.
    forks: Cell<u32>,
}

thread_local! {
    pub(super) static THREAD: OwnThread = const {
        OwnThread {
            count: ThreadCountdown::new(),
            is_trying: Cell::new(false),
            seen: Cell::new(Seen { old: 0, new: 0 }),
            thread_id: Cell::new(0),
            forks: Cell::new(0),
        }
    };
}

static FORKS: AtomicU32 = AtomicU32::new(0);

/// Notes that this is a forked child: its thread has another id.
pub(super) fn note_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

impl OwnThread {
    fn id(&self) -> u32 {
        let forks = FORKS.load(Ordering::Relaxed);
        if self.thread_id.get() == 0 || self.forks.get() != forks {
            self.thread_id.set(thread_id() as u32);
            self.forks.set(forks);
        }
        self.thread_id.get()
    }

    /// Another one for each thread.
    fn seed() -> u64 {
        static THREADS: AtomicU64 = AtomicU64::new(1);
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        heap::law::mix(number << 32 ^ monotonic_ns())
    }
}

/// Looks at stacks under way.
static LOOKS: AtomicU32 = AtomicU32::new(0);
/// The interpreter is about to end: what a thread without the GIL looks at may be freed.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Looks at no stack any more, and waits for the looks that have begun; false if some go on.
pub(super) fn end_looks() -> bool {
    const PATIENCE: u32 = 100;
    IS_ENDING.store(true, Ordering::SeqCst);
    for _ in 0..PATIENCE {
        if LOOKS.load(Ordering::SeqCst) == 0 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Keeps `errno` as the caller has it.
struct Errno(#[cfg(target_os = "linux")] libc::c_int);

impl Errno {
    #[cfg(target_os = "linux")]
    fn keep() -> Self {
        // SAFETY: the address of the calling thread's errno, which is always there.
        Self(unsafe { *libc::__errno_location() })
    }

    #[cfg(not(target_os = "linux"))]
    fn keep() -> Self {
        Self()
    }
}

impl Drop for Errno {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        // SAFETY: as in `keep`.
        unsafe {
            *libc::__errno_location() = self.0;
        }
    }
}

/// Does what may fail by a mistake of ours alone; after one nothing is sampled any more.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    let _errno = Errno::keep();
    let done = catch_unwind(AssertUnwindSafe(work));
    if done.is_err() {
        countdown::set_rate(None);
    }
    done.ok()
}

/// Takes a block in that was hit.
fn record(block: *mut c_void, bytes: usize, rate: f64, has_gil: bool) {
    guarded(|| {
        let began_ns = monotonic_ns();
        LOOKS.fetch_add(1, Ordering::SeqCst);
        if !IS_ENDING.load(Ordering::SeqCst) {
            let hit = Hit {
                address: block as usize,
                bytes: bytes as u64,
                rate,
                thread_id: THREAD.with(OwnThread::id),
                now_ns: began_ns,
            };
            match heap::try_lock() {
                Some(mut heap) => {
                    heap.record(&hit, &Own { has_gil }, process_cpu_ns);
                    heap.add_cost(monotonic_ns().saturating_sub(began_ns));
                }
                None => heap::count_lost(),
            }
        }
        LOOKS.fetch_sub(1, Ordering::SeqCst);
    });
}

/// Takes the sample of a block out that is about to be freed or moved, if there is one.
#[cold]
fn take(block: *mut c_void) -> Option<Live> {
    let is_trying = THREAD.with(|own| {
        let seen = Seen {
            old: block as usize,
            ..own.seen.get()
        };
        if own.is_trying.get() {
            own.seen.set(seen);
        }
        own.is_trying.get()
    });
    if is_trying {
        return None;
    }
    guarded(|| match heap::try_lock() {
        Some(mut heap) => heap.take(block as usize),
        None => {
            MISSED.push(block as usize);
            None
        }
    })
    .flatten()
}

/// Puts back what was taken out: the block is still there.
#[cold]
fn put_back(live: Live) {
    guarded(|| match heap::try_lock() {
        Some(mut heap) => heap.put_back(live),
        None => heap::count_lost(),
    });
}

/// The bytes of RAW that were hit: `ask` gets them.
#[cold]
#[inline(never)]
fn hit_raw<const G: usize>(bytes: usize, ask: impl Fn(usize) -> *mut c_void) -> *mut c_void {
    let trial = THREAD.with(|own| own.is_trying.get());
    let block = ask(bytes);
    if trial {
        THREAD.with(|own| {
            own.seen.set(Seen {
                new: block as usize,
                ..own.seen.get()
            });
            // The next one is a hit as well.
            own.count.go_on(-1);
        });
        return block;
    }
    let rate = THREAD.with(|own| own.count.draw(bytes, OwnThread::seed));
    if let Some(rate) = rate
        && !block.is_null()
        && current() == Some(G)
    {
        record(block, bytes, rate, false);
    }
    block
}

/// Bytes of MEM or OBJ that were hit: `ask` gets them.
#[cold]
#[inline(never)]
fn hit<const G: usize>(bytes: usize, ask: impl Fn(usize) -> *mut c_void) -> *mut c_void {
    let generation = &GENERATION[G];
    // What is larger is counted by RAW; a hit there is none of these.
    let Some(rate) = generation
        .count
        .draw()
        .filter(|_| bytes <= generation.limit())
    else {
        return ask(bytes);
    };
    let mut block = std::ptr::null_mut();
    if generation.asks_for_large() {
        // RAW is not to count it as well.
        let left = THREAD.with(|own| own.count.pause());
        block = ask(LARGE);
        THREAD.with(|own| own.count.go_on(left));
    }
    if block.is_null() {
        block = ask(bytes);
    }
    if !block.is_null() {
        record(block, bytes, rate, true);
    }
    block
}

/// Whether so many bytes of domain `D` are a hit.
#[inline(always)]
fn passes<const D: usize, const G: usize>(bytes: usize) -> bool {
    if D == RAW {
        THREAD.with(|own| own.count.pass(bytes))
    } else {
        GENERATION[G].count.pass(bytes)
    }
}

#[cold]
#[inline(never)]
fn hit_in<const D: usize, const G: usize>(
    bytes: usize,
    ask: impl Fn(usize) -> *mut c_void,
) -> *mut c_void {
    if D == RAW {
        hit_raw::<G>(bytes, ask)
    } else {
        hit::<G>(bytes, ask)
    }
}

unsafe extern "C" fn malloc<const D: usize, const G: usize>(
    context: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    let original = GENERATION[G].originals[D].malloc();
    if passes::<D, G>(bytes) {
        // SAFETY: the original is called as we were, with as many bytes or more.
        return hit_in::<D, G>(bytes, |bytes| unsafe { original(context, bytes) });
    }
    // SAFETY: the original is called as we were.
    unsafe { original(context, bytes) }
}

unsafe extern "C" fn calloc<const D: usize, const G: usize>(
    context: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    let original = GENERATION[G].originals[D].calloc();
    // CPython has refused what would overflow.
    let all = count.wrapping_mul(size);
    if passes::<D, G>(all) {
        return hit_in::<D, G>(all, |bytes| {
            let (count, size) = if bytes == all {
                (count, size)
            } else {
                (1, bytes)
            };
            // SAFETY: the original is called as we were, with as many bytes or more.
            unsafe { original(context, count, size) }
        });
    }
    // SAFETY: the original is called as we were.
    unsafe { original(context, count, size) }
}

unsafe extern "C" fn realloc<const D: usize, const G: usize>(
    context: *mut c_void,
    block: *mut c_void,
    bytes: usize,
) -> *mut c_void {
    let original = GENERATION[G].originals[D].realloc();
    // Before the call: afterwards another thread may have the address.
    let taken = if filter::may_have(block as usize) {
        take(block)
    } else {
        None
    };
    // SAFETY: the original is called as we were, with as many bytes or more.
    let ask = |bytes| unsafe { original(context, block, bytes) };
    // A block of RAW that is made as small as this is one of MEM or OBJ, which have counted it.
    let is_counted = D == RAW
        && !block.is_null()
        && bytes <= GENERATION[G].limit()
        && GENERATION[G].limit() != usize::MAX;
    let moved = if !is_counted && passes::<D, G>(bytes) {
        hit_in::<D, G>(bytes, ask)
    } else {
        ask(bytes)
    };
    if let Some(taken) = taken
        && moved.is_null()
    {
        put_back(taken);
    }
    moved
}

unsafe extern "C" fn free<const D: usize, const G: usize>(
    context: *mut c_void,
    block: *mut c_void,
) {
    if filter::may_have(block as usize) {
        // Before the call: afterwards another thread may have the address.
        take(block);
    }
    // SAFETY: the original is called as we were.
    unsafe { GENERATION[G].originals[D].free()(context, block) };
}

/// The functions of a generation in front of `original`; its free is hooked if that is wanted.
pub(super) fn in_front_of(
    original: &Allocator,
    domain: usize,
    generation: usize,
    hooks_free: bool,
) -> Allocator {
    const fn all<const D: usize, const G: usize>() -> Allocator {
        Allocator {
            context: std::ptr::null_mut(),
            malloc: malloc::<D, G>,
            calloc: calloc::<D, G>,
            realloc: realloc::<D, G>,
            free: free::<D, G>,
        }
    }
    const fn domains<const G: usize>() -> [Allocator; 3] {
        [all::<RAW, G>(), all::<MEM, G>(), all::<OBJ, G>()]
    }
    let hooks: [[Allocator; 3]; GENERATIONS] = [
        domains::<0>(),
        domains::<1>(),
        domains::<2>(),
        domains::<3>(),
    ];
    let hooks = hooks[generation][domain];
    Allocator {
        context: original.context,
        free: if hooks_free {
            hooks.free
        } else {
            original.free
        },
        ..hooks
    }
}
