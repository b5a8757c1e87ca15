//! What Python holds while something goes on that ends with this object at the latest.
//!
//! An exception of a signal's handler may come between any two instructions of Python. What one call
//! begins and returns has an owner all the time.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::exact_locks::LockUse;
use super::heap::OwnHeap;
use super::last_window::Held;
use super::profile::Profile;
use super::recording::{Outcome, outcome};
use crate::error::{Error, Result};
use crate::fold::profile::Profile as HeapProfile;
use crate::session::control::RecordingId;
use crate::session::fork::session;
use crate::session::{Finished, Session};

/// What ends with its `with` block, whatever comes in between; a base class. A signal's handler may
/// raise before the first instruction of a function of Python, but not before this one.
#[pyclass(frozen, subclass, module = "rprof._native")]
pub(crate) struct Block;

#[pymethods]
impl Block {
    #[new]
    #[pyo3(signature = (*_options, **_more))]
    fn new(_options: &Bound<'_, PyTuple>, _more: Option<&Bound<'_, PyDict>>) -> Self {
        Self
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// Calls `_leave`; what `_owner` owns has ended, or is about to, in any case.
    #[pyo3(signature = (_kind=None, _error=None, _traceback=None))]
    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: Option<&Bound<'_, PyAny>>,
        _error: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let left = slf.call_method0("_leave");
        let owner = slf.getattr("_owner")?;
        slf.setattr("_owner", slf.py().None())?;
        if !owner.is_none() {
            owner.call_method0("abandon")?;
        }
        left.map(drop)
    }
}

/// A recording that is under way.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Recording {
    id: RecordingId,
    session: &'static Session,
    /// How it has ended; `None` in it if somebody else has ended it.
    ended: Mutex<Option<Option<Finished>>>,
    /// What it wants to know of the heap, until it has ended.
    heap: Mutex<Option<OwnHeap>>,
    /// What the heap was at its end.
    heap_at_end: Mutex<Option<Arc<HeapProfile>>>,
    /// Its wish to know exactly who has locks, until it has ended.
    exact: Mutex<Option<LockUse>>,
}

impl Recording {
    /// The owner of what has begun just now.
    pub(super) fn new(
        session: &'static Session,
        id: RecordingId,
        heap: Option<OwnHeap>,
        exact: Option<LockUse>,
    ) -> Self {
        Self {
            id,
            session,
            ended: Mutex::new(None),
            heap: Mutex::new(heap),
            heap_at_end: Mutex::new(None),
            exact: Mutex::new(exact),
        }
    }

    /// Whether it is of this process, rather than of the one that this was forked from.
    fn is_own(&self) -> bool {
        std::ptr::eq(session(), self.session)
    }

    /// Ends it, once; later calls give the same answer. `None` if somebody else has ended it.
    pub(super) fn end(&self, py: Python<'_>) -> Result<Option<Finished>> {
        if !self.is_own() {
            return Ok(None);
        }
        let ended = py.detach(|| {
            let mut ended = self.ended.lock();
            if let Some(known) = &*ended {
                return Ok(known.clone());
            }
            let _held = Held::begin();
            let finished = self.session.stop_unless_ended(self.id)?;
            *ended = Some(finished.clone());
            let heap = self.heap.lock().take();
            if let Some(heap) = heap {
                *self.heap_at_end.lock() = heap.profile();
            }
            Ok(finished)
        });
        // With the GIL, and never waited for by anybody who has it.
        drop(self.exact.lock().take());
        ended
    }
}

#[pymethods]
impl Recording {
    /// Ends it and returns its last window; the same again if it is called again. `None` if it has
    /// ended by itself: with the process, or in the one that this was forked from.
    fn stop(&self, py: Python<'_>) -> PyResult<Option<Outcome>> {
        Ok(self.end(py)?.map(outcome))
    }

    /// What was allocated in it, and what was in use at its end; `None` if it did not look at that.
    pub(super) fn heap(&self) -> Option<Profile> {
        self.heap_at_end.lock().clone().map(Profile::new)
    }

    /// Closes the open window.
    fn rotate(&self, py: Python<'_>) -> PyResult<Outcome> {
        let finished = py.detach(|| {
            let _held = Held::begin();
            self.session.rotate(self.id)
        })?;
        Ok(outcome(finished))
    }

    /// Lets it record nothing until it is resumed.
    fn pause(&self, py: Python<'_>) {
        if self.is_own() {
            py.detach(|| self.session.pause(self.id));
        }
    }

    /// Lets it go on after a pause.
    fn resume(&self, py: Python<'_>) {
        if self.is_own() {
            py.detach(|| self.session.resume(self.id));
        }
    }

    /// Has it end, if it has not, without waiting for that.
    pub(super) fn abandon(&self) {
        // Whoever has it locked is ending it.
        let may_run = self.ended.try_lock().is_some_and(|ended| ended.is_none());
        if may_run && self.is_own() {
            self.session.abandon(self.id);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A turn to begin or end what there is one of: a context manager that has been entered already.
#[pyclass(frozen, module = "rprof._native")]
pub(crate) struct Turn {
    session: &'static Session,
    has_ended: AtomicBool,
}

#[pymethods]
impl Turn {
    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (_kind=None, _value=None, _traceback=None))]
    fn __exit__(
        &self,
        _kind: Option<&Bound<'_, PyAny>>,
        _value: Option<&Bound<'_, PyAny>>,
        _traceback: Option<&Bound<'_, PyAny>>,
    ) {
        if !self.has_ended.swap(true, Ordering::AcqRel) {
            self.session.turns().end();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A turn of the process that this one was forked from has nothing to do with it.
        if std::ptr::eq(session(), self.session) {
            self.__exit__(None, None, None);
        }
    }
}

/// Waits for its turn.
#[pyfunction]
pub(crate) fn take_turn(py: Python<'_>) -> PyResult<Turn> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let session = session();
    if !py.detach(|| session.turns().begin(PATIENCE)) {
        return Err(Error::state(
            "another thread has been beginning or ending a recording for a minute; is the disk stuck?",
        )
        .into());
    }
    Ok(Turn {
        session,
        has_ended: AtomicBool::new(false),
    })
}
