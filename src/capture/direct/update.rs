//! What a look finds out about one known thread: whether it has moved, its state, its stack, and why
//! it is on no CPU.
#![forbid(unsafe_code)]

use super::backoff::{MAX_BACKOFF_NS, backoff_ns};
use super::stacks::{Subject, store_torn};
use super::state::{GilHolder, KernelAnswer, has_run_throughout, state_of};
use super::turns::WAITING_PART;
use super::waits::{resolve, verdict};
use super::{DirectEngine, DirectRoster};
use crate::capture::SnapshotStats;
use crate::clock::cpu::thread_cpu_ns;
use crate::clock::thread_state::Activity;
use crate::memory::ReadMemory;
use crate::model::snapshot::{ThreadSample, ThreadState};
use crate::unwind::frames::{Failure, WalkResult};
use crate::unwind::labels::PLACE;

/// How long a thread's waits for a CPU are not read again, in ns; the accounts remember what is told of
/// for longer (`account/cpu_queue.rs`).
const RUN_QUEUE_NS: u64 = 20_000_000;

impl DirectEngine {
    /// Brings one known thread up to date; false if it has gone.
    #[inline]
    pub(super) fn look_at(
        &mut self,
        at: usize,
        memory: &mut dyn ReadMemory,
        lone_runner: Option<usize>,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) -> bool {
        let now_ns = self.roster.snapshot().at_ns;
        let track = &mut self.roster.tracks_mut()[at];
        let extra = &mut track.extra;
        let had_no_turn = lone_runner.is_some_and(|runner| runner != extra.address)
            && track.thread_id != self.runner_id
            && track.walked_at_cpu_ns.is_some();
        if had_no_turn && extra.left_alone_until_ns > now_ns {
            extra.was_left_alone = true;
            return true;
        }
        let has_this_gil = self.has_this_gil(at);
        let Some(clock) = self.check_clock(at) else {
            return true;
        };
        let had_no_turn = had_no_turn && has_this_gil;
        if had_no_turn && self.leaves_waiting(at, clock) {
            return true;
        }
        self.begin_update(at, clock, previous_ns);
        if had_no_turn {
            self.update_waiting(at, clock, memory, stats)
        } else {
            self.update(at, memory, clock, stats)
        }
    }

    /// Whether a thread that had no turn with the GIL still waits for it, in which case it is left alone:
    /// what it uses whenever it wakes up, to see that it has to wait on, is found later.
    #[inline]
    pub(super) fn leaves_waiting(&mut self, at: usize, clock: Option<u64>) -> bool {
        let now_ns = self.roster.snapshot().at_ns;
        let (track, sample) = self.roster.pair_mut(at);
        let used_ns = clock
            .zip(sample.cpu_ns)
            .map(|(now, then)| now.saturating_sub(then));
        let passed_ns = now_ns.saturating_sub(sample.since_ns);
        let is_waiting = sample.state == ThreadState::WaitsForGil
            && used_ns.is_some_and(|used_ns| used_ns < passed_ns / WAITING_PART);
        if is_waiting {
            track.extra.was_left_alone = true;
            track.extra.left_alone_until_ns = now_ns + MAX_BACKOFF_NS;
        }
        is_waiting
    }

    /// Whether a thread needs the GIL whose turns are known.
    #[inline]
    pub(super) fn has_this_gil(&self, at: usize) -> bool {
        let interpreter = self.roster.tracks()[at].extra.interpreter;
        self.list.gil_of(interpreter) == Some(self.interpreter.gil)
    }

    /// What a thread's CPU clock shows, or nothing for one that has ended; `None` if it stands still.
    #[inline]
    pub(super) fn check_clock(&mut self, at: usize) -> Option<Option<u64>> {
        let has_this_gil = self.has_this_gil(at);
        let now_ns = self.roster.snapshot().at_ns;
        let (track, sample) = self.roster.pair_mut(at);
        let clock = thread_cpu_ns(track.thread_id);
        if clock.is_none() || clock != track.walked_at_cpu_ns {
            return Some(clock);
        }
        track.extra.was_left_alone = false;
        if has_this_gil {
            let still_ns = now_ns.saturating_sub(sample.since_ns);
            track.extra.left_alone_until_ns = now_ns + backoff_ns(still_ns);
        }
        None
    }

    /// Takes in when a thread, whose CPU clock has moved, has spent what it has, if it was left alone.
    #[inline]
    pub(super) fn begin_update(&mut self, at: usize, clock: Option<u64>, previous_ns: u64) {
        let now_ns = self.roster.snapshot().at_ns;
        let (track, sample) = self.roster.pair_mut(at);
        track.extra.left_alone_until_ns = 0;
        if std::mem::take(&mut track.extra.was_left_alone) {
            note_early_cpu(sample, clock, now_ns - previous_ns);
        }
    }

    /// Brings a thread up to date whose CPU clock has moved, and whose turn with the GIL it has not
    /// been since the last look: without the GIL it can have changed neither its stack nor its labels.
    /// False if it has gone.
    pub(super) fn update_waiting(
        &mut self,
        at: usize,
        clock: Option<u64>,
        memory: &mut dyn ReadMemory,
        stats: &mut SnapshotStats,
    ) -> bool {
        let Some((before_ns, since_ns)) = note_moved(at, clock, &mut self.roster) else {
            return false;
        };
        self.update_cpu_wait(at, before_ns, since_ns);
        let (track, sample) = self.roster.pair_mut(at);
        track.walked_at_cpu_ns = clock;
        stats.incomplete += u32::from(sample.stack.incomplete);
        if PLACE.get().is_some() {
            read_log(at, before_ns, &mut self.roster);
        }
        let Some(target) = self.target(at) else {
            return false;
        };
        let holder = match target.look_at_gil(&self.interpreter.layout) {
            Some((_, holder)) if holder != 0 => GilHolder::Another,
            _ => GilHolder::Nobody,
        };
        let activity = self.update_state(at, target.gil, holder, |_| false);
        self.update_reason(at, activity, memory);
        self.update_lock(at, activity, false, memory);
        true
    }

    /// Brings a thread up to date whose CPU clock has moved; false if it has gone.
    pub(super) fn update(
        &mut self,
        at: usize,
        memory: &mut dyn ReadMemory,
        clock: Option<u64>,
        stats: &mut SnapshotStats,
    ) -> bool {
        let Some((before_ns, since_ns)) = note_moved(at, clock, &mut self.roster) else {
            return false;
        };
        self.update_cpu_wait(at, before_ns, since_ns);
        let Some(target) = self.target(at) else {
            return false;
        };
        let mut hints = std::mem::take(&mut self.roster.tracks_mut()[at].extra.hints);
        let mut subject = Subject {
            memory,
            layout: &self.interpreter.layout,
            target,
        };
        let (stacks, roster) = (&mut self.stacks, &mut self.roster);
        let read = match PLACE.get() {
            None => stacks.read(&mut subject, Some(at), &mut hints, roster),
            Some(place) => {
                let read = stacks.read_labelled(&mut subject, at, place, &mut hints, roster);
                read_log(at, before_ns, roster);
                read
            }
        };
        roster.tracks_mut()[at].extra.hints = hints;
        match read {
            Ok(Some(walked)) => {
                roster.tracks_mut()[at].walked_at_cpu_ns = clock;
                let passed_ns = roster.snapshot().at_ns - since_ns;
                let activity = self.update_state(at, target.gil, gil_holder(walked), |clock| {
                    has_run_throughout(clock, before_ns, passed_ns)
                });
                let is_remembered = self.stacks.store(at, walked, &mut self.roster, stats);
                self.update_ready(at, memory);
                self.update_reason(at, activity, memory);
                if self.locks.is_on {
                    self.note_walk(at, activity, is_remembered, memory);
                }
            }
            // Between its last frame and its end.
            Ok(None) => {}
            Err(Failure::Gone) => return false,
            Err(Failure::Torn) => store_torn(at, roster, stats),
        }
        true
    }

    /// Finds out what a thread is doing. `has_run_throughout` tells by its CPU clock whether it has
    /// computed ever since the last look, if it holds the GIL. Returns what the kernel says of it, as
    /// far as it was asked: not of a thread on a CPU.
    #[inline]
    fn update_state(
        &mut self,
        at: usize,
        gil: usize,
        holder: GilHolder,
        has_run_throughout: impl Fn(Option<u64>) -> bool,
    ) -> Option<Activity> {
        let (track, sample) = self.roster.pair_mut(at);
        let (thread_id, clock) = (sample.thread_id, sample.cpu_ns);
        let holds_gil = holder == GilHolder::ThisThread;
        let mut answer = KernelAnswer::default();
        sample.gil = gil as u64;
        if !holds_gil {
            answer = self.files.ask(&mut track.extra.activity, thread_id);
        }
        // Of a thread that has ended the kernel tells nothing either.
        let is_hiding = !holds_gil && !answer.tells_futex && thread_cpu_ns(thread_id).is_some();
        (sample.state, sample.on_cpu) = state_of(holder, gil, answer.activity, || {
            holds_gil && has_run_throughout(clock) || thread_cpu_ns(thread_id) != clock
        });
        if holds_gil && !sample.on_cpu {
            answer = self.files.ask(&mut track.extra.activity, thread_id);
        }
        if is_hiding {
            self.roster.hide_gil_waits();
            if !answer.tells_waits {
                self.roster.hide_waits();
            }
        }
        answer.activity
    }

    /// Finds out why a thread is on no CPU, after its state and its stack.
    #[inline]
    fn update_reason(
        &mut self,
        at: usize,
        activity: Option<Activity>,
        memory: &mut dyn ReadMemory,
    ) {
        let sleeps_by_select = self.interpreter.layout.thread.chunk.is_none();
        let (track, sample) = self.roster.pair_mut(at);
        let verdict = verdict(sample.state, sample.on_cpu, activity, sleeps_by_select);
        sample.off =
            verdict.map(|verdict| resolve(verdict, sample, &mut track.extra.descriptor, memory));
    }

    /// Reads for how long a thread has waited for a CPU, which it has had since the last look; its CPU
    /// clock showed `before_ns` at `since_ns`. The kernel's number only grows, so what is not read now
    /// is found later: nothing is asked of a thread that has computed ever since, nor of any at each
    /// of many ticks, for the answer takes as long as all else that is done for a thread.
    #[inline]
    fn update_cpu_wait(&mut self, at: usize, before_ns: Option<u64>, since_ns: u64) {
        if !self.knows_cpu_waits {
            return;
        }
        let now_ns = self.roster.snapshot().at_ns;
        let (track, sample) = self.roster.pair_mut(at);
        let is_early = now_ns < track.extra.run_queue_read_ns.saturating_add(RUN_QUEUE_NS);
        if sample.cpu_wait_ns.is_some()
            && (is_early
                || has_run_throughout(sample.cpu_ns, before_ns, now_ns.saturating_sub(since_ns)))
        {
            return;
        }
        track.extra.run_queue_read_ns = now_ns;
        let file = &mut track.extra.run_queue;
        sample.cpu_wait_ns = self.files.read_run_queue(file, sample.thread_id);
    }
}

/// Who has the GIL of the thread that was walked.
fn gil_holder(walked: WalkResult) -> GilHolder {
    match walked {
        _ if walked.holds_gil => GilHolder::ThisThread,
        _ if walked.is_gil_held => GilHolder::Another,
        _ => GilHolder::Nobody,
    }
}

/// Notes what a thread that was left alone has spent before the last look, `since_ns` ago: since then it can
/// have spent no more than has passed.
pub(super) fn note_early_cpu(sample: &mut ThreadSample, clock: Option<u64>, since_ns: u64) {
    if let (Some(now), Some(before)) = (clock, sample.cpu_ns) {
        sample.early_cpu_ns += now.saturating_sub(before).saturating_sub(since_ns);
    }
}

/// Notes that a thread's CPU clock has moved; returns what it showed before, and since when. `None` if
/// there is no such thread any more.
#[inline]
fn note_moved(
    at: usize,
    clock: Option<u64>,
    roster: &mut DirectRoster,
) -> Option<(Option<u64>, u64)> {
    let now_ns = roster.snapshot().at_ns;
    let sample = roster.sample_mut(at);
    if clock.is_none() || clock < sample.cpu_ns {
        return None;
    }
    let before_ns = std::mem::replace(&mut sample.cpu_ns, clock);
    let since_ns = std::mem::replace(&mut sample.since_ns, now_ns);
    roster.note_movement();
    Some((before_ns, since_ns))
}

/// Takes in what a thread has said of its labels since its CPU clock showed `before_ns`.
fn read_log(at: usize, before_ns: Option<u64>, roster: &mut DirectRoster) {
    let extra = &roster.tracks()[at].extra;
    let version = extra.is_context_known.then(|| extra.context.version());
    roster.read_log(at, version, before_ns);
}
