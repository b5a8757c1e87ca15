//! What a forked child goes on with, a little later.
//!
//! Many children of a fork only prepare something and become another program, and some of what they
//! may want to do before is refused to a process with two threads (`unshare` and `setns` of a user
//! namespace). So no thread is started in a child before it has worked for a while. The interpreter has
//! no clock that could tell when: a pending call that asks for the next one looks at each of its
//! chances, which are calls and jumps back in the main thread. It takes some 32 of them at each, so the
//! child is slow meanwhile, and the while is short.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::PyException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::gil::symbols::Symbols;
use crate::clock::cpu::{monotonic_ns, own_cpu_ns};
use crate::session::fork::session;

/// A child goes on when its thread has computed for so long since the fork (most of which are the looks
/// themselves: on 3.11 a hundred rounds of a generator take 1.5 ms, and on a busy machine more),
const GRACE_CPU_NS: u64 = 4_000_000;
/// or so much time has passed; what has waited meanwhile has not come nearer to its purpose.
const GRACE_NS: u64 = 150_000_000;
/// How long one thread waits for another that is just going on with it.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many pending calls are made at each chance (`NPENDINGCALLS`, `Include/internal`, 3.10-3.15).
const CALLS_AT_ONCE: u32 = 32;

/// A function of ours, which runs no code of Python; what it is called with; and the name
/// of another call without whose success it is of no use.
type Call<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyDict>,
    Option<Bound<'py, PyString>>,
);

/// What waits.
struct Waiting {
    process_id: u32,
    since_ns: u64,
    cpu_since_ns: u64,
    symbols: Option<Symbols>,
    /// A [`Call`] for each name.
    calls: Py<PyDict>,
    /// Gets what it has returned, or raised.
    results: Py<PyDict>,
}

impl Waiting {
    fn is_due(&self) -> bool {
        if self.process_id != std::process::id() {
            return true;
        }
        monotonic_ns().saturating_sub(self.since_ns) >= GRACE_NS
            || own_cpu_ns().saturating_sub(self.cpu_since_ns) >= GRACE_CPU_NS
            || self.has_company()
    }

    /// Whether the process has other threads by now, of Python's at least: then ours is not the one that
    /// makes the difference, and the main thread may be about to do nothing but wait for them.
    fn has_company(&self) -> bool {
        self.symbols.is_none_or(|symbols| {
            // SAFETY: the GIL is held wherever this is called, so thread states neither come nor go.
            unsafe {
                let first = (symbols.thread_head)(ffi::PyInterpreterState_Get());
                !first.is_null() && !(symbols.thread_next)(first).is_null()
            }
        })
    }
}

/// Locked for moments, and only with the GIL.
static WAITING: Mutex<Option<Waiting>> = Mutex::new(None);
static IS_WAITING: AtomicBool = AtomicBool::new(false);
/// How often anything has waited, in this process and its ancestors.
static ROUND: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicU32 = AtomicU32::new(0);

/// Makes these calls, `(function, options, needed)` by name, once this process has worked for a while, or at
/// `resume_now`; `results` gets what they return, or raise.
#[pyfunction]
pub(crate) fn resume_later(py: Python<'_>, calls: Py<PyDict>, results: Py<PyDict>) {
    let waiting = Waiting {
        process_id: std::process::id(),
        since_ns: monotonic_ns(),
        cpu_since_ns: own_cpu_ns(),
        symbols: Symbols::find().ok(),
        calls,
        results,
    };
    let earlier = WAITING.lock().replace(waiting);
    IS_WAITING.store(true, Ordering::Release);
    drop(earlier);
    let round = ROUND.fetch_add(1, Ordering::Relaxed) + 1;
    if ask(round) {
        have_noticed(py);
    } else {
        resume_now(py);
    }
}

/// Has [`look`] called at the next chance; false if that is not possible.
fn ask(round: usize) -> bool {
    let round = std::ptr::without_provenance_mut(round);
    // SAFETY: the argument is a number.
    unsafe { ffi::Py_AddPendingCall(Some(look), round) == 0 }
}

/// Has the main thread notice what is pending. CPython from 3.13 on tells the one that was the main thread
/// before the fork; another one that has forked finds out when it takes the GIL (`Python/ceval_gil.c`,
/// `update_eval_breaker_for_thread`).
fn have_noticed(py: Python<'_>) {
    py.detach(|| ());
}

/// Called by the interpreter with the GIL held, in the main thread, between two instructions: as cheap
/// as can be all but once at each chance.
extern "C" fn look(round: *mut c_void) -> c_int {
    // A fork takes what is pending along: of several rounds only the last goes on.
    if round.addr() != ROUND.load(Ordering::Relaxed) || !IS_WAITING.load(Ordering::Acquire) {
        return 0;
    }
    // Nobody else is here: the GIL is held.
    let calls = CALLS.load(Ordering::Relaxed);
    CALLS.store(calls.wrapping_add(1), Ordering::Relaxed);
    if !calls.is_multiple_of(CALLS_AT_ONCE) && ask(round.addr()) {
        return 0;
    }
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let is_due = WAITING.lock().as_ref().is_none_or(Waiting::is_due);
        // SAFETY: the GIL is held, see above.
        let py = unsafe { Python::assume_attached() };
        if is_due || !ask(round.addr()) {
            resume_now(py);
        } else {
            have_noticed(py);
        }
    }));
    // A panic was told by the hook; the interpreter has nothing to report.
    drop(looked);
    0
}

/// Goes on at once with what waits: it has been asked for.
pub(super) fn on_demand(py: Python<'_>) {
    if IS_WAITING.load(Ordering::Relaxed) {
        resume_now(py);
    }
}

/// Goes on at once with what waits, if anything does.
#[pyfunction]
pub(crate) fn resume_now(py: Python<'_>) {
    if !IS_WAITING.load(Ordering::Acquire) {
        return;
    }
    // Another thread may be about it, and has to give up the GIL in between.
    let session = session();
    if !py.detach(|| session.turns().begin(PATIENCE)) {
        return;
    }
    let waiting = WAITING.lock().take();
    // What a process without hooks has inherited is its parent's.
    if let Some(waiting) = waiting.filter(|waiting| waiting.process_id == std::process::id()) {
        session.go_on();
        make(py, &waiting.calls, &waiting.results);
    }
    IS_WAITING.store(false, Ordering::Release);
    session.turns().end();
}

/// Runs no code of Python, and so no handler of a signal either.
fn make(py: Python<'_>, calls: &Py<PyDict>, results: &Py<PyDict>) {
    let results = results.bind(py);
    for (name, call) in calls.bind(py).iter() {
        let made = call
            .extract::<Call<'_>>()
            .and_then(|(function, options, needed)| {
                let is_of_use = match needed {
                    Some(needed) => !results
                        .get_item(needed)?
                        .is_some_and(|known| known.is_instance_of::<PyException>()),
                    None => true,
                };
                is_of_use.then(|| function.call1((&options,))).transpose()
            })
            .or_else(|error| {
                let error = error.into_value(py).into_bound(py);
                session().health().set_error(format!(
                    "in a forked child there is nothing of {name}: {error}"
                ));
                Ok(Some(error.into_any()))
            })
            .and_then(|result| result.map_or(Ok(()), |result| results.set_item(name, result)));
        if let Err(error) = made {
            session().health().set_error(error.to_string());
        }
    }
}
