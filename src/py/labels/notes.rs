//! Tells samplers what the calling thread works under, whenever that changes.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::contexts::{self, Contexts, current, symbol};
use super::object::Labels;
use crate::model::label::ActiveLabels;
use crate::unwind::label_log::{RequestCpu, note_change, note_switch};
use crate::unwind::labels::{PLACE, note_set};

/// Puts labels, or none, in force in the calling thread.
pub(super) fn set(
    py: Python<'_>,
    contexts: &Contexts,
    labels: Option<&Bound<'_, Labels>>,
) -> PyResult<()> {
    note_own_set();
    contexts::put(py, contexts, labels)?;
    note_labels(labels.map(Bound::get), note_change);
    Ok(())
}

/// Tells samplers that this thread's labels change.
pub(super) fn note_own_set() {
    note_set(own_ident());
}

fn own_ident() -> usize {
    // SAFETY: pthread_self takes no argument and always succeeds.
    unsafe { libc::pthread_self() as usize }
}

/// How often the calling thread, which holds the GIL, has switched contexts; `None` where that is
/// not known.
fn context_version() -> Option<u64> {
    let place = PLACE.get()?;
    // SAFETY: the GIL is held, so there is a thread state. Its context is at this place, as
    // `locate` has shown, and the count stands right behind it (`struct _ts`,
    // `Include/cpython/pystate.h`, 3.10-3.15).
    Some(unsafe {
        let state = ffi::PyThreadState_Get().cast::<u8>();
        state
            .add(place.context + size_of::<usize>())
            .cast::<u64>()
            .read()
    })
}

/// How it is noted: as a change, or as a correction of what was noted before.
pub(super) type Note = fn(usize, u64, Option<&Arc<ActiveLabels>>, Option<&Arc<RequestCpu>>);

/// Notes what the calling thread works under from now on, and when.
pub(super) fn note_labels(labels: Option<&Labels>, note: Note) {
    let request = labels.and_then(|labels| labels.cpu.as_ref());
    match (context_version(), request) {
        (Some(version), _) => {
            let active = labels.map(Labels::active);
            note(own_ident(), version, active.as_ref(), request);
        }
        (None, Some(request)) => request.add(None),
        (None, None) => {}
    }
}

type Watch = unsafe extern "C" fn(Watcher) -> c_int;
type Watcher = unsafe extern "C" fn(c_int, *mut PyObject) -> c_int;

/// Called by CPython 3.14 and later in the thread that has just switched to another context, with
/// the GIL held (`context_switched`, `Python/context.c`).
unsafe extern "C" fn context_switched(_event: c_int, _context: *mut PyObject) -> c_int {
    let noted = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the GIL is held, see above.
        let py = unsafe { Python::assume_attached() };
        let (Some(contexts), Some(version)) = (contexts::known(), context_version()) else {
            return;
        };
        let labels = current(py, contexts).ok().flatten();
        let labels = labels.as_ref().map(Bound::get);
        let active = labels.map(Labels::active);
        let request = labels.and_then(|labels| labels.cpu.as_ref());
        note_switch(own_ident(), version, active.as_ref(), request);
    }));
    // A panic was told by the hook; the interpreter has nothing to report.
    drop(noted);
    0
}

/// Has the interpreter tell of each switch of contexts, if it can (3.14 and later).
pub(super) fn watch_switches() {
    let Ok(watch) = symbol(c"PyContext_AddWatcher") else {
        return;
    };
    // SAFETY: CPython's function of this name, whose signature has been the same since 3.14. The
    // GIL is held; a failure leaves an exception, which is cleared.
    unsafe {
        let watch = std::mem::transmute::<*mut c_void, Watch>(watch);
        if watch(context_switched) < 0 {
            ffi::PyErr_Clear();
        }
    }
}
