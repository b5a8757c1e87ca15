//! The crate's errors as the Python exceptions of `rprof.errors`.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::error::{Error, ErrorKind};

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
            let class = py
                .import("rprof.errors")
                .and_then(|errors| errors.getattr(class))
                .and_then(|class| Ok(class.cast_into::<PyType>()?));
            match class {
                Ok(class) => Self::from_type(class, error.to_string()),
                Err(import_error) => import_error,
            }
        })
    }
}
