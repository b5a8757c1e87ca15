//! Whether what is in use at a place grows, told from nothing but when it was born.
//!
//! What leaks fills every part of the time that is looked at. A cache that was filled, or a pool, fills
//! the parts before that; what turns over fills those at the end. So the score of a place is the least of
//! three cohorts in the middle. What still fills, and is never freed meanwhile, looks like a leak: no
//! statistic can tell.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::format_value;
use crate::model::age::{Cohort, HORIZONS, MIDDLE, cohort_of, horizons};

/// Samples in the middle below which nothing is said of growth.
const FEW_SAMPLES: f64 = 6.0;
/// Samples below which nothing is said at all.
const TOO_FEW_SAMPLES: f64 = 3.0;
/// As good as all.
const MOST: f64 = 0.8;
/// A part that is no more than this is left out of account.
const SMALL_PART: f64 = 0.05;

/// How many bytes there are, by how many samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Part {
    bytes: f64,
    samples: f64,
}

impl Part {
    fn add(&mut self, bytes: f64, samples: f64) {
        self.bytes += bytes;
        self.samples += samples;
    }

    /// Bytes that there are at least, as samples go.
    fn at_least(self) -> f64 {
        let sure = self.samples - self.samples.sqrt();
        if sure > 0.0 {
            sure * self.bytes / self.samples
        } else {
            0.0
        }
    }

    /// Whether there are fewer samples than so many, and not by chance.
    fn is_less_than(self, samples: f64) -> bool {
        self.samples + 2.0 * (self.samples + 1.0).sqrt() < samples
    }
}

/// What is in use at a place, by when it was born in one horizon.
#[derive(Clone, Copy, Debug, Default)]
struct Cohorts {
    middle: [Part; MIDDLE],
    new: Part,
    /// Bytes in each second of the middle, and of what is new.
    per_second: f64,
    new_per_second: f64,
    /// The longest of the horizons, in ms.
    horizon_ms: u64,
}

/// How what is in use at a place came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It grew evenly, and what it allocated is still there.
    Grows,
    /// It grew, and does so less and less.
    Slows,
    /// Most of it was there soon.
    Filled,
    /// It grew, and has not for so many ms.
    Flat(u64),
    /// Almost all of it is younger than so many ms.
    TurnsOver(u64),
    /// Part of it was there soon, the rest turns over.
    Mixed,
    /// None of these: it may be a leak all the same.
    Uneven,
    /// Too little is known.
    TooFew,
}

/// What is said of a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// How it came to be.
    pub verdict: Verdict,
    /// The higher, the likelier it is a leak, and the larger: bytes that were born at least in each
    /// fifth of the horizon; 0 of what does not grow.
    pub score: f64,
    /// Bytes by which it grows in a second; 0 if it does not.
    pub bytes_per_second: f64,
    /// How far back it was looked, in ms.
    pub horizon_ms: u64,
    /// Whether that is all the time that is known.
    pub is_since_start: bool,
}

/// Everything of one place.
#[derive(Clone, Debug, Default)]
pub(super) struct Births {
    all: Part,
    /// Born in the first tenth.
    start: f64,
    by_horizon: [Cohorts; HORIZONS],
    /// Bytes by least age in ms.
    by_step: BTreeMap<u64, f64>,
}

impl Births {
    /// Adds what has the label `step_ms` in a profile in which blocks are known since so long.
    pub(super) fn add(&mut self, step_ms: u64, known_ms: u64, bytes: f64, samples: f64) {
        self.all.add(bytes, samples);
        *self.by_step.entry(step_ms).or_default() += bytes;
        if cohort_of(step_ms, known_ms) == Cohort::Start {
            self.start += bytes;
        }
        for (cohorts, horizon_ms) in self.by_horizon.iter_mut().zip(horizons(known_ms)) {
            let Some(horizon_ms) = horizon_ms else {
                continue;
            };
            cohorts.horizon_ms = cohorts.horizon_ms.max(horizon_ms);
            let per_second = |part: f64| bytes / (part * horizon_ms.max(1) as f64 / 1e3);
            match cohort_of(step_ms, horizon_ms) {
                Cohort::Middle(number) => {
                    cohorts.middle[number].add(bytes, samples);
                    cohorts.per_second += per_second(0.6);
                }
                Cohort::New => {
                    cohorts.new.add(bytes, samples);
                    cohorts.new_per_second += per_second(0.3);
                }
                Cohort::Earlier | Cohort::Start => {}
            }
        }
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> f64 {
        self.all.bytes
    }

    /// The samples by which they are known.
    pub(super) fn samples(&self) -> f64 {
        self.all.samples
    }

    /// What there is to say of it. `steps`: all steps of age that were told apart.
    pub(super) fn growth(&self, steps: &[u64]) -> Growth {
        for (number, cohorts) in self.by_horizon.iter().enumerate() {
            if let Some((verdict, bytes_per_second)) = cohorts.verdict() {
                return Growth {
                    verdict,
                    score: cohorts.score(),
                    bytes_per_second,
                    horizon_ms: cohorts.horizon_ms,
                    is_since_start: number == 0,
                };
            }
        }
        let verdict = self.history(steps);
        let since_start = &self.by_horizon[0];
        let may_grow = matches!(verdict, Verdict::Uneven | Verdict::TooFew);
        Growth {
            verdict,
            score: if may_grow { since_start.hint() } else { 0.0 },
            bytes_per_second: 0.0,
            horizon_ms: since_start.horizon_ms,
            is_since_start: true,
        }
    }

    /// The verdict on what does not grow evenly.
    fn history(&self, steps: &[u64]) -> Verdict {
        let Part { bytes, samples } = self.all;
        let since_start = &self.by_horizon[0];
        let new = since_start.new;
        let middle = Part {
            samples: since_start.middle_samples(),
            ..Part::default()
        };
        if samples < TOO_FEW_SAMPLES {
            return Verdict::TooFew;
        }
        if self.start >= MOST * bytes {
            return Verdict::Filled;
        }
        let flat_ms = self.last_step(steps, |younger| younger <= SMALL_PART * bytes);
        let is_flat = cohort_of(flat_ms, since_start.horizon_ms) != Cohort::New;
        // Even growth would have had twice as many in the last part.
        if is_flat && new.is_less_than(0.2 * (samples - new.samples)) {
            return Verdict::Flat(flat_ms);
        }
        // And here twice as many in the middle as there are new ones.
        if middle.is_less_than(new.samples) {
            if self.start >= (1.0 - MOST) * bytes {
                return Verdict::Mixed;
            }
            let oldest = self.last_step(steps, |younger| younger < (1.0 - SMALL_PART) * bytes);
            let end = steps.iter().find(|step| **step > oldest);
            return Verdict::TurnsOver(end.copied().unwrap_or(since_start.horizon_ms));
        }
        if samples < 2.0 * FEW_SAMPLES {
            Verdict::TooFew
        } else {
            Verdict::Uneven
        }
    }

    /// The last step of which this is true of the bytes that are younger.
    fn last_step(&self, steps: &[u64], is_true: impl Fn(f64) -> bool) -> u64 {
        let mut younger = 0.0;
        let mut last = 0;
        for step in steps {
            if is_true(younger) {
                last = *step;
            }
            younger += self.by_step.get(step).copied().unwrap_or(0.0);
        }
        last
    }
}

impl Cohorts {
    fn score(&self) -> f64 {
        let sure = self.middle.iter().map(|part| part.at_least());
        sure.fold(f64::INFINITY, f64::min)
    }

    /// As the score, for few samples: the lesser half of the middle.
    fn hint(&self) -> f64 {
        let [first, second, last] = self.middle.map(|part| part.bytes);
        0.5 * (first.min(last) + 0.5 * second)
    }

    fn middle_samples(&self) -> f64 {
        self.middle.iter().map(|part| part.samples).sum()
    }

    /// Whether it grows, and by how many bytes in a second.
    fn verdict(&self) -> Option<(Verdict, f64)> {
        let [first, _, last] = self.middle;
        let samples = self.middle_samples();
        if self.score() <= 0.0 || samples < FEW_SAMPLES {
            return None;
        }
        // The old are fewer than the young: they go.
        if first.is_less_than(0.5 * last.samples) {
            return None;
        }
        // Were it even, half as many would be new: there are far fewer, or none.
        if self.new.is_less_than(0.1 * samples) || self.new.samples < 0.5 {
            return None;
        }
        if last.is_less_than(0.5 * first.samples) || self.new.is_less_than(0.25 * samples) {
            return Some((Verdict::Slows, self.new_per_second));
        }
        Some((Verdict::Grows, self.per_second))
    }
}

impl Growth {
    /// The same in words.
    #[must_use]
    pub fn words(&self) -> String {
        let rate = format_value((self.bytes_per_second * 60.0).round() as i64, "bytes");
        match self.verdict {
            Verdict::Grows if self.is_since_start => {
                format!(
                    "grows by {rate}/min since the start, {} ago",
                    span(self.horizon_ms)
                )
            }
            Verdict::Grows => format!(
                "grows by {rate}/min since {} ago at least",
                span(self.horizon_ms)
            ),
            Verdict::Slows => format!("grows ever more slowly, by {rate}/min of late"),
            Verdict::Filled => "filled at the start".to_owned(),
            Verdict::Flat(age_ms) => format!("grew, flat for {}", span(age_ms)),
            Verdict::TurnsOver(age_ms) => {
                format!("turns over (almost all younger than {})", span(age_ms))
            }
            Verdict::Mixed => "filled at the start in part, the rest turns over".to_owned(),
            Verdict::Uneven => "grows by fits and starts, if it does".to_owned(),
            Verdict::TooFew => "too few samples to tell".to_owned(),
        }
    }
}

/// A time as people say it: `14 s`, `57 min`, `3.2 h`.
#[must_use]
pub fn span(ms: u64) -> String {
    let seconds = ms as f64 / 1e3;
    match seconds {
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        _ if seconds < 119.5 => format!("{seconds:.0} s"),
        _ if seconds < 7_170.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::{Births, Verdict, span};
    use crate::model::age::{step_of, steps};

    const MINUTE: u64 = 60_000;

    /// The verdict on a place where a sample of 1,000 bytes was born at each of these ages in ms.
    fn verdict(known_ms: u64, ages: impl IntoIterator<Item = u64>) -> (Verdict, bool, String) {
        let steps = steps(known_ms);
        let mut births = Births::default();
        for age in ages {
            births.add(step_of(&steps, age), known_ms, 1_000.0, 1.0);
        }
        let growth = births.growth(&steps);
        (growth.verdict, growth.is_since_start, growth.words())
    }

    fn even(from: u64, to: u64, step: u64) -> impl Iterator<Item = u64> {
        (from..to).step_by(usize::try_from(step).unwrap_or(1))
    }

    #[test]
    fn each_history_has_its_verdict() {
        let known = 60 * MINUTE;
        let (verdict_of, _, words) = verdict(known, even(0, known, MINUTE));
        assert_eq!(verdict_of, Verdict::Grows);
        assert_eq!(words, "grows by 1000 B/min since the start, 60 min ago");
        for (expected, ages) in [
            (Verdict::Filled, even(58 * MINUTE, known, 1_000)),
            (Verdict::Flat(42 * MINUTE), even(45 * MINUTE, known, 10_000)),
            (Verdict::TurnsOver(5 * MINUTE), even(0, 5 * MINUTE, 1_000)),
            (Verdict::TooFew, even(0, 2, 1)),
        ] {
            assert_eq!(verdict(known, ages).0, expected);
        }
        let mixed = even(58 * MINUTE, known, 1_000).chain(even(0, MINUTE, 1_000));
        assert_eq!(verdict(known, mixed).0, Verdict::Mixed);
        // Fewer and fewer are born, as with words that were never seen.
        let slows = (0..300).map(|number| known - (known as f64 / 1.02_f64.powi(number)) as u64);
        assert_eq!(verdict(known, slows).0, Verdict::Slows);
    }

    #[test]
    fn what_began_to_grow_lately_grows_in_a_shorter_horizon() {
        let known = 24 * 60 * MINUTE;
        let (found, is_since_start, words) = verdict(known, even(0, 90 * MINUTE, MINUTE));
        assert_eq!((found, is_since_start), (Verdict::Grows, false));
        assert_eq!(words, "grows by 1000 B/min since 60 min ago at least");
    }

    #[test]
    fn what_has_none_that_is_new_does_not_grow() {
        let known = 10 * MINUTE;
        let (found, ..) = verdict(known, even(4 * MINUTE, known, 40_000));
        assert_eq!(found, Verdict::TooFew);
    }

    #[test]
    fn spans_are_short() {
        let spans = [1_234, 59_000, 3_500_000, 10_000_000, 400_000_000].map(span);
        assert_eq!(spans, ["1.2 s", "59 s", "58 min", "2.8 h", "4.6 days"]);
    }
}
