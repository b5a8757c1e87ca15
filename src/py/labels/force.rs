//! Putting labels in force, and taking them back.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::contexts::{self, Contexts, current};
use super::items::Content;
use super::locate::locate;
use super::notes::{note_labels, note_own_set, set, watch_switches};
use super::object::{Entered, Labels, Running};
use crate::py::{hooks, resume};
use crate::session::fork::session;
use crate::unwind::label_log::note_correction;
use crate::unwind::labels::PLACE;

/// The variable and the functions, found once; with them, where samplers find labels.
pub(super) fn contexts(py: Python<'_>) -> PyResult<&'static Contexts> {
    if let Some(known) = contexts::known() {
        return Ok(known);
    }
    let contexts = contexts::find(py)?;
    match locate(py, contexts) {
        // Another thread may have been faster, with the same result.
        Ok(place) => {
            if PLACE.set(place).is_ok() {
                watch_switches();
            }
        }
        // The application goes on as if they were seen.
        Err(reason) => session()
            .health()
            .set_error(format!("labels are not seen by profiles: {reason}")),
    }
    Ok(contexts)
}

/// Puts labels in force.
pub(in crate::py) fn enter(py: Python<'_>, entered: Entered) -> PyResult<()> {
    resume::on_demand(py);
    hooks::try_again();
    let contexts = contexts(py)?;
    let labels = match current(py, contexts)? {
        Some(outer) if outer.get().takes(&entered) => return Ok(()),
        Some(outer) => Labels::below(contexts.magic, outer, entered),
        None => match entered {
            Entered::Labels(labels) => return set(py, contexts, Some(labels.bind(py))),
            Entered::Request(_) => {
                let (content, request) = entered.content();
                Labels::make(contexts.magic, content, request, None, Some(entered))
            }
        },
    };
    set(py, contexts, Some(&Bound::new(py, labels)?))
}

/// Takes `entered` from what is in force; whether it was part of that: a generator may be ended in a
/// context that is not the one it was begun in. What was entered after it stays.
pub(in crate::py) fn leave(py: Python<'_>, entered: &Entered) -> PyResult<bool> {
    let contexts = contexts(py)?;
    let mut inner = Vec::new();
    let mut next = current(py, contexts)?;
    while let Some(labels) = next {
        let known = labels.get();
        let is_own = match (&known.entered, entered) {
            (Some(own), _) => own.is(entered),
            (None, Entered::Labels(entered)) => labels.is(entered),
            (None, Entered::Request(_)) => false,
        };
        if !is_own {
            inner.push(match &known.entered {
                Some(own) => own.clone_ref(py),
                None => Entered::Labels(labels.clone().unbind()),
            });
            next = known.outer.as_ref().map(|outer| outer.bind(py).clone());
            continue;
        }
        let left = known
            .again
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |again| {
                again.checked_sub(1)
            });
        if left.is_ok() {
            return Ok(true);
        }
        match &known.outer {
            Some(outer) => set(py, contexts, Some(outer.bind(py)))?,
            None => set(py, contexts, None)?,
        }
        for own in inner.into_iter().rev() {
            enter(py, own)?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Has a request that is in force show what it has become, wherever its context was taken to.
pub(in crate::py) fn show_again(
    py: Python<'_>,
    running: &Arc<Running>,
    content: Arc<Content>,
    captures: u64,
) -> PyResult<()> {
    *running.shown.lock() = (content.clone(), captures);
    if let Some(labels) = current(py, contexts(py)?)? {
        let known = labels.get();
        let is_own =
            |own: &Entered| matches!(own, Entered::Request(own) if Arc::ptr_eq(own, running));
        if known.outer.is_none() && known.entered.as_ref().is_some_and(is_own) {
            // Before and after: a sampler compares what it finds before and after a stack.
            note_own_set();
            known.show(content, (running.number, captures));
            note_own_set();
            note_labels(Some(known), note_correction);
            return Ok(());
        }
    }
    let entered = Entered::Request(running.clone());
    if leave(py, &entered)? {
        enter(py, entered)?;
    }
    Ok(())
}
