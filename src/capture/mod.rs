//! Engines take snapshots; the sampler does not know which one it drives.
#![forbid(unsafe_code)]

pub mod direct;
pub mod off_cpu;
pub mod roster;
pub mod scripted;
pub mod source;

use crate::model::event::EventSample;
use crate::model::measure::MeasureSet;
use crate::model::snapshot::Snapshot;
use crate::model::task::RequestTask;

/// Why a tick brought no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The interpreter is shutting down: there will be no more snapshots.
    Finalizing,
    /// Not possible at this moment (see `status().skipped`); the next tick may succeed.
    NotNow,
}

/// What it took to bring a snapshot up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// Stacks that were read.
    pub walked: u32,
    /// Of these, how many could not be read whole.
    pub incomplete: u32,
    /// How long the engine held the GIL, in ns.
    pub hold_ns: u64,
    /// Whether the GIL was seen to have gone from one thread to another since the look before.
    pub has_turned: bool,
    /// Locks that threads waited for of which was not asked who holds them, for there was too much to ask.
    pub unasked_locks: u32,
}

/// Takes snapshots of all threads, and owns the newest.
pub trait Engine: Send {
    /// The engine's name in configuration, status and comments.
    fn name(&self) -> &'static str;

    /// What it tells of a thread. This may become more: a program may begin to use what there is more to
    /// tell of.
    fn measures(&self) -> MeasureSet {
        MeasureSet::TIMES
    }

    /// Brings the snapshot up to date: threads, stacks, CPU clocks, spans, and the time.
    ///
    /// # Errors
    /// When that could not be done; threads and stacks are then as they were.
    fn look(&mut self) -> Result<SnapshotStats, Missed>;

    /// What the engine knows since it looked last.
    fn snapshot(&self) -> &Snapshot;

    /// Brings only CPU clocks, spans and the time up to date, without looking at any stack.
    fn read_clocks(&mut self);

    /// Tells what tasks and greenlets have lived in the last `passed_ns`, running or not: of a share of
    /// them, which stands for all; and of the own tasks of `requests` everything since they were told of
    /// last. `own_task` has the address of a
    /// request's own task, 0 if that is not followed. The functions in these stacks are the snapshot's.
    fn draw_tasks(
        &mut self,
        _passed_ns: u64,
        _requests: &[RequestTask],
        _own_task: &dyn Fn(u64) -> usize,
        _events: &mut Vec<EventSample>,
    ) {
    }

    /// Has the next snapshot read every clock: what was not noticed until now is to be told from
    /// what follows.
    fn end_backoff(&mut self) {}

    /// Has the snapshots to come tell which locks threads wait for, or not.
    fn look_at_locks(&mut self, _wanted: bool) {}

    /// Gives as much memory back as it can, for there is none left: the snapshot has no threads then.
    fn forget(&mut self) {}

    /// Monotonic time in ns.
    fn now_ns(&self) -> u64;

    /// Called on the sampler's thread before it ends; another thread may follow. What only this
    /// thread can close is closed here.
    fn park(&mut self) {}

    /// Called on the sampler's thread instead of [`Self::park`] once the interpreter shuts down:
    /// whatever waits for it is to give up, and nothing is waited for.
    fn end(&mut self) {}

    /// An estimate of the memory held, in bytes.
    fn bytes(&self) -> usize;
}
