//! How often is sampled: as often as costs next to nothing.
#![forbid(unsafe_code)]

/// The least bytes between two samples. Below that the blocks that are asked for larger than they are
/// would take memory to speak of.
pub const SMALLEST_RATE: f64 = (32 << 10) as f64;
/// The most, as long as the table has room.
pub const LARGEST_RATE: f64 = (512 << 10) as f64;
/// What a heap is sampled by before anything is known of it.
pub const FIRST_RATE: f64 = (64 << 10) as f64;
/// Samples for each second of CPU time of the process.
const WANTED_PER_SECOND: f64 = 1_000.0;
/// The pace is looked at after so many samples.
const SAMPLES: u64 = 256;
/// The longest step, up or down.
const STEP: f64 = 2.0;

/// Chooses the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// What was asked for; `None` has it chosen.
    fixed: Option<f64>,
    chosen: f64,
    /// What the table's size demands.
    least: f64,
    samples: u64,
    cpu_ns: u64,
}

impl Pace {
    /// By a rate that was asked for, or one that suits.
    #[must_use]
    pub const fn new(fixed: Option<f64>, cpu_ns: u64) -> Self {
        Self {
            fixed,
            chosen: FIRST_RATE,
            least: 0.0,
            samples: 0,
            cpu_ns,
        }
    }

    /// The rate by now.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let rate = match self.fixed {
            Some(fixed) => fixed,
            None => self.chosen,
        };
        rate.max(self.least)
    }

    /// The rate below which no sample is kept, for the size of the table; 0 as long as all have room.
    #[must_use]
    pub fn least(&self) -> f64 {
        self.least
    }

    /// The table was full: fewer have to do. Returns the rate for those that are in it.
    pub fn double(&mut self) -> f64 {
        self.least = self.rate() * 2.0;
        self.least
    }

    /// Counts a sample; `fill` is the share of the table that is in use. Whether the rate may have
    /// changed.
    pub fn count(&mut self, fill: f64, cpu_ns: impl FnOnce() -> u64) -> bool {
        self.samples += 1;
        if self.samples < SAMPLES {
            return false;
        }
        let now = cpu_ns();
        let seconds = now.saturating_sub(self.cpu_ns) as f64 / 1e9;
        let wanted = WANTED_PER_SECOND * seconds.max(1e-6);
        let factor = (self.samples as f64 / wanted).clamp(1.0 / STEP, STEP);
        self.chosen = (self.chosen * factor).clamp(SMALLEST_RATE, LARGEST_RATE);
        if fill < 0.25 {
            // New samples may be as many again; the old ones stay what they are.
            self.least /= 2.0;
            if self.least < SMALLEST_RATE {
                self.least = 0.0;
            }
        }
        (self.samples, self.cpu_ns) = (0, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGEST_RATE, Pace, SMALLEST_RATE};

    /// The rate after a while in which so many bytes are allocated for each second of CPU time.
    fn rate_at(bytes_per_second: f64, fixed: Option<f64>) -> f64 {
        let mut pace = Pace::new(fixed, 0);
        let mut cpu_ns = 0.0;
        for _ in 0..100_000 {
            cpu_ns += pace.rate() / bytes_per_second * 1e9;
            pace.count(0.5, || cpu_ns as u64);
        }
        pace.rate()
    }

    #[test]
    fn it_finds_a_thousand_samples_a_second_within_its_limits() {
        for (bytes_per_second, rate) in [
            (1e3, SMALLEST_RATE),
            (100e6, 100_000.0),
            (300e6, 300_000.0),
            (100e9, LARGEST_RATE),
        ] {
            let found = rate_at(bytes_per_second, None);
            assert!(
                (found / rate - 1.0).abs() < 0.1,
                "{bytes_per_second}: {found}"
            );
        }
        assert!((rate_at(1e9, Some(4_096.0)) - 4_096.0).abs() < 1e-9);
    }

    #[test]
    fn what_a_full_table_demands_is_taken_back_once_it_is_empty_again() {
        let mut pace = Pace::new(Some(32_768.0), 0);
        assert!((pace.double() - 65_536.0).abs() < 1e-9);
        assert!((pace.double() - 131_072.0).abs() < 1e-9);
        assert!((pace.rate() - 131_072.0).abs() < 1e-9);
        let mut looks = |fill: f64| {
            for _ in 0..256 {
                pace.count(fill, || 0);
            }
            pace.rate()
        };
        assert!((looks(0.9) - 131_072.0).abs() < 1e-9);
        assert!((looks(0.2) - 65_536.0).abs() < 1e-9);
        for _ in 0..3 {
            looks(0.2);
        }
        assert!((looks(0.2) - 32_768.0).abs() < 1e-9);
    }
}
