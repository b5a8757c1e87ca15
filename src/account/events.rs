//! What sources tell of: it has a stack of its own, and needs no account to be charged.
#![forbid(unsafe_code)]

use super::ledgers::class_of;
use super::{Ledgers, RequestFilter};
use crate::fold::charge::{Charge, Fold};
use crate::fold::window::ThreadLabels;
use crate::model::event::EventSample;
use crate::model::label::TASK;
use crate::model::stack::FunctionTable;
use crate::model::task::RequestPart;

impl Ledgers {
    /// Charges an event to its stack and the labels of its thread, which is called `thread_name`, as a
    /// tick would; unless it is of a request that is not recorded, or of a measure that the recording
    /// does not have, as it began earlier. `at_ns` is the recording's wall time.
    pub fn charge_event(
        &self,
        event: &EventSample,
        functions: &FunctionTable,
        thread_name: &str,
        has_requests: bool,
        at_ns: u64,
        fold: &mut impl Fold,
    ) {
        let active = event.labels.as_deref();
        let measures = fold.measures();
        let values = event.values.among(measures);
        let filter = self.filter();
        if values.pairs().is_empty() || !filter.accept(active) || !is_wanted(event, filter) {
            return;
        }
        let has_requests = has_requests || active.is_some_and(|active| active.request != 0);
        let labels = fold.thread(&ThreadLabels {
            id: event.thread_id,
            name: thread_name,
            active,
            class: class_of(has_requests, active, thread_name),
            with_request: filter.keep_apart,
        });
        // What the application calls so itself is not called otherwise.
        let is_called = active.is_some_and(|active| active.has(TASK));
        let task = event.task.as_ref().filter(|_| !is_called);
        let labels = fold.with_task(labels, task);
        let labels = fold.with_part(labels, event.part.filter(|_| filter.keep_apart));
        let charge = Charge {
            node: fold.node_of(&event.stack, functions),
            labels,
            values,
            from_ns: at_ns,
            to_ns: at_ns,
        };
        fold.add(&charge);
    }
}

/// What a request's own task does is told twice: all of it, and what of it was drawn by chance.
fn is_wanted(event: &EventSample, filter: RequestFilter) -> bool {
    match event.part {
        Some(RequestPart::Own) => event.is_followed == filter.keep_apart,
        Some(RequestPart::Child) | None => true,
    }
}
