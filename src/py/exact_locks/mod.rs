//! Having locks note who has them, where that is asked for: `locks="exact"`.
//!
//! The functions of `_thread.lock` are replaced in their definitions, which are static data of the
//! interpreter, as long as somebody wants it; nothing that Python code can see changes. See `calls.rs`.
#![allow(unsafe_code)]

mod calls;
mod trial;

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::session::fork::session;
use crate::unwind::lock_owners::OWNERS;

/// How many want it, and of which process these are, in the upper half.
static USERS: AtomicU64 = AtomicU64::new(0);
/// Why it cannot be; empty if it can.
static PROBLEM: Mutex<String> = Mutex::new(String::new());

fn own_process() -> u64 {
    u64::from(std::process::id()) << 32
}

/// How many of this process want it.
fn users() -> u64 {
    let users = USERS.load(Ordering::Acquire);
    if users & !0xFFFF_FFFF == own_process() {
        users & 0xFFFF_FFFF
    } else {
        0
    }
}

/// Something that wants to know exactly who has locks. It is made and ends with the GIL.
#[derive(Debug)]
pub(super) struct LockUse {
    process: u64,
}

impl LockUse {
    /// Begins to note it, unless that is so already. If it cannot be, the status tells why.
    pub(super) fn begin(py: Python<'_>) -> Self {
        let process = own_process();
        // Before anything that may run code of the program, and with that another thread.
        let before = users();
        USERS.store(process | (before + 1), Ordering::Release);
        let own = Self { process };
        if before == 0 {
            let problem = trial::install(py).err();
            if let Some(problem) = &problem {
                session().health().set_error(format!(
                    "locks='exact' is not possible here, it is as 'sampled': {problem}"
                ));
            }
            *PROBLEM.lock() = problem.unwrap_or_default();
            if users() == 0 {
                trial::uninstall();
            }
        }
        own
    }
}

impl Drop for LockUse {
    fn drop(&mut self) {
        let users = users();
        if self.process != own_process() || users == 0 {
            return;
        }
        USERS.store(self.process | (users - 1), Ordering::Release);
        if users == 1 {
            trial::uninstall();
        }
    }
}

/// Forgets in a forked child what its parent wanted.
pub(super) fn forget_parent() {
    if users() == 0 {
        trial::uninstall();
    }
}

/// What was counted, and why nothing was; `None` if nobody wants it.
#[pyfunction]
pub(crate) fn lock_figures(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    if users() == 0 {
        return Ok(None);
    }
    let problem = PROBLEM.lock().clone();
    let told = PyDict::new(py);
    let figures = problem.is_empty().then(|| OWNERS.figures());
    told.set_item("problem", problem)?;
    told.set_item("contended", figures.map(|figures| figures.contended))?;
    told.set_item("given_up", figures.map(|figures| figures.given_up))?;
    let waited = figures.map(|figures| figures.waited_ns as f64 / 1e9);
    told.set_item("waited_seconds", waited)?;
    Ok(Some(told))
}
