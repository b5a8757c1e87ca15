//! Requests, and captures of them, as Python sees them.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::labels;
use super::profile::Profile;
use crate::error::Error;
use crate::model::label::ROUTE;
use crate::session::control::RecordingId;
use crate::session::fork::session;
use crate::session::requests::{Capture as Wish, MAX_WANTED, SlowLimit};

/// How long a wait goes without a look at the application's signals.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// A request under way.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Request {
    items: Vec<(Arc<str>, Arc<str>)>,
    /// Its number, never used again in this process; 0 if it is not watched.
    #[pyo3(get)]
    number: u64,
    /// The captures that take it, one bit each.
    #[pyo3(get)]
    captures: u64,
}

/// The label `route`, and these.
fn items(route: &str, labels: Option<&Bound<'_, PyDict>>) -> PyResult<Vec<(Arc<str>, Arc<str>)>> {
    static KEY: OnceLock<Arc<str>> = OnceLock::new();
    let key = KEY.get_or_init(|| Arc::from(ROUTE)).clone();
    let mut items = vec![(key, labels::value(route))];
    if labels.is_some() {
        items.extend(labels::items(labels)?);
        items.sort_unstable();
        items.dedup_by(|one, other| one.0 == other.0);
    }
    Ok(items)
}

/// Begins a request of `route`, which is a label of its samples, with `labels` besides. It counts as slow after so many ns,
/// and is looked at again as often; `allowed` are the captures that may take it.
#[pyfunction]
#[pyo3(signature = (route, labels=None, slow_after_ns=None, repeat_ns=0, allowed=u64::MAX))]
pub(crate) fn begin_request<'py>(
    py: Python<'py>,
    route: &str,
    labels: Option<&Bound<'py, PyDict>>,
    slow_after_ns: Option<u64>,
    repeat_ns: u64,
    allowed: u64,
) -> PyResult<Bound<'py, Request>> {
    let items = items(route, labels)?;
    let slow = slow_after_ns.map(|after_ns| SlowLimit {
        after_ns,
        repeat_ns,
    });
    let begun = session().requests().begin(route, slow, allowed);
    let request = Bound::new(
        py,
        Request {
            items,
            number: begun.number,
            captures: begun.captures,
        },
    )?;
    resume_request(&request)?;
    Ok(request)
}

/// The same request with the route it turned out to have, and with these labels from now on.
#[pyfunction]
#[pyo3(signature = (request, route, labels=None, allowed=u64::MAX))]
pub(crate) fn rename_request<'py>(
    py: Python<'py>,
    request: &Bound<'py, Request>,
    route: &str,
    labels: Option<&Bound<'py, PyDict>>,
    allowed: u64,
) -> PyResult<Bound<'py, Request>> {
    let items = items(route, labels)?;
    let number = request.get().number;
    let begun = session().requests().rename(number, route, allowed);
    pause_request(request)?;
    let renamed = Request {
        items,
        number,
        captures: begun.captures,
    };
    let renamed = Bound::new(py, renamed)?;
    resume_request(&renamed)?;
    Ok(renamed)
}

/// Whether both are the same request, which has another object since it was renamed.
pub(super) fn is_same(one: &Bound<'_, PyAny>, other: &Bound<'_, PyAny>) -> bool {
    match (one.cast::<Request>(), other.cast::<Request>()) {
        (Ok(one), Ok(other)) => one.get().number == other.get().number && one.get().number != 0,
        _ => false,
    }
}

/// Puts a request's labels in force again.
pub(super) fn resume(request: &Bound<'_, PyAny>) -> PyResult<()> {
    resume_request(request.cast::<Request>()?)
}

/// Takes the request's labels from where it is called.
#[pyfunction]
pub(crate) fn pause_request(request: &Bound<'_, Request>) -> PyResult<()> {
    labels::leave(request.py(), request.as_any())
}

/// Puts the request's labels in force where it is called.
#[pyfunction]
pub(crate) fn resume_request(request: &Bound<'_, Request>) -> PyResult<()> {
    let own = request.get();
    labels::enter(
        request.py(),
        own.items.clone(),
        own.number,
        own.captures,
        request.as_any(),
    )
}

/// Ends a request; returns its duration in ns and how often it was looked at for being slow, or
/// None if it was begun before a fork, or ended before.
#[pyfunction]
pub(crate) fn end_request(request: &Bound<'_, Request>) -> PyResult<Option<(u64, u32)>> {
    pause_request(request)?;
    let ended = session().requests().end(request.get().number);
    Ok(ended.map(|ended| (ended.duration_ns, ended.looks)))
}

/// Of each route: its name, requests ended and under way, the sum and the maximum of their durations
/// in ns, and the durations in ns that these parts (0 to 1) of them did not exceed.
#[pyfunction]
pub(crate) fn route_figures(parts: Vec<f64>) -> Vec<(String, u64, u64, u64, u64, Vec<u64>)> {
    let figures = session().requests().figures();
    let rows = figures.iter().map(|route| {
        (
            route.route.to_string(),
            route.count,
            route.under_way,
            route.sum_ns,
            route.max_ns,
            parts.iter().map(|part| route.quantile_ns(*part)).collect(),
        )
    });
    rows.collect()
}

/// The next so many requests, recorded.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Capture {
    wish: Wish,
    process_id: u32,
    has_ended: AtomicBool,
    recording: Mutex<Option<RecordingId>>,
}

#[pymethods]
impl Capture {
    /// The bit that its requests carry.
    #[getter]
    fn bit(&self) -> u64 {
        self.wish.bit
    }

    /// Begins to take the next `wanted` requests of `route`, or of any, by this recording.
    fn open(&self, wanted: u32, route: Option<String>, recording: u64) {
        *self.recording.lock() = Some(RecordingId(recording));
        session().requests().open(self.wish.bit, wanted, route);
    }

    /// How many requests have begun, and have ended.
    fn progress(&self) -> (u32, u32) {
        if self.process_id == std::process::id() {
            session().requests().progress(self.wish.bit)
        } else {
            (0, 0)
        }
    }

    /// Waits until all have ended, for so many seconds at most; whether they have.
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        let patience = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let end = Instant::now().checked_add(patience);
        loop {
            let left = end.map_or(WAIT_STEP, |end| {
                end.saturating_duration_since(Instant::now())
            });
            let answer = py.detach(|| self.wish.done.recv_timeout(left.min(WAIT_STEP)));
            if answer.is_err_and(|error| error.is_disconnected()) {
                return Ok(true);
            }
            py.check_signals()?;
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Ends it, once; returns its profile, which keeps requests apart, and number and duration in ns
    /// of each request that has ended.
    #[expect(clippy::type_complexity, reason = "plain values for the Python side")]
    fn close(&self, py: Python<'_>) -> PyResult<Option<(Profile, Vec<(u64, u64)>)>> {
        if self.has_ended.swap(true, Ordering::AcqRel) || self.process_id != std::process::id() {
            return Ok(None);
        }
        let durations = session().requests().close(self.wish.bit);
        let recording = self.recording.lock().take();
        let Some(recording) = recording else {
            return Ok(None);
        };
        let finished = py.detach(|| session().stop(recording))?;
        Ok(Some((Profile::new(finished.profile), durations)))
    }
}

/// Reserves a place for the next `wanted` requests.
#[pyfunction]
pub(crate) fn capture_requests(wanted: u32) -> PyResult<Capture> {
    if !(1..=MAX_WANTED).contains(&wanted) {
        return Err(Error::value(format!(
            "count={wanted} is out of range; choose 1 to {MAX_WANTED} requests"
        ))
        .into());
    }
    Ok(Capture {
        wish: session().requests().capture()?,
        process_id: std::process::id(),
        has_ended: AtomicBool::new(false),
        recording: Mutex::new(None),
    })
}
