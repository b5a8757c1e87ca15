//! Captures of requests, and figures by route, as Python sees them.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::owner::Recording;
use super::profile::Profile;
use super::requests::Request;
use crate::error::Error;
use crate::session::fork::session;
use crate::session::requests::captures::{Capture as Wish, MAX_WANTED};

/// How long a wait goes without a look at the application's signals.
const WAIT_STEP: Duration = Duration::from_millis(100);

/// Number and duration in ns of requests.
type Durations = Vec<(u64, u64)>;

/// A capture that does not want every request of its route.
struct Choice {
    bit: u64,
    process_id: u32,
    is_wanted: Py<PyAny>,
}

static CHOICES: Mutex<Vec<Choice>> = Mutex::new(Vec::new());
/// How many there are: none at most times.
static CHOICE_COUNT: AtomicUsize = AtomicUsize::new(0);

/// The captures that may take a request that begins, one bit each.
pub(super) fn allowed(request: &Bound<'_, Request>) -> PyResult<u64> {
    let mut allowed = u64::MAX;
    if CHOICE_COUNT.load(Ordering::Acquire) == 0 {
        return Ok(allowed);
    }
    let (py, process_id) = (request.py(), std::process::id());
    let choices: Vec<(u64, Py<PyAny>)> = CHOICES
        .lock()
        .iter()
        .filter(|choice| choice.process_id == process_id)
        .map(|choice| (choice.bit, choice.is_wanted.clone_ref(py)))
        .collect();
    for (bit, is_wanted) in choices {
        let is_wanted = is_wanted.bind(py).call1((request,))?.is_truthy()?;
        if !is_wanted {
            allowed &= !bit;
        }
    }
    Ok(allowed)
}

/// Of each route: its name, requests ended and under way, the sum and the maximum of their durations
/// in ns, and the durations in ns that these parts (0 to 1) of them did not exceed.
#[pyfunction]
pub(crate) fn route_figures(parts: Vec<f64>) -> Vec<RouteRow> {
    let figures = session().requests().figures();
    let rows = figures.iter().map(|route| {
        (
            route.route.to_string(),
            route.count,
            route.under_way,
            route.sum_ns,
            route.max_ns,
            (route.cpu_ns, route.cpu_count),
            parts.iter().map(|part| route.quantile_ns(*part)).collect(),
        )
    });
    rows.collect()
}

/// Name, ended, under way, sum and maximum in ns, CPU time in ns and of how many, quantiles in ns.
type RouteRow = (String, u64, u64, u64, u64, (u64, u64), Vec<u64>);

/// The next so many requests, recorded. It ends with this object at the latest.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Capture {
    wish: Wish,
    process_id: u32,
    recording: Mutex<Option<Py<Recording>>>,
    /// How long its requests took, once no more are taken.
    durations: Mutex<Option<Durations>>,
}

#[pymethods]
impl Capture {
    /// The bit that its requests carry.
    #[getter]
    fn bit(&self) -> u64 {
        self.wish.bit
    }

    /// Begins to take the next `wanted` requests of `route`, or of any, by this recording; only those
    /// for which `is_wanted` returns true, if it is given.
    #[pyo3(signature = (wanted, route, recording, is_wanted=None))]
    fn open(
        &self,
        wanted: u32,
        route: Option<String>,
        recording: Py<Recording>,
        is_wanted: Option<Py<PyAny>>,
    ) {
        *self.recording.lock() = Some(recording);
        if let Some(is_wanted) = is_wanted {
            let mut choices = CHOICES.lock();
            choices.push(Choice {
                bit: self.wish.bit,
                process_id: self.process_id,
                is_wanted,
            });
            CHOICE_COUNT.store(choices.len(), Ordering::Release);
        }
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

    /// Has it end, if it has not, without waiting for that.
    fn abandon(&self) {
        if self.process_id == std::process::id() {
            self.take_no_more();
            if let Some(recording) = &*self.recording.lock() {
                recording.get().abandon();
            }
        }
    }

    /// Ends it; returns its profile, which keeps requests apart, number and duration in ns of each
    /// request that has ended, and the heap, likewise, if that was sampled. Later calls give the same
    /// answer.
    fn close(&self, py: Python<'_>) -> PyResult<Option<(Profile, Durations, Option<Profile>)>> {
        let recording = self
            .recording
            .lock()
            .as_ref()
            .map(|known| known.clone_ref(py));
        let Some(recording) = recording.filter(|_| self.process_id == std::process::id()) else {
            return Ok(None);
        };
        let durations = self.take_no_more();
        let finished = recording.get().end(py)?;
        let heap = recording.get().heap();
        Ok(finished.map(|finished| (Profile::new(finished.profile), durations, heap)))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if self.process_id == std::process::id() {
            self.take_no_more();
        }
    }
}

impl Capture {
    /// Takes no more requests; returns how long those took that have ended.
    fn take_no_more(&self) -> Durations {
        let mut durations = self.durations.lock();
        if let Some(known) = &*durations {
            return known.clone();
        }
        let choices = self.take_choices();
        let ended = session().requests().close(self.wish.bit);
        *durations = Some(ended.clone());
        drop(durations);
        // Their end may run code of the application's, which may begin a request.
        drop(choices);
        ended
    }

    fn take_choices(&self) -> Vec<Choice> {
        let mut choices = CHOICES.lock();
        let is_own = |choice: &mut Choice| {
            choice.bit == self.wish.bit && choice.process_id == self.process_id
        };
        let own = choices.extract_if(.., is_own).collect();
        CHOICE_COUNT.store(choices.len(), Ordering::Release);
        own
    }
}

/// Makes room for the next `wanted` requests.
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
        recording: Mutex::new(None),
        durations: Mutex::new(None),
    })
}
