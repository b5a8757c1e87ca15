//! How long the GIL was held and waited for, as seen at the ticks.
#![forbid(unsafe_code)]

use crate::model::snapshot::{Snapshot, ThreadState};
use crate::session::health::Health;

/// A longer gap is charged to nobody: we cannot know who held the GIL.
const MAX_GIL_STEP_NS: u64 = 2_000_000_000;

/// Charges the time between ticks to whoever holds the GIL or waits for it.
#[derive(Debug, Default)]
pub(super) struct GilClock {
    /// When it was looked at last; 0 if that was before a pause.
    mark_ns: u64,
    count: GilCount,
}

impl GilClock {
    /// Of the time until the next tick nothing is known.
    pub(super) fn pause(&mut self) {
        self.mark_ns = 0;
    }

    /// Charges the time since the last tick.
    pub(super) fn charge(&mut self, snapshot: &Snapshot, health: &Health) {
        let last_ns = std::mem::replace(&mut self.mark_ns, snapshot.at_ns);
        let passed_ns = snapshot.at_ns.saturating_sub(last_ns);
        // Not the time in which nothing was recorded.
        if last_ns == 0 || passed_ns > MAX_GIL_STEP_NS {
            return;
        }
        let marks = (snapshot.moved_ns, snapshot.threads_version);
        if self.count.marks != marks {
            self.count = GilCount::of(snapshot, marks);
        }
        Health::add(&health.gil_held_ns, self.count.held * passed_ns);
        if snapshot.hides_gil_waits {
            Health::set(&health.gil_waits_hidden, 1);
        } else {
            Health::add(&health.gil_wait_ns, self.count.waiting * passed_ns);
        }
    }
}

/// How many threads hold the GIL and wait for it.
#[derive(Clone, Copy, Debug, Default)]
struct GilCount {
    held: u64,
    waiting: u64,
    /// [`Snapshot::moved_ns`] and [`Snapshot::threads_version`] when they were counted.
    marks: (u64, u64),
}

impl GilCount {
    #[inline(never)]
    fn of(snapshot: &Snapshot, marks: (u64, u64)) -> Self {
        let (mut held, mut waiting) = (0, 0);
        for thread in &snapshot.threads {
            match thread.state {
                ThreadState::HoldsGil => held = 1,
                ThreadState::WaitsForGil => waiting += 1,
                _ => {}
            }
        }
        Self {
            held,
            waiting,
            marks,
        }
    }
}
