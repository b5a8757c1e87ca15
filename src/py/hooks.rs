//! Hooks into the life of the process: forks and panics.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;

use super::{dump, reporter, serve, watch};
use crate::clock::cpu::{is_main_thread, thread_id};
use crate::session::fork::{forget_parent, session};
use crate::session::native_thread::own_name;

/// A fork tries so long to end the threads while it keeps the GIL. They mostly sleep, so this is
/// enough but for a sampler that is waiting for the GIL itself.
const UNDER_GIL_PATIENCE: Duration = Duration::from_millis(2);

/// Hooks that were registered for the parent after a fork: the last of them acts.
static PARENT_HOOKS: AtomicU32 = AtomicU32::new(0);
/// How many of them have been called after this fork.
static CALLED_HOOKS: AtomicU32 = AtomicU32::new(0);

/// Announces that one more hook is registered for the parent after a fork.
#[pyfunction]
pub(crate) fn expect_parent_hook() {
    PARENT_HOOKS.fetch_add(1, Ordering::Relaxed);
}

/// Whether the hook that is being called is the last.
fn is_last_hook() -> bool {
    CALLED_HOOKS.fetch_add(1, Ordering::Relaxed) + 1 >= PARENT_HOOKS.load(Ordering::Relaxed)
}

/// Ends rprof's native threads ahead of a fork; recordings go on afterwards.
///
/// If possible without giving the GIL away: a forking thread that lets go of it lets the main
/// thread begin the interpreter's shutdown meanwhile, and a child forked in that state can start
/// no thread (3.12, `Modules/_threadmodule.c`: `interp->finalizing`).
#[pyfunction]
pub(crate) fn before_fork(py: Python<'_>) {
    CALLED_HOOKS.store(0, Ordering::Relaxed);
    dump::before_fork();
    reporter::pause_reports(py);
    // First: what it is answering may use the session.
    if !serve::park_within(UNDER_GIL_PATIENCE) {
        py.detach(serve::park_for_fork);
    }
    if !watch::park_within(UNDER_GIL_PATIENCE) {
        py.detach(watch::park_for_fork);
    }
    let session = session();
    session.before_fork();
    if !session.park_within(UNDER_GIL_PATIENCE) {
        py.detach(|| session.park_for_fork());
    }
}

/// Starts the threads again in the parent. What cannot be had is tried again later: nothing is raised
/// into the program.
#[pyfunction]
pub(crate) fn after_fork_in_parent(py: Python<'_>) {
    if is_last_hook() {
        py.detach(go_on);
    }
}

/// Starts every thread again.
fn go_on() {
    dump::after_fork();
    reporter::after_fork_in_parent();
    session().after_fork_in_parent();
    serve::after_fork_in_parent();
    watch::after_fork_in_parent();
}

/// Asks for the threads that the system has refused, if there are any and it is time to.
///
/// From the application's threads, for some of ours use what those have open. Waits for nobody.
#[inline]
pub(crate) fn try_again() {
    if let Some(due) = session().refusals().due() {
        try_all_again(due);
    }
}

#[cold]
fn try_all_again(due: u64) {
    let have_asked = [
        dump::try_again(),
        reporter::try_again(),
        session().try_again(),
        serve::try_again(),
        watch::try_again(),
    ];
    if have_asked.iter().all(|has_asked| *has_asked) {
        session().refusals().end(due);
    }
}

/// Asks for the threads that the system has refused; whether some are missing still.
#[pyfunction(name = "try_again")]
pub(crate) fn ask_again() -> bool {
    try_again();
    session().refusals().are_any()
}

/// The same, but in the main thread as soon as that runs its next Python instruction: CPython 3.13
/// counts the threads of the process after its at-fork hooks (`Modules/posixmodule.c`,
/// `warn_about_fork_with_threads`) and warns if there are any.
///
/// To be registered as it is: a Python function around it would itself be that instruction.
#[pyfunction]
pub(crate) fn after_fork_in_parent_later(py: Python<'_>) {
    if !is_last_hook() {
        return;
    }
    if is_main_thread(thread_id()) {
        // SAFETY: the function takes no argument that could dangle.
        let asked = unsafe { ffi::Py_AddPendingCall(Some(start_again), std::ptr::null_mut()) };
        if asked == 0 {
            return;
        }
    }
    // Another thread that forks is a second thread anyway, and warned about as such.
    py.detach(go_on);
}

extern "C" fn start_again(_: *mut c_void) -> c_int {
    // The locks inside are never held by anyone who waits for the GIL, which is held here.
    go_on();
    0
}

/// Forgets everything of the parent in a forked child.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    serve::forget_parent();
    watch::forget_parent();
    reporter::forget_parent();
    forget_parent();
    // Behind that: if its thread is refused, the child's session is told.
    dump::after_fork();
}

/// Refuses to load in a sub-interpreter: one session serves the process, and its engine walks the
/// main interpreter's threads. CPython 3.12 and later refuse by themselves.
pub(crate) fn require_main_interpreter() -> PyResult<()> {
    // SAFETY: called by the import machinery with the GIL held; the main interpreter has id 0.
    let id = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if id == 0 {
        return Ok(());
    }
    Err(pyo3::exceptions::PyImportError::new_err(
        "module rprof._native does not support loading in subinterpreters",
    ))
}

/// Keeps a panic of our own threads off the application's stderr; `status().last_error` tells it.
pub(crate) fn quiet_panics() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match own_name() {
        Some(name) => {
            session()
                .health()
                .set_error(format!("{name} panicked: {panic}"));
        }
        None => previous(panic),
    }));
}
