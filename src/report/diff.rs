//! Two profiles side by side.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Grouping;
use super::sums::sums;
use crate::fold::profile::Profile;
use crate::model::function::Function;
use crate::model::hashing::KeyedMap;

/// A function, or a line of one, in both profiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffRow {
    /// Name and file as the later profile has them, or the earlier one if it alone has them.
    pub function: Function,
    /// The line that was executing; the function's first one when rows are functions.
    pub line: u32,
    /// Self and total in the earlier profile.
    pub before: (i64, i64),
    /// Self and total in the later profile.
    pub after: (i64, i64),
}

/// Name, last part of the file's path, and line. Not the whole path, which differs between two
/// checkouts or two interpreters, and not the function's first line, which moves with every edit
/// above it.
type Key = (Arc<str>, Arc<str>, u32);

/// Rows of every function or line that has a value in either profile, in no particular order.
///
/// Columns are those of one sample type in each profile.
#[must_use]
pub fn diff(
    (before, before_column): (&Profile, usize),
    (after, after_column): (&Profile, usize),
    grouping: Grouping,
) -> Vec<DiffRow> {
    let mut table = Table {
        grouping,
        index: KeyedMap::default(),
        rows: Vec::new(),
    };
    // The later first: its names are the ones to show.
    let after_keys = table.keys(after);
    let before_keys = table.keys(before);
    let count = table.rows.len();
    let after = sums(after, after_column, &after_keys, count);
    let before = sums(before, before_column, &before_keys, count);
    let mut rows = table.rows;
    for (at, row) in rows.iter_mut().enumerate() {
        row.before = (before.own[at], before.total[at]);
        row.after = (after.own[at], after.total[at]);
    }
    rows.retain(|row| row.before != (0, 0) || row.after != (0, 0));
    rows
}

struct Table {
    grouping: Grouping,
    index: KeyedMap<Key, u32>,
    rows: Vec<DiffRow>,
}

impl Table {
    /// The row of each location.
    fn keys(&mut self, profile: &Profile) -> Vec<u32> {
        let files: Vec<Arc<str>> = profile
            .symbols
            .functions
            .iter()
            .map(|function| Arc::from(file_name(&function.file)))
            .collect();
        profile
            .symbols
            .locations
            .iter()
            .map(|location| {
                let at = location.function.0 as usize;
                let function = &profile.symbols.functions[at];
                let (key_line, line) = match self.grouping {
                    Grouping::Function => (0, function.first_line),
                    Grouping::Line => (location.line, location.line),
                };
                let next = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
                let key = (function.name.clone(), files[at].clone(), key_line);
                let row = *self.index.entry(key).or_insert(next);
                if row == next {
                    self.rows.push(DiffRow {
                        function: function.clone(),
                        line,
                        before: (0, 0),
                        after: (0, 0),
                    });
                }
                row
            })
            .collect()
    }
}

/// The last part of a path of either kind.
pub(super) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}
