//! An event: something that a thread did at one moment, and that no look at it would have seen.

use std::sync::Arc;

use super::label::ActiveLabels;
use super::lock::LockName;
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
    /// What the task waits for that is no task.
    pub lock: Option<TaskLock>,
    /// What was measured.
    pub values: Amounts,
}

/// A lock of asyncio that a task waits for, or by what else it is to be told something.
#[derive(Clone, Debug)]
pub struct TaskLock {
    /// What it is called.
    pub name: LockName,
    /// Whom the wait is blamed on.
    pub blamed: BlamedTask,
}

/// Whom the wait of a task is blamed on.
#[derive(Clone, Debug)]
pub enum BlamedTask {
    /// Nobody: it waits to be told something.
    Nobody,
    /// Those who are found with what goes by this name at other moments: nobody was looked for at this one.
    AsFound,
    /// That cannot be told.
    Unknown,
    /// This one.
    Task(Arc<HoldingTask>),
}

/// A task that holds a lock which others of its thread wait for.
#[derive(Clone, Debug)]
pub struct HoldingTask {
    /// Where it was.
    pub stack: Stack,
    /// What the application had said of it.
    pub labels: Option<Arc<ActiveLabels>>,
    /// What it is called.
    pub task: Option<Arc<str>>,
    /// Which part it has in its request, if that is known.
    pub part: Option<RequestPart>,
}
