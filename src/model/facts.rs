//! Facts of a profile that its readers act on, in the form of its comments: a file has no other
//! place for them.
#![forbid(unsafe_code)]

use std::fmt;

/// A column that some of the merged profiles did not measure.
///
/// The format has a value for each column in each sample and no way to leave one out: their
/// samples have 0 there, which means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmeasured {
    /// The column's name.
    pub name: String,
    /// How many of the merged profiles did not measure it.
    pub profiles: u64,
    /// How many were merged.
    pub of_profiles: u64,
    /// How long those that did not measure it lasted together, in ns.
    pub ns: i64,
    /// How long all lasted together, in ns.
    pub of_ns: i64,
}

const NOT_MEASURED: &str = ": not measured in ";

impl fmt::Display for Unmeasured {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}{NOT_MEASURED}{} of {} profiles, {:.3} s of {:.3} s",
            self.name,
            self.profiles,
            self.of_profiles,
            self.ns as f64 / 1e9,
            self.of_ns as f64 / 1e9
        )
    }
}

impl Unmeasured {
    /// What a comment says, if it is such a fact.
    #[must_use]
    pub fn parse(comment: &str) -> Option<Self> {
        let (name, rest) = comment.rsplit_once(NOT_MEASURED)?;
        let (counts, times) = rest.split_once(" profiles, ")?;
        let (profiles, of_profiles) = counts.split_once(" of ")?;
        let (time, of_time) = times.strip_suffix(" s")?.split_once(" s of ")?;
        Some(Self {
            name: name.to_owned(),
            profiles: profiles.parse().ok()?,
            of_profiles: of_profiles.parse().ok()?,
            ns: nanoseconds(time)?,
            of_ns: nanoseconds(of_time)?,
        })
    }
}

/// What `comments` say of columns that were measured in part.
pub fn unmeasured(comments: &[String]) -> impl Iterator<Item = Unmeasured> {
    comments.iter().filter_map(|text| Unmeasured::parse(text))
}

/// `12.345` as ns.
fn nanoseconds(seconds: &str) -> Option<i64> {
    let (whole, part) = seconds.split_once('.')?;
    let milliseconds = (part.len() == 3).then_some(part)?.parse::<u16>().ok()?;
    let whole = i64::from(whole.parse::<u32>().ok()?);
    Some(whole * 1_000_000_000 + i64::from(milliseconds) * 1_000_000)
}

pub(super) const MAIN_THREAD: &str = "main thread: ";

/// The comment that tells the kernel id of the main thread, whatever that is called.
#[must_use]
pub fn main_thread(id: u64) -> String {
    format!("{MAIN_THREAD}{id}")
}

/// The ids of the main threads that `comments` tell, one for each process.
pub fn main_threads(comments: &[String]) -> impl Iterator<Item = i64> {
    comments
        .iter()
        .filter_map(|comment| comment.strip_prefix(MAIN_THREAD)?.parse().ok())
}

/// What begins the next comment.
pub(super) const JIT_IS_ON: &str = "jit: on; ";

/// The comment of a profile that was recorded while the interpreter's JIT was on.
///
/// Machine code of a trace updates the frame's instruction where it leaves the trace
/// (`Python/jit.c`, `_SET_IP` in `Python/bytecodes.c`, 3.14 and 3.15): in between, whoever reads
/// the frame sees an older one of the same function.
pub const JIT: &str = "jit: on; lines of hot loops may be wrong, functions are right";

/// Whether `comments` say that the JIT was on.
#[must_use]
pub fn has_jit(comments: &[String]) -> bool {
    comments
        .iter()
        .any(|comment| comment.starts_with(JIT_IS_ON))
}

#[cfg(test)]
mod tests {
    use super::{JIT, Unmeasured, has_jit, main_thread, main_threads};

    #[test]
    fn facts_come_back_as_they_were() {
        let fact = Unmeasured {
            name: "gil_wait".to_owned(),
            profiles: 1,
            of_profiles: 3,
            ns: 60_000_000_000,
            of_ns: 180_005_000_000,
        };
        let comment = fact.to_string();
        assert_eq!(
            comment,
            "gil_wait: not measured in 1 of 3 profiles, 60.000 s of 180.005 s"
        );
        assert_eq!(Unmeasured::parse(&comment), Some(fact));
        for other in [
            "engine: gil",
            "gil: not measured in 1 of 3 profiles, 60.0 s of 180.0 s",
            "gil: not measured in -1 of 3 profiles, 60.000 s of 180.000 s",
            "gil: not measured in 1 of 3 profiles, 60.000 s of 99999999999.000 s",
        ] {
            assert_eq!(Unmeasured::parse(other), None, "{other}");
        }
        let comments = [
            main_thread(7),
            JIT.to_owned(),
            "main thread: x".to_owned(),
            main_thread(9),
        ];
        assert_eq!(main_threads(&comments).collect::<Vec<_>>(), [7, 9]);
        assert!(has_jit(&comments) && !has_jit(&comments[2..]));
    }
}
