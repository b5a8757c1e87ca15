//! A profile: the finished, immutable result of a recording or of reading a file.

use std::sync::Arc;

use super::call_tree::{CallTree, NodeId};
use crate::model::function::Function;
use crate::model::label::{Label, LabelSet, LabelSetId, LabelValue};
use crate::model::location::{Location, LocationId, Mapping, Origin, Symbols};
use crate::model::measure::{self, Column, MeasureId, MeasureSet};

/// What a profile says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileMeta {
    /// Start, in ns since the Unix epoch.
    pub time_ns: i64,
    /// Length in ns.
    pub duration_ns: i64,
    /// Asked time between two samples of one thread in ns; 0 when unknown. Of a foreign profile so
    /// much of [`Self::period_type`].
    pub period_ns: i64,
    /// What the period is of, if the profile tells.
    pub period_type: Option<Column>,
    /// What ran: the file of the first mapping.
    pub program: String,
    /// Engine, rates and counters in words.
    pub comments: Vec<String>,
    /// An expression: functions that readers leave out, with all that these called.
    pub drop_frames: String,
    /// Those of them that they do not leave out.
    pub keep_frames: String,
    /// Where the profile is explained.
    pub doc_url: String,
}

/// One stack with its labels; its values stand in the profile's value columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// The leaf of the stack.
    pub node: NodeId,
    /// The labels.
    pub labels: LabelSetId,
}

/// A call tree with values.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Meaning of each value, in order.
    pub columns: Vec<Column>,
    /// The sample type a reader opens on.
    pub default_sample_type: Arc<str>,
    /// Functions and locations.
    pub symbols: Symbols,
    /// All stacks.
    pub tree: CallTree,
    /// By [`LabelSetId`].
    pub label_sets: Vec<LabelSet>,
    /// Distinct (stack, labels) pairs.
    pub samples: Vec<Sample>,
    /// `columns.len()` values for each sample, in sample order.
    pub values: Vec<i64>,
    /// Time, period, comments.
    pub meta: ProfileMeta,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            columns: Column::all_of(MeasureSet::TIMES),
            default_sample_type: Arc::from(measure::DEFAULT),
            symbols: Symbols::default(),
            tree: CallTree::default(),
            label_sets: Vec::new(),
            samples: Vec::new(),
            values: Vec::new(),
            meta: ProfileMeta::default(),
        }
    }
}

impl Profile {
    /// Samples with their values.
    pub fn rows(&self) -> impl Iterator<Item = (Sample, &[i64])> {
        self.samples
            .iter()
            .copied()
            .zip(self.values.chunks_exact(self.columns.len().max(1)))
    }

    /// An estimate of the memory held, in bytes; names are shared with the engine.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let labels: usize = self.label_sets.iter().map(Vec::len).sum();
        size_of::<Self>()
            + self.symbols.functions.len() * size_of::<Function>()
            + self.symbols.locations.len() * size_of::<Location>()
            + self.symbols.origins.len() * size_of::<Origin>()
            + self.symbols.mappings.len() * size_of::<Mapping>()
            + self.tree.len() * size_of::<(NodeId, LocationId)>()
            + self.label_sets.len() * size_of::<LabelSet>()
            + labels * (size_of::<Label>() + 32)
            + self.samples.len() * size_of::<Sample>()
            + self.values.len() * size_of::<i64>()
    }

    /// Where the column called `name`, now or before, is.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        let called = |name: &str| self.columns.iter().position(|column| column.name() == name);
        called(name).or_else(|| called(measure::present_name(name)))
    }

    /// The sum of each column over all samples, whatever their order; the nearest there is if it is
    /// none that fits.
    #[must_use]
    pub fn totals(&self) -> Vec<i64> {
        let mut totals = vec![0_i128; self.columns.len()];
        for (_, values) in self.rows() {
            for (total, value) in totals.iter_mut().zip(values) {
                *total += i128::from(*value);
            }
        }
        let nearest = |total: i128| if total < 0 { i64::MIN } else { i64::MAX };
        let totals = totals.into_iter();
        totals
            .map(|total| i64::try_from(total).unwrap_or_else(|_| nearest(total)))
            .collect()
    }

    /// How much each column is without regard to signs: what shares are shares of. The same as
    /// [`Self::totals`] but for a difference, where it is as `go tool pprof` has it: the sum of all
    /// changes or, where the file has the samples of what came before (`-diff_base`), the sum of
    /// those.
    #[must_use]
    pub fn magnitudes(&self) -> Vec<i64> {
        let width = self.columns.len();
        let (mut all, mut base) = (vec![0_i64; width], vec![0_i64; width]);
        let is_base: Vec<bool> = self.label_sets.iter().map(is_diff_base).collect();
        for (sample, values) in self.rows() {
            let sizes: Vec<i64> = values.iter().map(|value| value.saturating_abs()).collect();
            add(&mut all, &sizes);
            if is_base[sample.labels.0 as usize] {
                add(&mut base, &sizes);
            }
        }
        let chosen = all.into_iter().zip(base);
        chosen
            .map(|(all, base)| if base > 0 { base } else { all })
            .collect()
    }

    /// Whether a column has a value below 0, as only a difference of two profiles has.
    #[must_use]
    pub fn is_difference(&self, column: usize) -> bool {
        self.rows().any(|(_, values)| values[column] < 0)
    }

    /// One column without its signs, summed by node.
    #[must_use]
    pub fn self_magnitudes(&self, column: usize) -> Vec<i64> {
        let mut by_node = vec![0_i64; self.tree.len()];
        for (sample, values) in self.rows() {
            let cell = &mut by_node[sample.node.index()];
            *cell = cell.saturating_add(values[column].saturating_abs());
        }
        by_node
    }

    /// One column summed by node, all labels together.
    #[must_use]
    pub fn self_values(&self, column: usize) -> Vec<i64> {
        let mut by_node = vec![0_i64; self.tree.len()];
        for (sample, values) in self.rows() {
            let cell = &mut by_node[sample.node.index()];
            *cell = cell.saturating_add(values[column]);
        }
        by_node
    }

    /// For each node its own value and those of all it called.
    #[must_use]
    pub fn total_values(&self, column: usize) -> Vec<i64> {
        self.with_callees(self.self_values(column))
    }

    /// Adds to what belongs to each node what belongs to all it called.
    #[must_use]
    pub fn with_callees(&self, mut by_node: Vec<i64>) -> Vec<i64> {
        for node in self.tree.nodes().rev() {
            let value = by_node[node.index()];
            let parent = &mut by_node[self.tree.parent(node).index()];
            *parent = parent.saturating_add(value);
        }
        by_node
    }

    /// The same profile with only those samples whose labels `keep` accepts.
    ///
    /// Stacks that no sample uses any more stay in the tree, where they cost nothing to a reader.
    #[must_use]
    pub fn filtered(&self, mut keep: impl FnMut(&LabelSet) -> bool) -> Self {
        let kept: Vec<bool> = self.label_sets.iter().map(&mut keep).collect();
        self.only(|sample| kept[sample.labels.0 as usize])
    }

    /// The same profile with only the stacks that have one of the functions of `focus` in them
    /// (`None`: any) and none of `ignore`; both by position in the table of functions.
    #[must_use]
    pub fn only_stacks(&self, focus: Option<&[bool]>, ignore: &[bool]) -> Self {
        let has = |table: &[bool], position: usize| table.get(position).copied().unwrap_or(false);
        let mut kept = vec![(focus.is_none(), true); self.tree.len()];
        for node in self.tree.nodes() {
            let (focused, shown) = kept[self.tree.parent(node).index()];
            let location = self.symbols.location(self.tree.location(node));
            let position = location.function.0 as usize;
            kept[node.index()] = (
                focused || focus.is_some_and(|focus| has(focus, position)),
                shown && !has(ignore, position),
            );
        }
        self.only(|sample| kept[sample.node.index()] == (true, true))
    }

    /// The same profile without a measure.
    #[must_use]
    pub fn without(mut self, id: MeasureId) -> Self {
        let width = self.columns.len();
        let mut columns = self.columns.iter();
        if let Some(column) = columns.position(|column| *column == Column::Known(id)) {
            self.columns.remove(column);
            let mut at = 0..;
            self.values
                .retain(|_| at.next().is_some_and(|at: usize| at % width != column));
        }
        self
    }

    fn only(&self, keep: impl Fn(Sample) -> bool) -> Self {
        let mut filtered = Self {
            samples: Vec::new(),
            values: Vec::new(),
            ..self.clone()
        };
        for (sample, values) in self.rows() {
            if keep(sample) {
                filtered.samples.push(sample);
                filtered.values.extend_from_slice(values);
            }
        }
        filtered
    }
}

/// Whether samples of these labels are what `go tool pprof -diff_base` subtracted.
fn is_diff_base(labels: &LabelSet) -> bool {
    labels.iter().any(|label| {
        &*label.key == "pprof::base"
            && matches!(&label.value, LabelValue::Text(text) if &**text == "true")
    })
}

/// Adds `values` to `sums`, element by element.
pub fn add(sums: &mut [i64], values: &[i64]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum = sum.saturating_add(*value);
    }
}
