//! What the door gets from Python: it imports no module of ours by name.
//!
//! What it calls is handed in once, by the module that loads this one (`python/rprof/_loading.py`);
//! what it has to know of the process is told before something begins
//! (`python/rprof/_process.py`).
#![forbid(unsafe_code)]

use parking_lot::Mutex;
use pyo3::exceptions::{
    PyImportError, PyMemoryError, PyOSError, PyRuntimeError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use super::gil::engine::EngineOptions;
use crate::error::{Error, ErrorKind};
use crate::session::fork::session;

/// The classes of our errors: of values, types, states, the system and memory.
type Errors = (Py<PyType>, Py<PyType>, Py<PyType>, Py<PyType>, Py<PyType>);

/// What watches slow requests, by its attributes (`python/rprof/_watch.py`).
#[derive(FromPyObject)]
pub(super) struct Watching {
    /// Called as one begins; returns the task that it begins in.
    pub(super) begin: Py<PyAny>,
    /// Called with one that was looked at and has ended.
    pub(super) ended: Py<PyAny>,
    /// Called when threads are missing.
    pub(super) tell_trouble: Py<PyAny>,
    /// Those under way, by number.
    pub(super) watched: Py<PyAny>,
}

struct HandedIn {
    errors: Errors,
    /// Takes a function and what makes the context manager of each call of it.
    decorate: Py<PyAny>,
    /// Loads and returns what is [`Watching`].
    load_watching: Py<PyAny>,
    /// Learns of what the program has imported; whether that is all of greenlets, of asyncio, of trio.
    learn: Py<PyAny>,
}

static HANDED_IN: PyOnceLock<HandedIn> = PyOnceLock::new();
static WATCHING: PyOnceLock<Watching> = PyOnceLock::new();
static PROCESS: Mutex<EngineOptions> = Mutex::new(EngineOptions {
    import_roots: Vec::new(),
    own_directory: String::new(),
    keep_thread_state: false,
});

/// Takes what is called of Python. Only the first call counts.
#[pyfunction]
#[pyo3(signature = (*, errors, decorate, load_watching, learn))]
pub(crate) fn install(
    py: Python<'_>,
    errors: Errors,
    decorate: Py<PyAny>,
    load_watching: Py<PyAny>,
    learn: Py<PyAny>,
) {
    let handed_in = HandedIn {
        errors,
        decorate,
        load_watching,
        learn,
    };
    // Whatever was there before stays in use: requests and errors are under way with it.
    drop(HANDED_IN.set(py, handed_in));
}

/// Takes what is to be known of this process for whatever begins from now on.
#[pyfunction]
pub(crate) fn tell_process(
    import_roots: Vec<String>,
    own_directory: String,
    keep_thread_state: bool,
) {
    let told = EngineOptions {
        import_roots,
        own_directory,
        keep_thread_state,
    };
    let earlier = std::mem::replace(&mut *PROCESS.lock(), told);
    drop(earlier);
}

/// What an engine is told of this process.
pub(super) fn process() -> EngineOptions {
    PROCESS.lock().clone()
}

/// The same, of an engine that looks once or runs no thread of its own.
pub(super) fn process_without_thread() -> EngineOptions {
    EngineOptions {
        keep_thread_state: false,
        ..process()
    }
}

/// Wraps a function in a context manager for each call, which `call` makes.
pub(super) fn decorate<'py>(
    function: &Bound<'py, PyAny>,
    call: Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let handed_in = HANDED_IN.get(py).ok_or_else(not_handed_in)?;
    handed_in.decorate.bind(py).call1((function, call))
}

/// Learns of what the program has imported; whether that is all of greenlets, of asyncio, of trio.
pub(super) fn learn(py: Python<'_>) -> PyResult<[bool; 3]> {
    let handed_in = HANDED_IN.get(py).ok_or_else(not_handed_in)?;
    let (greenlets, tasks, trio) = handed_in.learn.bind(py).call0()?.extract()?;
    Ok([greenlets, tasks, trio])
}

fn not_handed_in() -> PyErr {
    PyRuntimeError::new_err("rprof._native is used through rprof only")
}

/// What watches slow requests; `None` where it cannot be loaded any more, as after a `chroot`: the
/// request is the application's, and more than its watching.
pub(super) fn watching(py: Python<'_>) -> PyResult<Option<&'static Watching>> {
    if let Some(known) = WATCHING.get(py) {
        return Ok(Some(known));
    }
    let handed_in = HANDED_IN.get(py).ok_or_else(not_handed_in)?;
    // Code of the application may run while it is loaded, and begin a request.
    let loaded = match handed_in.load_watching.bind(py).call0() {
        Ok(loaded) => loaded.extract::<Watching>()?,
        Err(error) if error.is_instance_of::<PyImportError>(py) => {
            let text = format!("slow requests are not told, load what does it earlier: {error}");
            session().health().set_error(text);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Some(WATCHING.get_or_init(py, || loaded)))
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        Python::attach(|py| match HANDED_IN.get(py) {
            Some(handed_in) => {
                let (value, kind, state, os, memory) = &handed_in.errors;
                let class = match error.kind() {
                    ErrorKind::Value => value,
                    ErrorKind::Type => kind,
                    ErrorKind::State => state,
                    ErrorKind::Os => os,
                    ErrorKind::Memory => memory,
                };
                Self::from_type(class.bind(py).clone(), text)
            }
            // What each of ours is as well.
            None => match error.kind() {
                ErrorKind::Value => PyValueError::new_err(text),
                ErrorKind::Type => PyTypeError::new_err(text),
                ErrorKind::State => PyRuntimeError::new_err(text),
                ErrorKind::Os => PyOSError::new_err(text),
                ErrorKind::Memory => PyMemoryError::new_err(text),
            },
        })
    }
}
