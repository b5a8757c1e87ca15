//! Reports: from a profile's call tree to rows and text for people and other tools.
#![forbid(unsafe_code)]

pub mod calls;
pub mod collapsed;
pub mod diff;
pub mod divide;
pub mod dump;
mod library;
pub mod speedscope;
mod sums;
pub mod text;
pub mod threads;
pub mod top;
pub mod tree;
mod walk;

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

/// A value with its unit, short: `1.25 s`, `12.3 ms`, `870 us`, `42`.
#[must_use]
pub fn format_value(value: i64, unit: &str) -> String {
    if unit != "nanoseconds" {
        return value.to_string();
    }
    let nanoseconds = value as f64;
    match value.unsigned_abs() {
        1_000_000_000.. => format!("{:.2} s", nanoseconds / 1e9),
        1_000_000.. => format!("{:.1} ms", nanoseconds / 1e6),
        1_000.. => format!("{:.0} us", nanoseconds / 1e3),
        _ => format!("{value} ns"),
    }
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
        for (value, text) in [
            (1_250_000_000, "1.25 s"),
            (12_340_000, "12.3 ms"),
            (870_400, "870 us"),
            (42, "42 ns"),
            (-2_000_000, "-2.0 ms"),
        ] {
            assert_eq!(format_value(value, "nanoseconds"), text);
        }
        assert_eq!(format_value(42, "count"), "42");
        assert!(percent(1, 0).abs() < f64::EPSILON);
    }
}
