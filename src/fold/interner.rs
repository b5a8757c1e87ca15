//! One id for each distinct function, location and label set.

use rustc_hash::FxHashMap;

use crate::model::function::Function;
use crate::model::hashing::KeyedMap;
use crate::model::label::{Label, LabelSet, LabelSetId};
use crate::model::location::{
    FunctionId, Location, LocationId, Mapping, MappingId, Origin, OriginId, Symbols,
};

/// Grows the tables of one window.
///
/// Names and labels may come from a file whose author chose them to collide, so that their hasher
/// is one that cannot be foreseen; ids are ours.
#[derive(Debug, Default)]
pub struct Interner {
    symbols: Symbols,
    functions: KeyedMap<Function, FunctionId>,
    locations: FxHashMap<Location, LocationId>,
    origins: KeyedMap<Origin, OriginId>,
    mappings: KeyedMap<Mapping, MappingId>,
    label_sets: Vec<LabelSet>,
    by_labels: KeyedMap<LabelSet, LabelSetId>,
    same: FxHashMap<LabelSetId, LabelSetId>,
    string_bytes: usize,
    label_bytes: usize,
}

/// A table index as an id; tables are bounded far below `u32::MAX` by the window's limits.
fn index_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl Interner {
    /// The id of `function`, new or known.
    pub fn function(&mut self, function: &Function) -> FunctionId {
        if let Some(&id) = self.functions.get(function) {
            return id;
        }
        let id = FunctionId(index_u32(self.symbols.functions.len()));
        self.string_bytes += function.string_bytes();
        self.symbols.functions.push(function.clone());
        self.functions.insert(function.clone(), id);
        id
    }

    /// The id of `location`, new or known.
    pub fn location(&mut self, location: Location) -> LocationId {
        if let Some(&id) = self.locations.get(&location) {
            return id;
        }
        let id = LocationId(index_u32(self.symbols.locations.len()));
        self.symbols.locations.push(location);
        self.locations.insert(location, id);
        id
    }

    /// The id of a pseudo-frame such as `<overflow>`.
    pub fn pseudo(&mut self, name: &str) -> LocationId {
        let function = self.function(&Function::pseudo(name));
        self.location(Location {
            function,
            line: 0,
            origin: OriginId::default(),
        })
    }

    /// The id of `origin`, new or known.
    pub fn origin(&mut self, origin: Origin) -> OriginId {
        if origin == Origin::default() {
            return OriginId::default();
        }
        let next = OriginId(index_u32(self.symbols.origins.len() + 1));
        let id = *self.origins.entry(origin).or_insert(next);
        if id == next {
            self.symbols.origins.push(origin);
        }
        id
    }

    /// The id of `mapping`, new or known.
    pub fn mapping(&mut self, mapping: &Mapping) -> MappingId {
        if let Some(&id) = self.mappings.get(mapping) {
            return id;
        }
        let id = MappingId(index_u32(self.symbols.mappings.len()));
        self.string_bytes += mapping.file.len() + mapping.build_id.len();
        self.symbols.mappings.push(mapping.clone());
        self.mappings.insert(mapping.clone(), id);
        id
    }

    /// All mappings until now.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.symbols.mappings
    }

    /// The id of `labels`, new or known.
    pub fn labels(&mut self, labels: &LabelSet) -> LabelSetId {
        if let Some(&id) = self.by_labels.get(labels) {
            return id;
        }
        let id = LabelSetId(index_u32(self.label_sets.len()));
        // Both copies, and a label's text.
        self.label_bytes +=
            2 * size_of::<LabelSet>() + labels.len() * (2 * size_of::<Label>() + 32);
        self.label_sets.push(labels.clone());
        self.by_labels.insert(labels.clone(), id);
        id
    }

    /// Gives the label set `id` a better content, and returns the id under which that is found. If it
    /// exists under another id already, both mean the same from now on: see [`Self::same`].
    pub fn relabel(&mut self, id: LabelSetId, labels: LabelSet) -> LabelSetId {
        let old = std::mem::replace(&mut self.label_sets[id.0 as usize], labels.clone());
        if self.by_labels.get(&old) == Some(&id) {
            self.by_labels.remove(&old);
        }
        let found = *self.by_labels.entry(labels).or_insert(id);
        if found != id && self.same.try_reserve(1).is_ok() {
            self.same.insert(id, found);
        }
        found
    }

    /// Label sets that have become the same as others, and which.
    #[must_use]
    pub fn same(&self) -> &FxHashMap<LabelSetId, LabelSetId> {
        &self.same
    }

    /// The label set of this id, which is one of this table's.
    #[must_use]
    pub fn label_set(&self, id: LabelSetId) -> &LabelSet {
        &self.label_sets[id.0 as usize]
    }

    /// Whether there is memory for so many more of each.
    pub fn has_room(&mut self, more: usize) -> bool {
        self.symbols.functions.try_reserve(more).is_ok()
            && self.symbols.locations.try_reserve(more).is_ok()
            && self.label_sets.try_reserve(more).is_ok()
            && self.functions.try_reserve(more).is_ok()
            && self.locations.try_reserve(more).is_ok()
            && self.by_labels.try_reserve(more).is_ok()
    }

    /// How many distinct label sets there are.
    #[must_use]
    pub fn label_set_count(&self) -> usize {
        self.label_sets.len()
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.string_bytes
            + self.symbols.functions.len() * 3 * size_of::<Function>()
            + self.symbols.locations.len() * 4 * size_of::<Location>()
            + self.symbols.origins.len() * 4 * size_of::<Origin>()
            + self.symbols.mappings.len() * 3 * size_of::<Mapping>()
            + self.label_bytes
    }

    /// The finished tables.
    #[must_use]
    pub fn into_tables(self) -> (Symbols, Vec<LabelSet>) {
        (self.symbols, self.label_sets)
    }
}
