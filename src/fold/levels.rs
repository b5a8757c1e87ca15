//! Levels in a merge: of each process, the last of its profiles counts.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::profile::Profile;
use super::window::Window;
use crate::model::facts::main_threads;
use crate::model::measure::{Column, Kind, MeasureId};

/// The levels of all processes, as far as they were merged.
#[derive(Debug)]
pub(super) struct Levels {
    /// Whether the profiles follow each other, all of one process.
    is_sequence: bool,
    processes: Vec<Process>,
}

/// One process, by its last profile until now.
#[derive(Debug)]
struct Process {
    program: String,
    main_threads: BTreeSet<i64>,
    /// Start and end, in ns since the Unix epoch.
    span: (i64, i64),
    /// Row in the window, measure, and what was added there.
    added: Vec<(usize, MeasureId, i64)>,
}

impl Levels {
    pub(super) fn new(is_sequence: bool) -> Self {
        Self {
            is_sequence,
            processes: Vec::new(),
        }
    }

    /// Adds `profile` to `window`: its levels take the place of those of the same process, unless a
    /// later profile of that was here before.
    pub(super) fn absorb(&mut self, profile: &Profile, window: &mut Window) {
        let levels: Vec<(usize, MeasureId)> = profile
            .columns
            .iter()
            .enumerate()
            .filter_map(|(at, column)| match column {
                Column::Known(id) if column.kind() == Kind::Level => Some((at, *id)),
                _ => None,
            })
            .collect();
        if levels.is_empty() {
            window.absorb(profile, true);
            return;
        }
        let mut new = Process::of(profile);
        let mut known = self.processes.iter_mut();
        let known = known.find(|known| self.is_sequence || known.is_that_of(&new));
        if let Some(known) = known.as_deref()
            && !self.is_sequence
            && known.span.1 > new.span.1
        {
            window.absorb(profile, false);
            return;
        }
        for (row, id, amount) in known.iter().flat_map(|known| &known.added) {
            window.subtract(*row, *id, *amount);
        }
        let rows = window.absorb(profile, true);
        for (row, (_, values)) in rows.into_iter().zip(profile.rows()) {
            let here = levels.iter().filter(|(at, _)| values[*at] != 0);
            new.added
                .extend(here.map(|(at, id)| (row, *id, values[*at])));
        }
        match known {
            Some(known) => *known = new,
            None => self.processes.push(new),
        }
    }
}

impl Process {
    fn of(profile: &Profile) -> Self {
        let meta = &profile.meta;
        let end = meta.time_ns.saturating_add(meta.duration_ns.max(0));
        Self {
            program: meta.program.clone(),
            main_threads: main_threads(&meta.comments).collect(),
            span: (meta.time_ns, end),
            added: Vec::new(),
        }
    }

    /// Whether both are of one process, as far as the profiles tell: the same program, a main thread
    /// in common, and not at the same time, for in two containers main threads have equal numbers.
    fn is_that_of(&self, other: &Self) -> bool {
        let is_unknown = self.main_threads.is_empty() && other.main_threads.is_empty();
        self.program == other.program
            && (is_unknown || !self.main_threads.is_disjoint(&other.main_threads))
            && !self.is_beside(other)
    }

    /// Whether they were recorded at the same time for the better part. The ends of windows that
    /// follow each other may overlap where the clock was set.
    fn is_beside(&self, other: &Self) -> bool {
        let length = |(begin, end): (i64, i64)| end.saturating_sub(begin);
        let common = (self.span.0.max(other.span.0), self.span.1.min(other.span.1));
        let is_known = self.span.0 > 0 && other.span.0 > 0;
        is_known && length(common) > length(self.span).min(length(other.span)) / 2
    }
}
