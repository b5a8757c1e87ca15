//! What a window takes from elsewhere: samples of files and of other profiles.
#![forbid(unsafe_code)]

use super::Window;
use crate::fold::call_tree::NodeId;
use crate::fold::profile::{self, Profile};
use crate::model::function::Function;
use crate::model::label::{LabelSet, LabelSetId};
use crate::model::location::{Location, LocationId, Mapping, MappingId, Origin};
use crate::model::measure::{self, Column, Kind, MeasureId, MeasureSet};

impl Window {
    /// Adds a value for each column to the stack of these functions and lines, outermost first.
    pub fn add_path<'function>(
        &mut self,
        path: impl Iterator<Item = (&'function Function, u32)>,
        labels: &LabelSet,
        values: &[i64],
    ) {
        let mut node = NodeId::ROOT;
        for (function, line) in path {
            let location = self.location(function, line, Origin::default());
            node = self.step(node, location);
        }
        let labels = self.labels(labels);
        self.add_row(node, labels, values);
    }

    /// The id of a function, a line in it, and where its code is, for [`Window::add_locations`].
    pub fn location(&mut self, function: &Function, line: u32, origin: Origin) -> LocationId {
        let function = self.interner.function(function);
        let origin = self.interner.origin(origin);
        self.interner.location(Location {
            function,
            line,
            origin,
        })
    }

    /// The id of a mapping; the first one is the program.
    pub fn mapping(&mut self, mapping: &Mapping) -> MappingId {
        self.interner.mapping(mapping)
    }

    /// Adds a value for each column to the stack of these locations of this window, outermost first.
    pub fn add_locations(
        &mut self,
        path: impl Iterator<Item = LocationId>,
        labels: &LabelSet,
        values: &[i64],
    ) {
        let node = path.fold(NodeId::ROOT, |node, location| self.step(node, location));
        let labels = self.labels(labels);
        self.add_row(node, labels, values);
    }

    /// Adds a value for each column to the sample of `node` and `labels`.
    fn add_row(&mut self, node: NodeId, labels: LabelSetId, values: &[i64]) {
        let range = self.values_of(node, labels);
        debug_assert_eq!(range.len(), values.len(), "a value for each column");
        profile::add(&mut self.values[range], values);
    }

    /// Has all of `columns` from now on, among which those until now must be; the samples until now
    /// have 0 in the others.
    pub fn widen(&mut self, columns: Vec<Column>) {
        let positions = measure::positions(&self.columns, &columns);
        let mut values = vec![0; self.samples.len() * columns.len()];
        let rows = self.values.chunks_exact(self.columns.len().max(1));
        for (wide, narrow) in values.chunks_exact_mut(columns.len().max(1)).zip(rows) {
            scatter(narrow, &positions, wide);
        }
        (self.columns, self.values) = (columns, values);
        self.measures = MeasureSet::default();
    }

    /// Adds the values of `other`, whose columns must be among this window's, with its levels or
    /// without. Returns the row here of each of its samples.
    pub fn absorb(&mut self, other: &Profile, with_levels: bool) -> Vec<usize> {
        // Of a profile of which samples were left out, only what the others use.
        let mut is_used = vec![false; other.tree.len()];
        for sample in &other.samples {
            is_used[sample.node.index()] = true;
        }
        for node in other.tree.nodes().rev() {
            if is_used[node.index()] {
                is_used[other.tree.parent(node).index()] = true;
            }
        }
        let mappings = self.absorb_mappings(&other.symbols.mappings);
        let mut locations: Vec<Option<LocationId>> = vec![None; other.symbols.locations.len()];
        let mut nodes = vec![NodeId::ROOT; other.tree.len()];
        for node in other.tree.nodes().filter(|node| is_used[node.index()]) {
            let at = other.tree.location(node).0 as usize;
            let location = locations[at].unwrap_or_else(|| {
                let location = other.symbols.locations[at];
                let function = &other.symbols.functions[location.function.0 as usize];
                let mut origin = other.symbols.origin_of(location);
                if origin.mapping != MappingId::NONE {
                    origin.mapping = mappings[origin.mapping.0 as usize];
                }
                self.location(function, location.line, origin)
            });
            locations[at] = Some(location);
            let parent = nodes[other.tree.parent(node).index()];
            nodes[node.index()] = self.step(parent, location);
        }
        let mut positions = measure::positions(&other.columns, &self.columns);
        for (position, column) in positions.iter_mut().zip(&other.columns) {
            *position = position.filter(|_| with_levels || column.kind() == Kind::Flow);
        }
        let mut wide = vec![0; self.columns.len()];
        let mut rows = Vec::with_capacity(other.samples.len());
        for (sample, values) in other.rows() {
            let labels = self.labels(&other.label_sets[sample.labels.0 as usize]);
            scatter(values, &positions, &mut wide);
            let range = self.values_of(nodes[sample.node.index()], labels);
            rows.push(range.start / self.columns.len().max(1));
            profile::add(&mut self.values[range], &wide);
        }
        rows
    }

    /// The ids here of the mappings of another profile, one at least. Programs that are no more than a
    /// name are all the same: what was recorded of Python code knows no other mapping.
    fn absorb_mappings(&mut self, others: &[Mapping]) -> Vec<MappingId> {
        let is_name = |mapping: Option<&Mapping>| mapping.is_none_or(Mapping::is_name);
        let other_main = others.first();
        if self.interner.mappings().is_empty() && !self.samples.is_empty() && !is_name(other_main) {
            // Frames until now are in none of these.
            self.interner.mapping(&Mapping::default());
        }
        let main = self.interner.mappings().first();
        let main = match other_main {
            Some(_) if is_name(other_main) && main.is_some_and(Mapping::is_name) => MappingId::MAIN,
            Some(mapping) => self.interner.mapping(mapping),
            None if is_name(main) => MappingId::MAIN,
            None => MappingId::NONE,
        };
        let rest = others.iter().skip(1);
        let rest = rest.map(|mapping| self.interner.mapping(mapping));
        std::iter::once(main).chain(rest).collect()
    }

    /// Takes from the sample in `row` so much of what is measured there.
    pub fn subtract(&mut self, row: usize, id: MeasureId, amount: i64) {
        let mut columns = self.columns.iter();
        let column = columns.position(|column| *column == Column::Known(id));
        if let Some(column) = column {
            let value = &mut self.values[row * self.columns.len() + column];
            *value = value.saturating_sub(amount);
        }
    }
}

/// Puts each of `values` at its position in `wide`.
fn scatter(values: &[i64], positions: &[Option<usize>], wide: &mut [i64]) {
    for (value, position) in values.iter().zip(positions) {
        if let Some(position) = position {
            wide[*position] = *value;
        }
    }
}
