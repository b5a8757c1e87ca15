//! Waits for a CPU, as a recording accounts for those of one thread.
//!
//! The kernel tells how long a thread has waited, but not when: what it tells is spread over the
//! ticks at which the thread was found able to run. The state at a tick would not do: on a machine
//! without a free CPU it is the sampler itself that keeps the thread from running just then.
#![forbid(unsafe_code)]

use super::sighting::{Spot, as_value};
use crate::fold::charge::{Charge, Fold};
use crate::model::measure::{Amounts, MeasureId};
use crate::model::off_cpu::OffCpu;
use crate::model::snapshot::{ThreadSample, ThreadState};

/// Waits that are not shown are forgotten beyond so many ticks, and beyond this time where ticks are
/// shorter: they belong to long ago. The kernel is not asked at each tick (`capture/direct/update.rs`).
const MAX_TICKS: u64 = 4;
/// See above, in ns.
const MAX_UNSHOWN_NS: u64 = 80_000_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct CpuQueue {
    /// What the kernel told last, in ns; `None` where it does not.
    clock_ns: Option<u64>,
    /// Waits in ns that no stack was charged with yet.
    uncharged_ns: u64,
    /// Waits in ns that are not shown as wall time yet. Less than none after more was shown: of a wait
    /// that goes on the kernel tells at its end.
    unshown_ns: i64,
}

impl CpuQueue {
    /// Of a thread of which the kernel tells this now.
    pub(super) fn new(clock_ns: Option<u64>) -> Self {
        Self {
            clock_ns,
            ..Self::default()
        }
    }

    /// Why the thread was on no CPU in the last `wall_ns`, at the end of which it was found so; its CPU
    /// clock has moved since the look before, or has stood still.
    pub(super) fn reason(
        &mut self,
        thread: &ThreadSample,
        has_moved: bool,
        wall_ns: u64,
    ) -> Option<OffCpu> {
        if !has_moved {
            self.note_still(thread.off, wall_ns);
            return thread.off;
        }
        self.advance(thread.cpu_wait_ns);
        if can_run(thread.state) && matches!(thread.off, None | Some(OffCpu::CpuQueue)) {
            return self.show(wall_ns).then_some(OffCpu::CpuQueue);
        }
        thread.off
    }

    fn advance(&mut self, clock_ns: Option<u64>) {
        if let (Some(now), Some(before)) = (clock_ns, self.clock_ns) {
            let waited_ns = now.saturating_sub(before);
            self.uncharged_ns += waited_ns;
            self.unshown_ns = self.unshown_ns.saturating_add(signed(waited_ns));
        }
        self.clock_ns = clock_ns;
    }

    /// Whether the last `wall_ns` of a thread that was found able to run are shown as a wait for a
    /// CPU.
    fn show(&mut self, wall_ns: u64) -> bool {
        let most_ns = signed(wall_ns.saturating_mul(MAX_TICKS).max(MAX_UNSHOWN_NS));
        self.unshown_ns = self.unshown_ns.clamp(-most_ns, most_ns);
        let is_shown = self.unshown_ns > signed(wall_ns / 2);
        if is_shown {
            self.unshown_ns -= signed(wall_ns);
        }
        is_shown
    }

    /// `wall_ns` are shown under `reason` because the thread's CPU clock has stood still.
    pub(super) fn note_still(&mut self, reason: Option<OffCpu>, wall_ns: u64) {
        if reason == Some(OffCpu::CpuQueue) && self.clock_ns.is_some() {
            self.unshown_ns = self.unshown_ns.saturating_sub(signed(wall_ns));
        }
    }

    /// Charges a spot with the waits that no stack was charged with yet; they are dropped where the
    /// thread is not recorded.
    pub(super) fn charge(
        &mut self,
        spot: Option<Spot>,
        (from_ns, to_ns): (u64, u64),
        fold: &mut impl Fold,
    ) {
        let waited_ns = std::mem::take(&mut self.uncharged_ns);
        if let Some((node, labels)) = spot
            && waited_ns > 0
        {
            fold.add(&Charge {
                node,
                labels,
                values: Amounts::of(MeasureId::CpuWait, as_value(waited_ns)),
                from_ns,
                to_ns,
            });
        }
    }
}

/// Whether a thread in this state is on a CPU, or would be if there was one for it.
pub(super) fn can_run(state: ThreadState) -> bool {
    state.uses_cpu() || state == ThreadState::Ready
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::CpuQueue;
    use crate::model::off_cpu::OffCpu;

    const TICK: u64 = 10_000_000;

    /// How many of 1,000 ticks are shown as waits if the thread waits for this part of each.
    fn shown(waited_ns: u64) -> usize {
        let mut queue = CpuQueue::new(Some(0));
        let waits = (1..=1_000).filter(|tick| {
            queue.advance(Some(tick * waited_ns));
            queue.show(TICK)
        });
        waits.count()
    }

    #[test]
    fn as_much_is_shown_as_was_waited() {
        assert_eq!(shown(0), 0);
        assert_eq!(shown(TICK), 1_000);
        for tenths in 1..10 {
            let expected = 100 * tenths as usize;
            assert!(
                shown(tenths * TICK / 10).abs_diff(expected) <= 1,
                "{tenths}"
            );
        }
    }

    #[test]
    fn what_is_told_late_is_shown_all_the_same() {
        const SHORT: u64 = 1_000_000;
        let mut queue = CpuQueue::new(Some(0));
        let waits = (1..=1_000).filter(|tick| {
            queue.advance(Some(tick / 20 * 20 * SHORT / 4));
            queue.show(SHORT)
        });
        // The last that was told of is not all shown yet.
        assert!(waits.count().abs_diff(250) <= 5);
    }

    #[test]
    fn every_wait_is_charged_once() {
        let mut queue = CpuQueue::new(Some(40));
        queue.advance(Some(50));
        queue.advance(Some(70));
        assert_eq!(std::mem::take(&mut queue.uncharged_ns), 30);
        assert_eq!(std::mem::take(&mut queue.uncharged_ns), 0);
    }

    #[test]
    fn a_wait_that_was_shown_while_it_lasted_is_not_shown_again() {
        let mut queue = CpuQueue::new(Some(0));
        queue.note_still(Some(OffCpu::CpuQueue), 3 * TICK);
        queue.note_still(Some(OffCpu::Sleep), 50 * TICK);
        queue.advance(Some(3 * TICK));
        assert!(!queue.show(TICK));
        assert_eq!(std::mem::take(&mut queue.uncharged_ns), 3 * TICK);
    }

    #[test]
    fn waits_of_long_ago_are_not_shown() {
        let mut queue = CpuQueue::new(Some(0));
        queue.advance(Some(100 * TICK));
        let ticks = std::iter::repeat_with(|| queue.show(TICK));
        assert_eq!(ticks.take(100).filter(|is_shown| *is_shown).count(), 8);
    }

    #[test]
    fn nothing_is_shown_where_the_kernel_does_not_tell() {
        let mut queue = CpuQueue::new(None);
        queue.note_still(Some(OffCpu::CpuQueue), TICK);
        queue.advance(Some(100 * TICK));
        assert!(!queue.show(TICK));
        assert_eq!(std::mem::take(&mut queue.uncharged_ns), 0);
    }
}
