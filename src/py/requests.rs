//! Requests, as Python sees them.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::exceptions::PyImportError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};
use rustc_hash::FxHashMap;

use super::captures;
use super::hooks;
use super::labels::{self, Content, Entered, Running};
use crate::error::Error;
use crate::model::label::ROUTE;
use crate::session::fork::session;
use crate::session::requests::SlowLimit;

/// Where an application finds its `rprof.request` in an environ or a scope.
pub(super) const KEY: &str = "rprof.request";
/// Routes whose labels are kept ready, and the bytes of the longest.
const MAX_READY: usize = 1_024;
const MAX_READY_BYTES: usize = 1_024;
/// The longest time that can be asked for, in seconds.
const MAX_SECONDS: f64 = 1e8;

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

/// What was given for `repeat`.
enum Repeat<'py> {
    Default,
    Given(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Repeat<'py> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Given(value.to_owned()))
    }
}

/// The arguments of `rprof._requests.unpickled`.
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
    /// The asyncio task that it runs in, if it may become slow.
    task: Option<Py<PyAny>>,
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
        let slow = slow_after.map(|after| {
            Ok::<_, PyErr>(SlowLimit {
                after_ns: nanoseconds("slow_after", after)?,
                repeat_ns: match &repeat {
                    Repeat::Default => 1_000_000_000,
                    Repeat::Given(repeat) => nanoseconds("repeat", repeat)?,
                },
            })
        });
        Ok(Self {
            name: Name::Whole(text),
            labels,
            slow: slow.transpose()?,
            routing: None,
            state: Mutex::new(State {
                info,
                route,
                running: None,
                task: None,
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

    /// The asyncio task that it runs in, if it may become slow.
    #[getter]
    fn task(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let state = self.state.lock();
        state.task.as_ref().map(|task| task.clone_ref(py))
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
        let module = slf.py().import("rprof._decorate")?;
        module.call_method1("decorate", (function, slf.getattr("_again")?))
    }

    /// For `pickle`: what is decorated with a request is sent to other processes.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Pickled<'py>)> {
        let make = py.import("rprof._requests")?.getattr("unpickled")?;
        let limit = self.slow.map_or((None, 1.0), |slow| {
            let seconds = |ns: u64| ns as f64 / 1e9;
            (Some(seconds(slow.after_ns)), seconds(slow.repeat_ns))
        });
        let labels = self.labels.as_ref().map(|labels| labels.bind(py).clone());
        let parts = (self.name(py)?, self.route(py), limit, labels, self.info(py));
        Ok((make, parts))
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
            visit.call(&state.task)?;
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
                task: None,
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
            || Ok(content_of_route(route)),
            |labels| content_of(route, labels.bind(py)),
        )
    }

    /// Begins it here.
    pub(super) fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let route = this.route(py);
        let route = route.to_string_lossy();
        let content = this.content(py, &route)?;
        if this.slow.is_some()
            && hooks::ask_again()
            && let Some(tell) = watch(py, "tell_trouble", &TELL_TROUBLE)?
        {
            tell.call0()?;
        }
        let task = match this.slow {
            Some(_) => match watch(py, "begin", &BEGIN)? {
                Some(begin) => begin.call0()?.unbind(),
                None => py.None(),
            },
            None => py.None(),
        };
        let allowed = captures::allowed(slf)?;
        let begun = session().requests().begin(&route, this.slow, allowed);
        let running = Arc::new(Running {
            number: begun.number,
            shown: Mutex::new((content, begun.captures)),
            cpu: Arc::default(),
        });
        {
            let task = (!task.is_none(py)).then_some(task);
            let mut state = this.state.lock();
            state.running = Some(running.clone());
            let earlier = std::mem::replace(&mut state.task, task);
            drop(state);
            drop(earlier);
        }
        if this.slow.is_some()
            && let Some(watched) = watch(py, "watched", &WATCHED)?
        {
            watched.set_item(begun.number, slf)?;
        }
        let entered = labels::enter(py, Entered::Request(running));
        if entered.is_err() {
            // Nobody will end what could not begin.
            Self::end(slf, None)?;
        }
        entered
    }

    /// Ends it, once.
    pub(super) fn end(slf: &Bound<'_, Self>, error: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let (running, task) = {
            let mut state = this.state.lock();
            (state.running.take(), state.task.take())
        };
        drop(task);
        let Some(running) = running else {
            return Ok(());
        };
        let (number, cpu) = (running.number, running.cpu.clone());
        let left = labels::leave(py, &Entered::Request(running));
        // In another context than the one it was begun in, its labels are in force for longer.
        let cpu_ns = cpu.get().filter(|_| matches!(left, Ok(true)));
        let ended = session().requests().end(number, cpu_ns);
        if this.slow.is_some()
            && let Some(watched) = watch(py, "watched", &WATCHED)?
        {
            let known = watched.call_method1(intern!(py, "get"), (number,))?;
            // Nothing is known of what was begun before a fork; most others were not looked at.
            let noted = match ended {
                Some(ended) if ended.looks > 0 && !known.is_none() => {
                    let times = (ended.began_ns, ended.duration_ns, ended.cpu_ns);
                    watch(py, "ended", &ENDED).and_then(|note| {
                        note.map_or(Ok(()), |note| {
                            note.call1((known, number, times, error)).map(drop)
                        })
                    })
                }
                _ => Ok(()),
            };
            // Only now: a look may be about to be told, and the request is to be found somewhere.
            watched.call_method1(intern!(py, "pop"), (number, py.None()))?;
            noted?;
        }
        left.map(drop)
    }
}

static BEGIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static ENDED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static TELL_TROUBLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static WATCHED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// What `rprof._watch` calls so; `None` where it cannot be loaded any more, as after a `chroot`: the
/// request is the application's, and more than its watching.
fn watch<'py>(
    py: Python<'py>,
    name: &str,
    known: &'static PyOnceLock<Py<PyAny>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Some(known) = known.get(py) {
        return Ok(Some(known.bind(py).clone()));
    }
    // Code of the application may run while it is imported, and begin a request.
    let module = match py.import("rprof._watch") {
        Ok(module) => module,
        Err(error) if error.is_instance_of::<PyImportError>(py) => {
            let text = format!("slow requests are not told, load what does it earlier: {error}");
            session().health().set_error(text);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let found = module.getattr(name)?;
    Ok(Some(
        known.get_or_init(py, || found.unbind()).bind(py).clone(),
    ))
}

fn exact_text(value: &Bound<'_, PyAny>) -> Option<Py<PyString>> {
    let text = value.cast_exact::<PyString>().ok()?;
    Some(text.clone().unbind())
}

fn nanoseconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let is_number = (value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>())
        && !value.is_instance_of::<PyBool>();
    let text = value.repr()?;
    if !is_number {
        return Err(
            Error::argument(format!("{name} must be a number of seconds, not {text}")).into(),
        );
    }
    // Whole numbers beyond any float are out of range as well.
    let seconds: f64 = value.extract().unwrap_or(f64::INFINITY);
    if !(0.0..=MAX_SECONDS).contains(&seconds) {
        return Err(Error::value(format!(
            "{name}={text} is out of range; choose for example {name}=2.0"
        ))
        .into());
    }
    Ok((seconds * 1e9).round() as u64)
}

fn route_key() -> Arc<str> {
    static KEY: OnceLock<Arc<str>> = OnceLock::new();
    KEY.get_or_init(|| Arc::from(ROUTE)).clone()
}

/// The label `route`, and these.
fn content_of(route: &str, labels: &Bound<'_, PyDict>) -> PyResult<Arc<Content>> {
    let mut items = vec![(route_key(), labels::value(route))];
    items.extend(labels::items(Some(labels))?);
    items.sort_unstable();
    items.dedup_by(|one, other| one.0 == other.0);
    Ok(Content::new(items))
}

/// The label `route` alone, which many requests share.
fn content_of_route(route: &str) -> Arc<Content> {
    static READY: Mutex<Option<FxHashMap<Box<str>, Arc<Content>>>> = Mutex::new(None);
    let make = || Content::new(vec![(route_key(), labels::value(route))]);
    // Whoever has it, in another process perhaps, is not waited for.
    let Some(mut ready) = READY.try_lock() else {
        return make();
    };
    let ready = ready.get_or_insert_default();
    if let Some(known) = ready.get(route) {
        return known.clone();
    }
    let made = make();
    if route.len() <= MAX_READY_BYTES {
        if ready.len() >= MAX_READY {
            ready.clear();
        }
        ready.insert(Box::from(route), made.clone());
    }
    made
}
