//! Places whose memory in use grows, the likeliest leaks first: from heap profiles to rows.
//!
//! A place is a line, for by stack a leak splinters: the innermost one that is the program's own and in no
//! comprehension, or the innermost of all.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::growth::{Births, Growth};
use super::library::is_library;
use crate::error::{Error, Result};
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::model::age::{AGE, Cohort, cohort_of, steps};
use crate::model::function::Function;
use crate::model::hashing::KeyedMap;
use crate::model::label::{LabelSet, LabelValue};
use crate::model::measure::MeasureId;
use crate::model::window_facts::{Fact, read};

/// Stacks that are told of each place.
const STACKS: usize = 3;
/// Functions that are part of the line they stand in.
const INLINE: [&str; 4] = ["<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"];

/// A line of a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Line {
    /// The function.
    pub function: Function,
    /// The line in its file; 0 if unknown.
    pub line: u32,
}

/// What is in use at a place.
#[derive(Clone, Debug)]
pub struct Leak {
    /// The place.
    pub place: Line,
    /// Blocks and bytes in use that were allocated there.
    pub blocks: i64,
    /// Bytes of these.
    pub bytes: i64,
    /// The samples by which they are known, about.
    pub samples: f64,
    /// How they came to be.
    pub growth: Growth,
    /// Bytes by stack, leaf first, those first by which it grows most.
    pub stacks: Vec<(i64, Vec<Line>)>,
}

/// A place as it is being added up.
#[derive(Default)]
struct Sums {
    births: Births,
    blocks: f64,
    /// By profile and leaf: bytes born in the middle, and all.
    stacks: FxHashMap<(usize, NodeId), (f64, f64)>,
}

/// What is in use by place, of one heap profile of each process.
///
/// # Errors
/// When a profile does not tell since when it knows of blocks in use, as those of other profilers and
/// merged ones.
pub fn leaks(profiles: &[&Profile]) -> Result<Vec<Leak>> {
    let mut places: KeyedMap<Line, Sums> = KeyedMap::default();
    let mut all_steps = Vec::new();
    for (number, profile) in profiles.iter().enumerate() {
        let heap = HeapProfile::of(profile)?;
        all_steps.extend(steps(heap.known_ms));
        heap.add(number, &mut places);
    }
    all_steps.sort_unstable();
    all_steps.dedup();
    let mut found: Vec<Leak> = places
        .into_iter()
        .map(|(place, sums)| Leak {
            place,
            blocks: sums.blocks.round() as i64,
            bytes: sums.births.bytes().round() as i64,
            samples: sums.births.samples(),
            growth: sums.births.growth(&all_steps),
            stacks: heaviest(profiles, sums.stacks),
        })
        .collect();
    found.sort_by(|left, right| {
        (right.growth.score.total_cmp(&left.growth.score))
            .then(right.bytes.cmp(&left.bytes))
            .then_with(|| left.place.cmp(&right.place))
    });
    Ok(found)
}

/// A profile that tells of ages.
struct HeapProfile<'a> {
    profile: &'a Profile,
    objects: usize,
    bytes: usize,
    known_ms: u64,
    rate: f64,
}

impl<'a> HeapProfile<'a> {
    fn of(profile: &'a Profile) -> Result<Self> {
        let column = |id: MeasureId| profile.column(id.row().name);
        let facts = read(&profile.meta.comments);
        let number = |wanted| {
            let mut numbers = facts.iter();
            numbers.find_map(|(fact, number)| (*fact == wanted).then_some(*number))
        };
        let found = (|| {
            Some(Self {
                profile,
                objects: column(MeasureId::InuseObjects)?,
                bytes: column(MeasureId::InuseSpace)?,
                known_ms: (number(Fact::HeapSeconds)? * 1e3).round() as u64,
                rate: number(Fact::HeapBytesPerSample)?.max(1.0),
            })
        })();
        found.ok_or_else(|| {
            Error::value(format!(
                "this profile of {} does not tell how old the memory in use is; leaks are told from \
                 what rprof.heap() returns and from the .heap.pb.gz files beside windows, not merged",
                profile.meta.program
            ))
        })
    }

    fn add(&self, number: usize, places: &mut KeyedMap<Line, Sums>) {
        let profile = self.profile;
        let ages: Vec<Option<u64>> = profile.label_sets.iter().map(age_of).collect();
        let mut own: Vec<Option<bool>> = vec![None; profile.symbols.functions.len()];
        for (sample, values) in profile.rows() {
            let (blocks, bytes) = (values[self.objects] as f64, values[self.bytes] as f64);
            let Some(age) = ages[sample.labels.0 as usize].filter(|_| bytes > 0.0) else {
                continue;
            };
            let place = line_of(profile, self.place(sample.node, &mut own));
            let sums = places.entry(place).or_default();
            // Each block was found with this chance.
            let chance = -(-(bytes / blocks.max(1.0)) / self.rate).exp_m1();
            let samples = (blocks * chance).max(1.0);
            sums.births.add(age, self.known_ms, bytes, samples);
            sums.blocks += blocks;
            let stack = sums.stacks.entry((number, sample.node)).or_default();
            if matches!(cohort_of(age, self.known_ms), Cohort::Middle(_)) {
                stack.0 += bytes;
            }
            stack.1 += bytes;
        }
    }

    /// The node of the place of a stack.
    fn place(&self, leaf: NodeId, own: &mut [Option<bool>]) -> NodeId {
        let (tree, symbols) = (&self.profile.tree, &self.profile.symbols);
        let mut path = tree.path(leaf);
        let found = path.find(|node| {
            let function = symbols.location(tree.location(*node)).function.0 as usize;
            *own[function].get_or_insert_with(|| {
                let function = &symbols.functions[function];
                let is_inline = INLINE.iter().any(|name| function.name.ends_with(name));
                !is_inline && !is_library(&function.file)
            })
        });
        found.unwrap_or(leaf)
    }
}

fn age_of(labels: &LabelSet) -> Option<u64> {
    labels.iter().find_map(|label| match label.value {
        LabelValue::Number(age, _) if &*label.key == AGE => u64::try_from(age).ok(),
        _ => None,
    })
}

fn line_of(profile: &Profile, node: NodeId) -> Line {
    let location = profile.tree.location(node);
    Line {
        function: profile.symbols.function_of(location).clone(),
        line: profile.symbols.location(location).line,
    }
}

/// The stacks by which a place grows most, and then those that have most.
fn heaviest(
    profiles: &[&Profile],
    stacks: FxHashMap<(usize, NodeId), (f64, f64)>,
) -> Vec<(i64, Vec<Line>)> {
    let mut stacks: Vec<_> = stacks.into_iter().collect();
    stacks.sort_by(|(left_key, left), (right_key, right)| {
        (right.0.total_cmp(&left.0))
            .then(right.1.total_cmp(&left.1))
            .then(left_key.0.cmp(&right_key.0))
            .then(left_key.1.index().cmp(&right_key.1.index()))
    });
    let stacks = stacks.into_iter().take(STACKS);
    stacks
        .map(|((number, leaf), (_, bytes))| {
            let path = profiles[number].tree.path(leaf);
            let lines = path.map(|node| line_of(profiles[number], node)).collect();
            (bytes.round() as i64, lines)
        })
        .collect()
}
