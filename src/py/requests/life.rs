//! How requests begin and end.
#![forbid(unsafe_code)]

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;

use super::Request;
use crate::py::direct::current_task;
use crate::py::handed_in::{self, Watching};
use crate::py::labels::{self, Entered, Running};
use crate::py::{captures, hooks};
use crate::session::fork::session;

impl Request {
    /// Begins it here.
    pub(in crate::py) fn begin(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let route = this.route(py);
        let route = route.to_string_lossy();
        let content = this.content(py, &route)?;
        let watching = this.watching(py)?;
        if let Some(watching) = watching {
            if hooks::ask_again() {
                watching.tell_trouble.bind(py).call0()?;
            }
            watching.begin.bind(py).call0()?;
        }
        let allowed = captures::allowed(slf)?;
        let begun = session().requests().begin(&route, this.slow, allowed);
        if this.slow.is_some() || begun.captures != 0 {
            let task = current_task(py)?;
            if task != 0 {
                session().requests().follow(begun.number, task);
            }
        }
        let running = Arc::new(Running {
            number: begun.number,
            shown: Mutex::new((content, begun.captures)),
            cpu: Arc::default(),
        });
        this.state.lock().running = Some(running.clone());
        if let Some(watching) = watching {
            watching.watched.bind(py).set_item(begun.number, slf)?;
        }
        let entered = labels::enter(py, Entered::Request(running));
        if entered.is_err() {
            // Nobody will end what could not begin.
            Self::end(slf, None)?;
        }
        entered
    }

    /// Ends it, once.
    pub(in crate::py) fn end(
        slf: &Bound<'_, Self>,
        error: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let running = this.state.lock().running.take();
        let Some(running) = running else {
            return Ok(());
        };
        let (number, cpu) = (running.number, running.cpu.clone());
        let left = labels::leave(py, &Entered::Request(running));
        // In another context than the one it was begun in, its labels are in force for longer.
        let cpu_ns = cpu.get().filter(|_| matches!(left, Ok(true)));
        let ended = session().requests().end(number, cpu_ns);
        if let Some(watching) = this.watching(py)? {
            let watched = watching.watched.bind(py);
            let known = watched.call_method1(intern!(py, "get"), (number,))?;
            // Nothing is known of what was begun before a fork; most others were not looked at.
            let noted = match ended {
                Some(ended) if ended.looks > 0 && !known.is_none() => {
                    let times = (ended.began_ns, ended.duration_ns, ended.cpu_ns);
                    let note = watching.ended.bind(py);
                    note.call1((known, number, times, error)).map(drop)
                }
                _ => Ok(()),
            };
            // Only now: a look may be about to be told, and the request is to be found somewhere.
            watched.call_method1(intern!(py, "pop"), (number, py.None()))?;
            noted?;
        }
        left.map(drop)
    }

    /// What watches it, if it may become slow.
    fn watching(&self, py: Python<'_>) -> PyResult<Option<&'static Watching>> {
        match self.slow {
            Some(_) => handed_in::watching(py),
            None => Ok(None),
        }
    }
}
