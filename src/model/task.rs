//! Tasks of asyncio, and greenlets, as they were at one moment.
#![forbid(unsafe_code)]

use super::stack::Frame;

/// What kind of task it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// A task of asyncio.
    Task,
    /// A greenlet.
    Greenlet,
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It has not begun.
    New,
    /// It waits for something.
    Waits,
    /// It runs: where, the stack of its thread shows.
    Runs,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What kind of task it is.
    pub kind: TaskKind,
    /// What somebody called it.
    pub name: Option<String>,
    /// What it does.
    pub state: TaskState,
    /// Where it waits, innermost first; empty while it runs.
    pub frames: Vec<Frame>,
    /// The tasks that wait for it, by their indexes in [`Tasks::tasks`].
    pub awaited_by: Vec<usize>,
    /// Which lock of asyncio it waits for, or by what else it is to be told something.
    pub waits_for: Option<TaskWait>,
    /// The request that it works on; 0: none.
    pub request: u64,
}

/// What a task waits for that is no task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskWait {
    /// For example `asyncio.Lock Pool._lock`.
    pub name: String,
    /// Who keeps it waiting.
    pub holder: TaskHolder,
}

/// Who keeps a task waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskHolder {
    /// Nobody: it waits to be told something.
    Nobody,
    /// The task of this index in [`Tasks::tasks`].
    Task(usize),
    /// That cannot be told.
    Unknown,
}

/// A request and the task of asyncio in which it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestTask {
    /// The request's number.
    pub number: u64,
    /// The task's address.
    pub task: usize,
    /// When the request began, by the monotonic clock in ns.
    pub began_ns: u64,
    /// When it ended, if it has.
    pub ended_ns: Option<u64>,
}

/// Which part a task has in a request that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestPart {
    /// The task in which it began: its life is the request's.
    Own,
    /// Another that works on it.
    Child,
}

impl RequestPart {
    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Child => "child",
        }
    }
}

/// The tasks of a process, or those of some requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Those that were looked at.
    pub tasks: Vec<Task>,
    /// How many more there are.
    pub omitted: usize,
}
