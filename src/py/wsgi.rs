//! WSGI applications whose requests are ours (PEP 3333).
//!
//! Here rather than in Python because each step costs an empty request much more than its own
//! time: whatever code it runs is cold.
#![forbid(unsafe_code)]

use parking_lot::Mutex;
use pyo3::exceptions::PyBaseException;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyString, PyTuple, PyType};

use super::requests::{KEY, Request};

/// What a [`WsgiServer`] calls, and how it finds routes.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct WsgiCalls {
    /// The route to begin with, or else a function of environ and path, or else one of the path.
    known_route: Option<Py<PyString>>,
    choose_route: Option<Py<PyAny>>,
    make_route: Py<PyAny>,
    /// Called with request, environ and `start_response` for an answer in place of the
    /// application's, or None.
    answer_instead: Option<Py<PyAny>>,
    /// Called with an answer and its request; has the request end when the server closes the answer
    /// and returns true, or returns false where that cannot be had.
    end_at_close: Py<PyAny>,
}

/// An application, each of whose requests is an `rprof.request` with the limits of `model`.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct WsgiServer {
    application: Py<PyAny>,
    model: Py<Request>,
    calls: WsgiCalls,
    /// `_io._IOBase`, of which every file object is.
    file: Py<PyType>,
}

#[pymethods]
impl WsgiServer {
    #[new]
    fn new(
        py: Python<'_>,
        application: Py<PyAny>,
        model: Py<Request>,
        calls: WsgiCalls,
    ) -> PyResult<Self> {
        let file = py.import("_io")?.getattr("_IOBase")?;
        Ok(Self {
            application,
            model,
            calls,
            file: file.cast_into::<PyType>()?.unbind(),
        })
    }

    /// Answers a request.
    fn __call__<'py>(
        &self,
        environ: &Bound<'py, PyDict>,
        start_response: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = environ.py();
        let root = text_of(environ, intern!(py, "SCRIPT_NAME"))?;
        let path = text_of(environ, intern!(py, "PATH_INFO"))?;
        let route = match (&self.calls.known_route, &self.calls.choose_route) {
            (Some(route), _) => route.clone_ref(py),
            (_, Some(choose_route)) => {
                let arguments = (environ, root.add(&path)?);
                text_from(choose_route.bind(py).call1(arguments)?)?
            }
            _ => text_from(self.calls.make_route.bind(py).call1((root.add(&path)?,))?)?,
        };
        let method = text_of(environ, intern!(py, "REQUEST_METHOD"))?;
        let (method, root, path) = (method.unbind(), root.unbind(), path.unbind());
        let begun = Bound::new(py, self.model.get()._of(method, root, path, route))?;
        environ.set_item(intern!(py, KEY), &begun)?;
        if let Some(answer_instead) = &self.calls.answer_instead {
            let answer = answer_instead
                .bind(py)
                .call1((&begun, environ, start_response))?;
            if !answer.is_none() {
                return Ok(answer);
            }
        }
        Request::begin(&begun)?;
        let answer = match self.application.bind(py).call1((environ, start_response)) {
            Ok(answer) => answer,
            Err(error) => {
                Request::end(&begun, Some(error.value(py).as_any()))?;
                return Err(error);
            }
        };
        let is_ready =
            answer.is_exact_instance_of::<PyList>() || answer.is_exact_instance_of::<PyTuple>();
        if is_ready {
            // Nothing is computed any more while it is sent.
            Request::end(&begun, None)?;
            return Ok(answer);
        }
        if self.is_file(&answer, environ)? {
            // Perhaps by another thread, and while this one goes on to other requests.
            begun.get().pause(py)?;
            let end_at_close = self.calls.end_at_close.bind(py);
            if !end_at_close.call1((&answer, &begun))?.is_truthy()? {
                Request::end(&begun, None)?;
            }
            return Ok(answer);
        }
        Ok(Answer::begin(begun.unbind(), &answer)?.into_any())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.application)?;
        visit.call(&self.calls.choose_route)?;
        visit.call(&self.calls.make_route)?;
        visit.call(&self.calls.end_at_close)?;
        visit.call(&self.calls.answer_instead)
    }
}

impl WsgiServer {
    /// Whether a server would have the kernel send it, which only works for the object itself.
    fn is_file(&self, answer: &Bound<'_, PyAny>, environ: &Bound<'_, PyDict>) -> PyResult<bool> {
        let py = answer.py();
        if answer.is_instance(self.file.bind(py))? {
            return Ok(true);
        }
        // uWSGI's wrapper is a function that returns the file.
        match environ.get_item(intern!(py, "wsgi.file_wrapper"))? {
            Some(wrapper) if wrapper.is_instance_of::<PyType>() => answer.is_instance(&wrapper),
            _ => Ok(false),
        }
    }
}

fn text_from(made: Bound<'_, PyAny>) -> PyResult<Py<PyString>> {
    Ok(made.cast_into::<PyString>()?.unbind())
}

/// What the environ has under a name, or empty text.
fn text_of<'py>(
    environ: &Bound<'py, PyDict>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let found = environ.get_item(name)?;
    Ok(found.unwrap_or_else(|| intern!(environ.py(), "").clone().into_any()))
}

/// Where an answer stands.
#[derive(Default)]
struct State {
    /// The request, until it has ended.
    begun: Option<Py<Request>>,
    parts: Option<Py<PyIterator>>,
    first: Option<Py<PyAny>>,
    is_paused: bool,
    error: Option<Py<PyBaseException>>,
}

/// The parts of an answer, each made as part of the request; what a server does between them is not,
/// but for the first.
///
/// That is made at once, as the server would ask for it next. Most answers have no other, and leaving
/// the labels only to enter them again for the end would cost as much as all else here.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Answer {
    answer: Py<PyAny>,
    /// Never locked while code of the application may run.
    state: Mutex<State>,
}

#[pymethods]
impl Answer {
    fn __iter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let parts = {
            let mut state = self.state.lock();
            if let Some(first) = state.first.take() {
                return Ok(Some(first));
            }
            match (&state.begun, &state.parts) {
                (Some(_), Some(parts)) => parts.clone_ref(py),
                _ => return Ok(None),
            }
        };
        self.resume(py)?;
        match parts.into_bound(py).next() {
            Some(Ok(part)) => {
                self.pause(py)?;
                Ok(Some(part.unbind()))
            }
            // The server calls close() now, which belongs to the request as well.
            None => Ok(None),
            Some(Err(error)) => {
                let raised = error.value(py).clone().unbind();
                let earlier = self.state.lock().error.replace(raised);
                drop(earlier);
                self.pause(py)?;
                Err(error)
            }
        }
    }

    /// Ends the request, after the application has been told.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.resume(py)?;
        let (begun, error) = {
            let mut state = self.state.lock();
            (state.begun.take(), state.error.take())
        };
        let Some(begun) = begun else {
            return Ok(());
        };
        let close = self.answer.bind(py).getattr_opt(intern!(py, "close"));
        let closed = close.and_then(|close| match close {
            Some(close) if !close.is_none() => close.call0().map(drop),
            _ => Ok(()),
        });
        let error = error.as_ref().map(|error| error.bind(py).as_any());
        Request::end(begun.bind(py), error)?;
        closed
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.answer)?;
        // Whoever has it locked keeps it alive.
        if let Some(state) = self.state.try_lock() {
            visit.call(&state.begun)?;
            visit.call(&state.parts)?;
            visit.call(&state.first)?;
            visit.call(&state.error)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let taken = self.state.try_lock().map(|mut state| {
            // The request itself is ended at the end of this.
            let begun = state.begun.take();
            std::mem::replace(
                &mut *state,
                State {
                    begun,
                    ..State::default()
                },
            )
        });
        drop(taken);
    }
}

impl Answer {
    /// Makes the first part of an answer to a request that is under way.
    fn begin<'py>(begun: Py<Request>, answer: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        let py = answer.py();
        let mut state = State {
            begun: Some(begun),
            ..State::default()
        };
        let first = answer.try_iter().and_then(|mut parts| {
            let first = parts.next().transpose();
            state.parts = Some(parts.unbind());
            first
        });
        let error = match first {
            // Of an answer without any part only the end is to come.
            Ok(first) => {
                state.first = first.map(Bound::unbind);
                None
            }
            Err(error) => {
                state.error = Some(error.value(py).clone().unbind());
                Some(error)
            }
        };
        let made = Self {
            answer: answer.clone().unbind(),
            state: Mutex::new(state),
        };
        if let Some(error) = error {
            made.close(py)?;
            return Err(error);
        }
        Bound::new(py, made)
    }

    fn pause(&self, py: Python<'_>) -> PyResult<()> {
        let begun = {
            let mut state = self.state.lock();
            state.is_paused = true;
            state.begun.as_ref().map(|begun| begun.clone_ref(py))
        };
        begun.map_or(Ok(()), |begun| begun.get().pause(py))
    }

    fn resume(&self, py: Python<'_>) -> PyResult<()> {
        let begun = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.is_paused) {
                return Ok(());
            }
            state.begun.as_ref().map(|begun| begun.clone_ref(py))
        };
        begun.map_or(Ok(()), |begun| begun.get().resume(py))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A server that does not call close() breaks WSGI, and would leave a request without end.
        if let Some(begun) = self.state.get_mut().begun.take() {
            // Without an interpreter nobody can ask for it any more.
            let _: Option<()> = Python::try_attach(|py| {
                // It may go because an exception leaves the loop over it.
                let under_way = PyErr::take(py);
                if let Err(error) = Request::end(begun.bind(py), None) {
                    error.write_unraisable(py, None);
                }
                if let Some(error) = under_way {
                    error.restore(py);
                }
            });
        }
    }
}
