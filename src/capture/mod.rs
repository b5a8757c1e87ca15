//! Engines take snapshots; the sampler does not know which one it drives.
#![forbid(unsafe_code)]

pub mod direct;
pub mod rest;
pub mod roster;
pub mod scripted;

use crate::model::snapshot::Snapshot;

/// Why a tick brought no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// The interpreter is shutting down: there will be no more snapshots.
    Finalizing,
    /// Not possible at this moment (see `status().skipped`); the next tick may succeed.
    NotNow,
}

/// What a snapshot found besides the stacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Stacks read anew in this tick.
    pub walked: u32,
    /// Of these, how many could not be read whole.
    pub incomplete: u32,
    /// How long the engine held the GIL, in ns.
    pub hold_ns: u64,
    /// Whether the GIL was seen to have gone from one thread to another since the look before.
    pub has_turned: bool,
}

/// Takes snapshots of all threads.
pub trait Engine: Send {
    /// The engine's name in configuration, status and comments.
    fn name(&self) -> &'static str;

    /// Whether snapshots tell who holds the GIL and who waits for it.
    fn knows_gil(&self) -> bool {
        false
    }

    /// Brings `snapshot` up to date: threads, stacks, CPU clocks, and the time.
    ///
    /// # Errors
    /// When no snapshot could be taken; `snapshot` is then as it was.
    fn snapshot(&mut self, snapshot: &mut Snapshot) -> Result<Taken, Missed>;

    /// Brings only the CPU clocks up to date, without looking at any stack.
    fn read_clocks(&mut self, snapshot: &mut Snapshot);

    /// Has the next snapshot read every clock: what was not noticed until now is to be told from
    /// what follows.
    fn end_rests(&mut self) {}

    /// Gives as much memory back as it can, for there is none left; `snapshot` is then a new one.
    fn forget(&mut self, _snapshot: &mut Snapshot) {}

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
