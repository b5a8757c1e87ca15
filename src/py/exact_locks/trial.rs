//! Putting the functions of ours in the place of those of `_thread.lock`, and whether all is as it is known
//! to be: tried out on a lock of our own, before and after.

use std::ffi::{CStr, c_char, c_void};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyType;

use super::calls::{METHODS, ORIGINALS, PLACES, is_taken, own_word, stand_in, word_in};
use crate::clock::cpu::monotonic_ns;
use crate::layout::locks::{DESCRIBED_METHOD, lock_and_spare, locks_are_semaphores};
use crate::memory::own;
use crate::py::direct::{circumstances, find_id_from_ident, find_layout};
use crate::unwind::lock_owners::OWNERS;

/// `PyMethodDef`.
#[repr(C)]
struct Definition {
    name: *const c_char,
    method: AtomicPtr<c_void>,
    flags: i32,
}

/// Those of [`METHODS`]; null before they are known.
static DEFINITIONS: [AtomicPtr<Definition>; METHODS.len()] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; METHODS.len()];

/// Has locks note who has them from now on.
///
/// # Errors
/// Why that cannot be, in words; then all is as before.
pub(super) fn install(py: Python<'_>) -> Result<(), String> {
    let lock = new_lock(py).map_err(|error| error.to_string())?;
    if DEFINITIONS[0].load(Ordering::Acquire).is_null() {
        learn(py, &lock)?;
    }
    OWNERS.begin(monotonic_ns() ^ u64::from(std::process::id()) << 40);
    // First those that give locks back: a word that they do not take away would stay.
    for at in (0..METHODS.len()).rev() {
        replace(at, true);
    }
    let tried = try_out(&lock).map_err(|error| error.to_string());
    OWNERS.count_anew();
    match tried {
        Ok(true) => Ok(()),
        Ok(false) => {
            uninstall();
            Err("a lock that was taken to be noticed was not".to_owned())
        }
        Err(reason) => {
            uninstall();
            Err(reason)
        }
    }
}

/// Has them note it no longer. Calls that are under way end as they began, for the code stays.
pub(super) fn uninstall() {
    OWNERS.end();
    for at in 0..METHODS.len() {
        replace(at, false);
    }
}

fn new_lock(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // Loaded already: the interpreter itself needs it.
    py.import("_thread")?.call_method0("allocate_lock")
}

/// Puts our function in the place of CPython's, or the other way round; a third one stays.
fn replace(at: usize, by_ours: bool) {
    let definition = DEFINITIONS[at].load(Ordering::Acquire);
    if definition.is_null() {
        return;
    }
    // SAFETY: static data of the interpreter that was shown to be this method's definition, and writable.
    // Whoever reads it at this moment gets one of two functions that do the same.
    unsafe {
        let (method, flags) = (&(*definition).method, (*definition).flags);
        let original = ORIGINALS[at].load(Ordering::Acquire);
        let Some(ours) = stand_in(at, flags) else {
            return;
        };
        let (from, to) = if by_ours {
            (original, ours)
        } else {
            (ours, original)
        };
        // If it is another one, it has been put there by somebody else.
        let _: Result<_, _> =
            method.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Finds out where everything is.
fn learn(py: Python<'_>, lock: &Bound<'_, PyAny>) -> Result<(), String> {
    let mut memory = own::open(circumstances())?;
    let (_, layout) = find_layout(py, memory.as_mut())?;
    let (size, spare) = lock_and_spare(&layout);
    let kind = lock.get_type();
    let said: usize = kind
        .getattr("__basicsize__")
        .and_then(|size| size.extract())
        .map_err(|error| error.to_string())?;
    if said != size {
        return Err(format!("a lock has {said} bytes instead of {size}"));
    }
    let id_from_ident = find_id_from_ident(memory.as_mut())?;
    PLACES.spare.store(spare, Ordering::Release);
    let is_semaphore = locks_are_semaphores(&layout);
    PLACES.is_semaphore.store(is_semaphore, Ordering::Release);
    PLACES.id_from_ident.store(id_from_ident, Ordering::Release);
    let is_spare = is_spare(lock).map_err(|error| error.to_string())?;
    if !is_spare {
        return Err("a lock has an unknown layout".to_owned());
    }
    let mut found = [std::ptr::null_mut(); METHODS.len()];
    for (at, name) in METHODS.iter().enumerate() {
        found[at] = definition(&kind, at)
            .map_err(|error| error.to_string())?
            .ok_or_else(|| {
                let name = name.to_string_lossy();
                format!("the method {name} of locks has an unknown definition")
            })?;
    }
    for (at, definition) in found.into_iter().enumerate() {
        // SAFETY: a definition that was looked at just now.
        let original = unsafe { (*definition).method.load(Ordering::Acquire) };
        ORIGINALS[at].store(original, Ordering::Release);
    }
    // The first tells that all are known.
    for at in (0..found.len()).rev() {
        DEFINITIONS[at].store(found[at], Ordering::Release);
    }
    Ok(())
}

/// The definition of a method, if it is as it is known to be.
fn definition(kind: &Bound<'_, PyType>, at: usize) -> PyResult<Option<*mut Definition>> {
    let name = METHODS[at];
    let method = kind.getattr(&*name.to_string_lossy())?;
    if method.get_type().name()? != "method_descriptor" {
        return Ok(None);
    }
    // SAFETY: an object of this type has a pointer to a definition there, whose name is a string.
    unsafe {
        let place = method.as_ptr() as usize + DESCRIBED_METHOD;
        let definition = *(place as *const *mut Definition);
        let is_its = CStr::from_ptr((*definition).name) == name
            && stand_in(at, (*definition).flags).is_some()
            && is_writable(&raw const (*definition).method as usize);
        Ok(is_its.then_some(definition))
    }
}

/// Whether the process may write to this address, as the kernel tells.
fn is_writable(address: usize) -> bool {
    let Ok(maps) = File::open("/proc/self/maps") else {
        return false;
    };
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    let mut lines = BufReader::new(maps).lines().map_while(Result::ok);
    lines.any(|line| {
        let mut words = line.split(' ');
        let bounds = words.next().and_then(|word| word.split_once('-'));
        let rights = words.next().unwrap_or_default();
        let is_there = bounds.is_some_and(|(from, to)| {
            number(from).is_some_and(|from| from <= address)
                && number(to).is_some_and(|to| address < to)
        });
        is_there && rights.as_bytes().get(1) == Some(&b'w')
    })
}

/// Whether it can be told of a lock that it is taken, and its four bytes are left alone.
fn is_spare(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    const SAMPLE: u32 = 0xA5C3_5A3C;
    let object = lock.as_ptr();
    // SAFETY: a lock that lives; these bytes are inside of it.
    let (word, taken) = unsafe { (word_in(object), || is_taken(object)) };
    word.store(SAMPLE, Ordering::Relaxed);
    let mut is_right = !taken();
    lock.call_method0("acquire")?;
    is_right &= taken() && word.load(Ordering::Relaxed) == SAMPLE;
    let again = lock.call_method1("acquire", (false,))?;
    is_right &= !again.is_truthy()? && word.load(Ordering::Relaxed) == SAMPLE;
    lock.call_method0("release")?;
    Ok(is_right && !taken() && word.load(Ordering::Relaxed) == SAMPLE)
}

/// Whether each method is seen, by whatever it is called.
fn try_out(lock: &Bound<'_, PyAny>) -> PyResult<bool> {
    // SAFETY: a lock that lives.
    let word: &AtomicU32 = unsafe { word_in(lock.as_ptr()) };
    let own = own_word();
    let none = lock.py().None();
    let has_own = || own.is_some() && Some(word.load(Ordering::Relaxed)) == own;
    word.store(0, Ordering::Relaxed);
    for (take, give_back) in [("acquire", "release"), ("acquire_lock", "release_lock")] {
        // No call waits, whatever stands behind the methods.
        for is_first in [true, false] {
            let was_had = lock.call_method1(take, (false,))?.is_truthy()?;
            if was_had != is_first || !has_own() {
                return Ok(false);
            }
        }
        lock.call_method0(give_back)?;
        // SAFETY: a lock that lives.
        if word.load(Ordering::Relaxed) != 0 || unsafe { is_taken(lock.as_ptr()) } {
            return Ok(false);
        }
    }
    lock.call_method0("__enter__")?;
    let is_right = has_own();
    lock.call_method1("__exit__", (&none, &none, &none))?;
    Ok(is_right && word.load(Ordering::Relaxed) == 0)
}
