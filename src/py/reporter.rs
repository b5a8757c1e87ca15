//! The thread that tells what the watcher has seen: it waits without the GIL and calls Python for each
//! report.
//!
//! It is the only thread of ours that runs code of the application (its log handlers), and still one
//! that neither Python nor the application knows: it takes no signal, `threading` does not list it,
//! and the end of the process does not wait for it for long.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::gil::attach::{Attachment, Handover};
use super::gil::call::call;
use super::gil::names;
use super::gil::symbols::Symbols;
use super::handed_in::process;
use crate::capture::Missed;
use crate::clock::cpu::thread_id;
use crate::error::Error;
use crate::session::fork::session;
use crate::session::native_thread::{Kind, Refused};
use crate::session::posts::{Occupant, Post, UNDER_GIL_PATIENCE};
use crate::session::watch::{Event, Place};
use crate::session::worker::{Handle, Work, Worker};

/// With nothing to tell, the thread looks this often whether there is.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of the thread is waited for: a log handler may take its time, and neither a
/// fork nor the end of the process is to wait for one that is stuck.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// While no thread state is to be had, the thread asks again after this long, and twice as long the
/// next time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Whether something waits in Python that has no event of its own.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

/// What the thread works with; it outlives the thread.
pub(crate) struct Reporter {
    attachment: Attachment,
    symbols: Symbols,
    /// Takes a list of events.
    report: Py<PyAny>,
    quit: Arc<AtomicBool>,
}

impl Work for Reporter {
    type Handle = ReporterHandle;

    const NAME: &'static str = names::REPORTER;
    const KIND: Kind = Kind::Python;

    fn prepare(&mut self) -> ReporterHandle {
        self.quit.store(false, Ordering::Release);
        ReporterHandle {
            quit: self.quit.clone(),
            handover: self.attachment.handover(),
        }
    }

    fn run(&mut self) {
        names::introduce_reporter(self.symbols.own_ident(), thread_id());
        let watch = session().watch();
        loop {
            let quit = self.quit.load(Ordering::Acquire);
            // What is there already is still told at the end.
            let patience = if quit { Duration::ZERO } else { PATIENCE };
            let first = watch.next_event(patience);
            if first.is_none() && quit {
                break;
            }
            let mut events: Vec<Event> = first.into_iter().collect();
            while let Some(event) = watch.next_event(Duration::ZERO) {
                events.push(event);
            }
            events.retain(|event| *event != Event::Wake);
            let is_asked = IS_ASKED.swap(false, Ordering::AcqRel);
            if (is_asked || !events.is_empty()) && !self.tell(events) {
                break;
            }
        }
        self.attachment.park();
        names::introduce_reporter(0, 0);
    }
}

impl Occupant for Reporter {
    const POST: Post = Post::Reporter;
    const WITHOUT_GIL: Duration = END_PATIENCE;
    /// Whoever has it is forking too, and will go on as well.
    const AGAIN: Duration = UNDER_GIL_PATIENCE;
}

/// How the reporter's thread is reached.
pub(crate) struct ReporterHandle {
    quit: Arc<AtomicBool>,
    handover: Arc<Handover>,
}

impl Handle for ReporterHandle {
    fn stop(&self) {
        self.quit.store(true, Ordering::Release);
        session().watch().tell(Event::Wake);
    }

    fn take_back(&self) {
        self.quit.store(false, Ordering::Release);
    }
}

impl Reporter {
    /// Has Python tell these events; false if there is no Python any more, or no time.
    fn tell(&mut self, events: Vec<Event>) -> bool {
        let mut pause = FIRST_PAUSE;
        let mut quit_at = None;
        loop {
            match self.attachment.attach() {
                Ok(mut attached) => {
                    if !attached.own_state() {
                        let problem = "nothing can be reported: a thread state cannot be had";
                        session().health().set_error(problem);
                        return true;
                    }
                    let py = attached.py();
                    if let Err(error) = report(py, &self.symbols, &self.report, events) {
                        session()
                            .health()
                            .set_error(format!("a report could not be told: {error}"));
                    }
                    return true;
                }
                Err(Missed::Finalizing) => return false,
                Err(Missed::NotNow) => {
                    if self.quit.load(Ordering::Acquire)
                        && quit_at.get_or_insert_with(Instant::now).elapsed() > END_PATIENCE / 2
                    {
                        return false;
                    }
                    std::thread::park_timeout(pause);
                    pause = (2 * pause).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// What has been seen since the events that are being told.
#[pyfunction]
pub(crate) fn take_events(py: Python<'_>) -> PyResult<Vec<Bound<'_, PyDict>>> {
    let watch = session().watch();
    let waiting = std::iter::from_fn(|| watch.next_event(Duration::ZERO));
    waiting
        .filter(|event| *event != Event::Wake)
        .map(|event| fields(py, event))
        .collect()
}

fn report(
    py: Python<'_>,
    symbols: &Symbols,
    report: &Py<PyAny>,
    events: Vec<Event>,
) -> PyResult<()> {
    let told = PyList::empty(py);
    for event in events {
        told.append(fields(py, event)?)?;
    }
    call(symbols, report.bind(py), &(told,).into_pyobject(py)?)
}

/// Begins to report what is seen, by calling `report` with lists of events.
#[pyfunction]
pub(crate) fn start_reports(
    py: Python<'_>,
    report: Py<PyAny>,
    keep_thread_state: bool,
) -> PyResult<()> {
    let symbols = Symbols::find().map_err(|symbol| {
        PyErr::from(Error::state(format!(
            "nothing can be reported here: the interpreter does not export {symbol}"
        )))
    })?;
    let reporter = Box::new(Reporter {
        attachment: Attachment::new(
            py,
            symbols,
            keep_thread_state || process().keep_thread_state,
        ),
        symbols,
        report,
        quit: Arc::default(),
    });
    let started = py.detach(|| {
        let slot = session().slot::<Reporter>();
        slot.end(END_PATIENCE);
        slot.start(reporter)
    });
    if let Err(Refused { mut state, error }) = started {
        state.attachment.release(py);
        return Err(error.into());
    }
    Ok(())
}

/// Ends the thread that reports; whether it has ended. If not, it is stuck in a log handler.
#[pyfunction]
pub(crate) fn stop_reports(py: Python<'_>) -> bool {
    py.detach(|| session().slot::<Reporter>().end(END_PATIENCE))
}

/// Ends the thread ahead of a fork; what goes on afterwards is kept.
#[pyfunction]
pub(crate) fn pause_reports(py: Python<'_>) {
    session()
        .slot::<Reporter>()
        .park_ahead(&|wait| py.detach(wait));
}

/// Has the thread look into what waits in Python. It may need something that a thread with the GIL
/// can give, or not be there yet.
#[pyfunction]
pub(crate) fn wake_event(py: Python<'_>) {
    IS_ASKED.store(true, Ordering::Release);
    session().watch().tell(Event::Wake);
    let slot = session().slot::<Reporter>();
    // Not waited for: whoever has it may wait for the GIL.
    let Some(mut worker) = slot.try_lock() else {
        return;
    };
    if let Worker::Running(running) = &*worker {
        running.handle.handover.make(py);
        running.wake();
    } else if let Err(error) = worker.begin() {
        session().refuse(&error);
    }
}

fn fields(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyDict>> {
    let fields = PyDict::new(py);
    match event {
        Event::Wake => fields.set_item("kind", "wake")?,
        Event::Slow {
            number,
            route,
            elapsed_ns,
            look,
            places,
            tasks,
            waits_in,
            is_seen,
        } => {
            fields.set_item("kind", "slow")?;
            fields.set_item("number", number)?;
            fields.set_item("route", route)?;
            fields.set_item("elapsed_ns", elapsed_ns)?;
            fields.set_item("look", look)?;
            let places: Vec<_> = places.into_iter().map(plain).collect();
            fields.set_item("places", places)?;
            fields.set_item("tasks", tasks)?;
            fields.set_item("waits_in", waits_in)?;
            fields.set_item("is_seen", is_seen)?;
        }
        Event::Stall {
            number,
            name,
            elapsed_ns,
            place,
        } => {
            fields.set_item("kind", "stall")?;
            fields.set_item("number", number)?;
            fields.set_item("name", name)?;
            fields.set_item("elapsed_ns", elapsed_ns)?;
            let places: Vec<_> = place.into_iter().map(plain).collect();
            fields.set_item("places", places)?;
        }
        Event::StallEnd {
            number,
            name,
            elapsed_ns,
        } => {
            fields.set_item("kind", "stall_end")?;
            fields.set_item("number", number)?;
            fields.set_item("name", name)?;
            fields.set_item("elapsed_ns", elapsed_ns)?;
        }
        Event::Deadlock {
            elapsed_ns,
            is_of_all,
            text,
        } => {
            fields.set_item("kind", "deadlock")?;
            fields.set_item("elapsed_ns", elapsed_ns)?;
            fields.set_item("is_of_all", is_of_all)?;
            fields.set_item("text", text)?;
        }
        Event::Step { kind, from, to } => {
            fields.set_item("kind", kind)?;
            fields.set_item("from", from)?;
            fields.set_item("to", to)?;
        }
    }
    Ok(fields)
}

/// Kernel id, name, what it does, and (function, file, line) of each frame, innermost first.
type PlainPlace = (u64, String, &'static str, Vec<(String, String, u32)>);

fn plain(place: Place) -> PlainPlace {
    (place.thread_id, place.thread, place.doing, place.frames)
}
