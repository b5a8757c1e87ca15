//! A window: the bounded call tree that a recording grows between two rotations.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::call_tree::{GrowingTree, NodeId};
use super::interner::Interner;
use super::profile::{self, Profile, ProfileMeta, Sample};
use crate::model::function::{Function, INCOMPLETE, NO_PYTHON_FRAME, NOT_SAMPLED, OTHER, OVERFLOW};
use crate::model::label::{
    ActiveLabels, Label, LabelSet, LabelSetId, LabelValue, REQUEST_NUMBER, THREAD_CLASS, THREAD_ID,
    THREAD_NAME, thread_labels,
};
use crate::model::location::{FunctionId, Location, LocationId};
use crate::model::sample_type::{self, SampleType};
use crate::model::snapshot::{Frame, FunctionSerial, Snapshot};
use crate::model::stack::{Stack, elide, omitted_name};

/// Distinct threads, or other label sets, in one window; more share `<other>`.
const MAX_LABEL_SETS: usize = 10_000;
/// Distinct label sets of the application in one window; of more, the values are `<other>`.
const MAX_ACTIVE_LABEL_SETS: usize = 1_000;
/// Bytes of function and file names in one window; more overflow.
const MAX_SYMBOL_BYTES: usize = 32 << 20;

/// The limits a window keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Nodes of the call tree; new stacks beyond fold into `<overflow>`.
    pub max_nodes: usize,
    /// Frames of one stack; the middle of a deeper one is elided.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_nodes: 200_000,
            max_depth: 512,
        }
    }
}

/// A window that still grows.
#[derive(Debug)]
pub struct Window {
    limits: Limits,
    sample_types: Vec<SampleType>,
    default_sample_type: Arc<str>,
    interner: Interner,
    tree: GrowingTree,
    /// The engine's serials already interned here.
    serials: FxHashMap<FunctionSerial, FunctionId>,
    samples: Vec<Sample>,
    sample_rows: FxHashMap<Sample, usize>,
    values: Vec<i64>,
    overflowed: u64,
    max_label_sets: usize,
    max_symbol_bytes: usize,
    /// What the application has set in this window.
    active_sets: HashSet<Arc<LabelSet>>,
}

/// What the labels of a thread's sample are made of.
#[derive(Clone, Copy, Debug)]
pub struct ThreadLabels<'thread> {
    /// The kernel's id.
    pub id: u64,
    /// Its name.
    pub name: &'thread str,
    /// What the application said.
    pub active: Option<&'thread ActiveLabels>,
    /// `request` or `background`, where there are requests.
    pub class: Option<&'static str>,
    /// Whether samples of different requests are kept apart.
    pub with_request: bool,
}

impl Window {
    /// An empty window for what the sampler measures, with or without the GIL.
    #[must_use]
    pub fn new(limits: Limits, knows_gil: bool) -> Self {
        Self::with_types(
            limits,
            sample_type::sampled(knows_gil),
            Arc::from(sample_type::DEFAULT),
        )
    }

    /// An empty window for other sample types.
    #[must_use]
    pub fn with_types(
        limits: Limits,
        sample_types: Vec<SampleType>,
        default_sample_type: Arc<str>,
    ) -> Self {
        Self {
            limits,
            sample_types,
            default_sample_type,
            interner: Interner::default(),
            tree: GrowingTree::default(),
            serials: FxHashMap::default(),
            samples: Vec::new(),
            sample_rows: FxHashMap::default(),
            values: Vec::new(),
            overflowed: 0,
            max_label_sets: MAX_LABEL_SETS,
            max_symbol_bytes: MAX_SYMBOL_BYTES,
            active_sets: HashSet::new(),
        }
    }

    /// An empty window without bounds on names and labels, for content that is bounded already.
    #[must_use]
    pub fn unbounded(
        limits: Limits,
        sample_types: Vec<SampleType>,
        default_sample_type: Arc<str>,
    ) -> Self {
        Self {
            max_label_sets: usize::MAX,
            max_symbol_bytes: usize::MAX,
            ..Self::with_types(limits, sample_types, default_sample_type)
        }
    }

    /// Adds `values` to the stack of these functions and lines, outermost first.
    pub fn add_path<'function>(
        &mut self,
        path: impl Iterator<Item = (&'function Function, u32)>,
        labels: &LabelSet,
        values: &[i64],
    ) {
        let mut node = NodeId::ROOT;
        for (function, line) in path {
            let location = self.location(function, line);
            node = self.step(node, location);
        }
        let labels = self.labels(labels);
        self.add(node, labels, values);
    }

    /// The id of a function and a line in it, for [`Window::add_locations`].
    pub fn location(&mut self, function: &Function, line: u32) -> LocationId {
        let function = self.interner.function(function);
        self.interner.location(Location { function, line })
    }

    /// Adds `values` to the stack of these locations of this window, outermost first.
    pub fn add_locations(
        &mut self,
        path: impl Iterator<Item = LocationId>,
        labels: &LabelSet,
        values: &[i64],
    ) {
        let node = path.fold(NodeId::ROOT, |node, location| self.step(node, location));
        let labels = self.labels(labels);
        self.add(node, labels, values);
    }

    /// The node of `stack`, made if need be and elided if too deep.
    pub fn node_of(&mut self, stack: &Stack, snapshot: &Snapshot) -> NodeId {
        let frames = &stack.frames;
        let elision = elide(frames.len(), self.limits.max_depth);
        let mut node = NodeId::ROOT;
        if stack.incomplete || frames.is_empty() {
            let name = if stack.incomplete {
                INCOMPLETE
            } else {
                NO_PYTHON_FRAME
            };
            let location = self.interner.pseudo(name);
            node = self.step(node, location);
        }
        for (depth, frame) in frames.iter().enumerate().rev() {
            if let Some(cut) = elision
                && depth >= cut.leaf
                && depth < cut.leaf + cut.omitted
            {
                if depth == cut.leaf {
                    let location = self.interner.pseudo(&omitted_name(cut.omitted));
                    node = self.step(node, location);
                }
                continue;
            }
            let location = self.location_of(*frame, snapshot);
            node = self.step(node, location);
        }
        node
    }

    /// The id of a thread's labels and of those it works under; `<other>` when there are too many.
    pub fn thread(&mut self, thread: &ThreadLabels<'_>) -> LabelSetId {
        let labels = self.labels_of(thread);
        self.labels(&labels)
    }

    /// Calls the thread of these labels by its name, which was not known.
    pub fn call_thread(&mut self, labels: LabelSetId, name: &str) -> LabelSetId {
        let mut better = self.interner.label_set(labels).clone();
        let said = better.iter_mut().find(|label| &*label.key == THREAD_NAME);
        if let Some(said) = said {
            said.value = LabelValue::Text(Arc::from(name));
        }
        self.interner.relabel(labels, better)
    }

    /// The labels of a sample of a thread: its own, its class, and what the application set.
    fn labels_of(&mut self, thread: &ThreadLabels<'_>) -> LabelSet {
        let mut labels = thread_labels(thread.id, thread.name);
        let mut add = |key: &str, value: LabelValue| {
            let key = Arc::from(key);
            labels.push(Label { key, value });
        };
        if let Some(class) = thread.class {
            add(THREAD_CLASS, LabelValue::Text(Arc::from(class)));
        }
        if let Some(active) = thread.active {
            if thread.with_request && active.request != 0 {
                let number = i64::try_from(active.request).unwrap_or(i64::MAX);
                add(REQUEST_NUMBER, LabelValue::Number(number, Arc::from("")));
            }
            let is_known = self.active_sets.contains(&active.set);
            let has_room = is_known || self.active_sets.len() < MAX_ACTIVE_LABEL_SETS;
            if has_room && !is_known {
                self.active_sets.insert(active.set.clone());
            }
            for label in active.set.iter() {
                let value = if has_room {
                    label.value.clone()
                } else {
                    LabelValue::Text(Arc::from(OTHER))
                };
                labels.push(Label {
                    key: label.key.clone(),
                    value,
                });
            }
        }
        labels
    }

    /// The id of `labels`, or of `<other>` when there are too many.
    pub fn labels(&mut self, labels: &LabelSet) -> LabelSetId {
        if self.interner.label_set_count() >= self.max_label_sets || !self.has_room() {
            return self.interner.labels(&thread_labels(0, OTHER));
        }
        self.interner.labels(labels)
    }

    /// Adds `values` to the sample of `node` and `labels`.
    pub fn add(&mut self, node: NodeId, labels: LabelSetId, values: &[i64]) {
        let mut sample = Sample { node, labels };
        if !self.sample_rows.contains_key(&sample)
            && (self.samples.len() >= 2 * self.limits.max_nodes || !self.has_room())
        {
            self.overflowed += 1;
            sample = Sample {
                node: self.overflow_node(),
                labels: self.interner.labels(&thread_labels(0, OTHER)),
            };
        }
        let next = self.samples.len();
        let row = *self.sample_rows.entry(sample).or_insert(next);
        let width = self.sample_types.len();
        if row == next {
            self.samples.push(sample);
            self.values.resize((next + 1) * width, 0);
        }
        profile::add(&mut self.values[row * width..(row + 1) * width], values);
    }

    /// Gives each set of labels in `left`, sorted by id, so much more in `column`: to its samples, in
    /// proportion to what they have there. Where it has none, to stacks under the same labels of the
    /// application in other threads, drawn in that proportion; where there are none either, or where
    /// requests are kept apart, to `<not sampled>`.
    pub fn spread(&mut self, column: usize, left: &[(LabelSetId, u64)]) {
        let width = self.sample_types.len();
        let mut rows: FxHashMap<LabelSetId, Vec<(NodeId, u64)>> = FxHashMap::default();
        for (at, sample) in self.samples.iter().enumerate() {
            if let Ok(value @ 1..) = u64::try_from(self.values[at * width + column]) {
                let known = rows.entry(sample.labels).or_default();
                known.push((sample.node, value));
            }
        }
        let mut others: Option<HashMap<LabelSet, Vec<(NodeId, u64)>>> = None;
        for &(labels, amount) in left {
            let mut values = vec![0; width];
            let mut add = |window: &mut Self, node, part: u64| {
                values[column] = i64::try_from(part).unwrap_or(i64::MAX);
                window.add(node, labels, &values);
            };
            if let Some(own) = rows.get(&labels) {
                for (node, part) in divided(own, amount) {
                    add(self, node, part);
                }
                continue;
            }
            let interner = &self.interner;
            let others = others.get_or_insert_with(|| {
                let mut others: HashMap<LabelSet, Vec<(NodeId, u64)>> = HashMap::new();
                for (labels, rows) in &rows {
                    let key = of_application(interner.label_set(*labels));
                    others.entry(key).or_default().extend(rows);
                }
                // The order of a hash table is nobody's.
                others.values_mut().for_each(|rows| rows.sort_unstable());
                others
            });
            let set = interner.label_set(labels);
            let is_apart = set.iter().any(|label| &*label.key == REQUEST_NUMBER);
            match others.get(&of_application(set)).filter(|_| !is_apart) {
                Some(rows) => {
                    for (node, part) in drawn(rows, amount) {
                        add(self, node, part);
                    }
                }
                None => {
                    let location = self.interner.pseudo(NOT_SAMPLED);
                    let node = self.step(NodeId::ROOT, location);
                    add(self, node, amount);
                }
            }
        }
    }

    /// What is measured.
    #[must_use]
    pub fn sample_types(&self) -> &[SampleType] {
        &self.sample_types
    }

    /// Measures all of `types` from now on, among which those until now must be; the samples until
    /// now have 0 in the others.
    pub fn widen(&mut self, types: Vec<SampleType>) {
        let places = sample_type::places(&self.sample_types, &types);
        let mut values = vec![0; self.samples.len() * types.len()];
        let rows = self.values.chunks_exact(self.sample_types.len().max(1));
        for (wide, narrow) in values.chunks_exact_mut(types.len().max(1)).zip(rows) {
            scatter(narrow, &places, wide);
        }
        (self.sample_types, self.values) = (types, values);
    }

    /// Adds all samples of `other`, whose sample types must be among this window's.
    pub fn absorb(&mut self, other: &Profile) {
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
        let mut locations: Vec<Option<LocationId>> = vec![None; other.symbols.locations.len()];
        let mut nodes = vec![NodeId::ROOT; other.tree.len()];
        for node in other.tree.nodes().filter(|node| is_used[node.index()]) {
            let at = other.tree.location(node).0 as usize;
            let location = locations[at].unwrap_or_else(|| {
                let location = &other.symbols.locations[at];
                let function = &other.symbols.functions[location.function.0 as usize];
                self.location(function, location.line)
            });
            locations[at] = Some(location);
            let parent = nodes[other.tree.parent(node).index()];
            nodes[node.index()] = self.step(parent, location);
        }
        let places = sample_type::places(&other.sample_types, &self.sample_types);
        let mut wide = vec![0; self.sample_types.len()];
        for (sample, values) in other.rows() {
            let labels = self.labels(&other.label_sets[sample.labels.0 as usize]);
            scatter(values, &places, &mut wide);
            self.add(nodes[sample.node.index()], labels, &wide);
        }
    }

    /// How many stacks or samples were folded into `<overflow>`.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Whether nothing was added yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.interner.bytes()
            + self.tree.bytes()
            + self.samples.capacity() * 3 * size_of::<Sample>()
            + self.values.capacity() * size_of::<i64>()
    }

    /// The finished profile.
    #[must_use]
    pub fn finish(self, meta: ProfileMeta) -> Profile {
        let (symbols, label_sets) = self.interner.into_tables();
        Profile {
            sample_types: self.sample_types,
            default_sample_type: self.default_sample_type,
            symbols,
            tree: self.tree.into_tree(),
            label_sets,
            samples: self.samples,
            values: self.values,
            meta,
        }
    }

    fn location_of(&mut self, frame: Frame, snapshot: &Snapshot) -> LocationId {
        let function = match self.serials.get(&frame.function).copied() {
            Some(function) => function,
            None if self.is_full() => return self.interner.pseudo(OVERFLOW),
            None => match snapshot.function(frame.function) {
                Some(function) => {
                    let id = self.interner.function(function);
                    self.serials.insert(frame.function, id);
                    id
                }
                None => return self.interner.pseudo(INCOMPLETE),
            },
        };
        self.interner.location(Location {
            function,
            line: frame.line,
        })
    }

    fn is_full(&mut self) -> bool {
        self.tree.len() >= self.limits.max_nodes
            || self.interner.bytes() >= self.max_symbol_bytes
            || !self.has_room()
    }

    /// Whether there is memory for more of everything, `<overflow>` included.
    fn has_room(&mut self) -> bool {
        const SPARE: usize = 8;
        self.tree.has_room(SPARE)
            && self.interner.has_room(SPARE)
            && self.serials.try_reserve(SPARE).is_ok()
            && self.samples.try_reserve(SPARE).is_ok()
            && self.sample_rows.try_reserve(SPARE).is_ok()
            && self
                .values
                .try_reserve(SPARE * self.sample_types.len())
                .is_ok()
    }

    /// The child of `parent` at `location`; `<overflow>` once the limits are reached.
    fn step(&mut self, parent: NodeId, location: LocationId) -> NodeId {
        if let Some(node) = self.tree.existing_child(parent, location) {
            return node;
        }
        if self.is_full() {
            let overflow = self.overflow_node();
            if parent != overflow {
                self.overflowed += 1;
            }
            return overflow;
        }
        self.tree.child(parent, location)
    }

    /// `<overflow>` hangs directly below the root: an edge from a real caller would be invented.
    fn overflow_node(&mut self) -> NodeId {
        let location = self.interner.pseudo(OVERFLOW);
        self.tree.child(NodeId::ROOT, location)
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
fn divided(rows: &[(NodeId, u64)], amount: u64) -> Vec<(NodeId, u64)> {
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

/// Puts each of `values` at its place in `wide`.
fn scatter(values: &[i64], places: &[Option<usize>], wide: &mut [i64]) {
    for (value, place) in values.iter().zip(places) {
        if let Some(place) = place {
            wide[*place] = *value;
        }
    }
}
