//! How often tasks and greenlets are drawn, and what becomes of it.
#![forbid(unsafe_code)]

use super::Sampler;
use super::sources::name_of;
use crate::session::fork::session;
use crate::session::recording::Recording;

/// How often they are drawn: most of them wait for longer than this, and each draw costs something.
const DRAW_NS: u64 = 100_000_000;
/// At the end of a window they are drawn for what is left, unless it is less than this.
const LEAST_NS: u64 = 1_000_000;

/// When they were drawn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Draws {
    /// In wall time; `None` if what was before is nobody's.
    last_ns: Option<u64>,
}

impl Draws {
    /// How much there is to tell of, if it is enough.
    fn take(&mut self, wall_ns: u64, least_ns: u64) -> Option<u64> {
        let Some(last_ns) = self.last_ns else {
            self.last_ns = Some(wall_ns);
            return None;
        };
        let passed_ns = wall_ns.saturating_sub(last_ns);
        if passed_ns < least_ns {
            return None;
        }
        self.last_ns = Some(wall_ns);
        Some(passed_ns)
    }

    /// What passes until the next draw is nobody's.
    pub(super) fn interrupt(&mut self) {
        self.last_ns = None;
    }
}

impl Sampler {
    /// Draws some of the tasks, if that is due.
    #[inline]
    pub(super) fn draw_tasks(&mut self, wall_ns: u64) {
        if let Some(passed_ns) = self.draws.take(wall_ns, DRAW_NS) {
            self.charge_tasks(passed_ns, wall_ns);
        }
    }

    /// Draws some of the tasks before something begins or ends.
    pub(super) fn draw_last_tasks(&mut self, wall_ns: u64) {
        if self.starved_since_ns.is_some() || self.unattended_since_ns.is_some() {
            self.draws.interrupt();
        } else if !self
            .recordings
            .iter()
            .any(|recording| recording.is_active())
        {
            // Nobody has been told what they did.
            self.draws.interrupt();
            self.draws.take(wall_ns, 0);
        } else if let Some(passed_ns) = self.draws.take(wall_ns, LEAST_NS) {
            self.charge_tasks(passed_ns, wall_ns);
        }
    }

    #[inline(never)]
    fn charge_tasks(&mut self, passed_ns: u64, wall_ns: u64) {
        let mut requests = Vec::new();
        let keeps_apart = |recording: &Recording| recording.config().requests.keep_apart;
        if self.recordings.iter().any(keeps_apart) {
            session().requests().take_turns(&mut requests);
        }
        let own_task = |number| session().requests().own_task(number);
        self.engine
            .draw_tasks(passed_ns, &requests, &own_task, &mut self.events);
        let snapshot = self.engine.snapshot();
        for event in self.events.drain(..) {
            let name = name_of(&event, snapshot);
            let (functions, has_requests) = (&snapshot.functions, snapshot.has_requests);
            for recording in &mut self.recordings {
                recording.charge(&event, functions, &name, has_requests, wall_ns);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DRAW_NS, Draws, LEAST_NS};

    #[test]
    fn what_was_before_the_first_draw_is_nobodys() {
        let mut draws = Draws::default();
        assert_eq!(draws.take(5 * DRAW_NS, DRAW_NS), None);
        assert_eq!(draws.take(6 * DRAW_NS - 1, DRAW_NS), None);
        assert_eq!(draws.take(6 * DRAW_NS + 3, DRAW_NS), Some(DRAW_NS + 3));
        draws.interrupt();
        assert_eq!(draws.take(9 * DRAW_NS, DRAW_NS), None);
        assert_eq!(draws.take(9 * DRAW_NS + LEAST_NS, LEAST_NS), Some(LEAST_NS));
    }
}
