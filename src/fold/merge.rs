//! One profile from several.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::levels::Levels;
use super::profile::{Profile, ProfileMeta};
use super::window::{Limits, Window};
use crate::error::{Error, Result};
use crate::model::facts::{Unmeasured, main_thread, main_threads, unmeasured};
use crate::model::function::OVERFLOW;
use crate::model::measure::{self, Column};

/// Comments kept of all profiles together.
const MAX_COMMENTS: usize = 100;
/// Processes whose main threads are told.
const MAX_MAIN_THREADS: usize = 10_000;
/// Columns of profiles that differ in them. Each sample has a value for each: files made for it would
/// fill any memory.
const MAX_COLUMNS: usize = 32;

/// Adds profiles up, one after the other, so that only one of them need be in memory.
#[derive(Debug)]
pub struct Merge {
    limits: Limits,
    /// Whether the limits on names and labels of a recording hold for the result.
    bounded: bool,
    sum: Option<Sum>,
}

/// What has been added up so far.
#[derive(Debug)]
struct Sum {
    window: Window,
    levels: Levels,
    meta: ProfileMeta,
    /// What was merged.
    parts: Parts,
    /// By column, the parts of it that measured this.
    measured: Vec<Parts>,
    main_threads: BTreeSet<i64>,
    /// Start and end of each profile that knows its start.
    spans: Vec<(i64, i64)>,
    /// Lengths of those that do not.
    elsewhen_ns: i64,
}

impl Merge {
    /// Nothing yet. Names and labels are not bounded: they are those of finished profiles.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            bounded: false,
            sum: None,
        }
    }

    /// The same for windows that follow each other in one process, with a result that must keep all
    /// limits of a recording.
    #[must_use]
    pub fn bounded(limits: Limits) -> Self {
        Self {
            bounded: true,
            ..Self::new(limits)
        }
    }

    /// Adds a profile. The first names the program, the period and the default sample type. The
    /// result has the columns of all; where some were not measured, it says so. Flows add up; of a level
    /// the last profile of each process counts, and processes add up.
    ///
    /// # Errors
    /// When a column is in another unit than before, or there are too many of them.
    pub fn add(&mut self, profile: &Profile) -> Result<()> {
        let (limits, bounded) = (self.limits, self.bounded);
        let sum = self
            .sum
            .get_or_insert_with(|| Sum::new(profile, limits, bounded));
        sum.measure(profile)?;
        sum.add(profile);
        Ok(())
    }

    /// The sum.
    ///
    /// # Errors
    /// When no profile was added.
    pub fn finish(self) -> Result<Profile> {
        let Some(sum) = self.sum else {
            return Err(Error::value("merge needs at least one profile, got none"));
        };
        Ok(sum.finish())
    }
}

impl Sum {
    fn new(first: &Profile, limits: Limits, bounded: bool) -> Self {
        let make = if bounded {
            Window::with_columns
        } else {
            Window::unbounded
        };
        Self {
            window: make(
                limits,
                first.columns.clone(),
                first.default_sample_type.clone(),
            ),
            levels: Levels::new(bounded),
            parts: Parts::default(),
            measured: vec![Parts::default(); first.columns.len()],
            main_threads: BTreeSet::new(),
            meta: ProfileMeta {
                comments: Vec::new(),
                ..first.meta.clone()
            },
            spans: Vec::new(),
            elsewhen_ns: 0,
        }
    }

    /// Makes room for the columns of a profile and counts what measured them.
    fn measure(&mut self, profile: &Profile) -> Result<()> {
        let known = self.window.columns();
        let all = measure::union(known, &profile.columns).map_err(|(one, other)| {
            Error::value(format!(
                "cannot merge profiles in which {} is in {} and in {}; merge only profiles of one \
                 unit",
                one.name(),
                one.unit(),
                other.unit()
            ))
        })?;
        if all.len() > known.len() {
            if all.len() > MAX_COLUMNS {
                return Err(Error::value(format!(
                    "cannot merge profiles of more than {MAX_COLUMNS} different sample types \
                     ({} and {}); merge only profiles of one kind",
                    names(known),
                    names(&profile.columns)
                )));
            }
            let mut measured = vec![Parts::default(); all.len()];
            for (parts, position) in self.measured.iter().zip(measure::positions(known, &all)) {
                if let Some(position) = position {
                    measured[position] = *parts;
                }
            }
            self.measured = measured;
            self.window.widen(all);
        }
        let gaps: Vec<Unmeasured> = unmeasured(&profile.meta.comments).collect();
        let parts = Parts::of(profile, &gaps);
        self.parts.add(parts);
        let positions = measure::positions(&profile.columns, self.window.columns());
        for (column, position) in profile.columns.iter().zip(positions) {
            let gap = gaps.iter().find(|gap| *gap.name == *column.name());
            if let Some(position) = position {
                self.measured[position].add(parts.without(gap));
            }
        }
        Ok(())
    }

    fn add(&mut self, profile: &Profile) {
        self.levels.absorb(profile, &mut self.window);
        let meta = &profile.meta;
        let length = meta.duration_ns.max(0);
        if meta.time_ns > 0 {
            let end = meta.time_ns.saturating_add(length);
            self.spans.push((meta.time_ns, end));
        } else {
            self.elsewhen_ns = self.elsewhen_ns.saturating_add(length);
        }
        for id in main_threads(&meta.comments) {
            if self.main_threads.len() < MAX_MAIN_THREADS {
                self.main_threads.insert(id);
            }
        }
        for comment in &meta.comments {
            if is_fact(comment) {
                // Told at the end, of all together.
                continue;
            }
            if self.meta.comments.len() < MAX_COMMENTS && !self.meta.comments.contains(comment) {
                self.meta.comments.push(comment.clone());
            }
        }
    }

    fn finish(mut self) -> Profile {
        self.spans.sort_unstable();
        self.meta.time_ns = self.spans.first().map_or(0, |span| span.0);
        self.meta.duration_ns = covered(&self.spans).saturating_add(self.elsewhen_ns);
        let ids = self.main_threads.iter();
        let comments = ids.filter_map(|id| Some(main_thread(u64::try_from(*id).ok()?)));
        self.meta.comments.extend(comments);
        for (column, measured) in self.window.columns().iter().zip(&self.measured) {
            if let Some(gap) = self.parts.gap(column.name(), *measured) {
                self.meta.comments.push(gap.to_string());
            }
        }
        if self.window.overflowed() > 0 {
            self.meta.comments.push(format!(
                "merge: {} stacks folded into {OVERFLOW}",
                self.window.overflowed()
            ));
        }
        self.window.finish(self.meta)
    }
}

/// So many profiles, and how long they lasted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    profiles: u64,
    ns: i64,
}

impl Parts {
    /// What a profile was merged from, as far as it says so.
    fn of(profile: &Profile, gaps: &[Unmeasured]) -> Self {
        match gaps.first() {
            Some(gap) => Self {
                profiles: gap.of_profiles,
                ns: gap.of_ns,
            },
            None => Self {
                profiles: 1,
                ns: profile.meta.duration_ns.max(0),
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.profiles = self.profiles.saturating_add(other.profiles);
        self.ns = self.ns.saturating_add(other.ns);
    }

    fn without(self, gap: Option<&Unmeasured>) -> Self {
        Self {
            profiles: self
                .profiles
                .saturating_sub(gap.map_or(0, |gap| gap.profiles)),
            ns: self.ns.saturating_sub(gap.map_or(0, |gap| gap.ns)).max(0),
        }
    }

    /// What is to be said of a column that only these parts measured.
    fn gap(self, name: &str, measured: Self) -> Option<Unmeasured> {
        (measured.profiles < self.profiles).then(|| Unmeasured {
            name: name.to_owned(),
            profiles: self.profiles - measured.profiles,
            of_profiles: self.profiles,
            ns: self.ns.saturating_sub(measured.ns).max(0),
            of_ns: self.ns,
        })
    }
}

fn is_fact(comment: &String) -> bool {
    Unmeasured::parse(comment).is_some()
        || main_threads(std::slice::from_ref(comment)).next().is_some()
}

/// The time in which at least one of these sorted spans was on: profiles of several processes at
/// once count once, and the time between two recordings not at all.
fn covered(spans: &[(i64, i64)]) -> i64 {
    let mut sum = 0_i64;
    let mut reached = i64::MIN;
    for &(begin, end) in spans {
        let begin = begin.max(reached);
        if end > begin {
            sum = sum.saturating_add(end.saturating_sub(begin));
            reached = end;
        }
    }
    sum
}

fn names(columns: &[Column]) -> String {
    let words: Vec<String> = columns
        .iter()
        .map(|column| format!("{}/{}", column.name(), column.unit()))
        .collect();
    words.join(", ")
}

/// One profile from several.
///
/// # Errors
/// As [`Merge::add`] and [`Merge::finish`].
pub fn merge(profiles: &[&Profile], limits: Limits) -> Result<Profile> {
    let mut merge = Merge::new(limits);
    for profile in profiles {
        merge.add(profile)?;
    }
    merge.finish()
}
