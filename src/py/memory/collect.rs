//! A collection of garbage, for whoever has no GIL and wants to know what is in use without it.
//!
//! It runs finalizers, which are the program's: the interpreter's main thread is asked to, between two
//! instructions, and is waited for without the GIL.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{
    AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Release,
};
use std::time::{Duration, Instant};

use pyo3::ffi;

/// How long a collection is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// Collections that have begun, and that have ended.
static BEGUN: AtomicU64 = AtomicU64::new(0);
static ENDED: AtomicU64 = AtomicU64::new(0);
/// The process whose main thread has been asked and has not come to it; 0: none.
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Has the main thread collect garbage, and waits for it. Not to be called with the GIL.
///
/// # Errors
/// When it has not done so in time.
pub(in crate::py) fn collect() -> Result<(), String> {
    let process = std::process::id();
    let before = BEGUN.load(Acquire);
    if ASKED.swap(process, AcqRel) != process {
        let argument = std::ptr::without_provenance_mut(process as usize);
        // SAFETY: may be called without the GIL; the argument is a number.
        if unsafe { ffi::Py_AddPendingCall(Some(run), argument) } != 0 {
            ASKED.store(0, Release);
            return Err("the main thread has too many calls to make already".to_owned());
        }
    }
    let end = Instant::now() + PATIENCE;
    while ENDED.load(Acquire) <= before {
        if Instant::now() >= end {
            return Err(format!(
                "the main thread has not collected garbage within {} s: it is in a call, or waits",
                PATIENCE.as_secs()
            ));
        }
        std::thread::sleep(STEP);
    }
    Ok(())
}

/// Called by the interpreter with the GIL, in the main thread.
extern "C" fn run(process: *mut c_void) -> c_int {
    // A fork takes what is pending along.
    if process.addr() != std::process::id() as usize {
        return 0;
    }
    ASKED.store(0, Release);
    BEGUN.fetch_add(1, AcqRel);
    // SAFETY: the GIL is held. What finalizers raise is told by the interpreter itself, and an exception
    // that was there before stays. Where collecting is off it is on for this.
    unsafe {
        let was_on = ffi::PyGC_Enable() != 0;
        ffi::PyGC_Collect();
        if !was_on {
            ffi::PyGC_Disable();
        }
    }
    ENDED.fetch_add(1, AcqRel);
    0
}
