//! How old what is in use is, in steps by which growth can be told from a cache, a pool and turnover.
//!
//! What lives in a row of a heap profile has the label [`AGE`]: the least age of its step, for of each
//! horizon (since the start, the last hour, the last ten minutes) the steps end where [`Cohort`]s do.
#![forbid(unsafe_code)]

/// Key of the label, a number.
pub const AGE: &str = "age";
/// Its unit.
pub const AGE_UNIT: &str = "milliseconds";

/// What is looked back at besides all there was, longest first, in ms.
const LATELY_MS: [u64; HORIZONS - 1] = [3_600_000, 600_000];
/// How many horizons there are, the first of which is the start.
pub const HORIZONS: usize = 3;

/// When something was born, in parts of a horizon: its first tenth, three fifths that show whether it
/// grows, what is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cohort {
    /// Before the horizon.
    Earlier,
    /// In its first tenth.
    Start,
    /// In the fifths that follow, by number.
    Middle(usize),
    /// In the last three tenths.
    New,
}

/// Fifths in the middle of a horizon.
pub const MIDDLE: usize = 3;
/// The least ages of [`Cohort`]s, youngest first, in tenths of a horizon; and one more, for what turns
/// over is young.
const TENTHS: [u64; 7] = [0, 1, 3, 5, 7, 9, 10];

/// The least age in ms that is so many tenths of a horizon.
fn edge_ms(horizon_ms: u64, tenths: u64) -> u64 {
    horizon_ms.saturating_mul(tenths) / 10
}

/// The horizons of what is known since so long: all of it, and what else is clearly shorter.
#[must_use]
pub fn horizons(known_ms: u64) -> [Option<u64>; HORIZONS] {
    let lately = |horizon_ms: u64| (known_ms >= horizon_ms + horizon_ms / 2).then_some(horizon_ms);
    [Some(known_ms), lately(LATELY_MS[0]), lately(LATELY_MS[1])]
}

/// The least ages of all steps, ascending from 0, where blocks are known since so long.
#[must_use]
pub fn steps(known_ms: u64) -> Vec<u64> {
    let horizons = horizons(known_ms).into_iter().flatten();
    let mut steps: Vec<u64> = horizons
        .flat_map(|horizon| TENTHS.map(|tenths| edge_ms(horizon, tenths)))
        .collect();
    // What is as old as can be is of the last step.
    steps.retain(|step| *step == 0 || *step < known_ms);
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// The step of an age.
#[must_use]
pub fn step_of(steps: &[u64], age_ms: u64) -> u64 {
    let above = steps.partition_point(|step| *step <= age_ms);
    steps.get(above.wrapping_sub(1)).copied().unwrap_or(0)
}

/// When what has this label was born, in parts of a horizon.
#[must_use]
pub fn cohort_of(step_ms: u64, horizon_ms: u64) -> Cohort {
    let is_beyond = |tenths| step_ms >= edge_ms(horizon_ms, tenths);
    match () {
        () if is_beyond(10) => Cohort::Earlier,
        () if is_beyond(9) => Cohort::Start,
        () if is_beyond(7) => Cohort::Middle(0),
        () if is_beyond(5) => Cohort::Middle(1),
        () if is_beyond(3) => Cohort::Middle(2),
        () => Cohort::New,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cohort, cohort_of, horizons, step_of, steps};

    #[test]
    fn short_horizons_come_where_there_is_more() {
        assert_eq!(horizons(899_999), [Some(899_999), None, None]);
        assert_eq!(horizons(900_000), [Some(900_000), None, Some(600_000)]);
        let day = 86_400_000;
        assert_eq!(horizons(day), [Some(day), Some(3_600_000), Some(600_000)]);
        assert_eq!(steps(60_000), [0, 6_000, 18_000, 30_000, 42_000, 54_000]);
        assert_eq!(steps(0), [0]);
    }

    proptest! {
        #[test]
        fn a_step_is_of_the_same_cohort_as_all_ages_in_it(
            known_ms in 1_000_u64..200_000_000,
            part in 0.0_f64..1.1,
        ) {
            let age_ms = (known_ms as f64 * part) as u64;
            let steps = steps(known_ms);
            let step = step_of(&steps, age_ms);
            prop_assert!(step <= age_ms);
            prop_assert!(steps.iter().all(|other| *other <= step || *other > age_ms));
            for horizon in horizons(known_ms).into_iter().flatten() {
                let age_ms = age_ms.min(known_ms - 1);
                prop_assert_eq!(cohort_of(step, horizon), cohort_of(age_ms, horizon));
            }
        }
    }

    #[test]
    fn cohorts_follow_each_other() {
        let born = [95, 80, 60, 40, 29, 0].map(|age| cohort_of(age, 100));
        let expected = [
            Cohort::Start,
            Cohort::Middle(0),
            Cohort::Middle(1),
            Cohort::Middle(2),
            Cohort::New,
            Cohort::New,
        ];
        assert_eq!(born, expected);
        assert_eq!(cohort_of(100, 100), Cohort::Earlier);
    }
}
