//! Measures: what the values of samples can be, all in one table.
//!
//! Whatever knows about values asks [`MEASURES`]: a new measure is a new row.

use std::sync::Arc;

/// What one of a measure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Time.
    Nanoseconds,
    /// Memory.
    Bytes,
}

impl Unit {
    /// Its name in pprof.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Nanoseconds => "nanoseconds",
            Self::Bytes => "bytes",
        }
    }
}

/// How the values of two windows that follow each other become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// They add up: each window has what happened in it.
    Flow,
    /// The last one counts: each window has what there was at its end.
    Level,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// Which one.
    pub id: MeasureId,
    /// The name in pprof, in the options and on the page. It has no dash: Pyroscope refuses a profile
    /// in which one has (`ValidateProfile`, `pkg/validation/validate.go`, 2.2).
    pub name: &'static str,
    /// What its values count.
    pub unit: Unit,
    /// How windows add up.
    pub kind: Kind,
    /// What it tells, in one sentence.
    pub meaning: &'static str,
}

macro_rules! measures {
    ($($id:ident $name:literal $unit:ident $kind:ident $meaning:literal,)*) => {
        /// A measure, by its row of [`MEASURES`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum MeasureId {
            $(#[doc = $meaning] $id,)*
        }

        /// Every measure of rprof, in the order in which files have them.
        pub const MEASURES: &[Measure] = &[
            $(Measure {
                id: MeasureId::$id,
                name: $name,
                unit: Unit::$unit,
                kind: Kind::$kind,
                meaning: $meaning,
            },)*
        ];
    };
}

measures! {
    Samples "samples" Count Flow
        "How often the thread was found there.",
    Wall "wall" Nanoseconds Flow
        "Time that passed, whether the thread was computing or waiting.",
    Cpu "cpu" Nanoseconds Flow
        "Time on a CPU, by the clock of the thread.",
    Gil "gil" Nanoseconds Flow
        "Time in which the thread held the GIL.",
    GilWait "gil_wait" Nanoseconds Flow
        "Time in which the thread waited for the GIL.",
    GilBlame "gil_blame" Nanoseconds Flow
        "Time in which other threads waited for the GIL that this thread held.",
    CpuWait "cpu_wait" Nanoseconds Flow
        "Time in which the thread was ready to run and had no CPU.",
    TaskWall "task_wall" Nanoseconds Flow
        "Time that passed for a task, whether it was running or suspended.",
    LoopBlame "loop_blame" Nanoseconds Flow
        "Time in which tasks that were ready waited for the event loop that this one kept busy.",
    LockWait "lock_wait" Nanoseconds Flow
        "Time in which the thread or task waited for a lock.",
    LockBlame "lock_blame" Nanoseconds Flow
        "Time in which others waited for a lock that this thread or task held.",
    Exceptions "exceptions" Count Flow
        "How many exceptions were raised.",
    AllocObjects "alloc_objects" Count Flow
        "How many objects were allocated, whether they were freed or not.",
    AllocSpace "alloc_space" Bytes Flow
        "How much memory was allocated, whether it was freed or not.",
    InuseObjects "inuse_objects" Count Level
        "How many objects were allocated and not freed at the end.",
    InuseSpace "inuse_space" Bytes Level
        "How much memory was allocated and not freed at the end.",
}

/// The name of the measure that readers open on.
pub const DEFAULT: &str = "wall";

impl MeasureId {
    /// Its row.
    #[must_use]
    pub const fn row(self) -> &'static Measure {
        &MEASURES[self as usize]
    }
}

/// Some of the measures. Their values stand in the order of the table: the column of one is the
/// number of those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeasureSet(u32);

impl MeasureSet {
    /// What any engine can tell of threads.
    pub const TIMES: Self = Self::of(&[MeasureId::Samples, MeasureId::Wall, MeasureId::Cpu]);

    /// What an engine can tell that knows who holds the GIL and who waits for it.
    pub const WITH_GIL: Self = Self::TIMES
        .with(MeasureId::Gil)
        .with(MeasureId::GilWait)
        .with(MeasureId::GilBlame);

    /// A set of these.
    #[must_use]
    pub const fn of(ids: &[MeasureId]) -> Self {
        let (mut set, mut at) = (Self(0), 0);
        while at < ids.len() {
            set = set.with(ids[at]);
            at += 1;
        }
        set
    }

    /// This set and one more.
    #[must_use]
    pub const fn with(self, id: MeasureId) -> Self {
        Self(self.0 | 1 << id as u32)
    }

    /// This set but for one.
    #[must_use]
    pub const fn without(self, id: MeasureId) -> Self {
        Self(self.0 & !(1 << id as u32))
    }

    /// What either of them has.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it has this one.
    #[must_use]
    pub const fn contains(self, id: MeasureId) -> bool {
        self.0 & 1 << id as u32 != 0
    }

    /// The column of this one, if the set has it.
    #[must_use]
    pub const fn column(self, id: MeasureId) -> Option<usize> {
        if self.contains(id) {
            Some((self.0 & ((1 << id as u32) - 1)).count_ones() as usize)
        } else {
            None
        }
    }

    /// All of them, in the order of their columns.
    pub fn iter(self) -> impl Iterator<Item = MeasureId> {
        let ids = MEASURES.iter().map(|measure| measure.id);
        ids.filter(move |id| self.contains(*id))
    }
}

/// The values of one charge: a few measures, each with how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Amounts {
    pairs: [(MeasureId, i64); Self::MOST],
    count: usize,
}

impl Amounts {
    /// A charge has no more measures than these.
    pub const MOST: usize = 5;

    /// So much of one measure.
    #[must_use]
    #[inline]
    pub const fn of(id: MeasureId, amount: i64) -> Self {
        Self {
            pairs: [(id, amount); Self::MOST],
            count: 1,
        }
    }

    /// And so much of another one; there are no more than five.
    #[must_use]
    #[inline]
    pub const fn and(mut self, id: MeasureId, amount: i64) -> Self {
        debug_assert!(
            self.count < Self::MOST,
            "a charge has at most four measures"
        );
        if self.count < Self::MOST {
            self.pairs[self.count] = (id, amount);
            self.count += 1;
        }
        self
    }

    /// The same, but for measures that are not in `set`.
    #[must_use]
    pub fn among(&self, set: MeasureSet) -> Self {
        let mut left = Self { count: 0, ..*self };
        for &(id, amount) in self.pairs() {
            if set.contains(id) {
                left = left.and(id, amount);
            }
        }
        left
    }

    /// The measures and how much of each.
    #[must_use]
    #[inline]
    pub fn pairs(&self) -> &[(MeasureId, i64)] {
        &self.pairs[..self.count]
    }
}

/// What one value of every sample of a profile is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// A measure of the table.
    Known(MeasureId),
    /// Something else that a file has: a flow, with a unit of its own.
    Foreign {
        /// For example `contentions`.
        name: Arc<str>,
        /// For example `count`.
        unit: Arc<str>,
    },
}

impl Column {
    /// What a file calls by these two words.
    #[must_use]
    pub fn new(name: &str, unit: &str) -> Self {
        let mut known = MEASURES.iter();
        match known.find(|row| row.name == name && row.unit.name() == unit) {
            Some(row) => Self::Known(row.id),
            None => Self::Foreign {
                name: Arc::from(name),
                unit: Arc::from(unit),
            },
        }
    }

    /// The columns of a set, in its order.
    #[must_use]
    pub fn all_of(set: MeasureSet) -> Vec<Self> {
        set.iter().map(Self::Known).collect()
    }

    /// The measure, if it is of the table.
    #[must_use]
    pub fn measure(&self) -> Option<&'static Measure> {
        match self {
            Self::Known(id) => Some(id.row()),
            Self::Foreign { .. } => None,
        }
    }

    /// How two windows that follow each other become one.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.measure().map_or(Kind::Flow, |row| row.kind)
    }

    /// For example `wall`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Known(id) => id.row().name,
            Self::Foreign { name, .. } => name,
        }
    }

    /// For example `nanoseconds`.
    #[must_use]
    pub fn unit(&self) -> &str {
        match self {
            Self::Known(id) => id.row().unit.name(),
            Self::Foreign { unit, .. } => unit,
        }
    }
}

/// What `gil_wait` was called before.
const OLD_GIL_WAIT_NAME: &str = "gil-wait";

/// What a measure of ours is called now, by a name that it may have had before.
#[must_use]
pub fn present_name(name: &str) -> &str {
    if name == OLD_GIL_WAIT_NAME {
        MeasureId::GilWait.row().name
    } else {
        name
    }
}

/// Of each of `columns`, where it is in `among`; the second of two that are equal is the second there.
#[must_use]
pub fn positions(columns: &[Column], among: &[Column]) -> Vec<Option<usize>> {
    let before = |at: usize| {
        let earlier = columns[..at].iter();
        earlier.filter(|column| **column == columns[at]).count()
    };
    let find = |(at, column): (usize, &Column)| {
        let mut equal = (0..among.len()).filter(|position| among[*position] == *column);
        equal.nth(before(at))
    };
    columns.iter().enumerate().map(find).collect()
}

/// All of `known` and of `more`: those of the table first, in its order, then the others as they
/// came. `known` itself where it has them all.
///
/// # Errors
/// A name that stands for two units, and the two.
pub fn union<'column>(
    known: &'column [Column],
    more: &'column [Column],
) -> Result<Vec<Column>, (&'column Column, &'column Column)> {
    let mut all = known.to_vec();
    for (column, position) in more.iter().zip(positions(more, known)) {
        if position.is_some() {
            continue;
        }
        let has_other_unit =
            |other: &&Column| other.name() == column.name() && other.unit() != column.unit();
        if let Some(other) = known.iter().find(has_other_unit) {
            return Err((other, column));
        }
        all.push(column.clone());
    }
    if all.len() > known.len() {
        all.sort_by_key(|column| match column {
            Column::Known(id) => *id as usize,
            Column::Foreign { .. } => MEASURES.len(),
        });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::{Column, MEASURES, MeasureId, MeasureSet};

    #[test]
    fn every_row_stands_where_its_id_says() {
        let mut names: Vec<&str> = MEASURES.iter().map(|row| row.name).collect();
        for (at, row) in MEASURES.iter().enumerate() {
            assert_eq!(row.id as usize, at);
            assert_eq!(row.id.row(), row);
            assert!(
                row.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{}",
                row.name
            );
            assert!(row.meaning.ends_with('.') && !row.meaning.contains(". "));
            assert_eq!(
                Column::new(row.name, row.unit.name()).measure(),
                Some(row),
                "{}",
                row.name
            );
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MEASURES.len());
        assert!(MEASURES.len() <= 32, "a set has 32 bits");
    }

    #[test]
    fn columns_of_a_set_are_those_before() {
        let set = MeasureSet::of(&[
            MeasureId::InuseSpace,
            MeasureId::Samples,
            MeasureId::GilWait,
        ]);
        assert_eq!(set.column(MeasureId::Samples), Some(0));
        assert_eq!(set.column(MeasureId::Wall), None);
        assert_eq!(set.column(MeasureId::GilWait), Some(1));
        assert_eq!(set.column(MeasureId::InuseSpace), Some(2));
        let ids: Vec<MeasureId> = set.iter().collect();
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(set.column(*id), Some(at));
        }
        assert_eq!(MeasureSet::TIMES.iter().count(), 3);
    }

    #[test]
    fn a_name_in_another_unit_is_another_measure() {
        let wall = Column::new("wall", "microseconds");
        assert_eq!((wall.name(), wall.unit()), ("wall", "microseconds"));
        assert!(wall.measure().is_none());
    }
}
