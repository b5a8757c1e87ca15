//! The heaviest functions or lines.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::Grouping;
use super::sums::sums;
use crate::fold::profile::Profile;
use crate::model::function::Function;

/// The share of one function, or of one line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The function.
    pub function: Function,
    /// The line that was executing; the function's first one when rows are functions.
    pub line: u32,
    /// Spent there itself.
    pub self_value: i64,
    /// Spent there and in what was called there; recursion counts once for each stack.
    pub total_value: i64,
}

/// All functions or lines, heaviest own value first, then total, then by name. Of a difference what
/// became more and what became less count alike, as `go tool pprof` has it.
#[must_use]
pub fn top(profile: &Profile, column: usize, grouping: Grouping) -> Vec<Row> {
    let functions = &profile.symbols.functions;
    let mut rows: Vec<Row> = Vec::new();
    let mut index = FxHashMap::default();
    let keys: Vec<u32> = profile
        .symbols
        .locations
        .iter()
        .map(|location| {
            let function = &functions[location.function.0 as usize];
            let line = match grouping {
                Grouping::Function => function.first_line,
                Grouping::Line => location.line,
            };
            let next = u32::try_from(rows.len()).unwrap_or(u32::MAX);
            let row = *index.entry((location.function, line)).or_insert(next);
            if row == next {
                rows.push(Row {
                    function: function.clone(),
                    line,
                    self_value: 0,
                    total_value: 0,
                });
            }
            row
        })
        .collect();
    let sums = sums(profile, column, &keys, rows.len());
    for (row, (own, total)) in rows.iter_mut().zip(sums.own.iter().zip(&sums.total)) {
        (row.self_value, row.total_value) = (*own, *total);
    }
    rows.retain(|row| row.self_value != 0 || row.total_value != 0);
    rows.sort_by(|left, right| {
        let weight = |row: &Row| {
            (
                row.self_value.unsigned_abs(),
                row.total_value.unsigned_abs(),
            )
        };
        (weight(right).cmp(&weight(left)))
            .then_with(|| (&left.function, left.line).cmp(&(&right.function, right.line)))
    });
    rows
}
