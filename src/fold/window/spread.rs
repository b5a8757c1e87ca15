//! What was spent under labels and not seen, spread over the stacks of a window.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::Window;
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Sample;
use crate::model::function::NOT_SAMPLED;
use crate::model::hashing::KeyedMap;
use crate::model::label::{
    LabelSet, LabelSetId, REQUEST_NUMBER, THREAD_CLASS, THREAD_ID, THREAD_NAME,
};
use crate::model::measure::MeasureId;

impl Window {
    /// Gives each set of labels in `left`, sorted by id, so much more of `id`: to its samples, in
    /// proportion to what they have there. Where it has none, to stacks under the same labels of the
    /// application in other threads, drawn in that proportion; where there are none either, where the
    /// application has said none, or where requests are kept apart, to `<not sampled>`.
    pub fn spread(&mut self, id: MeasureId, left: &[(LabelSetId, u64)]) {
        let Some(column) = self.measures.column(id) else {
            debug_assert!(left.is_empty(), "{id:?} is not measured in this window");
            return;
        };
        let width = self.columns.len();
        // Those of tasks belong to the labels without.
        let mut rows: FxHashMap<LabelSetId, Vec<(Sample, u64)>> = FxHashMap::default();
        for (at, sample) in self.samples.iter().enumerate() {
            if let Ok(value @ 1..) = u64::try_from(self.values[at * width + column]) {
                let labels = self.tasks.without(sample.labels);
                rows.entry(labels).or_default().push((*sample, value));
            }
        }
        let mut others: Option<KeyedMap<LabelSet, Vec<(NodeId, u64)>>> = None;
        for &(labels, amount) in left {
            let add = |window: &mut Self, node, labels, part: u64| {
                let amount = i64::try_from(part).unwrap_or(i64::MAX);
                window.add(node, labels, &[(id, amount)]);
            };
            if let Some(own) = rows.get(&labels) {
                for (sample, part) in divided(own, amount) {
                    add(self, sample.node, sample.labels, part);
                }
                continue;
            }
            let interner = &self.interner;
            let others = others.get_or_insert_with(|| {
                let mut others: KeyedMap<LabelSet, Vec<(NodeId, u64)>> = KeyedMap::default();
                for (labels, rows) in &rows {
                    let key = of_application(interner.label_set(*labels));
                    let rows = rows.iter().map(|(sample, value)| (sample.node, *value));
                    others.entry(key).or_default().extend(rows);
                }
                // The order of a hash table is nobody's.
                others.values_mut().for_each(|rows| rows.sort_unstable());
                others
            });
            let set = interner.label_set(labels);
            let is_apart = set.iter().any(|label| &*label.key == REQUEST_NUMBER);
            let said = of_application(set);
            let are_alike = !is_apart && !said.is_empty();
            match others.get(&said).filter(|_| are_alike) {
                Some(rows) => {
                    for (node, part) in drawn(rows, amount) {
                        add(self, node, labels, part);
                    }
                }
                None => {
                    let location = self.interner.pseudo(NOT_SAMPLED);
                    let node = self.step(NodeId::ROOT, location);
                    add(self, node, labels, amount);
                }
            }
        }
    }
}

/// What the application has said, among the labels of a thread.
fn of_application(labels: &LabelSet) -> LabelSet {
    let of_thread = [THREAD_ID, THREAD_NAME, THREAD_CLASS];
    let said = labels
        .iter()
        .filter(|label| !of_thread.contains(&&*label.key));
    said.cloned().collect()
}

/// Divides `amount` in proportion to the rows' values; the last gets what cannot be divided.
fn divided<Row: Copy>(rows: &[(Row, u64)], amount: u64) -> Vec<(Row, u64)> {
    let whole: u128 = rows.iter().map(|(_, value)| u128::from(*value)).sum();
    let mut passed: u128 = 0;
    let mut given = 0;
    let parts = rows.iter().map(|&(node, value)| {
        passed += u128::from(value);
        // Of what should have been given by now, what was not given yet.
        let due = u64::try_from(u128::from(amount) * passed / whole.max(1)).unwrap_or(amount);
        let part = due - given;
        given = due;
        (node, part)
    });
    parts.filter(|(_, part)| *part > 0).collect()
}

/// Divides `amount` among a few of many rows, drawn at even distances of their sum: none is
/// preferred, and a thread that no look has found does not bring a sample of its own for each stack
/// of all the others.
fn drawn(rows: &[(NodeId, u64)], amount: u64) -> Vec<(NodeId, u64)> {
    const DRAWS: u64 = 8;
    let whole: u64 = rows.iter().map(|(_, value)| value).sum();
    // As good as chance, and the same for the same window.
    let offset = amount % (whole / DRAWS).max(1);
    let mut ends = rows.iter().scan(0, |end, (node, value)| {
        *end += value;
        Some((*node, *end))
    });
    let mut current = ends.next();
    let mut chosen: Vec<(NodeId, u64)> = Vec::new();
    for draw in 0..DRAWS {
        let at = whole / DRAWS * draw + offset;
        while let Some((_, end)) = current
            && end <= at
        {
            current = ends.next();
        }
        let Some((node, _)) = current else {
            break;
        };
        match chosen.last_mut() {
            Some((last, weight)) if *last == node => *weight += 1,
            _ => chosen.push((node, 1)),
        }
    }
    divided(&chosen, amount)
}
