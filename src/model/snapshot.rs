//! A snapshot: every thread's stack and clocks at one tick.

use std::sync::Arc;

use super::function::Function;
use super::label::ActiveLabels;
use super::lock::{HeldLock, LockWait};
use super::measure::MeasureId;
use super::off_cpu::OffCpu;
use super::stack::{FunctionSerial, FunctionTable, Stack};

/// Identifies a thread for as long as the process runs, even when the kernel re-uses its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadKey(pub u64);

/// What a thread was doing when its stack was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadState {
    /// The engine cannot tell.
    Unknown,
    /// On a CPU, without the GIL.
    Running,
    /// Ready for a CPU that others have, without the GIL: just woken, or pushed aside.
    Ready,
    /// Holds the GIL, in Python or in C code.
    HoldsGil,
    /// Waits for the GIL.
    WaitsForGil,
    /// Waits for a lock, or for whatever else another thread is to tell it.
    WaitsForLock,
    /// Waits for something else: the network, a timer, a child.
    Blocked,
}

impl ThreadState {
    /// Whether CPU time may be what the thread was using at that moment.
    #[must_use]
    pub fn uses_cpu(self) -> bool {
        matches!(self, Self::Unknown | Self::Running | Self::HoldsGil)
    }

    /// What the time of a thread that does this counts as, besides its wall time.
    #[must_use]
    pub fn measure(self) -> Option<MeasureId> {
        match self {
            Self::HoldsGil => Some(MeasureId::Gil),
            Self::WaitsForGil => Some(MeasureId::GilWait),
            _ => None,
        }
    }

    /// Whether the thread cannot go on, whatever CPU and GIL are doing.
    #[must_use]
    pub fn waits(self) -> bool {
        matches!(self, Self::Blocked | Self::WaitsForLock)
    }
}

/// What is known of a stretch of a thread's CPU time under one set of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanEnd {
    /// It goes on, and was under these labels so far.
    Open,
    /// It was under these labels from its start to its end.
    Exact,
    /// It was under these labels in part, at the most.
    Mixed,
}

/// A stretch of a thread's CPU time under one set of labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuSpan {
    /// Which thread.
    pub key: ThreadKey,
    /// See [`ThreadSample::thread_id`].
    pub thread_id: u64,
    /// See [`ThreadSample::name`].
    pub name: Arc<str>,
    /// Under which labels.
    pub labels: Option<Arc<ActiveLabels>>,
    /// What the thread's CPU clock showed at its start, in ns.
    pub from_ns: u64,
    /// And at its end, or now.
    pub to_ns: u64,
    /// What is known of it.
    pub end: SpanEnd,
}

/// One thread as last seen.
#[derive(Clone, Debug)]
pub struct ThreadSample {
    /// Which thread.
    pub key: ThreadKey,
    /// The kernel's thread id; the interpreter's where the kernel's is unknown (CPython 3.10).
    pub thread_id: u64,
    /// `threading.Thread.name`, or empty while unknown.
    pub name: Arc<str>,
    /// The thread's CPU clock in ns when it was read last; `None` where it cannot be read.
    pub cpu_ns: Option<u64>,
    /// What the thread was doing.
    pub state: ThreadState,
    /// Whether a thread that holds the GIL has a CPU as well; true where the engine cannot tell.
    pub on_cpu: bool,
    /// Why it was on no CPU; `None` if it was on one, or the engine cannot tell.
    pub off: Option<OffCpu>,
    /// Which lock it waits for, if it waits for one of Python's.
    pub lock: Option<LockWait>,
    /// For how long it has been ready without a CPU since it was started, in ns, as told when its CPU
    /// clock was last seen to move; `None` where that cannot be told.
    pub cpu_wait_ns: Option<u64>,
    /// The address of the GIL that it needs, 0 where the engine cannot tell.
    pub gil: u64,
    /// What the application said of it.
    pub labels: Option<Arc<ActiveLabels>>,
    /// The name of the task that it ran, if somebody gave it one.
    pub task: Option<Arc<str>>,
    /// How many callbacks its event loop had ready besides the one that ran; 0 where that is not known.
    pub ready: u32,
    /// When its CPU clock was last seen to move, in ns; 0 if unknown. It was not seen to move since,
    /// and nothing else here has changed but the name.
    pub since_ns: u64,
    /// Where the thread was.
    pub stack: Stack,
    /// Grows whenever `stack` was read anew; equal versions mean an equal stack.
    pub stack_version: u64,
    /// The tick that saw this thread first.
    pub first_seen_ns: u64,
    /// The CPU clock's value from which this thread is accounted: 0 if it was born after the tick
    /// before it was first seen, else what the clock showed when it was first seen.
    pub cpu_from_ns: u64,
    /// How much of its CPU time was found late, in ns since it is known: spent at the look before or
    /// earlier, under the stack it had, while its clock was not read.
    pub early_cpu_ns: u64,
    /// What is known of the stretch of CPU time that the look fell into; `None` if the thread has
    /// never said when its labels change.
    pub span: Option<SpanEnd>,
}

/// What the engine knows about all threads after a tick.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Monotonic time of the tick in ns.
    pub at_ns: u64,
    /// The latest [`ThreadSample::since_ns`], or the time of the tick where that is not known.
    pub moved_ns: u64,
    /// All threads that were alive.
    pub threads: Vec<ThreadSample>,
    /// Meaning of the serials in the stacks.
    pub functions: FunctionTable,
    /// Whether it could not be told of some thread, now or earlier, whether it waits for the GIL or for
    /// something else.
    pub hides_gil_waits: bool,
    /// Whether it could not be told of some thread, now or earlier, why it waits.
    pub hides_waits: bool,
    /// Whether any request was ever seen.
    pub has_requests: bool,
    /// Grows whenever a thread was added, dropped or named, and with the first request.
    pub threads_version: u64,
    /// Who holds the locks that threads wait for, and may be blamed.
    pub held: Vec<HeldLock>,
    /// What threads that have had labels have spent since the look before, and under which.
    pub spans: Vec<CpuSpan>,
}

impl Snapshot {
    /// Notes the labels under which a thread works.
    pub fn set_labels(&mut self, at: usize, labels: Option<Arc<ActiveLabels>>) {
        self.find_request(labels.as_deref());
        self.threads[at].labels = labels;
    }

    /// Notes what threads have told of their labels from the span at `from` on.
    pub fn find_requests(&mut self, from: usize) {
        for at in from..self.spans.len() {
            let labels = self.spans[at].labels.clone();
            self.find_request(labels.as_deref());
        }
    }

    fn find_request(&mut self, labels: Option<&ActiveLabels>) {
        if !self.has_requests && labels.is_some_and(|labels| labels.request != 0) {
            self.has_requests = true;
            self.threads_version += 1;
        }
    }

    /// Names a thread.
    pub fn set_name(&mut self, at: usize, name: Arc<str>) {
        if self.threads[at].name != name {
            self.threads[at].name = name;
            self.threads_version += 1;
        }
    }

    /// The function behind `serial`, if the engine still knows it.
    #[must_use]
    pub fn function(&self, serial: FunctionSerial) -> Option<&Arc<Function>> {
        self.functions.get(&serial)
    }
}
