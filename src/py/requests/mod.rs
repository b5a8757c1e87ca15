//! Requests, as Python sees them.
#![forbid(unsafe_code)]

mod arguments;
mod content;
mod life;

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

use self::arguments::{Repeat, exact_text, slow_limit};
use super::labels::{self, Content, Entered, Running};
use super::{captures, handed_in};
use crate::error::Error;
use crate::session::fork::session;
use crate::session::requests::SlowLimit;

/// Where an application finds its `rprof.request` in an environ or a scope.
pub(super) const KEY: &str = "rprof.request";

/// What a request is called.
enum Name {
    Whole(Py<PyString>),
    /// A method, and the two parts of a path: put together only if somebody asks.
    Of([Py<PyAny>; 3]),
}

impl Name {
    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Whole(name) => Self::Whole(name.clone_ref(py)),
            Self::Of(parts) => Self::Of(parts.each_ref().map(|part| part.clone_ref(py))),
        }
    }
}

/// What a request is pickled as: the arguments of `_unpickled`.
type Pickled<'py> = (
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    (Option<f64>, f64),
    Option<Bound<'py, PyDict>>,
    Bound<'py, PyDict>,
);

/// Where a request stands among the routers of ASGI applications.
pub(super) struct Routing {
    /// What the whole application is mounted at, if a router is to choose the route.
    pub(super) root: Option<Py<PyAny>>,
    /// The request of another middleware around this one's.
    pub(super) outer: Option<Py<Request>>,
}

struct State {
    /// What else is said about it, once anybody has said or asked.
    info: Option<Py<PyDict>>,
    route: Py<PyString>,
    /// What there is of it while it runs.
    running: Option<Arc<Running>>,
}

/// One request, job or other unit of work: a context manager, and a decorator.
///
/// Its samples get the label ``route``, its duration counts for its route, and if it is slow it is
/// looked at while it runs: a warning on the logger ``rprof.slow`` tells its stack, again every
/// `repeat` seconds, and at its end its profile is written, cut out of the last minutes. A request
/// that is not slow leaves nothing.
///
/// >>> with rprof.request("checkout", route="/checkout", slow_after=2.0, user=user.id):
/// ...     handle()
///
/// Args:
///     name: What it is called in logs.
///     route: What kind of request it is; `name` if not given. Of more than 1,000 routes the
///         others share ``<other>``.
///     slow_after: Seconds after which it counts as slow; None: never.
///     repeat: Seconds between two looks at a slow request; 0: one look.
///     labels: Further labels for its samples, as of ``rprof.labels``.
///     **info: What else logs are to say about it. It is kept for as long as the request runs, and
///         turned into text only if it is slow.
///
/// Raises:
///     RprofTypeError: A value of the wrong type.
///     RprofValueError: A negative time.
#[pyclass(frozen, name = "request", module = "rprof")]
pub(crate) struct Request {
    name: Name,
    labels: Option<Py<PyDict>>,
    slow: Option<SlowLimit>,
    routing: Option<Routing>,
    /// Never locked while code of the application may run.
    state: Mutex<State>,
}

#[pymethods]
impl Request {
    #[new]
    #[pyo3(signature = (name, *, route=None, slow_after=None, repeat=Repeat::Default, labels=None, **info))]
    fn new(
        name: &Bound<'_, PyAny>,
        route: Option<&Bound<'_, PyAny>>,
        slow_after: Option<&Bound<'_, PyAny>>,
        repeat: Repeat<'_>,
        labels: Option<Py<PyDict>>,
        info: Option<Py<PyDict>>,
    ) -> PyResult<Self> {
        let py = name.py();
        let (Some(text), Some(route)) = (exact_text(name), exact_text(route.unwrap_or(name)))
        else {
            return Err(Error::argument(format!(
                "name and route must be text, not {} and {}",
                name.repr()?,
                route.map_or_else(|| Ok(PyString::new(py, "None")), |route| route.repr())?,
            ))
            .into());
        };
        Ok(Self {
            name: Name::Whole(text),
            labels,
            slow: slow_limit(slow_after, &repeat)?,
            routing: None,
            state: Mutex::new(State {
                info,
                route,
                running: None,
            }),
        })
    }

    /// What it is called.
    #[getter]
    fn name<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        Ok(match &self.name {
            Name::Whole(name) => name.bind(py).clone(),
            Name::Of([method, root, path]) => PyString::new(py, &format!("{method} {root}{path}")),
        })
    }

    /// What kind of request it is.
    #[getter]
    fn route<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        self.state.lock().route.bind(py).clone()
    }

    /// What else is said about it.
    #[getter]
    fn info<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        let known = |state: &State| state.info.as_ref().map(|info| info.bind(py).clone());
        if let Some(info) = known(&self.state.lock()) {
            return info;
        }
        // Made without the lock: the collector may run for it.
        let made = PyDict::new(py);
        let mut state = self.state.lock();
        let info = state.info.get_or_insert_with(|| made.clone().unbind());
        info.bind(py).clone()
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        Self::begin(slf)?;
        Ok(slf.clone())
    }

    #[pyo3(signature = (_kind=None, value=None, _traceback=None))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: Option<&Bound<'_, PyAny>>,
        value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Self::end(slf, value)
    }

    /// Say what kind of request it is, if that was not known when it began.
    pub(super) fn set_route(slf: &Bound<'_, Self>, route: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let Ok(known) = route.cast_exact::<PyString>() else {
            return Err(
                Error::argument(format!("route must be text, not {}", route.repr()?)).into(),
            );
        };
        let (earlier, running) = {
            let mut state = this.state.lock();
            if state.route.is(known) {
                return Ok(());
            }
            let earlier = std::mem::replace(&mut state.route, known.clone().unbind());
            (earlier, state.running.clone())
        };
        drop(earlier);
        let Some(running) = running else {
            return Ok(());
        };
        let text = known.to_string_lossy();
        let content = this.content(py, &text)?;
        let allowed = captures::allowed(slf)?;
        let begun = session().requests().rename(running.number, &text, allowed);
        labels::show_again(py, &running, content, begun.captures)
    }

    /// A generator has yielded: what follows is its caller's.
    pub(super) fn pause(&self, py: Python<'_>) -> PyResult<()> {
        self.running().map_or(Ok(()), |running| {
            labels::leave(py, &Entered::Request(running)).map(drop)
        })
    }

    /// The generator goes on.
    pub(super) fn resume(&self, py: Python<'_>) -> PyResult<()> {
        self.running().map_or(Ok(()), |running| {
            labels::enter(py, Entered::Request(running))
        })
    }

    /// Decorate a function: each call is a request.
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        function: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        handed_in::decorate(function, slf.getattr("_again")?)
    }

    /// For `pickle`: what is decorated with a request is sent to other processes.
    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Pickled<'py>)> {
        let (py, this) = (slf.py(), slf.get());
        let make = slf.get_type().getattr("_unpickled")?;
        let limit = this.slow.map_or((None, 1.0), |slow| {
            let seconds = |ns: u64| ns as f64 / 1e9;
            (Some(seconds(slow.after_ns)), seconds(slow.repeat_ns))
        });
        let labels = this.labels.as_ref().map(|labels| labels.bind(py).clone());
        let parts = (this.name(py)?, this.route(py), limit, labels, this.info(py));
        Ok((make, parts))
    }

    /// Makes a request again that was pickled. It has not begun, whatever the other had: that is
    /// known to the process alone that serves it.
    #[classmethod]
    fn _unpickled<'py>(
        _class: &Bound<'py, PyType>,
        name: &Bound<'py, PyAny>,
        route: &Bound<'py, PyAny>,
        limit: (Option<Bound<'py, PyAny>>, Bound<'py, PyAny>),
        labels: Option<Py<PyDict>>,
        info: &Bound<'py, PyDict>,
    ) -> PyResult<Self> {
        let (slow_after, repeat) = limit;
        Self::new(
            name,
            Some(route),
            slow_after.as_ref(),
            Repeat::Given(repeat),
            labels,
            Some(info.copy()?.unbind()),
        )
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let (name, route) = (self.name(py)?.repr()?, self.route(py).repr()?);
        Ok(format!("<rprof.request {name}, route {route}>"))
    }

    /// Another request that is the same but has not begun.
    fn _again(&self, py: Python<'_>) -> Self {
        let again = self.of(self.name.clone_ref(py), self.route(py).unbind());
        again.state.lock().info = self
            .state
            .lock()
            .info
            .as_ref()
            .map(|info| info.clone_ref(py));
        Self {
            labels: self.labels.as_ref().map(|labels| labels.clone_ref(py)),
            ..again
        }
    }

    /// A request with the same limits, called by its method and the two parts of its path.
    pub(super) fn _of(
        &self,
        method: Py<PyAny>,
        root: Py<PyAny>,
        path: Py<PyAny>,
        route: Py<PyString>,
    ) -> Self {
        self.of(Name::Of([method, root, path]), route)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Name::Of(parts) = &self.name {
            for part in parts {
                visit.call(part)?;
            }
        }
        visit.call(&self.labels)?;
        if let Some(routing) = &self.routing {
            visit.call(&routing.root)?;
            visit.call(&routing.outer)?;
        }
        // Whoever has it locked keeps it alive.
        if let Some(state) = self.state.try_lock() {
            visit.call(&state.info)?;
        }
        Ok(())
    }
}

impl Request {
    fn of(&self, name: Name, route: Py<PyString>) -> Self {
        Self {
            name,
            labels: None,
            slow: self.slow,
            routing: None,
            state: Mutex::new(State {
                info: None,
                route,
                running: None,
            }),
        }
    }

    /// As `_of`, for what is to be routed.
    pub(super) fn routed(
        &self,
        routing: Routing,
        parts: [Py<PyAny>; 3],
        route: Py<PyString>,
    ) -> Self {
        Self {
            routing: Some(routing),
            ..self.of(Name::Of(parts), route)
        }
    }

    pub(super) fn routing(&self) -> Option<&Routing> {
        self.routing.as_ref()
    }

    fn running(&self) -> Option<Arc<Running>> {
        self.state.lock().running.clone()
    }

    fn content(&self, py: Python<'_>, route: &str) -> PyResult<Arc<Content>> {
        let labels = self.labels.as_ref();
        labels.map_or_else(
            || Ok(content::of_route(route)),
            |labels| content::with_labels(route, labels.bind(py)),
        )
    }
}
