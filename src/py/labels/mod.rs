//! `rprof.labels`: what the application says it is doing, kept where samplers find it.
//!
//! A label object is the value of one context variable. Entering sets it, leaving sets what there
//! was before; threads, tasks and executors carry it along as they do with any context variable.
//! Samplers read it out of memory, see [`crate::unwind::labels`].

mod contexts;
mod force;
mod items;
mod locate;
mod notes;
mod object;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

pub(super) use self::force::{enter, leave, show_again};
pub(super) use self::items::{Content, items, value};
pub(crate) use self::object::Labels;
pub(super) use self::object::{Entered, Running};

use self::contexts::current;
use self::force::contexts;
use self::items::dictionary;
use super::handed_in;
use crate::error::Error;

#[pymethods]
impl Labels {
    #[new]
    #[pyo3(signature = (**labels))]
    fn new(py: Python<'_>, labels: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let items = items(labels)?;
        if items.is_empty() {
            return Err(Error::argument(
                "labels() needs at least one label, for example route='/checkout'",
            )
            .into());
        }
        Ok(Self::make(
            contexts(py)?.magic,
            Content::new(items),
            None,
            None,
            None,
        ))
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        enter(slf.py(), Entered::Labels(slf.clone().unbind()))?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        leave(slf.py(), &Entered::Labels(slf.clone().unbind()))?;
        Ok(false)
    }

    /// A generator has yielded: what follows is its caller's.
    fn pause(slf: &Bound<'_, Self>) -> PyResult<()> {
        leave(slf.py(), &Entered::Labels(slf.clone().unbind())).map(drop)
    }

    /// The generator goes on.
    fn resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        enter(slf.py(), Entered::Labels(slf.clone().unbind()))
    }

    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        handed_in::decorate(function, slf.getattr("_again")?)
    }

    /// The same, as the context manager of each call of what is decorated: an exception of a signal's
    /// handler may come between two instructions of a Python function that has entered it.
    fn _again<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// For `pickle`: what is decorated with labels is sent to other processes.
    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyDict>,))> {
        let make = slf.get_type().getattr("_unpickled")?;
        Ok((make, (dictionary(slf.py(), &slf.get().content().items)?,)))
    }

    /// Makes labels again that were pickled.
    #[classmethod]
    fn _unpickled(
        _class: &Bound<'_, PyType>,
        py: Python<'_>,
        labels: &Bound<'_, PyDict>,
    ) -> PyResult<Self> {
        Self::new(py, Some(labels))
    }

    fn __repr__(&self) -> String {
        let content = self.content();
        let items: Vec<String> = content
            .items
            .iter()
            .map(|(key, value)| format!("{key}={value:?}"))
            .collect();
        format!("rprof.labels({})", items.join(", "))
    }
}

/// The labels in force where it is called.
#[pyfunction]
pub(crate) fn current_labels(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    match current(py, contexts(py)?)? {
        Some(current) => dictionary(py, &current.get().content().items),
        None => Ok(PyDict::new(py)),
    }
}
