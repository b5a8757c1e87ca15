//! The overhead budget: what a tick costs decides how often one may happen.
#![forbid(unsafe_code)]

/// Weight of the newest tick in the running mean, as a divisor.
const SMOOTHING: f64 = 16.0;

/// Keeps the sampler's own CPU time below a fraction of one core.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    mean_cost_ns: f64,
}

impl Budget {
    /// Learns what the last ticks cost in CPU time, all work of their thread included.
    pub fn spend(&mut self, cost_ns: u64, ticks: u32) {
        let mean_ns = cost_ns as f64 / f64::from(ticks.max(1));
        let kept = (1.0 - 1.0 / SMOOTHING).powi(i32::try_from(ticks).unwrap_or(i32::MAX));
        self.mean_cost_ns = mean_ns + (self.mean_cost_ns - mean_ns) * kept;
    }

    /// The shortest period not below `asked_ns` that keeps within `max_overhead` of one core.
    #[must_use]
    pub fn period_ns(&self, asked_ns: u64, max_overhead: f64) -> u64 {
        if max_overhead <= 0.0 {
            return asked_ns;
        }
        let affordable = self.mean_cost_ns / max_overhead;
        // Steps of an eighth: a period that trembled with every tick would restart the beat.
        let step = (asked_ns as f64 / 8.0).max(1.0);
        if affordable <= asked_ns as f64 {
            return asked_ns;
        }
        ((affordable / step).ceil() * step) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn cheap_ticks_keep_the_asked_period() {
        let mut budget = Budget::default();
        for _ in 0..100 {
            budget.spend(50_000, 1);
        }
        assert_eq!(budget.period_ns(10_000_000, 0.01), 10_000_000);
    }

    #[test]
    fn dear_ticks_stretch_the_period_and_recover() {
        let mut budget = Budget::default();
        for _ in 0..200 {
            budget.spend(400_000, 1);
        }
        let stretched = budget.period_ns(10_000_000, 0.01);
        assert!(
            (39_000_000..=42_000_000).contains(&stretched),
            "{stretched}"
        );
        budget.spend(200 * 20_000, 200);
        assert_eq!(budget.period_ns(10_000_000, 0.01), 10_000_000);
    }

    #[test]
    fn no_budget_means_no_limit() {
        let mut budget = Budget::default();
        budget.spend(u64::MAX / 2, 1);
        assert_eq!(budget.period_ns(1_000, 0.0), 1_000);
    }
}
