//! How often a program is looked at in which nothing happens.
//!
//! Where no CPU clock has moved between two looks, no thread has run, and all had the same stacks at
//! the ticks in between: those need not be served to be known. What happens next may be seen a few
//! ticks late; the more often that is, the longer it takes to come to this again.
#![forbid(unsafe_code)]

/// A program counts as idle once nothing has happened in it for this long.
const LEAST_PATIENCE_NS: u64 = 500_000_000;
/// Each time that something happens in an idle program, the time that it takes to count as idle again
/// doubles, up to this. It never becomes less.
const MOST_PATIENCE_NS: u64 = 32_000_000_000;
/// While a program is idle, one of this many ticks is served.
const TICKS_PER_IDLE_LOOK: u64 = 4;
/// While a program is idle, two ticks that are served are not further apart than this.
const MAX_STEP_NS: u64 = 100_000_000;

/// Decides it by what the looks have found.
#[derive(Clone, Debug)]
pub struct IdleBackoff {
    patience_ns: u64,
    /// When something happened last, or there was nobody to see it.
    happened_ns: u64,
    is_idle: bool,
}

impl Default for IdleBackoff {
    fn default() -> Self {
        Self {
            patience_ns: LEAST_PATIENCE_NS,
            happened_ns: 0,
            is_idle: false,
        }
    }
}

impl IdleBackoff {
    /// Whatever was before `now_ns` tells nothing about what follows.
    pub fn begin(&mut self, now_ns: u64) {
        self.happened_ns = now_ns;
        self.is_idle = false;
    }

    /// How many ticks may be left out after a snapshot at `now_ns`; they come every `period_ns`.
    /// `has_happened`: whether this look has found anything changed.
    pub fn ticks_to_leave(&mut self, now_ns: u64, has_happened: bool, period_ns: u64) -> u64 {
        if has_happened {
            self.happened_ns = now_ns;
            if std::mem::take(&mut self.is_idle) {
                self.patience_ns = (2 * self.patience_ns).min(MOST_PATIENCE_NS);
            }
        }
        let still_ns = now_ns.saturating_sub(self.happened_ns);
        self.is_idle =
            still_ns >= self.patience_ns && TICKS_PER_IDLE_LOOK * period_ns <= MAX_STEP_NS;
        if self.is_idle {
            TICKS_PER_IDLE_LOOK - 1
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::IdleBackoff;

    const MS: u64 = 1_000_000;
    const PERIOD: u64 = 10 * MS;

    #[test]
    fn ticks_are_left_out_when_nothing_has_happened_for_long() {
        let mut idle = IdleBackoff::default();
        idle.begin(1_000 * MS);
        assert_eq!(idle.ticks_to_leave(1_499 * MS, false, PERIOD), 0);
        assert_eq!(idle.ticks_to_leave(1_500 * MS, false, PERIOD), 3);
        assert_eq!(idle.ticks_to_leave(u64::MAX, false, PERIOD), 3);
        // Nobody knows what has happened meanwhile.
        idle.begin(10_000 * MS);
        assert_eq!(idle.ticks_to_leave(10_499 * MS, false, PERIOD), 0);
        assert_eq!(idle.ticks_to_leave(10_500 * MS, false, PERIOD), 3);
    }

    #[test]
    fn slow_ticks_are_all_served() {
        let mut idle = IdleBackoff::default();
        assert_eq!(idle.ticks_to_leave(u64::MAX, false, 25 * MS), 3);
        assert_eq!(idle.ticks_to_leave(u64::MAX, false, 26 * MS), 0);
    }

    #[test]
    fn whoever_was_disturbed_waits_longer_and_longer_up_to_a_limit() {
        let mut idle = IdleBackoff::default();
        let (mut now_ns, mut patience_ns) = (0, 500 * MS);
        for _ in 0..20 {
            assert_eq!(
                idle.ticks_to_leave(now_ns + patience_ns - 1, false, PERIOD),
                0
            );
            assert_eq!(idle.ticks_to_leave(now_ns + patience_ns, false, PERIOD), 3);
            now_ns += patience_ns + 40 * MS;
            assert_eq!(idle.ticks_to_leave(now_ns, true, PERIOD), 0);
            // Disturbed once, however long it goes on.
            now_ns += PERIOD;
            assert_eq!(idle.ticks_to_leave(now_ns, true, PERIOD), 0);
            patience_ns = (2 * patience_ns).min(32_000 * MS);
        }
    }
}
