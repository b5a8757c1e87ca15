//! The sampler: owns the clock, the engine and the active recordings.
//!
//! It runs no Python code, touches no disk, and holds no lock while the engine holds the GIL.
#![forbid(unsafe_code)]

mod gil;
mod messages;
mod pauses;
mod sources;
mod tasks;
mod windows;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Release;

use crossbeam_channel::{Receiver, Sender};

use self::gil::GilClock;
use self::tasks::Draws;
use super::control::{Control, RecordingId};
use super::fork::session;
use super::health::Health;
use super::idle::IdleBackoff;
use super::last_call::LastCall;
use super::native_thread::{Kind, LEAST_SLEEP_NS, run_soon};
use super::recording::{Recording, WindowCounters};
use super::worker::{Handle, Work};
use super::writer::Job;
use crate::account::{Tick, TicksLeftOut};
use crate::capture::source::Sources;
use crate::capture::{Engine, Missed, SnapshotStats};
use crate::clock::budget::Budget;
use crate::clock::cpu::{monotonic_ns, own_cpu_ns};
use crate::clock::kernel::Bell;
use crate::clock::ticker::Ticker;
use crate::memory::reserve;
use crate::model::event::EventSample;
use crate::unwind::label_log;

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
    sources: Sources,
    /// A buffer for what they tell.
    events: Vec<EventSample>,
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
    gil: GilClock,
    draws: Draws,
    /// Whether this thread has asked to run soon.
    runs_soon: bool,
    /// Since when the recordings pause because there is no memory left.
    starved_since_ns: Option<u64>,
    /// When the last thread ended that this ran on.
    left_ns: u64,
    /// Since when the recordings pause because no thread can be had.
    unattended_since_ns: Option<u64>,
}

impl Sampler {
    /// A sampler without recordings.
    #[must_use]
    pub fn new(
        engine: Box<dyn Engine>,
        sources: Sources,
        control: Receiver<Control>,
        bell: Arc<Bell>,
        last_call: Arc<LastCall>,
        windows: Sender<Job>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            engine,
            sources,
            events: Vec::new(),
            recordings: Vec::new(),
            ticker: None,
            budget: Budget::default(),
            idle: IdleBackoff::default(),
            threads_version: 0,
            excluded_ns: 0,
            control,
            quit: Arc::default(),
            bell,
            heard: last_call.asked(),
            last_call,
            windows,
            health,
            cpu_mark_ns: 0,
            paid_at_ns: 0,
            unpaid_ticks: 0,
            ready_ns: 0,
            gil: GilClock::default(),
            draws: Draws::default(),
            runs_soon: false,
            starved_since_ns: None,
            left_ns: 0,
            unattended_since_ns: None,
        }
    }

    /// Serves ticks and messages until told to quit.
    fn serve(&mut self) {
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
                return;
            }
            let deadline_ns = self.ticker.as_ref().map(Ticker::deadline_ns);
            let deadline_ns = deadline_ns.unwrap_or_else(|| monotonic_ns() + PATIENCE_NS);
            is_called = self.bell.sleep_until(deadline_ns);
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
        if self.starved_since_ns.is_some() {
            self.end_starving(now_ns);
        }
        let looked = self.look();
        let at_ns = self.engine.snapshot().at_ns;
        let wall_ns = self.wall_ns(at_ns);
        let has_happened = looked.is_ok_and(|stats| self.has_happened(stats));
        let left_out = TicksLeftOut {
            ticks: tick.left_out,
            is_idle: looked.is_ok() && !has_happened,
        };
        self.count_left_out(left_out);
        let seen = Tick {
            at_ns,
            wall_ns,
            count: 1,
            is_overdue: tick.is_overdue,
            ..Tick::default()
        };
        let mut counters = WindowCounters {
            late: tick.late,
            gap_ns: tick.gap_ns,
            ..WindowCounters::default()
        };
        match looked {
            Ok(stats) => {
                self.count_look(stats);
                counters.incomplete = u64::from(stats.incomplete);
                self.gil.charge(self.engine.snapshot(), &self.health);
            }
            Err(Missed::NotNow) => counters.skipped = 1,
            Err(Missed::Finalizing) => {
                self.count(counters);
                self.end_with_interpreter();
                return Flow::End;
            }
        }
        self.count(counters);
        self.drain_sources();
        if looked.is_ok() {
            self.draw_tasks(wall_ns);
        }
        for recording in &mut self.recordings {
            let due = recording.due_ticks(wall_ns, tick_ns);
            if looked.is_ok() && due > 0 {
                let left_out = left_out.at_most(due - 1);
                recording.observe(self.engine.snapshot(), &Tick { left_out, ..seen });
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
        self.pay_if_due(now_ns);
        if tick.gap_ns > 0 {
            self.idle.begin(at_ns);
        }
        if looked.is_ok()
            && let Some(ticker) = &mut self.ticker
        {
            let idle = &mut self.idle;
            let ticks = idle.ticks_to_leave(at_ns, has_happened, ticker.period_ns());
            ticker.put_off(self.ready_ns, ticks);
        }
        Flow::Continue
    }

    /// Whether anything has changed since the last tick.
    fn has_happened(&mut self, stats: SnapshotStats) -> bool {
        let snapshot = self.engine.snapshot();
        let version = snapshot.threads_version;
        let is_other = std::mem::replace(&mut self.threads_version, version) != version;
        is_other || stats.has_turned || snapshot.moved_ns >= snapshot.at_ns
    }

    /// Hands what threads have told of their labels to all recordings, whether they are due or not.
    fn note_spans(&mut self) {
        let snapshot = self.engine.snapshot();
        if !snapshot.spans.is_empty() {
            for recording in &mut self.recordings {
                recording.note(snapshot);
            }
        }
    }

    /// Has the engine look at all threads, unless there is no memory for it.
    fn look(&mut self) -> Result<SnapshotStats, Missed> {
        if self.starved_since_ns.is_some() || self.unattended_since_ns.is_some() {
            return Err(Missed::NotNow);
        }
        let looked = self.engine.look();
        self.note_spans();
        looked
    }

    /// Has the engine look at what some recording wants to know.
    fn choose_what_to_look_at(&mut self) {
        let wants_locks = |recording: &Recording| recording.config().locks;
        self.engine
            .look_at_locks(self.recordings.iter().any(wants_locks));
    }

    /// Chooses the tick for the fastest active recording within the overhead it allows.
    #[inline(never)]
    fn schedule(&mut self) {
        label_log::set_wanted(!self.recordings.is_empty());
        self.choose_what_to_look_at();
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

    /// Counts ticks that were not served on purpose.
    #[inline]
    fn count_left_out(&self, left_out: TicksLeftOut) {
        if left_out.ticks == 0 {
            return;
        }
        if left_out.is_idle {
            Health::add(&self.health.ticks, left_out.ticks);
            Health::add(&self.health.idle_ticks, left_out.ticks);
        } else {
            Health::add(&self.health.late, left_out.ticks);
        }
    }

    /// Counts for the process and for every recording's window.
    fn count(&mut self, counters: WindowCounters) {
        self.health.count(&counters);
        for recording in &mut self.recordings {
            recording.count(counters);
        }
    }

    fn count_look(&self, stats: SnapshotStats) {
        Health::add(&self.health.ticks, 1);
        Health::add(&self.health.stacks, u64::from(stats.walked));
        Health::add(&self.health.hold_ns, stats.hold_ns);
        Health::raise(&self.health.hold_max_ns, stats.hold_ns);
        Health::add(&self.health.unasked_locks, u64::from(stats.unasked_locks));
    }

    /// Counts a tick that is to be paid for. Now and then only it is: to read the thread's clock at
    /// each tick would be part of the cost.
    fn pay_if_due(&mut self, now_ns: u64) {
        self.unpaid_ticks += 1;
        if now_ns.saturating_sub(self.paid_at_ns) < PAY_INTERVAL_NS {
            self.ready_ns = self.engine.now_ns();
            return;
        }
        self.pay(now_ns);
        self.publish();
        self.schedule();
        if session().refusals().due().is_some() {
            session().try_again();
        }
    }

    /// Charges the thread's CPU time of the last ticks to the budget.
    #[inline(never)]
    fn pay(&mut self, now_ns: u64) {
        self.budget.pass(now_ns.saturating_sub(self.paid_at_ns));
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

impl Work for Sampler {
    type Handle = SamplerHandle;

    const NAME: &'static str = "rprof-sampler";
    const KIND: Kind = Kind::Own;

    fn prepare(&mut self) -> SamplerHandle {
        self.quit.store(false, Release);
        SamplerHandle {
            quit: self.quit.clone(),
            bell: self.bell.clone(),
        }
    }

    fn run(&mut self) {
        let guard = FailureGuard(self.health.clone());
        self.serve();
        std::mem::forget(guard);
    }
}

/// How the sampler's thread is reached.
pub struct SamplerHandle {
    quit: Arc<AtomicBool>,
    bell: Arc<Bell>,
}

impl Handle for SamplerHandle {
    fn stop(&self) {
        self.quit.store(true, Release);
        self.bell.ring();
    }

    fn take_back(&self) {
        self.quit.store(false, Release);
    }
}

/// Tells the session when the sampler ends by a panic.
struct FailureGuard(Arc<Health>);

impl Drop for FailureGuard {
    fn drop(&mut self) {
        Health::set(&self.0.failed, 1);
        if self.0.last_error().is_none() {
            self.0.set_error("the sampler panicked");
        }
    }
}

#[cfg(test)]
mod cpu_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
