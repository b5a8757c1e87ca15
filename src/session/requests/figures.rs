//! What is known of the durations of the requests of one route.
#![forbid(unsafe_code)]

use std::sync::Arc;

/// Durations below 2^10 ns share a bucket, as do those beyond 2^42 ns (73 minutes).
const LOWEST_POWER: u32 = 10;
const HIGHEST_POWER: u32 = 42;
/// Buckets for each power of two: a duration is known to an eighth of itself.
const STEPS: usize = 8;
const BUCKETS: usize = (HIGHEST_POWER - LOWEST_POWER) as usize * STEPS + 1;

/// What is known of the durations of one route.
#[derive(Clone, Debug)]
pub struct RouteFigures {
    /// The route.
    pub route: Arc<str>,
    /// Requests ended.
    pub count: u64,
    /// Requests under way.
    pub under_way: u64,
    /// Sum of durations in ns.
    pub sum_ns: u64,
    /// The longest in ns.
    pub max_ns: u64,
    /// CPU time in ns, by the threads' clocks, of those of which it is known.
    pub cpu_ns: u64,
    /// How many these are.
    pub cpu_count: u64,
    histogram: Box<[u32]>,
}

impl RouteFigures {
    pub(super) fn new(route: Arc<str>) -> Self {
        Self {
            route,
            count: 0,
            under_way: 0,
            sum_ns: 0,
            max_ns: 0,
            cpu_ns: 0,
            cpu_count: 0,
            histogram: vec![0; BUCKETS].into_boxed_slice(),
        }
    }

    pub(super) fn add(&mut self, duration_ns: u64, cpu_ns: Option<u64>) {
        self.count += 1;
        if let Some(cpu_ns) = cpu_ns {
            self.cpu_ns = self.cpu_ns.saturating_add(cpu_ns);
            self.cpu_count += 1;
        }
        self.sum_ns = self.sum_ns.saturating_add(duration_ns);
        self.max_ns = self.max_ns.max(duration_ns);
        let bucket = &mut self.histogram[bucket_of(duration_ns)];
        *bucket = bucket.saturating_add(1);
    }

    /// The duration in ns that this part (0 to 1) of the requests did not exceed, known to an
    /// eighth of itself; 0 without any.
    #[must_use]
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let whole: u64 = self.histogram.iter().map(|count| u64::from(*count)).sum();
        let wanted = (part * whole as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (bucket, count) in self.histogram.iter().enumerate() {
            sum += u64::from(*count);
            if *count > 0 && sum >= wanted {
                return upper_bound_ns(bucket).min(self.max_ns);
            }
        }
        0
    }
}

fn bucket_of(duration_ns: u64) -> usize {
    let duration = duration_ns.max(1);
    let power = duration.ilog2();
    if power < LOWEST_POWER {
        return 0;
    }
    if power >= HIGHEST_POWER {
        return BUCKETS - 1;
    }
    let step = (duration >> (power - 3)) as usize & (STEPS - 1);
    (power - LOWEST_POWER) as usize * STEPS + step + 1
}

fn upper_bound_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << LOWEST_POWER;
    }
    let (power, step) = ((bucket - 1) / STEPS, (bucket - 1) % STEPS);
    let power = LOWEST_POWER + u32::try_from(power).unwrap_or(0);
    ((STEPS + step + 1) as u64) << (power - 3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BUCKETS, RouteFigures, bucket_of, upper_bound_ns};

    proptest! {
        #[test]
        fn a_bucket_holds_durations_within_an_eighth(duration in 1_u64..1 << 41) {
            let bucket = bucket_of(duration);
            prop_assert!(bucket < BUCKETS);
            let upper = upper_bound_ns(bucket);
            prop_assert!(duration <= upper);
            prop_assert!(bucket == 0 || upper <= duration + duration / 8 + 1);
        }

        #[test]
        fn quantiles_are_those_of_the_durations(
            mut durations in prop::collection::vec(2_000_u64..10_000_000_000, 1..200),
            part in 0.01_f64..1.0,
        ) {
            let mut figures = RouteFigures::new("x".into());
            for duration in &durations {
                figures.add(*duration, None);
            }
            durations.sort_unstable();
            let at = (part * durations.len() as f64).ceil() as usize - 1;
            let (said, exact) = (figures.quantile_ns(part), durations[at]);
            prop_assert!(said >= exact && said <= exact + exact / 8 + 1, "{} {}", said, exact);
        }
    }
}
