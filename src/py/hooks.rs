//! Hooks into the life of the process: forks and panics.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::exact_locks;
use super::gil::names::introduce_reporter;
use crate::clock::cpu::{is_main_thread, thread_id};
use crate::session::fork::{forget_parent, session};
use crate::session::native_thread::own_name;

/// Hooks that were registered for the parent after a fork: the last of them acts.
static PARENT_HOOKS: AtomicU32 = AtomicU32::new(0);
/// How many of them have been called after this fork.
static CALLED_HOOKS: AtomicU32 = AtomicU32::new(0);

/// Whether the hooks of this process have been installed; a fork keeps them.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Has these called at the end of the process and around forks, once. By one call: an exception of a
/// signal's handler could come between two instructions of Python, and one hook without the other
/// would be worse than none.
#[pyfunction]
pub(crate) fn install_hooks(
    py: Python<'_>,
    at_exit: &Bound<'_, PyAny>,
    before_fork: &Bound<'_, PyAny>,
    after_fork_in_child: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if INSTALLED.load(Ordering::Acquire) {
        return Ok(());
    }
    // What may run Python code comes first.
    let at_end = py.import("atexit")?.getattr("register")?;
    let at_fork = py.import("os")?.getattr_opt("register_at_fork")?;
    let around = PyDict::new(py);
    around.set_item("before", before_fork)?;
    around.set_item("after_in_child", after_fork_in_child)?;
    let after = parent_hook(py)?;
    if INSTALLED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    at_end.call1((at_exit,))?;
    if let Some(at_fork) = at_fork {
        at_fork.call((), Some(&around))?;
        register_parent_hook(&at_fork, &after)?;
    }
    Ok(())
}

/// Has the threads start again after a fork, after what was registered for that so far: of several
/// such hooks the last one acts.
#[pyfunction]
pub(crate) fn hook_parent(py: Python<'_>) -> PyResult<()> {
    let at_fork = py.import("os")?.getattr("register_at_fork")?;
    register_parent_hook(&at_fork, &parent_hook(py)?)
}

fn parent_hook(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let version = py.version_info();
    let hook = if (version.major, version.minor) == (3, 13) {
        wrap_pyfunction!(after_fork_in_parent_later, py)?
    } else {
        wrap_pyfunction!(after_fork_in_parent, py)?
    };
    let after = PyDict::new(py);
    after.set_item("after_in_parent", hook)?;
    Ok(after)
}

fn register_parent_hook(at_fork: &Bound<'_, PyAny>, after: &Bound<'_, PyDict>) -> PyResult<()> {
    at_fork.call((), Some(after))?;
    PARENT_HOOKS.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Whether the hook that is being called is the last.
fn is_last_hook() -> bool {
    CALLED_HOOKS.fetch_add(1, Ordering::Relaxed) + 1 >= PARENT_HOOKS.load(Ordering::Relaxed)
}

/// Ends rprof's native threads ahead of a fork; recordings go on afterwards.
#[pyfunction]
pub(crate) fn before_fork(py: Python<'_>) {
    CALLED_HOOKS.store(0, Ordering::Relaxed);
    session().park_for_fork(&|wait| py.detach(wait));
}

/// Starts the threads again in the parent. What cannot be had is tried again later: nothing is raised
/// into the program.
#[pyfunction]
pub(crate) fn after_fork_in_parent(py: Python<'_>) {
    if is_last_hook() {
        py.detach(|| session().go_on_after_fork());
    }
}

/// Asks for the threads that the system has refused, see `Session::try_all_again`.
#[inline]
pub(crate) fn try_again() {
    session().try_all_again();
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
        let process_id = std::ptr::without_provenance_mut(std::process::id() as usize);
        // SAFETY: the argument is a number.
        let asked = unsafe { ffi::Py_AddPendingCall(Some(start_again), process_id) };
        if asked == 0 {
            return;
        }
    }
    // Another thread that forks is a second thread anyway, and warned about as such.
    py.detach(|| session().go_on_after_fork());
}

extern "C" fn start_again(process_id: *mut c_void) -> c_int {
    // A fork takes what is pending along, and a child has its own time for this.
    if process_id.addr() != std::process::id() as usize {
        return 0;
    }
    // The locks inside are never held by anyone who waits for the GIL, which is held here.
    session().go_on_after_fork();
    0
}

/// Forgets everything of the parent in a forked child. Starts nothing: see `resume_later`.
#[pyfunction]
pub(crate) fn after_fork_in_child() {
    introduce_reporter(0, 0);
    exact_locks::forget_parent();
    forget_parent();
}

/// What the module `sys` has of this name. Unlike an import of it this runs no Python code, and so no
/// handler of a signal either.
pub(super) fn sys_value<'py>(py: Python<'py>, name: &CStr) -> Option<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held; the result is borrowed, or null without an exception.
    unsafe {
        let value = ffi::PySys_GetObject(name.as_ptr());
        Bound::from_borrowed_ptr_or_opt(py, value)
    }
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
