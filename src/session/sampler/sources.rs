//! What sources tell of, between the ticks and at the end of each window.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use super::Sampler;
use crate::capture::source::Source;
use crate::model::event::EventSample;
use crate::model::snapshot::Snapshot;
use crate::model::thread_names;
use crate::session::recording::WindowCounters;

/// How a source is asked for events; returns how many were lost.
type Ask = fn(&mut dyn Source, &mut Vec<EventSample>) -> u64;

/// What the thread of an event is called, or was, if it has ended; empty if that is not known.
pub(super) fn name_of(event: &EventSample, snapshot: &Snapshot) -> Arc<str> {
    let mut threads = snapshot.threads.iter();
    let known = threads.find(|thread| thread.thread_id == event.thread_id);
    let name = known.map(|thread| thread.name.clone());
    name.or_else(|| thread_names::of(event.thread_id))
        .unwrap_or_default()
}

impl Sampler {
    /// Hands what has happened since the last time to all recordings.
    pub(super) fn drain_sources(&mut self) {
        // Without memory for it, it stays where it is as far as there is room.
        if self.starved_since_ns.is_some() {
            return;
        }
        let all = 0..self.recordings.len();
        let lost_events = self.ask_sources(all, |source, events| source.drain(events));
        if lost_events > 0 {
            self.count(WindowCounters {
                lost_events,
                ..WindowCounters::default()
            });
        }
    }

    /// Hands what there is at the end of a recording's window to that recording.
    pub(super) fn ask_levels(&mut self, index: usize) {
        self.ask_sources(index..index + 1, |source, events| {
            source.levels(events);
            0
        });
    }

    #[inline(never)]
    fn ask_sources(&mut self, recordings: Range<usize>, ask: Ask) -> u64 {
        let snapshot = self.engine.snapshot();
        let mut lost = 0;
        for source in &mut *self.sources.lock() {
            lost += ask(source.as_mut(), &mut self.events);
            for event in self.events.drain(..) {
                let name = name_of(&event, snapshot);
                let wall_ns = event.at_ns.saturating_sub(self.excluded_ns);
                let functions = source.functions();
                for recording in &mut self.recordings[recordings.clone()] {
                    recording.charge(&event, functions, &name, snapshot.has_requests, wall_ns);
                }
            }
        }
        lost
    }
}
