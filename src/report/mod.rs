//! Reports: from a profile's call tree to rows and text for people and other tools.
#![forbid(unsafe_code)]

pub mod calls;
pub mod collapsed;
pub mod diff;
pub mod divide;
pub mod dump;
pub mod growth;
pub mod held_up;
pub mod leaks;
mod library;
pub mod page_facts;
pub mod roots;
pub mod speedscope;
mod sums;
pub mod tasks;
pub mod text;
pub mod threads;
pub mod top;
pub mod tree;
pub mod waits;
mod walk;

use self::text::inert;
use crate::error::{Error, Result};
use crate::fold::profile::Profile;

/// What makes a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// A function.
    Function,
    /// A line of a function.
    Line,
}

/// The largest export. Each stack is written out, so that a small file of deep stacks, made for it,
/// would fill any memory.
const MAX_EXPORT_BYTES: usize = 512 << 20;

fn check_size(bytes: usize, format: &str) -> Result<()> {
    if bytes <= MAX_EXPORT_BYTES {
        return Ok(());
    }
    Err(Error::value(format!(
        "this profile is larger than {} MiB in the {format} format; export a part of it, chosen \
         with only_threads",
        MAX_EXPORT_BYTES >> 20
    )))
}

/// Refuses a difference of two profiles, for a format that has no values below 0.
fn refuse_difference(profile: &Profile, column: usize, kind: &str, format: &str) -> Result<()> {
    if !profile.is_difference(column) {
        return Ok(());
    }
    Err(Error::value(format!(
        "this profile is a difference: it has values of {kind} below 0, which {format} does not know; \
         export the two profiles it was made from, or look at it with rprof top, tree or view"
    )))
}

/// From which size on, how many digits behind the point, the name.
type Step = (f64, usize, &'static str);
const TIMES: [Step; 4] = [
    (1e9, 2, "s"),
    (1e6, 1, "ms"),
    (1e3, 0, "us"),
    (1.0, 0, "ns"),
];
const SPACE: [Step; 4] = [
    ((1_u64 << 30) as f64, 2, "GiB"),
    ((1_u64 << 20) as f64, 1, "MiB"),
    ((1_u64 << 10) as f64, 1, "KiB"),
    (1.0, 0, "B"),
];

/// A value with its unit, short: `1.25 s`, `12.3 ms`, `4.0 MiB`, `1,234`.
///
/// `tests/fixtures/values.tsv` has cases, which the report page is held against as well.
#[must_use]
pub fn format_value(value: i64, unit: &str) -> String {
    format_wide(value.into(), unit)
}

/// The same for a value that was computed from several.
#[must_use]
pub fn format_wide(value: i128, unit: &str) -> String {
    let (one, steps) = match unit {
        "nanoseconds" => (1.0, TIMES),
        "microseconds" => (1e3, TIMES),
        "milliseconds" => (1e6, TIMES),
        "seconds" => (1e9, TIMES),
        "bytes" => (1.0, SPACE),
        "count" | "" => return grouped(value),
        _ => return format!("{} {}", grouped(value), inert(unit)),
    };
    let value = value as f64 * one;
    let step = steps.iter().find(|(size, ..)| value.abs() >= *size);
    match step {
        Some((size, digits, name)) => format!("{:.digits$} {name}", value / size),
        None => format!("0 {}", if unit == "bytes" { "B" } else { "s" }),
    }
}

/// `-1,234,567`.
fn grouped(value: i128) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::from(if value < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in percent; 0 of nothing.
#[must_use]
pub fn percent(part: i64, whole: i64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 * 100.0 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::{format_value, percent};

    #[test]
    fn values_are_short() {
        let cases = include_str!("../../tests/fixtures/values.tsv").lines();
        let cases: Vec<Vec<&str>> = cases
            .skip(1)
            .map(|line| line.split('\t').collect())
            .collect();
        assert!(cases.len() > 20);
        for case in cases {
            let value = case[0].parse().ok();
            let shown = value.map(|value| format_value(value, case[1]));
            assert_eq!(shown.as_deref(), Some(case[2]), "{case:?}");
        }
        assert!(percent(1, 0).abs() < f64::EPSILON);
    }
}
