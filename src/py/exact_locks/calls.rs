//! What stands in for the methods of `_thread.lock`: it calls them, and notes in the lock who has it.
//!
//! All of it runs with the GIL, but for what the methods themselves do without it. It keeps nothing of its
//! own, runs no code of Python and never fails, so it is the same for all interpreters.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::Relaxed};

use pyo3::ffi::{self, PyObject};

use crate::clock::cpu::monotonic_ns;
use crate::layout::locks::PRIMITIVE;
use crate::unwind::lock_owners::OWNERS;

/// What a method is called with behind the lock is one word, or two or three.
type One = unsafe extern "C" fn(*mut PyObject, usize) -> *mut PyObject;
type Two = unsafe extern "C" fn(*mut PyObject, usize, usize) -> *mut PyObject;
type Three = unsafe extern "C" fn(*mut PyObject, usize, usize, usize) -> *mut PyObject;

/// Those that take a lock, and those that give it back.
pub(super) const METHODS: [&CStr; 6] = [
    c"acquire",
    c"acquire_lock",
    c"__enter__",
    c"release",
    c"release_lock",
    c"__exit__",
];

/// CPython's own functions, in the same order. Once known they stay the same.
pub(super) static ORIGINALS: [AtomicPtr<c_void>; METHODS.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; METHODS.len()];

/// Where things are.
#[derive(Debug)]
pub(super) struct Places {
    /// In a lock, the four bytes that nobody uses.
    pub(super) spare: AtomicUsize,
    /// Whether a lock is a semaphore.
    pub(super) is_semaphore: AtomicBool,
    /// Of the kernel's id of a thread, from its ident on.
    pub(super) id_from_ident: AtomicUsize,
}

pub(super) static PLACES: Places = Places {
    spare: AtomicUsize::new(0),
    is_semaphore: AtomicBool::new(false),
    id_from_ident: AtomicUsize::new(0),
};

/// The word in a lock.
///
/// # Safety
/// It is a lock, and lives as long as this is used.
#[inline]
pub(super) unsafe fn word_in<'lock>(lock: *mut PyObject) -> &'lock AtomicU32 {
    // SAFETY: these bytes are part of the object, aligned, and nobody else's.
    unsafe { AtomicU32::from_ptr((lock as usize + PLACES.spare.load(Relaxed)) as *mut u32) }
}

/// Whether a lock is taken.
///
/// # Safety
/// It is a lock that lives.
#[inline]
pub(super) unsafe fn is_taken(lock: *mut PyObject) -> bool {
    let primitive = lock as usize + PRIMITIVE;
    // SAFETY: there is a pointer to a semaphore, which lives as long as the lock and begins with the number of
    // those who may still come in; or a byte with a bit that is 1 while it is locked.
    unsafe {
        if PLACES.is_semaphore.load(Relaxed) {
            (**(primitive as *const *const AtomicU32)).load(Relaxed) == 0
        } else {
            let bits = &*(primitive as *const std::sync::atomic::AtomicU8);
            bits.load(Relaxed) & 1 != 0
        }
    }
}

/// The word of the calling thread, if words are wanted.
#[inline]
pub(super) fn own_word() -> Option<u32> {
    // SAFETY: pthread_self takes no argument and always succeeds; where the kernel's id stands in what it
    // leads to was found out before anything leads here.
    let (ident, thread_id) = unsafe {
        let ident = libc::pthread_self() as usize;
        let place = ident + PLACES.id_from_ident.load(Relaxed);
        (ident, *(place as *const u32))
    };
    OWNERS.word(ident, u64::from(thread_id))
}

/// Whether a method says that the lock was had.
fn is_true(result: *mut PyObject) -> bool {
    // SAFETY: `True` lives as long as the process; it is compared with, and not looked at.
    result == unsafe { ffi::Py_True() }
}

/// Takes a lock by `call`, and notes who has it.
///
/// # Safety
/// It is a lock; the caller has a reference to it and holds the GIL.
#[inline]
unsafe fn acquired(lock: *mut PyObject, call: impl FnOnce() -> *mut PyObject) -> *mut PyObject {
    // SAFETY: as the caller vouches.
    unsafe {
        if is_taken(lock) {
            return waited(lock, call);
        }
        let result = call();
        if is_true(result)
            && let Some(word) = own_word()
        {
            word_in(lock).store(word, Relaxed);
        }
        result
    }
}

/// The same with a lock that is taken: it is counted, unless it is the thread itself that has taken it. Then
/// it does not wait for a lock but to be told something, as `Condition.wait` does.
///
/// # Safety
/// As for [`acquired`].
#[cold]
#[inline(never)]
unsafe fn waited(lock: *mut PyObject, call: impl FnOnce() -> *mut PyObject) -> *mut PyObject {
    // SAFETY: as the caller vouches.
    let word = unsafe { word_in(lock) };
    let own = own_word();
    let is_own = own == Some(word.load(Relaxed));
    let began_ns = monotonic_ns();
    let result = call();
    let waited_ns = monotonic_ns().saturating_sub(began_ns);
    let was_had = is_true(result);
    // They may be wanted no more, or others may be.
    if let Some(own) = own_word() {
        if was_had {
            word.store(own, Relaxed);
        }
        if !is_own {
            OWNERS.count(was_had, waited_ns);
        }
    }
    result
}

/// Gives a lock back by `call`. Nothing may be noted in it any more when the next one has it, who notes that
/// only once it has the GIL.
///
/// # Safety
/// As for [`acquired`].
#[inline]
unsafe fn released(lock: *mut PyObject, call: impl FnOnce() -> *mut PyObject) -> *mut PyObject {
    // SAFETY: as the caller vouches.
    unsafe { word_in(lock) }.store(0, Relaxed);
    call()
}

macro_rules! stand_in {
    ($name:ident, $around:ident, $kind:ty, $($word:ident),+) => {
        unsafe extern "C" fn $name<const AT: usize>(
            lock: *mut PyObject,
            $($word: usize),+
        ) -> *mut PyObject {
            let original = ORIGINALS[AT].load(Relaxed);
            // SAFETY: CPython's own function, known before this one was put in its place, takes as many
            // words, which are the caller's. The caller has the GIL and a reference to the lock.
            unsafe {
                let original = std::mem::transmute::<*mut c_void, $kind>(original);
                $around(lock, || original(lock, $($word),+))
            }
        }
    };
}

stand_in!(acquire_by_one, acquired, One, first);
stand_in!(acquire_by_two, acquired, Two, first, second);
stand_in!(acquire_by_three, acquired, Three, first, second, third);
stand_in!(release_by_one, released, One, first);
stand_in!(release_by_two, released, Two, first, second);
stand_in!(release_by_three, released, Three, first, second, third);

/// What stands in for the method at this place of [`METHODS`] that is called as its flags say; `None` if that
/// is unknown.
pub(super) fn stand_in(at: usize, flags: i32) -> Option<*mut c_void> {
    const BY_ONE: [i32; 3] = [ffi::METH_VARARGS, ffi::METH_NOARGS, ffi::METH_O];
    const BY_TWO: [i32; 2] = [ffi::METH_VARARGS | ffi::METH_KEYWORDS, METH_FASTCALL];
    const BY_THREE: i32 = METH_FASTCALL | ffi::METH_KEYWORDS;
    let words = match flags {
        flags if BY_ONE.contains(&flags) => 0,
        flags if BY_TWO.contains(&flags) => 1,
        BY_THREE => 2,
        _ => return None,
    };
    let known = match at {
        0 => acquiring::<0>(),
        1 => acquiring::<1>(),
        2 => acquiring::<2>(),
        3 => releasing::<3>(),
        4 => releasing::<4>(),
        _ => releasing::<5>(),
    };
    Some(known[words])
}

/// `METH_FASTCALL` (`Include/methodobject.h`).
const METH_FASTCALL: i32 = 0x80;

fn acquiring<const AT: usize>() -> [*mut c_void; 3] {
    [
        acquire_by_one::<AT> as *mut c_void,
        acquire_by_two::<AT> as *mut c_void,
        acquire_by_three::<AT> as *mut c_void,
    ]
}

fn releasing<const AT: usize>() -> [*mut c_void; 3] {
    [
        release_by_one::<AT> as *mut c_void,
        release_by_two::<AT> as *mut c_void,
        release_by_three::<AT> as *mut c_void,
    ]
}
