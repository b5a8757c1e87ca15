//! A window: the bounded call tree that a recording grows between two rotations.

mod absorb;
mod labels;
mod spread;
mod tasks;

pub use labels::ThreadLabels;

use labels::Mark;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::call_tree::{GrowingTree, NodeId};
use super::charge::{Charge, Fold};
use super::interner::Interner;
use super::profile::{Profile, ProfileMeta, Sample};
use crate::model::function::{INCOMPLETE, NO_PYTHON_FRAME, OTHER, OVERFLOW};
use crate::model::hashing::KeyedSet;
use crate::model::label::{LabelSet, LabelSetId, thread_labels};
use crate::model::location::{FunctionId, Location, LocationId, Mapping, OriginId};
use crate::model::lock::LockName;
use crate::model::measure::{self, Column, MeasureId, MeasureSet};
use crate::model::off_cpu::OffCpu;
use crate::model::stack::{Frame, FunctionSerial, FunctionTable, Stack, elide, omitted_name};
use crate::model::task::RequestPart;
use tasks::TaskLabels;

/// Distinct threads, or other label sets, in one window; more share `<other>`.
const MAX_LABEL_SETS: usize = 10_000;
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
    columns: Vec<Column>,
    /// What can be charged here; nothing where the columns are those of a file.
    measures: MeasureSet,
    default_sample_type: Arc<str>,
    interner: Interner,
    tree: GrowingTree,
    /// The engine's serials already interned here.
    serials: FxHashMap<FunctionSerial, FunctionId>,
    /// The engine's frames already interned here.
    frames: FxHashMap<Frame, LocationId>,
    /// The stack that was asked for last, root first, as far as its nodes will not change.
    last_path: Vec<(Frame, NodeId)>,
    samples: Vec<Sample>,
    sample_rows: FxHashMap<Sample, usize>,
    values: Vec<i64>,
    overflowed: u64,
    max_label_sets: usize,
    max_symbol_bytes: usize,
    /// What the application has set in this window.
    active_sets: KeyedSet<Arc<LabelSet>>,
    /// Label sets with a mark, by the set without it and the mark.
    marked: FxHashMap<(LabelSetId, Mark), LabelSetId>,
    /// Label sets with the name of a task.
    tasks: TaskLabels,
}

impl Window {
    /// An empty window for what is measured.
    #[must_use]
    pub fn new(limits: Limits, measures: MeasureSet) -> Self {
        let columns = Column::all_of(measures);
        Self {
            measures,
            ..Self::with_columns(limits, columns, Arc::from(measure::DEFAULT))
        }
    }

    /// An empty window for the columns of a file.
    #[must_use]
    pub fn with_columns(
        limits: Limits,
        columns: Vec<Column>,
        default_sample_type: Arc<str>,
    ) -> Self {
        Self {
            limits,
            columns,
            measures: MeasureSet::default(),
            default_sample_type,
            interner: Interner::default(),
            tree: GrowingTree::default(),
            serials: FxHashMap::default(),
            frames: FxHashMap::default(),
            last_path: Vec::new(),
            samples: Vec::new(),
            sample_rows: FxHashMap::default(),
            values: Vec::new(),
            overflowed: 0,
            max_label_sets: MAX_LABEL_SETS,
            max_symbol_bytes: MAX_SYMBOL_BYTES,
            active_sets: KeyedSet::default(),
            marked: FxHashMap::default(),
            tasks: TaskLabels::default(),
        }
    }

    /// An empty window without bounds on names and labels, for content that is bounded already.
    #[must_use]
    pub fn unbounded(limits: Limits, columns: Vec<Column>, default_sample_type: Arc<str>) -> Self {
        Self {
            max_label_sets: usize::MAX,
            max_symbol_bytes: usize::MAX,
            ..Self::with_columns(limits, columns, default_sample_type)
        }
    }

    /// The node of `stack`, made if need be and elided if too deep.
    pub fn node_of(&mut self, stack: &Stack, functions: &FunctionTable) -> NodeId {
        let frames = &stack.frames;
        let elision = elide(frames.len(), self.limits.max_depth);
        if elision.is_none() && !stack.incomplete && !frames.is_empty() {
            return self.node_below_root(frames, functions);
        }
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
            let (Ok(location) | Err(location)) = self.location_of(*frame, functions);
            node = self.step(node, location);
        }
        node
    }

    /// The node of a whole stack. Threads of a pool have their outer frames in common, and are asked
    /// for one after the other: as far as a stack is like the last one its nodes are known.
    fn node_below_root(&mut self, frames: &[Frame], functions: &FunctionTable) -> NodeId {
        let root_first = frames.iter().rev();
        let pairs = root_first.clone().zip(&self.last_path);
        let common = pairs
            .take_while(|(frame, (known, _))| *frame == known)
            .count();
        self.last_path.truncate(common);
        let mut node = self
            .last_path
            .last()
            .map_or(NodeId::ROOT, |(_, node)| *node);
        let overflowed = self.overflowed;
        let mut is_lasting = true;
        for frame in root_first.skip(common) {
            let found = self.location_of(*frame, functions);
            let (Ok(location) | Err(location)) = found;
            node = self.step(node, location);
            is_lasting = is_lasting && found.is_ok() && self.overflowed == overflowed;
            if is_lasting {
                self.last_path.push((*frame, node));
            }
        }
        node
    }

    /// Adds so much of each of these measures to the sample of `node` and `labels`. What the window
    /// does not measure is refused: it has no place, and another one's would be a lie.
    pub fn add(&mut self, node: NodeId, labels: LabelSetId, amounts: &[(MeasureId, i64)]) {
        let values = self.values_of(node, labels);
        let (start, measures) = (values.start, self.measures);
        for &(id, amount) in amounts {
            let column = measures.column(id);
            debug_assert!(column.is_some(), "{id:?} is not measured in this window");
            if let Some(column) = column {
                let value = &mut self.values[start + column];
                *value = value.saturating_add(amount);
            }
        }
    }

    /// What can be charged here.
    #[must_use]
    pub fn measures(&self) -> MeasureSet {
        self.measures
    }

    /// Where the values of the sample of `node` and `labels` are, which is made if need be.
    #[inline]
    fn values_of(&mut self, node: NodeId, labels: LabelSetId) -> Range<usize> {
        let sample = Sample { node, labels };
        let row = match self.sample_rows.get(&sample) {
            Some(row) => *row,
            None => self.new_row(sample),
        };
        let width = self.columns.len();
        row * width..(row + 1) * width
    }

    /// The row of a sample that has none yet; that of `<overflow>` once the limits are reached.
    #[cold]
    fn new_row(&mut self, mut sample: Sample) -> usize {
        if self.samples.len() >= 2 * self.limits.max_nodes || !self.has_room() {
            self.overflowed += 1;
            sample = Sample {
                node: self.overflow_node(),
                labels: self.interner.labels(&thread_labels(0, OTHER)),
            };
        }
        let next = self.samples.len();
        let row = *self.sample_rows.entry(sample).or_insert(next);
        if row == next {
            self.samples.push(sample);
            self.values.resize((next + 1) * self.columns.len(), 0);
        }
        row
    }

    /// What the values of its samples are.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
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
            + self.frames.capacity() * (size_of::<(Frame, LocationId)>() + 1)
            + self.samples.capacity() * 3 * size_of::<Sample>()
            + self.values.capacity() * size_of::<i64>()
    }

    /// The finished profile.
    #[must_use]
    pub fn finish(mut self, mut meta: ProfileMeta) -> Profile {
        if self.measures != MeasureSet::default() {
            // Recorded here.
            self.interner.mapping(&Mapping::of_program(&meta.program));
            let wall = Some(MeasureId::Wall).filter(|id| self.measures.contains(*id));
            meta.period_type = wall.map(Column::Known);
        }
        self.unite();
        let (symbols, label_sets) = self.interner.into_tables();
        Profile {
            columns: self.columns,
            default_sample_type: self.default_sample_type,
            symbols,
            tree: self.tree.into_tree(),
            label_sets,
            samples: self.samples,
            values: self.values,
            meta,
        }
    }

    /// The location of a frame; a pseudo-frame's as an error, for then it may be another one later.
    fn location_of(
        &mut self,
        frame: Frame,
        functions: &FunctionTable,
    ) -> Result<LocationId, LocationId> {
        if let Some(location) = self.frames.get(&frame) {
            return Ok(*location);
        }
        let function = match self.serials.get(&frame.function).copied() {
            Some(function) => function,
            None if self.is_full() => return Err(self.interner.pseudo(OVERFLOW)),
            None => match functions.get(&frame.function) {
                Some(function) => {
                    let id = self.interner.function(function);
                    self.serials.insert(frame.function, id);
                    id
                }
                None => return Err(self.interner.pseudo(INCOMPLETE)),
            },
        };
        let location = self.interner.location(Location {
            function,
            line: frame.line,
            origin: OriginId::default(),
        });
        self.frames.insert(frame, location);
        Ok(location)
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
            && self.frames.try_reserve(SPARE).is_ok()
            && self.samples.try_reserve(SPARE).is_ok()
            && self.sample_rows.try_reserve(SPARE).is_ok()
            && self.marked.try_reserve(SPARE).is_ok()
            && self.values.try_reserve(SPARE * self.columns.len()).is_ok()
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

impl Fold for Window {
    fn measures(&self) -> MeasureSet {
        self.measures
    }

    fn node_of(&mut self, stack: &Stack, functions: &FunctionTable) -> NodeId {
        Self::node_of(self, stack, functions)
    }

    fn thread(&mut self, thread: &ThreadLabels<'_>) -> LabelSetId {
        Self::thread(self, thread)
    }

    fn call_thread(&mut self, labels: LabelSetId, name: &str) -> LabelSetId {
        Self::call_thread(self, labels, name)
    }

    #[inline]
    fn with_reason(&mut self, labels: LabelSetId, reason: Option<OffCpu>) -> LabelSetId {
        Self::with_reason(self, labels, reason)
    }

    #[inline]
    fn with_task(&mut self, labels: LabelSetId, task: Option<&Arc<str>>) -> LabelSetId {
        Self::with_task(self, labels, task)
    }

    fn with_part(&mut self, labels: LabelSetId, part: Option<RequestPart>) -> LabelSetId {
        Self::with_part(self, labels, part)
    }

    #[inline]
    fn with_lock(&mut self, labels: LabelSetId, lock: Option<&LockName>) -> LabelSetId {
        Self::with_lock(self, labels, lock)
    }

    #[inline]
    fn add(&mut self, charge: &Charge) {
        Self::add(self, charge.node, charge.labels, charge.values.pairs());
    }

    fn pseudo(&mut self, name: &str) -> NodeId {
        let location = self.interner.pseudo(name);
        self.step(NodeId::ROOT, location)
    }

    fn total(&self, id: MeasureId) -> u64 {
        let width = self.columns.len().max(1);
        let column = self.measures.column(id);
        let values = column.map(|column| self.values.iter().skip(column).step_by(width));
        let sum: i64 = values.into_iter().flatten().sum();
        u64::try_from(sum).unwrap_or(0)
    }

    fn spread(&mut self, id: MeasureId, left: &[(LabelSetId, u64)]) {
        Self::spread(self, id, left);
    }
}
