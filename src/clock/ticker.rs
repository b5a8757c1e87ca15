//! Absolute tick deadlines with jitter.
//!
//! Deadlines are absolute, so a late tick does not push the following ones back. Each is moved by
//! up to a quarter period at random: a program that itself works in a regular beat would otherwise
//! be caught in the same phase for ever.
#![forbid(unsafe_code)]

/// A process that wakes up later than this was stopped or suspended, not merely busy.
const GAP_NS: u64 = 1_000_000_000;

/// A wake-up is overdue if it comes later than twice as much as usual and this. To be woken takes
/// some 5 us on bare metal and 50 us in a virtual machine.
const OVERDUE_NS: u64 = 20_000;
/// What is usual at first, and by which part of itself it follows what is.
const USUAL_NS: u64 = 50_000;
const USUAL_STEP: u64 = 32;

/// What one wake-up means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Deadlines that passed unserved before this one.
    pub late: u64,
    /// Deadlines before this one that were left out on purpose.
    pub left_out: u64,
    /// Time in ns in which the process stood still; counted, but credited to no stack.
    pub gap_ns: u64,
    /// Whether it was kept waiting for a CPU longer than most are.
    pub is_overdue: bool,
}

/// Hands out the deadlines of a given period.
#[derive(Clone, Debug)]
pub struct Ticker {
    period_ns: u64,
    /// The regular beat; deadlines are this plus jitter.
    beat_ns: u64,
    deadline_ns: u64,
    /// Ticks before this one that are left out.
    left_out: u64,
    random: u64,
    /// How long after the deadline wake-ups come: about the median of the last ones.
    usual_ns: u64,
}

impl Ticker {
    /// The first deadline is one period after `now_ns`. `seed` starts the jitter's sequence.
    #[must_use]
    pub fn new(now_ns: u64, period_ns: u64, seed: u64) -> Self {
        let mut ticker = Self {
            period_ns: period_ns.max(1),
            beat_ns: now_ns,
            deadline_ns: now_ns,
            left_out: 0,
            random: seed | 1,
            usual_ns: USUAL_NS,
        };
        ticker.schedule(now_ns);
        ticker
    }

    /// When to wake up next.
    #[must_use]
    pub fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// The present period.
    #[must_use]
    pub fn period_ns(&self) -> u64 {
        self.period_ns
    }

    /// Changes the period from the next deadline on.
    pub fn set_period(&mut self, now_ns: u64, period_ns: u64) {
        if period_ns != self.period_ns {
            self.period_ns = period_ns.max(1);
            self.beat_ns = now_ns;
            self.left_out = 0;
            self.schedule(now_ns);
        }
    }

    /// Puts the next deadline off by this many periods.
    pub fn put_off(&mut self, now_ns: u64, periods: u64) {
        if periods > 0 {
            self.left_out += periods;
            self.beat_ns += (periods - 1) * self.period_ns;
            self.schedule(now_ns);
        }
    }

    /// Whether the next deadline is put off.
    #[must_use]
    pub fn is_put_off(&self) -> bool {
        self.left_out > 0
    }

    /// Takes that back: the next deadline is again the next one by the period.
    pub fn hurry(&mut self, now_ns: u64) {
        let ahead = self.beat_ns.saturating_sub(now_ns) / self.period_ns;
        let back = ahead.min(self.left_out);
        if back > 0 {
            self.left_out -= back;
            self.beat_ns -= (back + 1) * self.period_ns;
            self.schedule(now_ns);
        }
    }

    /// How many deadlines have passed since the last one served, and were left out on purpose.
    /// Tells of each once.
    pub fn take_left_out(&mut self, now_ns: u64) -> u64 {
        let ahead = self.beat_ns.saturating_sub(now_ns).div_ceil(self.period_ns);
        let passed = (self.left_out + 1).saturating_sub(ahead).min(self.left_out);
        self.left_out -= passed;
        passed
    }

    /// Accounts for a wake-up at or after the deadline and schedules the next one. Since `ready_ns`
    /// the clock was waited for.
    pub fn fire(&mut self, ready_ns: u64, now_ns: u64) -> Tick {
        let overdue = now_ns.saturating_sub(self.deadline_ns);
        let gap_ns = if overdue > GAP_NS.max(2 * self.period_ns) {
            overdue
        } else {
            0
        };
        // Else it comes late by its own work.
        let was_awaited = self.deadline_ns > ready_ns;
        let is_overdue = was_awaited && overdue > 2 * self.usual_ns + OVERDUE_NS;
        if was_awaited {
            let step = self.usual_ns / USUAL_STEP + 1;
            self.usual_ns = if overdue > self.usual_ns {
                self.usual_ns + step
            } else {
                self.usual_ns.saturating_sub(step)
            };
        }
        let late = now_ns.saturating_sub(self.beat_ns) / self.period_ns;
        self.beat_ns += late * self.period_ns;
        let left_out = std::mem::take(&mut self.left_out);
        self.schedule(now_ns);
        Tick {
            late,
            left_out,
            gap_ns,
            is_overdue,
        }
    }

    fn schedule(&mut self, now_ns: u64) {
        self.beat_ns += self.period_ns;
        let spread = (self.period_ns / 2).max(1);
        let jittered = self.beat_ns - self.period_ns / 4 + self.next_random() % spread;
        self.deadline_ns = jittered.max(now_ns + 1);
    }

    /// xorshift64 (Marsaglia 2003, "Xorshift RNGs", triple 13, 7, 17).
    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

#[cfg(test)]
mod tests {
    use super::Ticker;

    const PERIOD: u64 = 10_000_000;

    #[test]
    fn deadlines_follow_the_beat_and_differ_in_phase() {
        let mut ticker = Ticker::new(0, PERIOD, 7);
        let mut phases = Vec::new();
        for beat in 1..=1_000_u64 {
            let deadline = ticker.deadline_ns();
            assert!(deadline.abs_diff(beat * PERIOD) <= PERIOD / 4);
            phases.push(deadline as i64 - (beat * PERIOD) as i64);
            assert_eq!(ticker.fire(0, deadline).late, 0);
        }
        phases.sort_unstable();
        phases.dedup();
        assert!(
            phases.len() > 900,
            "jitter repeats: {} phases",
            phases.len()
        );
    }

    #[test]
    fn what_is_left_out_is_told_once() {
        let mut ticker = Ticker::new(0, PERIOD, 7);
        ticker.fire(0, PERIOD);
        ticker.put_off(PERIOD, 3);
        assert!(ticker.deadline_ns().abs_diff(5 * PERIOD) <= PERIOD / 4);
        let tick = ticker.fire(0, ticker.deadline_ns());
        assert_eq!((tick.late, tick.left_out), (0, 3));
        assert!(ticker.deadline_ns().abs_diff(6 * PERIOD) <= PERIOD / 4);
        assert_eq!(ticker.fire(0, ticker.deadline_ns()).left_out, 0);
        // The next beat is the seventh. Of 7, 8 and 9, two have passed at 8.5.
        ticker.put_off(6 * PERIOD, 3);
        let now = 8 * PERIOD + PERIOD / 2;
        assert_eq!(ticker.clone().take_left_out(6 * PERIOD + 1), 0);
        assert_eq!(ticker.take_left_out(now), 2);
        assert_eq!(ticker.take_left_out(now), 0);
        assert_eq!(ticker.clone().fire(0, ticker.deadline_ns()).left_out, 1);
        ticker.hurry(now);
        assert!(ticker.deadline_ns().abs_diff(9 * PERIOD) <= PERIOD / 4);
        assert_eq!(ticker.fire(0, ticker.deadline_ns()).left_out, 0);
        // Nothing is left to hurry for.
        let deadline = ticker.deadline_ns();
        ticker.hurry(9 * PERIOD);
        assert_eq!(ticker.deadline_ns(), deadline);
    }

    #[test]
    fn missed_deadlines_are_counted_not_made_up_for() {
        let mut ticker = Ticker::new(0, PERIOD, 7);
        let tick = ticker.fire(0, PERIOD + 5 * PERIOD + PERIOD / 2);
        assert_eq!((tick.late, tick.gap_ns), (5, 0));
        assert!(ticker.deadline_ns() > 6 * PERIOD + PERIOD / 2);
        assert!(ticker.deadline_ns() < 8 * PERIOD);
    }

    #[test]
    fn what_is_overdue_depends_on_what_is_usual() {
        let mut ticker = Ticker::new(0, PERIOD, 7);
        for usual in [5_000, 60_000, 1_000_000, 10_000] {
            for turn in 0..1_000 {
                // Every fourth comes much later, which is no reason to expect that.
                let is_late = turn % 4 == 3;
                let wait = if is_late { 3 * usual + 60_000 } else { usual };
                let tick = ticker.fire(0, ticker.deadline_ns() + wait);
                if turn > 500 {
                    assert_eq!(tick.is_overdue, is_late, "{usual} ns are usual");
                }
            }
        }
    }

    #[test]
    fn who_comes_late_by_its_own_work_was_not_kept_waiting() {
        let mut ticker = Ticker::new(0, PERIOD, 7);
        for _ in 0..10_000 {
            let now = ticker.deadline_ns() + PERIOD / 2;
            assert!(!ticker.fire(now - 1_000, now).is_overdue);
        }
        // Nor has it learnt from that what is usual.
        let deadline = ticker.deadline_ns();
        let woken = deadline + super::USUAL_NS;
        assert!(!ticker.fire(deadline - 1, woken).is_overdue);
        let deadline = ticker.deadline_ns();
        assert!(ticker.fire(deadline - 1, deadline + PERIOD / 2).is_overdue);
    }

    #[test]
    fn a_stopped_process_leaves_a_gap() {
        let mut ticker = Ticker::new(0, PERIOD, 7);
        let deadline = ticker.deadline_ns();
        let tick = ticker.fire(0, deadline + 3_000_000_000);
        assert_eq!(tick.gap_ns, 3_000_000_000);
    }
}
