//! CPython's allocators (`Include/cpython/pymem.h`): what they were before us, by generation.
//!
//! A function of ours that somebody else has saved may be called for ever, and one function twice in a
//! chain would call itself. So each time that we hook anew other functions do it, which know what they
//! have hooked. Nothing is ever put back: what was saved is stale as soon as somebody else came or went.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{
    AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use crate::heap::countdown::Countdown;

/// `PyMem_RawMalloc` and the like: without the GIL, for whatever is large.
pub(super) const RAW: usize = 0;
/// `PyMem_Malloc` and the like.
pub(super) const MEM: usize = 1;
/// `PyObject_Malloc` and the like.
pub(super) const OBJ: usize = 2;
const DOMAINS: usize = 3;
/// How often the allocators are hooked; then it is given up.
pub(super) const GENERATIONS: usize = 4;

pub(super) type Malloc = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
pub(super) type Calloc = unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
pub(super) type Realloc = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void;
pub(super) type Free = unsafe extern "C" fn(*mut c_void, *mut c_void);

/// `PyMemAllocatorEx`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Allocator {
    pub(super) context: *mut c_void,
    pub(super) malloc: Malloc,
    pub(super) calloc: Calloc,
    pub(super) realloc: Realloc,
    pub(super) free: Free,
}

type Get = unsafe extern "C" fn(c_int, *mut Allocator);
type Set = unsafe extern "C" fn(c_int, *mut Allocator);

/// The functions that read and replace them.
#[derive(Clone, Copy)]
pub(super) struct Access {
    get: Get,
    set: Set,
}

/// The address of a function that is not in the limited API.
///
/// # Errors
/// When the interpreter does not export it.
pub(super) fn find(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: RTLD_DEFAULT searches the loaded objects; `name` is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("it does not export {}", name.to_string_lossy()));
    }
    Ok(address)
}

impl Access {
    pub(super) fn find() -> Result<Self, String> {
        let (get, set) = (find(c"PyMem_GetAllocator")?, find(c"PyMem_SetAllocator")?);
        // SAFETY: these are CPython's functions of these names, with these signatures since 3.4.
        unsafe {
            Ok(Self {
                get: std::mem::transmute::<*mut c_void, Get>(get),
                set: std::mem::transmute::<*mut c_void, Set>(set),
            })
        }
    }

    /// The allocator of a domain.
    pub(super) fn get(self, domain: usize) -> Allocator {
        let mut allocator = std::mem::MaybeUninit::uninit();
        // SAFETY: CPython fills the whole structure in for each of the three domains, and every one has
        // all four functions.
        unsafe {
            (self.get)(domain as c_int, allocator.as_mut_ptr());
            allocator.assume_init()
        }
    }

    /// Replaces the allocator of a domain. Its context must be the one that is there: whoever calls it
    /// at this moment without the GIL may read the context of one and the function of the other.
    pub(super) fn set(self, domain: usize, mut allocator: Allocator) {
        // SAFETY: CPython copies the structure.
        unsafe { (self.set)(domain as c_int, &raw mut allocator) };
    }
}

/// What one domain was before a generation hooked it.
pub(super) struct Original {
    malloc: AtomicUsize,
    calloc: AtomicUsize,
    realloc: AtomicUsize,
    free: AtomicUsize,
}

impl Original {
    const fn none() -> Self {
        Self {
            malloc: AtomicUsize::new(0),
            calloc: AtomicUsize::new(0),
            realloc: AtomicUsize::new(0),
            free: AtomicUsize::new(0),
        }
    }

    /// Before the functions that use it are installed.
    pub(super) fn save(&self, allocator: &Allocator) {
        self.malloc.store(allocator.malloc as usize, Release);
        self.calloc.store(allocator.calloc as usize, Release);
        self.realloc.store(allocator.realloc as usize, Release);
        self.free.store(allocator.free as usize, Release);
    }

    #[inline(always)]
    pub(super) fn malloc(&self) -> Malloc {
        // SAFETY: `save` was called before any function was installed that comes here.
        unsafe { std::mem::transmute::<usize, Malloc>(self.malloc.load(Relaxed)) }
    }

    #[inline(always)]
    pub(super) fn calloc(&self) -> Calloc {
        // SAFETY: as in `malloc`.
        unsafe { std::mem::transmute::<usize, Calloc>(self.calloc.load(Relaxed)) }
    }

    #[inline(always)]
    pub(super) fn realloc(&self) -> Realloc {
        // SAFETY: as in `malloc`.
        unsafe { std::mem::transmute::<usize, Realloc>(self.realloc.load(Relaxed)) }
    }

    #[inline(always)]
    pub(super) fn free(&self) -> Free {
        // SAFETY: as in `malloc`.
        unsafe { std::mem::transmute::<usize, Free>(self.free.load(Relaxed)) }
    }
}

/// What is known of one generation.
pub(super) struct Generation {
    pub(super) originals: [Original; DOMAINS],
    /// The count of what is allocated with the GIL.
    pub(super) count: Countdown,
    /// A larger block of MEM or OBJ arrives at RAW, which counts it.
    limit: AtomicUsize,
    /// Whether a small block that is sampled is asked for as a large one.
    asks_for_large: AtomicBool,
}

pub(super) static GENERATION: [Generation; GENERATIONS] =
    [const { Generation::none() }; GENERATIONS];

impl Generation {
    const fn none() -> Self {
        Self {
            originals: [const { Original::none() }; DOMAINS],
            count: Countdown::new(),
            limit: AtomicUsize::new(0),
            asks_for_large: AtomicBool::new(false),
        }
    }

    pub(super) fn decide(&self, limit: usize, asks_for_large: bool) {
        self.limit.store(limit, Release);
        self.asks_for_large.store(asks_for_large, Release);
    }

    #[inline(always)]
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Relaxed)
    }

    #[inline(always)]
    pub(super) fn asks_for_large(&self) -> bool {
        self.asks_for_large.load(Acquire)
    }
}

/// The generation that counts; those before it pass everything on.
static CURRENT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// The generation that counts, if there is any.
#[inline(always)]
pub(super) fn current() -> Option<usize> {
    let current = CURRENT.load(Acquire);
    (current != usize::MAX).then_some(current)
}

pub(super) fn make_current(generation: usize) {
    CURRENT.store(generation, Release);
}
