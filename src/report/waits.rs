//! Waits: what was waited for, who made others wait, and who waited.
//!
//! What blames somebody (the GIL, locks) comes first: that is what can be mended. A wait is told where the
//! user's code waits: in the innermost function that is not of a library, or the innermost of all.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::fmt::Write;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::library::is_library;
use super::text::inert;
use super::{format_value, percent, refuse_difference};
use crate::error::Result;
use crate::fold::profile::Profile;
use crate::model::label::{Label, LabelValue};
use crate::model::location::{FunctionId, LocationId};
use crate::model::lock::LOCK;
use crate::model::measure::{Column, MeasureId};
use crate::model::off_cpu::{OFF, OffCpu};

/// Functions told of those who made others wait, and of those who waited.
const MAX_PARTIES: usize = 10;

/// A function in which it was waited, or that made others wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The function.
    pub function: Arc<str>,
    /// Its file; empty where it is none of a program.
    pub file: Arc<str>,
    /// The line of it that had most of it.
    pub line: u32,
    /// So much in ns.
    pub value: i64,
}

/// What was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// A value of the label `off`, or `task` for tasks and greenlets that wait.
    pub reason: &'static str,
    /// Which lock; empty where there is none, or none that is known.
    pub lock: Arc<str>,
    /// The measure of `waited_ns`.
    pub measure: &'static str,
    /// For how long in all.
    pub waited_ns: i64,
    /// Who made others wait, heaviest first, [`MAX_PARTIES`] at the most.
    pub culprits: Vec<Party>,
    /// Who waited, likewise.
    pub waiters: Vec<Party>,
}

/// All waits of a profile: first those with culprits, then the others, longest first.
///
/// # Errors
/// When a value is below 0.
pub fn waits(profile: &Profile) -> Result<Vec<Wait>> {
    for column in 0..profile.columns.len() {
        let kind = profile.columns[column].name();
        refuse_difference(profile, column, kind, "a list of waits")?;
    }
    let collector = Collector {
        profile,
        places: places(profile),
    };
    let mut found = Vec::new();
    for reason in OffCpu::ALL {
        collector.collect(reason, &mut found);
    }
    if let Some(column) = collector.column(MeasureId::TaskWall) {
        let waiters = collector.parties(column, |_| true);
        found.extend(wait(
            "task",
            Arc::from(""),
            MeasureId::TaskWall,
            waiters,
            None,
        ));
    }
    found.sort_by_key(|wait: &Wait| (wait.culprits.is_empty(), Reverse(wait.waited_ns)));
    Ok(found)
}

/// By node, where the user's code is.
fn places(profile: &Profile) -> Vec<LocationId> {
    let symbols = &profile.symbols;
    let files = symbols.functions.iter();
    let is_library: Vec<bool> = files.map(|function| is_library(&function.file)).collect();
    // The root's is never asked for.
    let mut places = vec![(LocationId(0), false); profile.tree.len()];
    for node in profile.tree.nodes() {
        let location = profile.tree.location(node);
        let is_own = !is_library[symbols.location(location).function.0 as usize];
        let (above, is_above_own) = places[profile.tree.parent(node).index()];
        places[node.index()] = match (is_own, is_above_own) {
            (false, true) => (above, true),
            _ => (location, is_own),
        };
    }
    places.into_iter().map(|(location, _)| location).collect()
}

struct Collector<'profile> {
    profile: &'profile Profile,
    places: Vec<LocationId>,
}

impl Collector<'_> {
    fn column(&self, id: MeasureId) -> Option<usize> {
        let mut columns = self.profile.columns.iter();
        columns.position(|column| *column == Column::Known(id))
    }

    /// Adds the waits for one reason.
    fn collect(&self, reason: OffCpu, found: &mut Vec<Wait>) {
        let measured = match reason {
            OffCpu::Gil => Some((MeasureId::GilWait, Some(MeasureId::GilBlame))),
            OffCpu::Lock => Some((MeasureId::LockWait, Some(MeasureId::LockBlame))),
            OffCpu::CpuQueue => Some((MeasureId::CpuWait, None)),
            _ => None,
        };
        let measured = measured.and_then(|(id, blame)| Some((id, self.column(id)?, blame)));
        let Some((id, column, blame)) = measured else {
            // By what was sampled.
            if let Some(column) = self.column(MeasureId::Wall) {
                let waiters = self.parties(column, |labels| text_of(labels, OFF) == reason.label());
                let nothing = Arc::from("");
                found.extend(wait(
                    reason.label(),
                    nothing,
                    MeasureId::Wall,
                    waiters,
                    None,
                ));
            }
            return;
        };
        let blame = blame.and_then(|blame| self.column(blame));
        if reason != OffCpu::Lock {
            let culprits = blame.map(|blame| self.parties(blame, |_| true));
            let waiters = self.parties(column, |_| true);
            found.extend(wait(reason.label(), Arc::from(""), id, waiters, culprits));
            return;
        }
        let sets = self.profile.label_sets.iter();
        let mut locks: Vec<&str> = sets.map(|labels| text_of(labels, LOCK)).collect();
        locks.sort_unstable();
        locks.dedup();
        for lock in locks {
            let is_it = |labels: &[Label]| text_of(labels, LOCK) == lock;
            let culprits = blame.map(|blame| self.parties(blame, is_it));
            let waiters = self.parties(column, is_it);
            found.extend(wait(reason.label(), Arc::from(lock), id, waiters, culprits));
        }
    }

    /// The functions that have values of a column under these labels, heaviest first.
    fn parties(&self, column: usize, accepts: impl Fn(&[Label]) -> bool) -> Vec<Party> {
        let profile = self.profile;
        let sets = profile.label_sets.iter();
        let accepted: Vec<bool> = sets.map(|labels| accepts(labels)).collect();
        let mut lines: FxHashMap<(FunctionId, u32), i64> = FxHashMap::default();
        for (sample, values) in profile.rows() {
            let value = values[column];
            if value != 0 && accepted[sample.labels.0 as usize] && !profile.tree.is_empty() {
                let place = profile.symbols.location(self.places[sample.node.index()]);
                let sum = lines.entry((place.function, place.line)).or_default();
                *sum = sum.saturating_add(value);
            }
        }
        let mut functions: FxHashMap<FunctionId, (i64, Reverse<u32>, i64)> = FxHashMap::default();
        for ((function, line), value) in lines {
            let known = functions.entry(function).or_insert((0, Reverse(line), 0));
            (known.0, known.1) = (known.0, known.1).max((value, Reverse(line)));
            known.2 = known.2.saturating_add(value);
        }
        let mut parties: Vec<Party> = functions
            .into_iter()
            .map(|(id, (_, Reverse(line), value))| {
                let function = &profile.symbols.functions[id.0 as usize];
                Party {
                    function: function.name.clone(),
                    file: function.file.clone(),
                    line,
                    value,
                }
            })
            .collect();
        parties.sort_by(|left, right| {
            let key = |party: &Party| (Reverse(party.value), party.function.clone(), party.line);
            (key(left), &left.file).cmp(&(key(right), &right.file))
        });
        parties
    }
}

/// A wait, unless nobody waited.
fn wait(
    reason: &'static str,
    lock: Arc<str>,
    id: MeasureId,
    mut waiters: Vec<Party>,
    culprits: Option<Vec<Party>>,
) -> Option<Wait> {
    let values = waiters.iter().map(|party| party.value);
    let waited_ns = values.fold(0, i64::saturating_add);
    waiters.truncate(MAX_PARTIES);
    let mut culprits = culprits.unwrap_or_default();
    culprits.truncate(MAX_PARTIES);
    (waited_ns > 0).then_some(Wait {
        reason,
        lock,
        measure: id.row().name,
        waited_ns,
        culprits,
        waiters,
    })
}

fn text_of<'labels>(labels: &'labels [Label], key: &str) -> &'labels str {
    let label = labels.iter().find(|label| *label.key == *key);
    match label.map(|label| &label.value) {
        Some(LabelValue::Text(text)) => text,
        _ => "",
    }
}

/// The waits as text: each reason, who made others wait, and who waited.
#[must_use]
pub fn text(waits: &[Wait]) -> String {
    let mut text = String::new();
    if waits.is_empty() {
        text.push_str("no waits: nothing waited, or the profile does not tell why threads wait\n");
    }
    for wait in waits {
        let waited = format_value(wait.waited_ns, "nanoseconds");
        text.push_str(wait.reason);
        if !wait.lock.is_empty() {
            text.push(' ');
            text.push_str(&inert(&wait.lock));
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, ": {waited} ({})", wait.measure);
        for (title, parties) in [("caused by", &wait.culprits), ("waited in", &wait.waiters)] {
            if parties.is_empty() {
                continue;
            }
            let _ = writeln!(text, "  {title}");
            for party in parties {
                let value = format_value(party.value, "nanoseconds");
                let share = format!("{:.1}%", percent(party.value, wait.waited_ns));
                let _ = write!(text, "  {value:>10} {share:>6}  {}", inert(&party.function));
                if !party.file.is_empty() {
                    let file = super::diff::file_name(&party.file);
                    let _ = write!(text, "  {}:{}", inert(file), party.line);
                }
                text.push('\n');
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "waits_tests.rs"]
mod tests;
