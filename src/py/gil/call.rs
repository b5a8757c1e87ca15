//! Running Python code on a thread of ours, which the end of the interpreter must not unwind.
//!
//! While CPython up to 3.13 shuts down, a thread that wants the GIL back is ended by `pthread_exit`
//! (`Python/ceval_gil.c`, `take_gil`; `PyThread_exit_thread`), also in the middle of a log handler
//! that waits for a socket. glibc does that by unwinding the stack, and frames of Rust in its way
//! abort the process. So the calls below are ones that may unwind, and a guard around them holds the
//! thread up when it is unwound: for ever, as CPython 3.14 and later do by themselves. The functions
//! are looked up at run time: of a declared one the compiler knows that it does not unwind.
#![allow(unsafe_code)]

use pyo3::ffi::PyThreadState;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::symbols::Symbols;

/// Holds up whatever unwinds it.
struct HoldUp;

impl Drop for HoldUp {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Calls a function with a tuple of arguments and drops what it returns.
pub(crate) fn call(
    symbols: &Symbols,
    function: &Bound<'_, PyAny>,
    arguments: &Bound<'_, PyTuple>,
) -> PyResult<()> {
    let guard = HoldUp;
    // SAFETY: the GIL is held, as the arguments prove, and both are alive.
    let result =
        unsafe { (symbols.call)(function.as_ptr(), arguments.as_ptr(), std::ptr::null_mut()) };
    std::mem::forget(guard);
    // SAFETY: a new reference, or null with an error set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }.map(drop)
}

/// Clears a thread state, and with it what the application has kept for the thread.
///
/// # Safety
/// The GIL must be held, and the state be in no use by another thread.
pub(super) unsafe fn clear(symbols: &Symbols, state: *mut PyThreadState) {
    let guard = HoldUp;
    // SAFETY: the caller vouches for it.
    unsafe { (symbols.clear_state)(state) };
    std::mem::forget(guard);
}
