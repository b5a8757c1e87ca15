//! An event: something that a thread did at one moment, and that no look at it would have seen.

use std::sync::Arc;

use super::label::ActiveLabels;
use super::measure::Amounts;
use super::stack::Stack;
use super::task::RequestPart;

/// An event as a source tells it: an allocation, an exception, a wait for a lock.
#[derive(Clone, Debug)]
pub struct EventSample {
    /// The kernel's id of the thread.
    pub thread_id: u64,
    /// Monotonic time in ns.
    pub at_ns: u64,
    /// Where the thread was.
    pub stack: Stack,
    /// What the application had said of it.
    pub labels: Option<Arc<ActiveLabels>>,
    /// What the task or greenlet is called in which it happened.
    pub task: Option<Arc<str>>,
    /// Which part the task has in its request, if that is known.
    pub part: Option<RequestPart>,
    /// Whether this tells of a request all that its own task did: recordings that keep requests apart
    /// take this, and the others what was drawn of such tasks by chance.
    pub is_followed: bool,
    /// What was measured.
    pub values: Amounts,
}
