//! The watcher's beginning and end.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::direct;
use super::gil::engine::EngineOptions;
use crate::clock::cpu::thread_id;
use crate::error::Error;
use crate::session::fork::session;
use crate::session::native_thread::{Kind, NativeThread};
use crate::session::watcher::{self, Limits, Watcher};

/// How long the end of the thread is waited for; it may be looking.
const PATIENCE: Duration = Duration::from_secs(5);

static WATCHER: Mutex<Phase> = Mutex::new(Phase::None);
/// The process in which it was started; a fork may have been without Python's hooks.
static OWNER: AtomicU32 = AtomicU32::new(0);

enum Phase {
    None,
    Running(NativeThread<Box<Watcher>>),
    /// Its thread ended for a fork, or could not be had.
    Parked(Box<Watcher>),
}

/// Starts the thread of a watcher that is parked; without a thread it stays so.
fn begin(phase: &mut Phase) -> crate::error::Result<()> {
    let watcher = match std::mem::replace(phase, Phase::None) {
        Phase::Parked(watcher) => watcher,
        other => {
            *phase = other;
            return Ok(());
        }
    };
    watcher::set_quit(session(), false);
    let spawned = NativeThread::spawn(Kind::Own, "rprof-watch", watcher, |mut watcher| {
        watcher.run(session());
        watcher
    });
    match spawned {
        Ok(thread) => {
            *phase = Phase::Running(thread);
            Ok(())
        }
        Err(refused) => {
            *phase = Phase::Parked(refused.state);
            Err(refused.error)
        }
    }
}

/// The same; that it fails is noted.
fn try_to_begin(phase: &mut Phase) {
    if let Err(error) = begin(phase) {
        session().refuse(&error);
    }
}

/// Begins to watch, if nobody does yet. Without the direct engine nothing is seen of the threads.
#[pyfunction]
pub(crate) fn start_watch(
    py: Python<'_>,
    import_roots: Vec<String>,
    own_directory: String,
) -> PyResult<()> {
    let process_id = std::process::id();
    if OWNER.swap(process_id, Ordering::AcqRel) != process_id {
        forget_parent();
    }
    if py.detach(|| !matches!(*WATCHER.lock(), Phase::None)) {
        return Ok(());
    }
    let options = EngineOptions {
        import_roots,
        own_directory,
        keep_thread_state: false,
    };
    let engine = direct::engine_for_dumps(py, &options).ok();
    py.detach(|| {
        let mut phase = WATCHER.lock();
        if matches!(*phase, Phase::None) {
            *phase = Phase::Parked(Box::new(Watcher::new(engine)));
            let begun = begin(&mut phase);
            if begun.is_err() {
                *phase = Phase::None;
            }
            return begun;
        }
        Ok::<_, Error>(())
    })?;
    Ok(())
}

/// Ends watching.
#[pyfunction]
pub(crate) fn stop_watch(py: Python<'_>) {
    py.detach(|| {
        park_within(PATIENCE);
        if let Some(mut phase) = WATCHER.try_lock_for(PATIENCE) {
            *phase = Phase::None;
        }
    });
}

/// Ends the thread ahead of a fork; false if it did not end within `patience`.
pub(crate) fn park_within(patience: Duration) -> bool {
    let Some(mut phase) = WATCHER.try_lock_for(patience) else {
        return false;
    };
    match std::mem::replace(&mut *phase, Phase::None) {
        Phase::Running(thread) => {
            watcher::set_quit(session(), true);
            match thread.join(patience) {
                Ok(Some(watcher)) => *phase = Phase::Parked(watcher),
                // After a panic there is nothing left to go on with.
                Ok(None) => {}
                Err(thread) => {
                    *phase = Phase::Running(thread);
                    return false;
                }
            }
        }
        other => *phase = other,
    }
    true
}

/// The same, without the GIL and with patience.
pub(crate) fn park_for_fork() {
    park_within(PATIENCE);
}

/// Goes on in the parent.
pub(crate) fn after_fork_in_parent() {
    let Some(mut phase) = WATCHER.try_lock_for(PATIENCE) else {
        return;
    };
    if matches!(*phase, Phase::Running(_)) {
        watcher::set_quit(session(), false);
    }
    try_to_begin(&mut phase);
}

/// Begins if its thread could not be had before; waits for nobody. False if somebody is in the way.
pub(crate) fn try_again() -> bool {
    let phase = WATCHER.try_lock();
    phase.map(|mut phase| try_to_begin(&mut phase)).is_some()
}

/// Forgets the parent's watcher in a forked child.
pub(crate) fn forget_parent() {
    // What is forgotten is not dropped: its descriptors are the parent's.
    if let Some(mut phase) = WATCHER.try_lock() {
        std::mem::forget(std::mem::replace(&mut *phase, Phase::None));
    }
}

/// An event loop that is watched.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Heart(Arc<watcher::Heart>);

#[pymethods]
impl Heart {
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

impl Drop for Heart {
    fn drop(&mut self) {
        // The loop has gone without being closed.
        self.0.end();
    }
}

/// Watches a loop that runs on the calling thread and is to turn within so many ns.
#[pyfunction]
pub(crate) fn watch_loop(name: String, limit_ns: u64) -> PyResult<Heart> {
    let heart = session().watch().heart(name, thread_id(), limit_ns);
    // The watcher's patience may be longer than the new limit.
    session().requests().wake();
    heart.map(Heart).ok_or_else(|| {
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
    session().watch().set_limits(Limits {
        deadlock_ns,
        cpu_cores,
        rss_bytes,
    });
    session().requests().wake();
}
