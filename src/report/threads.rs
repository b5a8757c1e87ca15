//! What each thread used.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use crate::fold::profile::{Profile, add};
use crate::model::label::thread_of;

/// Thread id, thread name, and the sum of each column.
pub type ThreadTotals = (i64, String, Vec<i64>);

/// One row for each thread, heaviest in the default sample type first; of a difference, what
/// changed most.
#[must_use]
pub fn thread_totals(profile: &Profile) -> Vec<ThreadTotals> {
    let mut rows: Vec<ThreadTotals> = Vec::new();
    let mut index: FxHashMap<(i64, Cow<'_, str>), usize> = FxHashMap::default();
    for (sample, values) in profile.rows() {
        let (id, name) = thread_of(&profile.label_sets[sample.labels.0 as usize]);
        let row = *index.entry((id, name.clone())).or_insert_with(|| {
            rows.push((id, name.into_owned(), vec![0; profile.columns.len()]));
            rows.len() - 1
        });
        add(&mut rows[row].2, values);
    }
    let column = profile.column(&profile.default_sample_type).unwrap_or(0);
    rows.sort_by(|left, right| {
        (right.2[column].unsigned_abs())
            .cmp(&left.2[column].unsigned_abs())
            .then_with(|| (left.0, &left.1).cmp(&(right.0, &right.1)))
    });
    rows
}
