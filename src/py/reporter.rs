//! The thread that tells what the watcher has seen: it waits without the GIL and calls Python for each
//! report.
//!
//! It is the only thread of ours that runs code of the application (its log handlers), and still one
//! that neither Python nor the application knows: it takes no signal, `threading` does not list it,
//! and the end of the process does not wait for it for long.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::gil::attach::{Attachment, Handover};
use super::gil::call::call;
use super::gil::names;
use super::gil::symbols::Symbols;
use crate::capture::Missed;
use crate::clock::cpu::thread_id;
use crate::error::{Error, Result};
use crate::session::fork::session;
use crate::session::native_thread::{Kind, NativeThread};
use crate::session::watcher::{Event, Place};

/// With nothing to tell, the thread looks this often whether there is.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of the thread is waited for: a log handler may take its time, and neither a
/// fork nor the end of the process is to wait for one that is stuck.
const END_PATIENCE: Duration = Duration::from_secs(1);
/// While no thread state is to be had, the thread asks again after this long, and twice as long the
/// next time.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A fork that keeps the GIL waits so long for a thread that mostly sleeps.
const UNDER_GIL_PATIENCE: Duration = Duration::from_millis(2);

static REPORTER: Mutex<Phase> = Mutex::new(Phase::None);
/// The process in which it was started; a fork may have been without Python's hooks.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// Whether something waits in Python that has no event of its own.
static IS_ASKED: AtomicBool = AtomicBool::new(false);

enum Phase {
    None,
    Running(Running),
    /// Its thread ended for a fork, or could not be had.
    Parked(Box<Reporter>),
}

struct Running {
    thread: NativeThread<Box<Reporter>>,
    quit: Arc<AtomicBool>,
    handover: Arc<Handover>,
}

/// What the thread works with; it outlives the thread.
struct Reporter {
    attachment: Attachment,
    symbols: Symbols,
    /// Takes a list of events.
    report: Py<PyAny>,
    quit: Arc<AtomicBool>,
}

impl Reporter {
    fn run(mut self: Box<Self>) -> Box<Self> {
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
        self
    }

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

/// Starts the thread of a reporter that is parked; without a thread it stays so, and the next wish
/// for a report tries again.
fn begin(phase: &mut Phase) -> Result<()> {
    let reporter = match std::mem::replace(phase, Phase::None) {
        Phase::Parked(reporter) => reporter,
        other => {
            *phase = other;
            return Ok(());
        }
    };
    reporter.quit.store(false, Ordering::Release);
    let (quit, handover) = (reporter.quit.clone(), reporter.attachment.handover());
    let spawned = NativeThread::spawn(Kind::Python, names::REPORTER, reporter, |reporter| {
        reporter.run()
    });
    match spawned {
        Ok(thread) => {
            *phase = Phase::Running(Running {
                thread,
                quit,
                handover,
            });
            Ok(())
        }
        Err(refused) => {
            *phase = Phase::Parked(refused.state);
            Err(refused.error)
        }
    }
}

/// Tries to start the thread of a reporter that is parked. That it fails is noted.
fn try_to_begin(phase: &mut Phase) {
    if let Err(error) = begin(phase) {
        session().refuse(&error);
    }
}

/// Begins if its thread could not be had before; waits for nobody. False if somebody is in the way.
pub(crate) fn try_again() -> bool {
    let phase = REPORTER.try_lock();
    phase.map(|mut phase| try_to_begin(&mut phase)).is_some()
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
        attachment: Attachment::new(py, symbols, keep_thread_state),
        symbols,
        report,
        quit: Arc::default(),
    });
    py.detach(|| {
        let process_id = std::process::id();
        if OWNER.swap(process_id, Ordering::AcqRel) != process_id {
            forget_parent();
        }
        end_within(END_PATIENCE);
        *REPORTER.lock() = Phase::Parked(reporter);
    });
    let begun = begin(&mut REPORTER.lock());
    if begun.is_err() {
        let failed = std::mem::replace(&mut *REPORTER.lock(), Phase::None);
        if let Phase::Parked(mut reporter) = failed {
            reporter.attachment.release(py);
        }
    }
    begun?;
    Ok(())
}

/// Ends the thread that reports; whether it has ended. If not, it is stuck in a log handler.
#[pyfunction]
pub(crate) fn stop_reports(py: Python<'_>) -> bool {
    py.detach(|| end_within(END_PATIENCE))
}

/// Ends the thread ahead of a fork; what goes on afterwards is kept.
#[pyfunction]
pub(crate) fn pause_reports(py: Python<'_>) {
    if !park_within(UNDER_GIL_PATIENCE) {
        py.detach(|| park_within(END_PATIENCE));
    }
}

/// Has the thread look into what waits in Python. It may need something that a thread with the GIL
/// can give, or not be there yet.
#[pyfunction]
pub(crate) fn wake_event(py: Python<'_>) {
    IS_ASKED.store(true, Ordering::Release);
    session().watch().tell(Event::Wake);
    // Not waited for: whoever has it may wait for the GIL.
    let Some(mut phase) = REPORTER.try_lock() else {
        return;
    };
    match &*phase {
        Phase::Running(running) => {
            running.handover.make(py);
            running.thread.unpark();
        }
        Phase::Parked(_) => try_to_begin(&mut phase),
        Phase::None => {}
    }
}

/// Ends the thread and keeps its state; false if it did not end within `patience`.
fn park_within(patience: Duration) -> bool {
    let Some(mut phase) = REPORTER.try_lock_for(patience) else {
        return false;
    };
    let running = match std::mem::replace(&mut *phase, Phase::None) {
        Phase::Running(running) => running,
        other => {
            *phase = other;
            return true;
        }
    };
    running.quit.store(true, Ordering::Release);
    session().watch().tell(Event::Wake);
    running.thread.unpark();
    *phase = match running.thread.join(patience) {
        Ok(Some(reporter)) => Phase::Parked(reporter),
        // After a panic there is nothing left to go on with.
        Ok(_) => Phase::None,
        Err(thread) => {
            *phase = Phase::Running(Running { thread, ..running });
            return false;
        }
    };
    true
}

/// Ends the thread for good. One that is stuck in a log handler is left to itself: it has been told
/// to end, and does when it can.
fn end_within(patience: Duration) -> bool {
    let has_ended = park_within(patience);
    if let Some(mut phase) = REPORTER.try_lock_for(patience) {
        *phase = Phase::None;
    }
    has_ended
}

/// Goes on in the parent.
pub(crate) fn after_fork_in_parent() {
    // Whoever has it is forking too, and will go on as well.
    let Some(mut phase) = REPORTER.try_lock_for(UNDER_GIL_PATIENCE) else {
        return;
    };
    *phase = match std::mem::replace(&mut *phase, Phase::None) {
        // It did not end in time, or has done so since.
        Phase::Running(running) => {
            running.quit.store(false, Ordering::Release);
            match running.thread.join(Duration::ZERO) {
                Ok(Some(reporter)) => Phase::Parked(reporter),
                Ok(_) => Phase::None,
                Err(thread) => Phase::Running(Running { thread, ..running }),
            }
        }
        other => other,
    };
    try_to_begin(&mut phase);
}

/// Forgets the parent's reporter in a forked child.
pub(crate) fn forget_parent() {
    names::introduce_reporter(0, 0);
    // What is forgotten is not dropped: its thread and its thread state are the parent's.
    if let Some(mut phase) = REPORTER.try_lock() {
        std::mem::forget(std::mem::replace(&mut *phase, Phase::None));
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
            is_seen,
        } => {
            fields.set_item("kind", "slow")?;
            fields.set_item("number", number)?;
            fields.set_item("route", route)?;
            fields.set_item("elapsed_ns", elapsed_ns)?;
            fields.set_item("look", look)?;
            let places: Vec<_> = places.into_iter().map(plain).collect();
            fields.set_item("places", places)?;
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
        Event::Deadlock { elapsed_ns, text } => {
            fields.set_item("kind", "deadlock")?;
            fields.set_item("elapsed_ns", elapsed_ns)?;
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
