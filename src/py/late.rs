//! Learning of what the program has imported since rprof was started.
//!
//! Whoever reads names has the GIL now and then, and looks whether a module is there that something is
//! to be learnt about. That takes Python code, which no thread of ours runs: the main thread is asked to,
//! between two instructions.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;

use super::handed_in;
use crate::session::fork::session;

/// Modules about which something can be learnt.
const MODULES: [&CStr; 3] = [c"greenlet", c"asyncio", c"trio"];
/// Of which of them all has been learnt that can be.
static ARE_SETTLED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];
/// Whether the main thread has been asked, and has not come to it.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// Asks the main thread to learn what there is to learn now. Runs no Python code.
pub(crate) fn look(_: Python<'_>) {
    for (name, is_settled) in MODULES.iter().zip(&ARE_SETTLED) {
        if is_settled.load(Ordering::Relaxed) || !is_imported(name) {
            continue;
        }
        if !IS_ASKED.swap(true, Ordering::AcqRel) {
            // SAFETY: the function needs no argument and lives as long as the process.
            let asked = unsafe { ffi::Py_AddPendingCall(Some(learn), std::ptr::null_mut()) };
            IS_ASKED.store(asked == 0, Ordering::Release);
        }
        return;
    }
}

fn is_imported(name: &CStr) -> bool {
    // SAFETY: the GIL is held by whoever calls; sys.modules is borrowed and looked at only if it is a
    // plain dict, and a look-up of a str in it runs no code but str's own comparison.
    unsafe {
        let modules = ffi::PyImport_GetModuleDict();
        !modules.is_null()
            && ffi::PyDict_CheckExact(modules) != 0
            && !ffi::PyDict_GetItemString(modules, name.as_ptr()).is_null()
    }
}

/// Called by the interpreter with the GIL, in the main thread.
extern "C" fn learn(_: *mut c_void) -> c_int {
    IS_ASKED.store(false, Ordering::Release);
    // SAFETY: the GIL is held, see above.
    let py = unsafe { Python::assume_attached() };
    let learnt = handed_in::learn(py);
    match learnt {
        Ok(settled) => {
            for (is_settled, known) in ARE_SETTLED.iter().zip(settled) {
                is_settled.store(known, Ordering::Relaxed);
            }
            0
        }
        // What a signal's handler raises is the program's.
        Err(error) if !error.is_instance_of::<PyException>(py) => {
            error.restore(py);
            -1
        }
        Err(error) => {
            session().health().set_error(error.to_string());
            for is_settled in &ARE_SETTLED {
                is_settled.store(true, Ordering::Relaxed);
            }
            0
        }
    }
}
