//! A recording: one consumer of snapshots with its own rate, filter and call tree.
#![forbid(unsafe_code)]

use super::config::RecordingConfig;
use super::control::RecordingId;
use super::facts;
use crate::account::{Ledgers, Tick, TicksLeftOut};
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::Window;
use crate::model::event::EventSample;
use crate::model::measure::{MeasureId, MeasureSet};
use crate::model::snapshot::{Snapshot, ThreadSample};
use crate::model::stack::FunctionTable;
use crate::model::window_facts::{Fact, WindowFacts};

/// Why a window has no column of waits for the GIL.
pub const GIL_WAITS_ARE_HIDDEN: &str =
    "the kernel does not say what threads wait for, as in a process that has changed its user";

/// Counters over one window, for its comments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounters {
    /// Ticks observed, or known without.
    pub ticks: u64,
    /// Those known without.
    pub idle: u64,
    /// Deadlines missed.
    pub late: u64,
    /// Incomplete stacks.
    pub incomplete: u64,
    /// Ticks without a snapshot.
    pub skipped: u64,
    /// ns in which the process stood still.
    pub gap_ns: u64,
    /// ns in which nothing was recorded, for want of memory.
    pub starved_ns: u64,
    /// ns in which nothing was recorded, for want of a thread.
    pub unattended_ns: u64,
    /// Events of which sources could not tell, for want of room.
    pub lost_events: u64,
}

/// An active consumer of snapshots.
#[derive(Debug)]
pub struct Recording {
    id: RecordingId,
    config: RecordingConfig,
    has_output: bool,
    window: Window,
    window_started_ns: u64,
    window_started_unix_ns: i64,
    counters: WindowCounters,
    ledgers: Ledgers,
    /// See [`Snapshot::hides_gil_waits`]: the window then has no such column.
    hides_gil_waits: bool,
    /// See [`Snapshot::hides_waits`].
    hides_waits: bool,
    next_due_ns: u64,
    /// No rotation before this, because the writer was behind.
    postponed_until_ns: u64,
    paused: bool,
}

impl Recording {
    /// A recording that has not seen anything yet; `measures` as its engine does.
    #[must_use]
    pub fn new(
        id: RecordingId,
        config: RecordingConfig,
        measures: MeasureSet,
        now_ns: u64,
        unix_ns: i64,
    ) -> Self {
        Self {
            id,
            has_output: false,
            window: Window::new(config.limits, wanted(measures, &config)),
            window_started_ns: now_ns,
            window_started_unix_ns: unix_ns,
            counters: WindowCounters::default(),
            ledgers: Ledgers::new(config.requests, config.ring.is_some()),
            hides_gil_waits: false,
            hides_waits: false,
            next_due_ns: now_ns,
            postponed_until_ns: 0,
            paused: false,
            config,
        }
    }

    /// The same, whose windows are written.
    #[must_use]
    pub fn with_output(self, has_output: bool) -> Self {
        Self { has_output, ..self }
    }

    /// Whether its windows are written.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.has_output
    }

    /// This recording's name.
    #[must_use]
    pub fn id(&self) -> RecordingId {
        self.id
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &RecordingConfig {
        &self.config
    }

    /// Whether it records at present.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.paused
    }

    /// How many ticks of this recording are due at `wall_ns`; ticks come every `tick_ns`.
    #[must_use]
    pub fn due_ticks(&self, wall_ns: u64, tick_ns: u64) -> u64 {
        let past_ns = (wall_ns + tick_ns / 2).checked_sub(self.next_due_ns);
        let is_active = !self.paused;
        past_ns
            .filter(|_| is_active)
            .map_or(0, |past_ns| past_ns / self.config.period_ns.max(1) + 1)
    }

    /// Whether the open window has reached its length.
    #[must_use]
    pub fn wants_rotation(&self, wall_ns: u64) -> bool {
        self.config
            .window_ns
            .is_some_and(|length| wall_ns >= self.window_started_ns + length)
            && wall_ns >= self.postponed_until_ns
    }

    /// Tries again after another window's length.
    pub fn postpone_rotation(&mut self, wall_ns: u64) {
        self.postponed_until_ns = self.config.window_ns.map_or(0, |length| wall_ns + length);
    }

    /// Counts what befell the sampler since this recording's last tick.
    pub fn count(&mut self, counters: WindowCounters) {
        self.counters.late += counters.late;
        self.counters.incomplete += counters.incomplete;
        self.counters.skipped += counters.skipped;
        self.counters.gap_ns += counters.gap_ns;
        self.counters.starved_ns += counters.starved_ns;
        self.counters.unattended_ns += counters.unattended_ns;
        self.counters.lost_events += counters.lost_events;
    }

    /// Takes in a tick: the time since the last one is charged to the stacks that threads have now.
    /// Its ticks left out are those of this recording: threads that have not moved since the last one
    /// are credited with them as well.
    #[inline]
    pub fn observe(&mut self, snapshot: &Snapshot, tick: &Tick) {
        self.counters.ticks += 1;
        let periods_ns = self.config.period_ns + self.pass(tick.left_out);
        self.next_due_ns = (self.next_due_ns + periods_ns).max(tick.wall_ns + 1);
        self.fold(snapshot, tick);
    }

    /// Charges the time since the last tick to the stacks seen then; `snapshot` has new clocks, and
    /// `tick` counts for nothing.
    pub fn settle(&mut self, snapshot: &Snapshot, tick: &Tick) {
        if !self.paused && self.ledgers.has_observed() {
            self.next_due_ns += self.pass(tick.left_out);
            self.fold(snapshot, tick);
        }
    }

    #[inline]
    fn fold(&mut self, snapshot: &Snapshot, tick: &Tick) {
        self.hides_gil_waits |= snapshot.hides_gil_waits;
        self.hides_waits |= snapshot.hides_waits;
        let filter = &self.config.threads;
        let accepts = |thread: &ThreadSample| filter.accepts(thread.thread_id, &thread.name);
        self.ledgers
            .observe(snapshot, tick, accepts, &mut self.window);
    }

    /// Counts ticks that were not served; returns how long they took, in ns.
    fn pass(&mut self, left_out: TicksLeftOut) -> u64 {
        if left_out.is_idle {
            self.counters.ticks += left_out.ticks;
            self.counters.idle += left_out.ticks;
        } else {
            self.counters.late += left_out.ticks;
        }
        left_out.ticks * self.config.period_ns
    }

    /// Stops recording for a while; call [`Self::settle`] first.
    pub fn pause(&mut self) {
        self.paused = true;
        self.ledgers.interrupt(&mut self.window);
    }

    /// Records nothing until the next tick that is served, for want of memory or a thread; what happens until then
    /// belongs to nobody. Call [`Self::settle`] first.
    pub fn starve(&mut self) {
        self.ledgers.interrupt(&mut self.window);
        self.ledgers.shrink();
    }

    /// Goes on; what happened in between belongs to nobody.
    pub fn resume(&mut self, wall_ns: u64) {
        self.paused = false;
        self.next_due_ns = wall_ns;
    }

    /// Takes in what threads have told of their labels since the last snapshot.
    pub fn note(&mut self, snapshot: &Snapshot) {
        if !self.paused {
            self.ledgers.note(snapshot, &mut self.window);
        }
    }

    /// Takes in what a source has told of a thread that is called `thread_name`, at `wall_ns`.
    pub fn charge(
        &mut self,
        event: &EventSample,
        functions: &FunctionTable,
        thread_name: &str,
        has_requests: bool,
        wall_ns: u64,
    ) {
        if !self.paused && self.config.threads.accepts(event.thread_id, thread_name) {
            let window = &mut self.window;
            self.ledgers
                .charge_event(event, functions, thread_name, has_requests, wall_ns, window);
        }
    }

    /// Has the window, which is empty, take in what the engine tells now, besides what it told before.
    pub fn measure(&mut self, measures: MeasureSet) {
        let measures = wanted(self.window.measures().union(measures), &self.config);
        if self.window.measures() != measures {
            self.window = Window::new(self.config.limits, measures);
        }
    }

    /// Ends the open window and begins the next.
    pub fn take_window(&mut self, wall_ns: u64, unix_ns: i64, engine: &str) -> (Profile, u64) {
        self.ledgers.end_window(&mut self.window);
        let new = Window::new(self.config.limits, self.window.measures());
        let window = std::mem::replace(&mut self.window, new);
        let overflowed = window.overflowed();
        let duration_ns = wall_ns.saturating_sub(self.window_started_ns);
        let meta = ProfileMeta {
            time_ns: self.window_started_unix_ns,
            duration_ns: i64::try_from(duration_ns).unwrap_or(i64::MAX),
            period_ns: i64::try_from(self.config.period_ns).unwrap_or(i64::MAX),
            program: self.config.program.clone(),
            comments: self.facts(engine, duration_ns, overflowed).comments(),
            ..ProfileMeta::default()
        };
        self.window_started_ns = wall_ns;
        self.window_started_unix_ns = unix_ns;
        self.counters = WindowCounters::default();
        let mut profile = window.finish(meta);
        if std::mem::take(&mut self.hides_gil_waits) {
            profile = profile
                .without(MeasureId::GilWait)
                .without(MeasureId::GilBlame)
                .without(MeasureId::LockWait)
                .without(MeasureId::LockBlame);
        }
        (profile, overflowed)
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let ring = self.config.ring.as_ref().map_or(0, |ring| ring.bytes());
        self.window.bytes() + self.ledgers.bytes() + ring
    }

    fn facts<'a>(&self, engine: &'a str, duration_ns: u64, overflowed: u64) -> WindowFacts<'a> {
        let achieved_hz = if duration_ns == 0 {
            0.0
        } else {
            self.counters.ticks as f64 * 1e9 / duration_ns as f64
        };
        let seconds = |ns: u64| ns as f64 / 1e9;
        WindowFacts {
            engine,
            process: facts::comments(),
            no_gil_wait: self.hides_gil_waits.then_some(GIL_WAITS_ARE_HIDDEN),
            hides_waits: self.hides_waits,
            numbers: vec![
                (Fact::AskedHz, 1e9 / self.config.period_ns as f64),
                (Fact::AchievedHz, achieved_hz),
                (Fact::LateTicks, self.counters.late as f64),
                (Fact::IncompleteStacks, self.counters.incomplete as f64),
                (Fact::IdleTicks, self.counters.idle as f64),
                (Fact::SkippedTicks, self.counters.skipped as f64),
                (Fact::StoodStillSeconds, seconds(self.counters.gap_ns)),
                (Fact::OutOfMemorySeconds, seconds(self.counters.starved_ns)),
                (
                    Fact::UnattendedSeconds,
                    seconds(self.counters.unattended_ns),
                ),
                (Fact::LostEvents, self.counters.lost_events as f64),
                (Fact::OverflowStacks, overflowed as f64),
                (Fact::MaxNodes, self.config.limits.max_nodes as f64),
            ],
        }
    }
}

/// Those of the measures that the recording is to have.
fn wanted(measures: MeasureSet, config: &RecordingConfig) -> MeasureSet {
    if config.locks {
        return measures;
    }
    measures
        .without(MeasureId::LockWait)
        .without(MeasureId::LockBlame)
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
