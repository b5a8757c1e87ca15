//! One profile from several.
#![forbid(unsafe_code)]

use super::profile::{Profile, ProfileMeta};
use super::window::{Limits, Window};
use crate::error::{Error, Result};
use crate::model::function::OVERFLOW;
use crate::model::sample_type::SampleType;

/// Comments kept of all profiles together.
const MAX_COMMENTS: usize = 100;

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
    sample_types: Vec<SampleType>,
    meta: ProfileMeta,
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

    /// The same for a result that must keep all limits of a recording.
    #[must_use]
    pub fn bounded(limits: Limits) -> Self {
        Self {
            bounded: true,
            ..Self::new(limits)
        }
    }

    /// Adds a profile. The first names the program, the period and the default sample type.
    ///
    /// # Errors
    /// When its sample types differ from those of the first, naming both lists.
    pub fn add(&mut self, profile: &Profile) -> Result<()> {
        let (limits, bounded) = (self.limits, self.bounded);
        let sum = self
            .sum
            .get_or_insert_with(|| Sum::new(profile, limits, bounded));
        if profile.sample_types != sum.sample_types {
            return Err(Error::value(format!(
                "cannot merge profiles of different sample types ({} and {}); merge only profiles \
                 of one kind",
                names(&sum.sample_types),
                names(&profile.sample_types)
            )));
        }
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
            Window::with_types
        } else {
            Window::unbounded
        };
        Self {
            window: make(
                limits,
                first.sample_types.clone(),
                first.default_sample_type.clone(),
            ),
            sample_types: first.sample_types.clone(),
            meta: ProfileMeta {
                comments: Vec::new(),
                ..first.meta.clone()
            },
            spans: Vec::new(),
            elsewhen_ns: 0,
        }
    }

    fn add(&mut self, profile: &Profile) {
        self.window.absorb(profile);
        let meta = &profile.meta;
        let length = meta.duration_ns.max(0);
        if meta.time_ns > 0 {
            let end = meta.time_ns.saturating_add(length);
            self.spans.push((meta.time_ns, end));
        } else {
            self.elsewhen_ns = self.elsewhen_ns.saturating_add(length);
        }
        for comment in &meta.comments {
            if self.meta.comments.len() < MAX_COMMENTS && !self.meta.comments.contains(comment) {
                self.meta.comments.push(comment.clone());
            }
        }
    }

    fn finish(mut self) -> Profile {
        self.spans.sort_unstable();
        self.meta.time_ns = self.spans.first().map_or(0, |span| span.0);
        self.meta.duration_ns = covered(&self.spans).saturating_add(self.elsewhen_ns);
        if self.window.overflowed() > 0 {
            self.meta.comments.push(format!(
                "merge: {} stacks folded into {OVERFLOW}",
                self.window.overflowed()
            ));
        }
        self.window.finish(self.meta)
    }
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

fn names(types: &[SampleType]) -> String {
    let words: Vec<String> = types
        .iter()
        .map(|kind| format!("{}/{}", kind.name, kind.unit))
        .collect();
    words.join(", ")
}

/// One profile from several of the same sample types.
///
/// # Errors
/// When there is none, or their sample types differ.
pub fn merge(profiles: &[&Profile], limits: Limits) -> Result<Profile> {
    let mut merge = Merge::new(limits);
    for profile in profiles {
        merge.add(profile)?;
    }
    merge.finish()
}
