//! The overhead budget: what a tick costs decides how often one may happen.
#![forbid(unsafe_code)]

/// Weight of the newest tick in the running mean, as a divisor.
const SMOOTHING: f64 = 16.0;

/// What is not used within the budget may be used later, up to this much of it, in ns of time passed: a
/// block of a tenth of a second gets the ticks that it asked for even if the first ones are dear.
const MOST_SAVED_NS: f64 = 1e9;

/// Keeps the sampler's own CPU time below a fraction of one core.
#[derive(Clone, Debug)]
pub struct Budget {
    mean_cost_ns: f64,
    /// CPU time that was used and time that has passed since the period was asked for.
    used_ns: f64,
    passed_ns: f64,
    /// For how long nothing need be used to be where the budget is.
    saved_ns: f64,
    /// Whether all that was saved is used up, and not half of it saved again.
    is_short: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            mean_cost_ns: 0.0,
            used_ns: 0.0,
            passed_ns: 0.0,
            saved_ns: MOST_SAVED_NS,
            is_short: false,
        }
    }
}

impl Budget {
    /// Learns what the last ticks cost in CPU time, all work of their thread included.
    pub fn spend(&mut self, cost_ns: u64, ticks: u32) {
        let mean_ns = cost_ns as f64 / f64::from(ticks.max(1));
        let kept = (1.0 - 1.0 / SMOOTHING).powi(i32::try_from(ticks).unwrap_or(i32::MAX));
        self.mean_cost_ns = mean_ns + (self.mean_cost_ns - mean_ns) * kept;
        self.used_ns += cost_ns as f64;
    }

    /// Learns that so much time has passed.
    pub fn pass(&mut self, passed_ns: u64) {
        self.passed_ns += passed_ns as f64;
    }

    /// The shortest period not below `asked_ns` that keeps within `max_overhead` of one core.
    pub fn period_ns(&mut self, asked_ns: u64, max_overhead: f64) -> u64 {
        let used_ns = std::mem::take(&mut self.used_ns);
        let passed_ns = std::mem::take(&mut self.passed_ns);
        if max_overhead <= 0.0 {
            return asked_ns;
        }
        let saved_ns = self.saved_ns + passed_ns - used_ns / max_overhead;
        self.saved_ns = saved_ns.clamp(0.0, MOST_SAVED_NS);
        self.is_short = if self.is_short {
            self.saved_ns < MOST_SAVED_NS / 2.0
        } else {
            self.saved_ns <= 0.0
        };
        let affordable = self.mean_cost_ns / max_overhead;
        if !self.is_short || affordable <= asked_ns as f64 {
            return asked_ns;
        }
        // Steps of an eighth: a period that trembled with every tick would restart the beat.
        let step = (asked_ns as f64 / 8.0).max(1.0);
        ((affordable / step).ceil() * step) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    const PERIOD: u64 = 10_000_000;

    #[test]
    fn cheap_ticks_keep_the_asked_period() {
        let mut budget = Budget::default();
        for _ in 0..100 {
            budget.spend(50_000, 1);
            budget.pass(PERIOD);
            assert_eq!(budget.period_ns(PERIOD, 0.01), PERIOD);
        }
    }

    #[test]
    fn dear_ticks_stretch_the_period_and_recover() {
        let mut budget = Budget::default();
        for _ in 0..200 {
            budget.spend(400_000, 1);
            budget.pass(PERIOD);
        }
        let stretched = budget.period_ns(PERIOD, 0.01);
        assert!(
            (39_000_000..=42_000_000).contains(&stretched),
            "{stretched}"
        );
        budget.spend(200 * 20_000, 200);
        budget.pass(200 * stretched);
        assert_eq!(budget.period_ns(PERIOD, 0.01), PERIOD);
    }

    #[test]
    fn dear_ticks_use_no_more_than_the_budget_and_what_was_saved() {
        let mut budget = Budget::default();
        let (mut used_ns, mut passed_ns) = (0_u64, 0);
        while passed_ns < 60_000_000_000 {
            let period_ns = budget.period_ns(PERIOD, 0.01);
            budget.spend(400_000, 1);
            budget.pass(period_ns);
            used_ns += 400_000;
            passed_ns += period_ns;
        }
        // The mean has to be learnt.
        assert!(
            used_ns <= passed_ns / 100 + 10_000_000 + 5 * 400_000,
            "{used_ns}"
        );
        // And not much less.
        assert!(used_ns >= passed_ns / 100 * 9 / 10, "{used_ns}");
    }

    #[test]
    fn one_dear_tick_is_made_up_for_within_a_second() {
        let mut budget = Budget::default();
        budget.spend(1_000_000_000, 1);
        budget.pass(PERIOD);
        assert!(budget.period_ns(PERIOD, 0.1) > 50 * PERIOD);
        // Though there was hardly a tick since.
        budget.pass(600_000_000);
        assert_eq!(budget.period_ns(PERIOD, 0.1), PERIOD);
    }

    #[test]
    fn no_budget_means_no_limit() {
        let mut budget = Budget::default();
        budget.spend(u64::MAX / 2, 1);
        assert_eq!(budget.period_ns(1_000, 0.0), 1_000);
    }
}
