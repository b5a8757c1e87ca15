//! Charges, and what takes them in.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::call_tree::NodeId;
use super::window::ThreadLabels;
use crate::model::label::LabelSetId;
use crate::model::lock::LockName;
use crate::model::measure::{Amounts, MeasureId, MeasureSet};
use crate::model::off_cpu::OffCpu;
use crate::model::stack::{FunctionTable, Stack};
use crate::model::task::RequestPart;

/// What a stack is charged with.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// The stack.
    pub node: NodeId,
    /// The labels of its sample.
    pub labels: LabelSetId,
    /// How much of which measures.
    pub values: Amounts,
    /// The start of the time that this is of, in ns of the recording's wall time.
    pub from_ns: u64,
    /// The end of it; equal to the start where only the sum is known, and not when it was spent.
    pub to_ns: u64,
}

/// What takes charges in: it has numbers of its own for stacks and labels.
pub trait Fold {
    /// What is measured.
    fn measures(&self) -> MeasureSet;

    /// The node of a stack of these functions.
    fn node_of(&mut self, stack: &Stack, functions: &FunctionTable) -> NodeId;

    /// The id of a thread's labels and of those it works under.
    fn thread(&mut self, thread: &ThreadLabels<'_>) -> LabelSetId;

    /// Calls the thread of these labels by its name, which was not known.
    fn call_thread(&mut self, labels: LabelSetId, name: &str) -> LabelSetId;

    /// The id of these labels and the reason why the thread was on no CPU.
    fn with_reason(&mut self, labels: LabelSetId, reason: Option<OffCpu>) -> LabelSetId;

    /// The id of these labels and the name of the task.
    fn with_task(&mut self, labels: LabelSetId, task: Option<&Arc<str>>) -> LabelSetId;

    /// The id of these labels and the part that the task has in its request.
    fn with_part(&mut self, labels: LabelSetId, part: Option<RequestPart>) -> LabelSetId;

    /// The id of these labels and the name of the lock that the thread waited for, or held.
    fn with_lock(&mut self, labels: LabelSetId, lock: Option<&LockName>) -> LabelSetId;

    /// Takes a charge in.
    fn add(&mut self, charge: &Charge);

    /// The node of a pseudo-frame at the root.
    fn pseudo(&mut self, name: &str) -> NodeId;

    /// How much of a measure was charged until now.
    fn total(&self, id: MeasureId) -> u64;

    /// Gives each set of labels in `left`, sorted by id, so much more of a measure: to the stacks that
    /// have that under these labels, in proportion.
    fn spread(&mut self, id: MeasureId, left: &[(LabelSetId, u64)]);
}
