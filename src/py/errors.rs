//! The crate's errors as the Python exceptions of `rprof.errors`.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::error::{Error, ErrorKind};

/// The module of the classes. To be called when ours is loaded: later the program may have replaced
/// `__import__`, as tests do.
pub(crate) fn load(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    MODULE
        .get_or_try_init(py, || py.import("rprof.errors").map(Bound::unbind))
        .map(|module| module.bind(py))
}

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let class = match error.kind() {
            ErrorKind::Value => "RprofValueError",
            ErrorKind::Type => "RprofTypeError",
            ErrorKind::State => "RprofStateError",
            ErrorKind::Os => "RprofOSError",
            ErrorKind::Memory => "RprofMemoryError",
        };
        Python::attach(|py| {
            let class = load(py)
                .and_then(|errors| errors.getattr(class))
                .and_then(|class| Ok(class.cast_into::<PyType>()?));
            match class {
                Ok(class) => Self::from_type(class, error.to_string()),
                Err(import_error) => import_error,
            }
        })
    }
}
