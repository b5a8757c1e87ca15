//! Which threads have had the GIL since the last look.
//!
//! One that has not had it stands where it stood, and if it waited for it, it still does. The GIL tells
//! who had it last and how often it has gone from one thread to another. Whose the turns in between
//! were, threads show: by the newest frame, if it is not what it was, or by CPU time that they
//! cannot have used while they waited. Once so many have shown as there were turns, no other thread had any.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use super::backoff::GilTurn;
use super::{DirectEngine, Interpreter};
use crate::capture::SnapshotStats;
use crate::clock::cpu::thread_cpu_ns;
use crate::memory::ReadMemory;
use crate::model::snapshot::ThreadState;

/// Turns between two looks that are told apart.
const MAX_TURNS: usize = 8;
/// With fewer threads there is nobody who had none.
const MIN_THREADS: usize = 3;
/// A thread that waits for the GIL wakes up when the switch interval has passed, and uses less than
/// this part of a CPU for that unless the interval is shorter than the one below, in µs.
pub(super) const WAITING_PART: u64 = 8;
const MIN_INTERVAL_US: usize = 1_000;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Turns {
    /// Whose turn it is.
    now: GilTurn,
    /// Who had the GIL at the last look: address of the thread state.
    first: usize,
    /// The kernel's ids of the threads that have had it.
    takers: [u64; MAX_TURNS + 1],
    known: usize,
    /// Turns that have not shown whose they were.
    unknown: usize,
    /// Whether the thread that has it now has shown that it does.
    has_last_shown: bool,
    /// Whether more threads have shown than there were turns.
    is_doubtful: bool,
}

impl Turns {
    /// The turns from `before` to `now`, each with the kernel's id of the thread that had it. `None` if
    /// they are none, or too many.
    pub(super) fn between(before: (GilTurn, u64), now: (GilTurn, u64)) -> Option<Self> {
        let (first, last) = (before.0.holder, now.0.holder);
        let count = now.0.switches.wrapping_sub(before.0.switches);
        if first == last || before.1 == 0 || now.1 == 0 || !(1..=MAX_TURNS).contains(&count) {
            return None;
        }
        let mut takers = [0; MAX_TURNS + 1];
        takers[0] = before.1;
        takers[1] = now.1;
        Some(Self {
            now: now.0,
            first,
            takers,
            known: 2,
            unknown: count - 1,
            has_last_shown: false,
            is_doubtful: false,
        })
    }

    /// A thread has shown that it had a turn, or that it had the GIL at the last look already.
    fn show(&mut self, state: usize, thread_id: u64) {
        if state == self.now.holder {
            // The interpreter notes who has the GIL before it counts that (`take_gil`). If this one was
            // counted, or had a turn before, there are no more unknown turns than were counted.
            self.has_last_shown = true;
        } else if state != self.first {
            match self.unknown.checked_sub(1) {
                Some(unknown) => {
                    self.unknown = unknown;
                    self.takers[self.known] = thread_id;
                    self.known += 1;
                }
                None => self.is_doubtful = true,
            }
        }
    }

    /// Whether this thread is known to have had no turn. A thread may have several states, and change
    /// between them without a turn (3.10, 3.11).
    fn has_passed_over(&self, state: usize, thread_id: u64) -> bool {
        self.has_last_shown
            && self.unknown == 0
            && !self.is_doubtful
            && state != self.first
            && state != self.now.holder
            && !self.takers[..self.known].contains(&thread_id)
    }
}

/// Who has had the GIL since the last look.
pub(super) enum Since {
    /// Only this thread state.
    OneRan(usize),
    /// One after the other.
    Turns(Turns),
    /// It cannot be told.
    Unknown,
}

/// A thread whose CPU clock has moved.
#[derive(Debug)]
pub(super) struct Moved {
    /// What it has used since its clock was read last, in ns.
    gain_ns: u64,
    /// For how long that was, in ns.
    passed_ns: u64,
    at: usize,
    clock: Option<u64>,
}

impl Moved {
    /// Whether it can have waited all the time.
    fn is_little(&self) -> bool {
        self.gain_ns < self.passed_ns / WAITING_PART
    }
}

impl DirectEngine {
    pub(super) fn read_turn(&self) -> Option<GilTurn> {
        let Interpreter {
            layout,
            lasting,
            gil,
            ..
        } = &self.interpreter;
        GilTurn::read(*lasting, &layout.gil, *gil)
    }

    /// Takes in whose turn with the GIL it is; returns what can be told of the turns since the last look.
    pub(super) fn note_turn(&mut self, turn: Option<GilTurn>, stats: &mut SnapshotStats) -> Since {
        if let Some(now) = turn
            && turn == self.turn
        {
            return Since::OneRan(now.holder);
        }
        // Not if it went to who reads names for this engine.
        let reader = self.names.source.thread_state();
        stats.has_turned = turn.is_some_and(|turn| turn.holder != reader);
        let last = std::mem::replace(&mut self.turn, turn);
        let holder = turn.map(|turn| turn.holder);
        let mut tracks = self.roster.tracks().iter();
        let runner = tracks.find(|track| Some(track.extra.address) == holder);
        let id = runner.map_or(0, |runner| runner.thread_id);
        let last_id = std::mem::replace(&mut self.runner_id, id);
        match last.zip(turn) {
            Some((last, turn)) if self.can_look_by_turns() => {
                Turns::between((last, last_id), (turn, id)).map_or(Since::Unknown, Since::Turns)
            }
            _ => Since::Unknown,
        }
    }

    /// Whether there are enough threads for that, and those that wait for the GIL sleep most of the time.
    fn can_look_by_turns(&self) -> bool {
        let Interpreter {
            layout,
            lasting,
            gil,
            ..
        } = &self.interpreter;
        let interval = gil.checked_add(layout.gil.interval);
        let interval = interval.and_then(|address| lasting.word(address));
        self.roster.len() >= MIN_THREADS
            && interval.is_some_and(|interval| interval >= MIN_INTERVAL_US)
    }

    /// Brings all known threads up to date, those first that are likely to have had the GIL; those that
    /// have waited for it all the time are left alone. Drops those that have gone.
    #[inline(never)]
    pub(super) fn look_by_turns(
        &mut self,
        mut turns: Turns,
        memory: &mut dyn ReadMemory,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) {
        let mut moved = std::mem::take(&mut self.moved);
        let now_ns = self.roster.snapshot().at_ns;
        for at in 0..self.roster.len() {
            if let Some(clock) = self.check_clock(at) {
                let glance = &mut self.roster.tracks_mut()[at].extra.glance;
                let (last_ns, last_cpu_ns) =
                    std::mem::replace(glance, (now_ns, clock.unwrap_or(0)));
                moved.push(Moved {
                    gain_ns: clock.unwrap_or(0).saturating_sub(last_cpu_ns),
                    passed_ns: now_ns - last_ns,
                    at,
                    clock,
                });
            }
        }
        moved.sort_unstable_by_key(|moved| Reverse(moved.gain_ns));
        let mut gone = Vec::new();
        for (index, thread) in moved.iter().enumerate() {
            // Others were looked at since.
            let is_old = index > 0;
            if !self.look_at_moved(thread, is_old, &mut turns, memory, previous_ns, stats) {
                gone.push(thread.at);
            }
        }
        gone.sort_unstable();
        for at in gone.into_iter().rev() {
            self.drop_gone(at);
        }
        moved.clear();
        self.moved = moved;
    }

    /// Brings a thread up to date whose CPU clock has moved; false if it has gone.
    fn look_at_moved(
        &mut self,
        thread: &Moved,
        is_old: bool,
        turns: &mut Turns,
        memory: &mut dyn ReadMemory,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) -> bool {
        let at = thread.at;
        let (track, sample) = (&self.roster.tracks()[at], self.roster.sample(at));
        let (state, thread_id) = (track.extra.address, track.thread_id);
        let was_waiting = sample.state == ThreadState::WaitsForGil;
        let had_no_turn = track.walked_at_cpu_ns.is_some()
            && turns.has_passed_over(state, thread_id)
            && self.has_this_gil(at)
            && self.read_turn() == Some(turns.now);
        if had_no_turn && self.leaves_waiting(at, thread.clock) {
            return true;
        }
        let clock = if is_old {
            thread_cpu_ns(thread_id)
        } else {
            thread.clock
        };
        self.begin_update(at, clock, previous_ns);
        if had_no_turn {
            return self.update_waiting(at, clock, memory, stats);
        }
        self.stacks.has_other_leaf = false;
        let is_there = self.update(at, memory, clock, stats);
        let has_worked = was_waiting && !thread.is_little();
        if is_there && (has_worked || self.stacks.has_other_leaf) {
            turns.show(state, thread_id);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::{GilTurn, MAX_TURNS, Turns};

    fn turn(holder: usize, switches: usize) -> GilTurn {
        GilTurn { holder, switches }
    }

    /// From thread 1 to thread 2 by so many switches.
    fn turns(switches: usize) -> Turns {
        Turns::between((turn(0x10, 7), 1), (turn(0x20, 7 + switches), 2))
            .unwrap_or_else(|| unreachable!("they are few"))
    }

    #[test]
    fn whoever_has_not_shown_had_no_turn_once_there_are_none_left() {
        let mut turns = turns(3);
        turns.show(0x30, 3);
        turns.show(0x20, 2);
        turns.show(0x10, 1);
        assert!(!turns.has_passed_over(0x50, 5));
        turns.show(0x40, 4);
        assert!(turns.has_passed_over(0x50, 5));
        for taker in 1..=4 {
            assert!(!turns.has_passed_over(0x10 * taker, taker as u64));
            // By another state of the same thread.
            assert!(!turns.has_passed_over(0x90, taker as u64));
        }
        // There were only so many.
        turns.show(0x50, 5);
        assert!(!turns.has_passed_over(0x60, 6));
    }

    #[test]
    fn a_turn_that_is_perhaps_not_counted_yet_counts() {
        let mut turns = turns(1);
        assert!(!turns.has_passed_over(0x50, 5));
        turns.show(0x10, 1);
        assert!(!turns.has_passed_over(0x50, 5));
        turns.show(0x20, 2);
        assert!(turns.has_passed_over(0x50, 5));
    }

    #[test]
    fn what_cannot_be_told_is_not() {
        let between = |before, now| Turns::between(before, now).is_some();
        assert!(between((turn(1, 0), 1), (turn(2, MAX_TURNS), 2)));
        assert!(between((turn(1, usize::MAX), 1), (turn(2, 0), 2)));
        assert!(!between((turn(1, 0), 1), (turn(2, MAX_TURNS + 1), 2)));
        assert!(!between((turn(1, 3), 1), (turn(1, 5), 1)));
        assert!(!between((turn(1, 5), 1), (turn(2, 3), 2)));
        // Who that is is not known.
        assert!(!between((turn(1, 0), 0), (turn(2, 1), 2)));
        assert!(!between((turn(1, 0), 1), (turn(2, 1), 0)));
    }
}
