//! The sampler: owns the clock, the engine and the active recordings.
//!
//! It runs no Python code, touches no disk, and holds no lock while the engine holds the GIL.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::control::{Control, RecordingId, Standing};
use super::fork::session;
use super::health::Health;
use super::idle::IdleBackoff;
use super::last_call::LastCall;
use super::native_thread::{LEAST_SLEEP_NS, run_soon};
use super::recording::{Recording, Unserved, WindowCounters};
use super::writer::Job;
use crate::capture::{Engine, Missed, Taken};
use crate::clock::budget::Budget;
use crate::clock::cpu::{monotonic_ns, own_cpu_ns, unix_time_ns};
use crate::clock::kernel::Bell;
use crate::clock::ticker::Ticker;
use crate::fold::profile::Profile;
use crate::memory::reserve;
use crate::model::snapshot::{Snapshot, ThreadState};
use crate::unwind::label_log;

/// Of a longer time between two ticks nothing is known.
const MAX_GIL_STEP_NS: u64 = 2_000_000_000;

/// How often the sampler looks at what it costs and chooses its rate by that, at the most.
const PAY_INTERVAL_NS: u64 = 200_000_000;

/// With nothing to do, the sampler looks this often whether there is.
const PATIENCE_NS: u64 = 60_000_000_000;

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Continue,
    /// It was told to quit, or the interpreter is going away.
    End,
}

/// The state of the sampler; it outlives the thread that runs it, so that a fork can end the
/// thread and start another.
pub struct Sampler {
    engine: Box<dyn Engine>,
    snapshot: Snapshot,
    recordings: Vec<Recording>,
    ticker: Option<Ticker>,
    budget: Budget,
    idle: IdleBackoff,
    /// [`Snapshot::threads_version`] at the last tick.
    threads_version: u64,
    /// Time in which the process stood still; wall time is the monotonic clock less this.
    excluded_ns: u64,
    control: Receiver<Control>,
    /// Set to end the thread; the state stays for the next one.
    quit: Arc<AtomicBool>,
    /// Rung after every message, and when `quit` is set.
    bell: Arc<Bell>,
    last_call: Arc<LastCall>,
    /// The number of it that was heard last.
    heard: u32,
    windows: Sender<Job>,
    health: Arc<Health>,
    /// The thread's CPU clock when it was last looked at.
    cpu_mark_ns: u64,
    /// When that was.
    paid_at_ns: u64,
    /// Ticks since then.
    unpaid_ticks: u32,
    /// When it had done all that was due, in ns, and could wait for the next tick.
    ready_ns: u64,
    /// When the GIL's holder was looked at last.
    gil_mark_ns: u64,
    gil: GilCount,
    /// Whether this thread has asked to run soon.
    runs_soon: bool,
    /// Since when the recordings pause because there is no memory left.
    starved_since_ns: Option<u64>,
    /// When the last thread ended that this ran on.
    left_ns: u64,
    /// Since when the recordings pause because no thread can be had.
    unattended_since_ns: Option<u64>,
}

/// How many threads hold the GIL and wait for it.
#[derive(Clone, Copy, Debug, Default)]
struct GilCount {
    held: u64,
    waiting: u64,
    /// [`Snapshot::moved_ns`] and [`Snapshot::threads_version`] when they were counted.
    marks: (u64, u64),
}

impl GilCount {
    #[inline(never)]
    fn of(snapshot: &Snapshot, marks: (u64, u64)) -> Self {
        let (mut held, mut waiting) = (0, 0);
        for thread in &snapshot.threads {
            match thread.state {
                ThreadState::HoldsGil => held = 1,
                ThreadState::WaitsForGil => waiting += 1,
                _ => {}
            }
        }
        Self {
            held,
            waiting,
            marks,
        }
    }
}

impl Sampler {
    /// A sampler without recordings.
    #[must_use]
    pub fn new(
        engine: Box<dyn Engine>,
        control: Receiver<Control>,
        quit: Arc<AtomicBool>,
        bell: Arc<Bell>,
        last_call: Arc<LastCall>,
        windows: Sender<Job>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            engine,
            snapshot: Snapshot::default(),
            recordings: Vec::new(),
            ticker: None,
            budget: Budget::default(),
            idle: IdleBackoff::default(),
            threads_version: 0,
            excluded_ns: 0,
            control,
            quit,
            bell,
            heard: last_call.asked(),
            last_call,
            windows,
            health,
            cpu_mark_ns: 0,
            paid_at_ns: 0,
            unpaid_ticks: 0,
            ready_ns: 0,
            gil_mark_ns: 0,
            gil: GilCount::default(),
            runs_soon: false,
            starved_since_ns: None,
            left_ns: 0,
            unattended_since_ns: None,
        }
    }

    /// Serves ticks and messages until told to quit, and hands the state back.
    #[must_use]
    pub fn run(mut self: Box<Self>) -> Box<Self> {
        self.attend();
        // A new thread has a new CPU clock, and the time without a thread is no gap to report.
        self.cpu_mark_ns = own_cpu_ns();
        self.runs_soon = false;
        self.ticker = None;
        self.idle.begin(self.engine.now_ns());
        self.schedule();
        // Something may have been said while there was no thread.
        let mut is_called = true;
        loop {
            if self.serve_due() == Flow::End || is_called && self.answer_call() == Flow::End {
                return self;
            }
            let deadline_ns = self.ticker.as_ref().map(Ticker::deadline_ns);
            let deadline_ns = deadline_ns.unwrap_or_else(|| monotonic_ns() + PATIENCE_NS);
            is_called = self.bell.sleep_until(deadline_ns);
        }
    }

    /// Serves all messages, then looks whether it is to quit.
    #[inline(never)]
    fn answer_call(&mut self) -> Flow {
        self.answer_last_call();
        while let Ok(message) = self.control.try_recv() {
            // A tick that is due comes before any message: it is what notices that the process
            // stood still, or this thread, and a message must not have that time credited.
            if self.serve_due() == Flow::End {
                return Flow::End;
            }
            self.handle(message);
        }
        if !self.quit.load(Acquire) {
            return Flow::Continue;
        }
        self.settle();
        self.publish();
        self.engine.park();
        self.left_ns = self.engine.now_ns();
        Flow::End
    }

    /// No thread can be had to go on with: what happens until there is one belongs to nobody.
    #[cold]
    pub fn leave(&mut self) {
        if self.unattended_since_ns.is_some() {
            return;
        }
        for recording in &mut self.recordings {
            recording.starve();
        }
        self.gil_mark_ns = 0;
        self.ticker = None;
        self.unattended_since_ns = Some(if self.recordings.is_empty() {
            self.engine.now_ns()
        } else {
            self.left_ns
        });
        Health::add(&self.health.unattended, 1);
    }

    /// There is a thread again.
    fn attend(&mut self) {
        if self.unattended_since_ns.is_some() {
            self.settle();
            self.unattended_since_ns = None;
            self.engine.end_rests();
        }
    }

    /// Answers what is asked while no thread can be had, on the thread of whoever asks: with what was
    /// recorded before. Nobody is looked at.
    #[cold]
    pub fn answer_unattended(&mut self) {
        self.leave();
        self.answer_last_call();
        while let Ok(message) = self.control.try_recv() {
            self.handle(message);
        }
    }

    #[inline]
    fn serve_due(&mut self) -> Flow {
        self.due()
            .map_or(Flow::Continue, |now_ns| self.tick(now_ns))
    }

    /// The time, if a tick is due.
    fn due(&self) -> Option<u64> {
        let now_ns = self.engine.now_ns();
        let deadline_ns = self.ticker.as_ref()?.deadline_ns();
        (now_ns >= deadline_ns).then_some(now_ns)
    }

    /// One wake-up of the clock.
    fn tick(&mut self, now_ns: u64) -> Flow {
        let Some(ticker) = &mut self.ticker else {
            return Flow::Continue;
        };
        let tick = ticker.fire(self.ready_ns, now_ns);
        let tick_ns = ticker.period_ns();
        self.excluded_ns += tick.gap_ns;
        let mut counters = WindowCounters {
            late: tick.late,
            gap_ns: tick.gap_ns,
            ..WindowCounters::default()
        };
        Health::add(&self.health.late, tick.late);
        if tick.gap_ns > 0 {
            Health::add(&self.health.gaps, 1);
            Health::add(&self.health.gap_ns, tick.gap_ns);
        }
        if self.starved_since_ns.is_some() {
            self.end_starving(now_ns);
        }
        let taken = self.look();
        self.snapshot.is_overdue = tick.is_overdue;
        let wall_ns = self.wall_ns(self.snapshot.at_ns);
        let has_happened = taken.is_ok_and(|taken| self.has_happened(taken));
        let unserved = Unserved {
            ticks: tick.unserved,
            is_idle: taken.is_ok() && !has_happened,
        };
        self.count_unserved(unserved);
        match taken {
            Ok(taken) => {
                self.count(taken);
                counters.incomplete = u64::from(taken.incomplete);
                self.count_gil();
            }
            Err(Missed::NotNow) => {
                Health::add(&self.health.skipped, 1);
                counters.skipped = 1;
            }
            Err(Missed::Finalizing) => {
                self.end_with_interpreter();
                return Flow::End;
            }
        }
        for recording in &mut self.recordings {
            recording.count(counters);
            let due = recording.due_ticks(wall_ns, tick_ns);
            if taken.is_ok() && due > 0 {
                recording.observe(&self.snapshot, wall_ns, unserved.at_most(due - 1));
            }
        }
        if reserve::take_shortage() && self.starved_since_ns.is_none() {
            self.starve(now_ns);
        }
        for index in 0..self.recordings.len() {
            if self.recordings[index].wants_rotation(wall_ns) {
                self.rotate(index, wall_ns);
            }
        }
        self.unpaid_ticks += 1;
        // Now and then: to read the thread's clock at each tick would be part of the cost.
        if now_ns.saturating_sub(self.paid_at_ns) < PAY_INTERVAL_NS {
            self.ready_ns = self.engine.now_ns();
        } else {
            self.pay(now_ns);
            self.publish();
            self.schedule();
            if session().refusals().due().is_some() {
                session().try_again();
            }
        }
        if tick.gap_ns > 0 {
            self.idle.begin(self.snapshot.at_ns);
        }
        if taken.is_ok()
            && let Some(ticker) = &mut self.ticker
        {
            let idle = &mut self.idle;
            let ticks = idle.ticks_to_leave(self.snapshot.at_ns, has_happened, ticker.period_ns());
            ticker.rest(self.ready_ns, ticks);
        }
        Flow::Continue
    }

    /// There was no memory for what this tick needed, but for what had been set aside: nothing more is
    /// asked for until there is. If much of that is in use, what was recorded is given up for it.
    #[cold]
    fn starve(&mut self, now_ns: u64) {
        Health::add(&self.health.starved, 1);
        self.settle();
        for recording in &mut self.recordings {
            recording.starve();
        }
        self.starved_since_ns = Some(now_ns);
        if !reserve::is_low() {
            self.health
                .set_error("there was no memory left; nothing was recorded for a while");
            return;
        }
        for index in 0..self.recordings.len() {
            drop(self.take_window(index));
            Health::add(&self.health.lost_windows, 1);
        }
        self.engine.forget(&mut self.snapshot);
        self.health
            .set_error("there was no memory left; what was recorded in the open windows is lost");
    }

    /// Goes on if there is memory again.
    #[cold]
    fn end_starving(&mut self, now_ns: u64) {
        if reserve::take_shortage() || !reserve::is_there() {
            return;
        }
        if let Some(since_ns) = self.starved_since_ns.take() {
            self.count_starved(now_ns.saturating_sub(since_ns));
            self.idle.begin(now_ns);
            self.engine.end_rests();
        }
    }

    fn count_starved(&mut self, starved_ns: u64) {
        Health::add(&self.health.starved_ns, starved_ns);
        for recording in &mut self.recordings {
            recording.count(WindowCounters {
                starved_ns,
                ..WindowCounters::default()
            });
        }
    }

    /// Whether anything has changed since the last tick.
    fn has_happened(&mut self, taken: Taken) -> bool {
        let version = self.snapshot.threads_version;
        let is_other = std::mem::replace(&mut self.threads_version, version) != version;
        is_other || taken.has_turned || self.snapshot.moved_ns >= self.snapshot.at_ns
    }

    fn handle(&mut self, message: Control) {
        match message {
            Control::Start(recording, _started) => {
                let id = recording.id();
                if self.unattended_since_ns.is_some() {
                    // That is the others'.
                    self.settle();
                }
                self.recordings.push(*recording);
                self.baseline(id);
                self.schedule();
            }
            Control::Stop(id, reply) => {
                if let Some(index) = self.position(id) {
                    self.settle();
                    let profile = self.take_window(index);
                    self.recordings.swap_remove(index);
                    self.schedule();
                    // The caller may have given up waiting; its profile is then of no use.
                    drop(reply.send(profile));
                }
            }
            Control::Rotate(id, reply) => {
                if let Some(index) = self.position(id) {
                    self.settle();
                    drop(reply.send(self.take_window(index)));
                    self.schedule();
                }
            }
            Control::Pause(id, _paused) => {
                if let Some(index) = self.position(id) {
                    self.settle();
                    self.recordings[index].pause();
                    self.schedule();
                }
            }
            Control::Resume(id) => {
                if let Some(index) = self.position(id) {
                    let wall_ns = self.wall_ns(self.engine.now_ns());
                    self.recordings[index].resume(wall_ns);
                    self.baseline(id);
                    self.schedule();
                }
            }
            Control::Standing(reply) => {
                let threads = self.snapshot.threads.iter();
                let standing = threads.map(|thread| Standing {
                    thread_id: thread.thread_id,
                    cpu_ns: thread.cpu_ns,
                    since_ns: thread.since_ns,
                });
                // Whoever asked may have given up.
                drop(reply.send(standing.collect()));
            }
            #[expect(clippy::panic, reason = "the fault injection that tests ask for")]
            Control::Panic => panic!("injected by a test"),
        }
    }

    /// Shows a recording where all threads are now, so that its first tick has something to
    /// measure from.
    fn baseline(&mut self, id: RecordingId) {
        if self.ticker.as_ref().is_some_and(Ticker::is_at_rest) {
            self.settle();
        }
        self.engine.end_rests();
        let taken = self.look();
        if let Ok(taken) = taken {
            self.snapshot.is_overdue = false;
            self.count(taken);
            let wall_ns = self.wall_ns(self.snapshot.at_ns);
            if let Some(index) = self.position(id) {
                self.recordings[index].observe(&self.snapshot, wall_ns, Unserved::default());
            }
        }
        self.publish();
    }

    /// Hands what threads have told of their labels to all recordings, whether they are due or not.
    fn note_spans(&mut self) {
        if !self.snapshot.spans.is_empty() {
            for recording in &mut self.recordings {
                recording.note(&self.snapshot);
            }
        }
    }

    /// Has the engine look at all threads, unless there is no memory for it.
    fn look(&mut self) -> Result<Taken, Missed> {
        self.snapshot.spans.clear();
        if self.starved_since_ns.is_some() || self.unattended_since_ns.is_some() {
            return Err(Missed::NotNow);
        }
        let taken = self.engine.snapshot(&mut self.snapshot);
        self.note_spans();
        taken
    }

    /// Brings all recordings up to the present without a new look at the stacks.
    fn settle(&mut self) {
        if let Some(since_ns) = &mut self.unattended_since_ns {
            let now_ns = self.engine.now_ns();
            let unattended_ns = now_ns.saturating_sub(std::mem::replace(since_ns, now_ns));
            // Nobody was there to starve.
            if let Some(starved_since_ns) = &mut self.starved_since_ns {
                *starved_since_ns = now_ns;
            }
            Health::add(&self.health.unattended_ns, unattended_ns);
            for recording in &mut self.recordings {
                recording.count(WindowCounters {
                    unattended_ns,
                    ..WindowCounters::default()
                });
            }
            return;
        }
        if let Some(since_ns) = &mut self.starved_since_ns {
            let now_ns = self.engine.now_ns();
            let starved_ns = now_ns.saturating_sub(std::mem::replace(since_ns, now_ns));
            self.count_starved(starved_ns);
            return;
        }
        let clocks = |snapshot: &Snapshot| -> u64 {
            let threads = snapshot.threads.iter();
            threads.filter_map(|thread| thread.cpu_ns).sum()
        };
        let before = clocks(&self.snapshot);
        self.snapshot.spans.clear();
        self.engine.read_clocks(&mut self.snapshot);
        self.note_spans();
        self.snapshot.is_overdue = false;
        self.pay(self.snapshot.at_ns);
        let wall_ns = self.wall_ns(self.snapshot.at_ns);
        let mut unserved = Unserved {
            ticks: 0,
            is_idle: clocks(&self.snapshot) == before,
        };
        let mut tick_ns = 0;
        if let Some(ticker) = &mut self.ticker {
            tick_ns = ticker.period_ns();
            unserved.ticks = ticker.take_unserved(self.snapshot.at_ns);
            // Something is about to happen.
            ticker.end_rest(self.snapshot.at_ns);
        }
        self.count_unserved(unserved);
        for recording in &mut self.recordings {
            let due = recording.due_ticks(wall_ns, tick_ns);
            recording.settle(&self.snapshot, wall_ns, unserved.at_most(due));
        }
    }

    /// Hands every open window over to the writer if somebody waits for that.
    fn answer_last_call(&mut self) {
        let asked = self.last_call.asked();
        if asked != self.heard {
            self.heard = asked;
            self.write_out();
        }
    }

    /// Without a look at the stacks, for which an engine may have to wait: for the GIL, which whoever
    /// asks for this may hold.
    #[cold]
    fn write_out(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(200);
        self.settle();
        let wall_ns = self.wall_ns(self.engine.now_ns());
        for index in 0..self.recordings.len() {
            if self.recordings[index].has_output() {
                self.rotate(index, wall_ns);
            }
        }
        self.schedule();
        // The writer does what was handed over before.
        let call = Job::Answer(self.last_call.clone(), self.heard);
        if self.windows.send_timeout(call, PATIENCE).is_err() {
            // Whoever asks again is to be heard again.
            self.heard = self.heard.wrapping_sub(1);
        }
    }

    /// Hands every open window over and ends the writer: nobody will ask for them any more, and a
    /// native thread that went on would keep the process from ending.
    #[cold]
    fn end_with_interpreter(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.settle();
        for index in 0..self.recordings.len() {
            let job = Job::Write {
                recording: self.recordings[index].id(),
                profile: Arc::from(self.take_window(index)),
                reply: None,
            };
            // A writer that is stuck cannot be helped any more.
            drop(self.windows.send_timeout(job, PATIENCE));
        }
        self.recordings.clear();
        self.engine.end();
        drop(self.windows.send_timeout(Job::End, PATIENCE));
        // Nobody is there to be waited for.
        self.last_call.set_recordings(0);
    }

    fn take_window(&mut self, index: usize) -> Box<Profile> {
        let wall_ns = self.wall_ns(self.engine.now_ns());
        let (profile, overflowed) =
            self.recordings[index].take_window(wall_ns, unix_time_ns(), self.engine.name());
        Health::add(&self.health.overflow, overflowed);
        Box::new(profile)
    }

    /// Hands over the open window of a recording.
    #[inline(never)]
    fn rotate(&mut self, index: usize, wall_ns: u64) {
        if let Some(ring) = self.recordings[index].config().ring.clone() {
            let window = Arc::from(self.take_window(index));
            ring.push(window, self.engine.now_ns());
            return;
        }
        if self.windows.is_full() {
            // The writer is behind: the window simply goes on growing, within its limits.
            Health::add(&self.health.merged_windows, 1);
            self.recordings[index].postpone_rotation(wall_ns);
            return;
        }
        let job = Job::Write {
            recording: self.recordings[index].id(),
            profile: Arc::from(self.take_window(index)),
            reply: None,
        };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.windows.try_send(job)
        {
            Health::add(&self.health.write_errors, 1);
            Health::add(&self.health.lost_windows, 1);
            self.health
                .set_error("a window was lost: the writer had ended");
        }
    }

    /// Chooses the tick for the fastest active recording within the overhead it allows.
    #[inline(never)]
    fn schedule(&mut self) {
        label_log::set_wanted(!self.recordings.is_empty());
        if self.unattended_since_ns.is_some() {
            // There is nobody to wake.
            return;
        }
        let active = || {
            self.recordings
                .iter()
                .filter(|recording| recording.is_active())
        };
        let Some(asked_ns) = active().map(|recording| recording.config().period_ns).min() else {
            self.ticker = None;
            return;
        };
        let unlimited = active().any(|recording| recording.config().max_overhead <= 0.0);
        let allowed = active()
            .map(|recording| recording.config().max_overhead)
            .fold(0.0, f64::max);
        let period_ns = self
            .budget
            .period_ns(asked_ns, if unlimited { 0.0 } else { allowed });
        let now_ns = self.engine.now_ns();
        self.ready_ns = now_ns;
        match &mut self.ticker {
            Some(ticker) => ticker.set_period(now_ns, period_ns),
            None => self.ticker = Some(Ticker::new(now_ns, period_ns, now_ns)),
        }
        Health::set(&self.health.period_ns, period_ns);
        let runs_soon = period_ns >= LEAST_SLEEP_NS;
        if runs_soon != self.runs_soon {
            run_soon(runs_soon);
            self.runs_soon = runs_soon;
        }
    }

    /// Charges the time since the last tick to whoever holds the GIL or waits for it.
    fn count_gil(&mut self) {
        let last_ns = std::mem::replace(&mut self.gil_mark_ns, self.snapshot.at_ns);
        let passed_ns = self.snapshot.at_ns.saturating_sub(last_ns);
        // Not the time in which nothing was recorded.
        if last_ns == 0 || passed_ns > MAX_GIL_STEP_NS {
            return;
        }
        let marks = (self.snapshot.moved_ns, self.snapshot.threads_version);
        if self.gil.marks != marks {
            self.gil = GilCount::of(&self.snapshot, marks);
        }
        Health::add(&self.health.gil_held_ns, self.gil.held * passed_ns);
        if self.snapshot.hides_gil_waits {
            Health::set(&self.health.gil_waits_hidden, 1);
        } else {
            Health::add(&self.health.gil_wait_ns, self.gil.waiting * passed_ns);
        }
    }

    /// Counts ticks that were not served on purpose.
    #[inline]
    fn count_unserved(&self, unserved: Unserved) {
        if unserved.ticks == 0 {
            return;
        }
        if unserved.is_idle {
            Health::add(&self.health.ticks, unserved.ticks);
            Health::add(&self.health.idle_ticks, unserved.ticks);
        } else {
            Health::add(&self.health.late, unserved.ticks);
        }
    }

    fn count(&self, taken: Taken) {
        Health::add(&self.health.ticks, 1);
        Health::add(&self.health.stacks, u64::from(taken.walked));
        Health::add(&self.health.incomplete, u64::from(taken.incomplete));
        Health::add(&self.health.hold_ns, taken.hold_ns);
        Health::raise(&self.health.hold_max_ns, taken.hold_ns);
    }

    /// Charges the thread's CPU time of the last ticks to the budget.
    #[inline(never)]
    fn pay(&mut self, now_ns: u64) {
        self.paid_at_ns = now_ns;
        let cpu_ns = own_cpu_ns();
        let cost_ns = cpu_ns.saturating_sub(self.cpu_mark_ns);
        self.cpu_mark_ns = cpu_ns;
        let ticks = std::mem::take(&mut self.unpaid_ticks);
        if ticks > 0 {
            self.budget.spend(cost_ns, ticks);
        }
        Health::add(&self.health.sampler_cpu_ns, cost_ns);
    }

    #[inline(never)]
    fn publish(&self) {
        let trees: usize = self.recordings.iter().map(Recording::bytes).sum();
        let own = trees + self.engine.bytes();
        Health::set(&self.health.own_bytes, own as u64);
    }

    fn position(&self, id: RecordingId) -> Option<usize> {
        self.recordings
            .iter()
            .position(|recording| recording.id() == id)
    }

    fn wall_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.excluded_ns)
    }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
