//! What sources tell of: it has a stack of its own, and needs no account to be charged.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::ledgers::class_of;
use super::{Ledgers, RequestFilter};
use crate::fold::charge::{Charge, Fold};
use crate::fold::window::ThreadLabels;
use crate::model::event::{BlamedTask, EventSample, HoldingTask, TaskLock};
use crate::model::label::{ActiveLabels, LabelSetId, TASK};
use crate::model::measure::{Amounts, MeasureId};
use crate::model::stack::FunctionTable;
use crate::model::task::RequestPart;

/// The thread in which something happened.
struct InThread<'thread> {
    id: u64,
    name: &'thread str,
    /// Whether anything works on requests.
    has_requests: bool,
    filter: RequestFilter,
}

impl InThread<'_> {
    /// The labels of what happened there in a task of this name.
    fn labels(
        &self,
        active: Option<&ActiveLabels>,
        task: Option<&Arc<str>>,
        part: Option<RequestPart>,
        fold: &mut impl Fold,
    ) -> LabelSetId {
        let has_requests = self.has_requests || active.is_some_and(|active| active.request != 0);
        let labels = fold.thread(&ThreadLabels {
            id: self.id,
            name: self.name,
            active,
            class: class_of(has_requests, active, self.name),
            with_request: self.filter.keep_apart,
        });
        // What the application calls so itself is not called otherwise.
        let is_called = active.is_some_and(|active| active.has(TASK));
        let labels = fold.with_task(labels, task.filter(|_| !is_called));
        fold.with_part(labels, part.filter(|_| self.filter.keep_apart))
    }
}

impl Ledgers {
    /// Charges an event to its stack and the labels of its thread, which is called `thread_name`, as a
    /// tick would; unless it is of a request that is not recorded, or of a measure that the recording
    /// does not have, as it began earlier. `at_ns` is the recording's wall time.
    pub fn charge_event(
        &mut self,
        event: &EventSample,
        functions: &FunctionTable,
        thread_name: &str,
        has_requests: bool,
        at_ns: u64,
        fold: &mut impl Fold,
    ) {
        let active = event.labels.as_deref();
        let values = event.values.among(fold.measures());
        let filter = self.filter();
        if values.pairs().is_empty() || !filter.accept(active) || !is_wanted(event, filter) {
            return;
        }
        let thread = InThread {
            id: event.thread_id,
            name: thread_name,
            has_requests,
            filter,
        };
        let labels = thread.labels(active, event.task.as_ref(), event.part, fold);
        let lock = event.lock.as_ref().filter(|_| waited_ns(&values) > 0);
        let charge = Charge {
            node: fold.node_of(&event.stack, functions),
            labels: fold.with_lock(labels, lock.map(|lock| &lock.name)),
            values,
            from_ns: at_ns,
            to_ns: at_ns,
        };
        fold.add(&charge);
        if let Some(lock) = lock {
            self.blame(lock, (labels, waited_ns(&values)), &thread, functions, fold);
        }
    }

    /// Has a task that waits for so long under these labels weigh on whoever holds what it waits for.
    fn blame(
        &mut self,
        lock: &TaskLock,
        (labels, waited_ns): (LabelSetId, u64),
        thread: &InThread<'_>,
        functions: &FunctionTable,
        fold: &mut impl Fold,
    ) {
        let is_recorded = |task: &&HoldingTask| thread.filter.accept(task.labels.as_deref());
        let found = match &lock.blamed {
            BlamedTask::Nobody => return,
            BlamedTask::AsFound => None,
            BlamedTask::Unknown => Some(None),
            BlamedTask::Task(task) => Some(Some(&**task).filter(is_recorded).map(|task| {
                let active = task.labels.as_deref();
                let labels = thread.labels(active, task.task.as_ref(), task.part, fold);
                (fold.node_of(&task.stack, functions), labels)
            })),
        };
        let blame = self.lock_blame();
        blame.add_of_task(&lock.name, labels, waited_ns, found);
    }
}

/// How much of it is a wait for a lock.
fn waited_ns(values: &Amounts) -> u64 {
    let mut pairs = values.pairs().iter();
    let waited = pairs.find(|(id, _)| *id == MeasureId::LockWait);
    waited.map_or(0, |(_, amount)| u64::try_from(*amount).unwrap_or(0))
}

/// What a request's own task does is told twice: all of it, and what of it was drawn by chance.
fn is_wanted(event: &EventSample, filter: RequestFilter) -> bool {
    match event.part {
        Some(RequestPart::Own) => event.is_followed == filter.keep_apart,
        Some(RequestPart::Child) | None => true,
    }
}
