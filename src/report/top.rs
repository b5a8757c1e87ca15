//! The heaviest functions.
#![forbid(unsafe_code)]

use super::sums::sums;
use crate::fold::profile::Profile;
use crate::model::function::Function;

/// One function's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The function.
    pub function: Function,
    /// Spent in the function itself.
    pub self_value: i64,
    /// Spent in it and in what it called; a recursive function counts once for each stack.
    pub total_value: i64,
}

/// All functions, heaviest own value first, then total, then by name.
#[must_use]
pub fn top(profile: &Profile, column: usize) -> Vec<Row> {
    let functions = &profile.symbols.functions;
    let keys: Vec<u32> = profile
        .symbols
        .locations
        .iter()
        .map(|location| location.function.0)
        .collect();
    let sums = sums(profile, column, &keys, functions.len());
    let mut rows: Vec<Row> = functions
        .iter()
        .zip(sums.own.iter().zip(&sums.total))
        .filter(|(_, (own, total))| **own != 0 || **total != 0)
        .map(|(function, (own, total))| Row {
            function: function.clone(),
            self_value: *own,
            total_value: *total,
        })
        .collect();
    rows.sort_by(|left, right| {
        (right.self_value, right.total_value)
            .cmp(&(left.self_value, left.total_value))
            .then_with(|| left.function.cmp(&right.function))
    });
    rows
}
