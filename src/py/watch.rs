//! The watcher's beginning and end.
#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::prelude::*;

use super::direct;
use super::handed_in::process_without_thread;
use crate::clock::cpu::thread_id;
use crate::error::Error;
use crate::session::fork::session;
use crate::session::posts::Occupant as _;
use crate::session::watch::{self, Thresholds};
use crate::session::watcher::Watcher;
use crate::session::worker::Worker;

/// Begins to watch, if nobody does yet. Without the direct engine nothing is seen of the threads.
#[pyfunction]
pub(crate) fn start_watch(py: Python<'_>) -> PyResult<()> {
    let session = session();
    let slot = session.slot::<Watcher>();
    if py.detach(|| !slot.lock().is_none()) {
        return Ok(());
    }
    let engine = direct::engine_for_dumps(py, &process_without_thread()).ok();
    py.detach(|| {
        let mut worker = slot.lock();
        if worker.is_none() {
            let watcher = Box::new(Watcher::new(session, engine));
            *worker = Worker::start(watcher).map_err(|refused| refused.error)?;
        }
        Ok::<_, Error>(())
    })?;
    Ok(())
}

/// Ends watching.
#[pyfunction]
pub(crate) fn stop_watch(py: Python<'_>) {
    py.detach(|| session().slot::<Watcher>().end(Watcher::WITHOUT_GIL));
}

/// An event loop that is watched.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Heartbeat(Arc<watch::Heartbeat>);

#[pymethods]
impl Heartbeat {
    /// The loop turns.
    fn beat(&self) {
        self.0.beat();
    }

    /// The loop is not watched any more.
    fn end(&self) {
        self.0.end();
    }

    /// Its number among all that were watched.
    #[getter]
    fn number(&self) -> u64 {
        self.0.number
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // The loop has gone without being closed.
        self.0.end();
    }
}

/// Watches a loop that runs on the calling thread and is to turn within so many ns.
#[pyfunction]
pub(crate) fn watch_loop(name: String, limit_ns: u64) -> PyResult<Heartbeat> {
    let heartbeat = session().watch().heartbeat(name, thread_id(), limit_ns);
    // The watcher's patience may be longer than the new limit.
    session().requests().wake();
    heartbeat.map(Heartbeat).ok_or_else(|| {
        Error::state("too many event loops are watched already; end one first").into()
    })
}

/// Sets what else is watched: so long a deadlock in ns, so many cores, so many more bytes.
#[pyfunction]
#[pyo3(signature = (*, deadlock_ns, cpu_cores, rss_bytes))]
pub(crate) fn watch_limits(
    deadlock_ns: Option<u64>,
    cpu_cores: Option<f64>,
    rss_bytes: Option<u64>,
) {
    session().watch().set_thresholds(Thresholds {
        deadlock_ns,
        cpu_cores,
        rss_bytes,
    });
    session().requests().wake();
}
