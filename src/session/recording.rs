//! A recording: one consumer of snapshots with its own rate, filter and call tree.
#![forbid(unsafe_code)]

use rustc_hash::{FxHashMap, FxHashSet};

use super::config::RecordingConfig;
use super::control::RecordingId;
use super::facts;
use super::label_cpu::LabelCpu;
use super::seen::{Computing, NEVER, Seen, values};
use crate::fold::call_tree::NodeId;
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::{ThreadLabels, Window};
use crate::model::label::{
    ActiveLabels, CLASS_BACKGROUND, CLASS_PROFILER, CLASS_REQUEST, LabelSetId, OWN_THREADS,
};
use crate::model::sample_type;
use crate::model::snapshot::{CpuSpan, Snapshot, SpanEnd, ThreadKey, ThreadSample, ThreadState};

/// CPU time that waits for a thread to be seen computing, in ticks; more is placed at once.
const MAX_UNPLACED_TICKS: u64 = 16;

/// A thread that is ready for a CPU, and has had less than this part of one since the last tick, was
/// not computing.
const PUSHED_ASIDE_PART: u64 = 4;

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
}

/// Ticks that were left out on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unserved {
    /// How many.
    pub ticks: u64,
    /// Whether nothing has happened since the last one that was served: then they are known all the
    /// same, else late.
    pub is_idle: bool,
}

impl Unserved {
    /// So many of them at the most.
    #[must_use]
    pub fn at_most(self, ticks: u64) -> Self {
        Self {
            ticks: self.ticks.min(ticks),
            ..self
        }
    }
}

/// An active consumer of snapshots.
#[derive(Debug)]
pub struct Recording {
    id: RecordingId,
    config: RecordingConfig,
    has_output: bool,
    knows_gil: bool,
    window: Window,
    window_number: u64,
    window_started_ns: u64,
    window_started_unix_ns: i64,
    counters: WindowCounters,
    threads: FxHashMap<ThreadKey, Seen>,
    /// CPU time of which the labels are known.
    label_cpu: LabelCpu,
    /// See [`Snapshot::hides_gil_waits`]: the window then has no such column.
    hides_gil_waits: bool,
    /// Where threads were seen waiting for something other than a CPU or the GIL, in this window.
    waits: FxHashSet<NodeId>,
    observations: u64,
    /// How many of them, before the last one, were not served.
    unserved: u64,
    last_observed_ns: Option<u64>,
    last_wall_ns: u64,
    /// See [`Snapshot::threads_version`]; `None` where all threads have to be folded.
    threads_version: Option<u64>,
    next_due_ns: u64,
    /// No rotation before this, because the writer was behind.
    postponed_until_ns: u64,
    paused: bool,
}

impl Recording {
    /// A recording that has not seen anything yet; `knows_gil` as its engine does.
    #[must_use]
    pub fn new(
        id: RecordingId,
        config: RecordingConfig,
        knows_gil: bool,
        now_ns: u64,
        unix_ns: i64,
    ) -> Self {
        Self {
            id,
            has_output: false,
            knows_gil,
            window: Window::new(config.limits, knows_gil),
            window_number: 0,
            window_started_ns: now_ns,
            window_started_unix_ns: unix_ns,
            counters: WindowCounters::default(),
            threads: FxHashMap::default(),
            label_cpu: LabelCpu::default(),
            hides_gil_waits: false,
            waits: FxHashSet::default(),
            observations: 0,
            unserved: 0,
            last_observed_ns: None,
            last_wall_ns: 0,
            threads_version: None,
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
    }

    /// Folds a tick: each thread's time since its previous sample goes to the stack it has now.
    /// `unserved` are those of this recording's ticks that were left out since the last one: threads
    /// that have not moved since then are credited with them as well.
    #[inline]
    pub fn observe(&mut self, snapshot: &Snapshot, wall_ns: u64, unserved: Unserved) {
        self.counters.ticks += 1;
        let periods_ns = self.config.period_ns + self.pass(unserved);
        self.next_due_ns = (self.next_due_ns + periods_ns).max(wall_ns + 1);
        self.fold(snapshot, wall_ns, 1, unserved.ticks);
    }

    /// Credits the time since the last tick to the stacks seen then; `snapshot` has new clocks.
    /// `unserved` as for [`Self::observe`].
    pub fn settle(&mut self, snapshot: &Snapshot, wall_ns: u64, unserved: Unserved) {
        if !self.paused && self.last_observed_ns.is_some() {
            self.next_due_ns += self.pass(unserved);
            self.fold(snapshot, wall_ns, 0, unserved.ticks);
        }
    }

    /// Counts ticks that were not served; returns how long they took, in ns.
    fn pass(&mut self, unserved: Unserved) -> u64 {
        if unserved.is_idle {
            self.counters.ticks += unserved.ticks;
            self.counters.idle += unserved.ticks;
        } else {
            self.counters.late += unserved.ticks;
        }
        unserved.ticks * self.config.period_ns
    }

    /// Stops recording for a while; call [`Self::settle`] first.
    pub fn pause(&mut self) {
        self.paused = true;
        self.close(self.observations, |_| true);
        self.threads.clear();
        self.last_observed_ns = None;
    }

    /// Records nothing until the next tick that is served, for want of memory or a thread; what happens until then
    /// belongs to nobody. Call [`Self::settle`] first.
    pub fn starve(&mut self) {
        self.close(self.observations, |_| true);
        self.threads = FxHashMap::default();
        self.threads_version = None;
        self.last_observed_ns = None;
    }

    /// Goes on; what happened in between belongs to nobody.
    pub fn resume(&mut self, wall_ns: u64) {
        self.paused = false;
        self.next_due_ns = wall_ns;
    }

    /// Ends the open window and begins the next.
    pub fn take_window(&mut self, wall_ns: u64, unix_ns: i64, engine: &str) -> (Profile, u64) {
        self.close(self.observations, |_| true);
        self.label_cpu.finish(&mut self.window);
        self.threads_version = None;
        self.waits.clear();
        let new = Window::new(self.config.limits, self.knows_gil);
        let window = std::mem::replace(&mut self.window, new);
        let overflowed = window.overflowed();
        let duration_ns = wall_ns.saturating_sub(self.window_started_ns);
        let meta = ProfileMeta {
            time_ns: self.window_started_unix_ns,
            duration_ns: i64::try_from(duration_ns).unwrap_or(i64::MAX),
            period_ns: i64::try_from(self.config.period_ns).unwrap_or(i64::MAX),
            program: self.config.program.clone(),
            comments: self.comments(engine, duration_ns, overflowed),
        };
        self.window_number += 1;
        self.window_started_ns = wall_ns;
        self.window_started_unix_ns = unix_ns;
        self.counters = WindowCounters::default();
        let mut profile = window.finish(meta);
        if std::mem::take(&mut self.hides_gil_waits) {
            profile = profile.without(sample_type::GIL_WAIT);
        }
        (profile, overflowed)
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let ring = self.config.ring.as_ref().map_or(0, |ring| ring.bytes());
        let waits = self.waits.capacity() * (size_of::<NodeId>() + 1);
        self.window.bytes()
            + self.threads.capacity() * (size_of::<Seen>() + 16)
            + self.label_cpu.bytes()
            + waits
            + ring
    }

    fn comments(&self, engine: &str, duration_ns: u64, overflowed: u64) -> Vec<String> {
        let asked = 1e9 / self.config.period_ns as f64;
        let achieved = if duration_ns == 0 {
            0.0
        } else {
            self.counters.ticks as f64 * 1e9 / duration_ns as f64
        };
        let mut comments = vec![
            format!("rprof {}", env!("CARGO_PKG_VERSION")),
            format!("engine: {engine}"),
            format!("rate: asked {asked:.1} Hz, achieved {achieved:.1} Hz"),
            format!("late ticks: {}", self.counters.late),
            format!("incomplete stacks: {}", self.counters.incomplete),
        ];
        comments.extend(facts::comments());
        if self.counters.idle > 0 {
            comments.push(format!(
                "idle ticks: {}, at which nothing had happened",
                self.counters.idle
            ));
        }
        if self.counters.skipped > 0 {
            comments.push(format!("skipped ticks: {}", self.counters.skipped));
        }
        if self.counters.gap_ns > 0 {
            let seconds = self.counters.gap_ns as f64 / 1e9;
            comments.push(format!(
                "process stood still: {seconds:.3} s, credited to no stack"
            ));
        }
        if self.hides_gil_waits {
            comments.push(format!("no gil_wait: {GIL_WAITS_ARE_HIDDEN}"));
        }
        if self.counters.starved_ns > 0 {
            let seconds = self.counters.starved_ns as f64 / 1e9;
            comments.push(format!(
                "out of memory: {seconds:.3} s not recorded, credited to no stack"
            ));
        }
        if self.counters.unattended_ns > 0 {
            let seconds = self.counters.unattended_ns as f64 / 1e9;
            comments.push(format!(
                "no thread to be had: {seconds:.3} s not recorded, credited to no stack"
            ));
        }
        if overflowed > 0 {
            comments.push(format!(
                "overflow: {overflowed} stacks beyond max_nodes = {} folded into <overflow>",
                self.config.limits.max_nodes
            ));
        }
        comments
    }

    #[inline]
    fn fold(&mut self, snapshot: &Snapshot, wall_ns: u64, count: i64, unserved: u64) {
        self.hides_gil_waits |= snapshot.hides_gil_waits;
        self.unserved = unserved;
        self.observations += unserved + 1;
        let last_ns = self.last_observed_ns.replace(snapshot.at_ns);
        // Most threads of most programs wait at most ticks, and are caught up with later. In a new
        // window all are looked at: it has nodes of its own.
        let is_whole = count == 0 || self.threads_version != Some(snapshot.threads_version);
        if is_whole || Some(snapshot.moved_ns) > last_ns {
            self.fold_threads(snapshot, wall_ns, count, last_ns, is_whole);
        }
        self.last_wall_ns = wall_ns;
    }

    #[inline(never)]
    fn fold_threads(
        &mut self,
        snapshot: &Snapshot,
        wall_ns: u64,
        count: i64,
        last_ns: Option<u64>,
        is_whole: bool,
    ) {
        let mut taken = 0;
        for thread in &snapshot.threads {
            let is_still = thread.cpu_ns.is_some() && Some(thread.since_ns) <= last_ns;
            if is_still && !is_whole {
                continue;
            }
            if self.config.threads.accepts(thread.thread_id, &thread.name) {
                taken += 1;
                self.fold_thread(thread, snapshot, wall_ns, count, last_ns);
            }
        }
        if is_whole && self.threads.len() != taken {
            let observation = self.observations;
            let last = observation - 1 - self.unserved;
            self.close(last, |seen| seen.observation != observation);
            self.threads
                .retain(|_, seen| seen.observation == observation);
        }
        self.threads_version = Some(snapshot.threads_version);
    }

    fn fold_thread(
        &mut self,
        thread: &ThreadSample,
        snapshot: &Snapshot,
        wall_ns: u64,
        count: i64,
        last_ns: Option<u64>,
    ) {
        let observation = self.observations;
        let width = self.width();
        let active = thread.labels.as_deref();
        let class = class_of(snapshot.has_requests, active, &thread.name);
        let thread_labels = ThreadLabels {
            id: thread.thread_id,
            name: &thread.name,
            active,
            class,
            with_request: self.config.requests.keep_apart,
        };
        // What tells the labels of two looks apart, besides the thread's name.
        let marks = (active.map_or(0, |active| active.serial), class.is_some());
        let is_recorded = self.config.requests.accept(active);
        let Some(seen) = self.threads.get_mut(&thread.key) else {
            let mut seen = Seen::new(thread, wall_ns, observation, self.window_number);
            let is_newborn = last_ns.is_some_and(|last| thread.first_seen_ns > last);
            let cpu_ns = is_newborn.then(|| self.cpu_of_newborn(thread, snapshot));
            if is_recorded {
                self.greet(&mut seen, thread, snapshot, &thread_labels, (count, cpu_ns));
                seen.marks = marks;
            }
            if self.threads.try_reserve(1).is_err() {
                return;
            }
            self.threads.insert(thread.key, seen);
            return;
        };
        let last = observation - 1 - self.unserved;
        let is_still = (thread.cpu_ns, thread.stack_version) == (seen.clock_ns, seen.stack_version);
        let unserved = if is_still { self.unserved } else { 0 };
        let count = count.saturating_add(i64::try_from(unserved).unwrap_or(i64::MAX));
        seen.catch_up(last, self.last_wall_ns, &mut self.window, width);
        let same_window = seen.window == self.window_number;
        if !same_window {
            seen.computing = Computing::default();
            seen.computed_at = None;
        }
        let mut early_cpu_ns = 0;
        if same_window {
            early_cpu_ns = seen.place_early_cpu(thread, &mut self.window, width);
        }
        seen.early_cpu_ns = thread.early_cpu_ns;
        // All that it has spent since it was folded last, and what of that it has told nothing of.
        let cpu = since(thread.cpu_ns, seen.clock_ns).saturating_sub(early_cpu_ns);
        seen.unplaced_cpu_ns += since(thread.cpu_ns, seen.cpu_ns).saturating_sub(early_cpu_ns);
        seen.cpu_ns = seen.cpu_ns.max(thread.cpu_ns);
        seen.clock_ns = thread.cpu_ns;
        let doubtful_cpu_ns = std::mem::take(&mut seen.doubtful_cpu_ns);
        if same_window && cpu > 0 && doubtful_cpu_ns > 0 && !seen.was_known {
            let paid_ns = seen.pay_look(seen.place(), doubtful_cpu_ns);
            let values = values(0, 0, paid_ns, seen.state);
            self.window.add(seen.node, seen.labels, &values[..width]);
            seen.computed_at = Some(seen.node);
        }
        let wall = wall_ns.saturating_sub(seen.wall_ns);
        seen.wall_ns = wall_ns;
        let was_waiting = same_window && seen.state.waits() && seen.stack_version != NEVER;
        seen.state = thread.state;
        seen.window = self.window_number;
        seen.observation = observation;
        let had_labels = same_window && seen.stack_version != NEVER;
        seen.before = seen.node;
        if is_recorded {
            if !had_labels || seen.stack_version != thread.stack_version {
                seen.node = self.window.node_of(&thread.stack, snapshot);
                seen.stack_version = thread.stack_version;
            }
            let is_named = seen.name != thread.name;
            if is_named {
                self.label_cpu
                    .rename(thread.key, &seen.name, &thread.name, &mut self.window);
            }
            if had_labels && seen.marks == marks && is_named && seen.name.is_empty() {
                seen.labels = self.window.call_thread(seen.labels, &thread.name);
            } else if !had_labels || seen.marks != marks || is_named {
                seen.labels = self.window.thread(&thread_labels);
            }
            seen.marks = marks;
            if is_named {
                seen.name = thread.name.clone();
            }
            if thread.state.waits() && (seen.before != seen.node || !was_waiting) {
                self.waits.insert(seen.node);
            }
        } else {
            // Both are found anew when it is recorded again.
            seen.stack_version = NEVER;
            seen.node = NodeId::ROOT;
        }
        let place = seen.place();
        let is_known = active.is_some() && thread.span == Some(SpanEnd::Open);
        seen.was_known = is_known;
        let waiting_ns = if is_known {
            seen.open_cpu_ns() + place.map_or(0, |(_, labels)| self.label_cpu.waiting(labels))
        } else {
            seen.unplaced_cpu_ns
        };
        // A thread that waits now has spent its CPU time elsewhere: it is kept for the next times
        // it is seen computing. Each of those is paid no more than the time since the last tick,
        // as every sample of computing should weigh the same; were it paid all that has gathered,
        // what follows upon a wait would weigh more or less than what precedes it.
        let mut cpu_here = 0;
        if is_computing(seen, thread, snapshot, &self.waits, (cpu, wall, waiting_ns)) {
            seen.computed_at = Some(seen.node);
            if is_known {
                seen.keep_look(place, wall, &mut self.label_cpu, &mut self.window, width);
            } else {
                cpu_here = seen.pay_look(place, wall);
                seen.place_cpu(MAX_UNPLACED_TICKS * wall, place, &mut self.window, width);
            }
        }
        let is_pushed_aside = thread.state == ThreadState::HoldsGil && !thread.on_cpu;
        if cpu > 0 && is_pushed_aside && !snapshot.is_overdue {
            seen.doubtful_cpu_ns = waiting_ns.min(wall);
        }
        if let Some((node, labels)) = place {
            let values = values(count, wall, cpu_here, thread.state);
            self.window.add(node, labels, &values[..width]);
        }
    }

    /// Credits a thread that this recording sees for the first time.
    fn greet(
        &mut self,
        seen: &mut Seen,
        thread: &ThreadSample,
        snapshot: &Snapshot,
        thread_labels: &ThreadLabels<'_>,
        (count, cpu_ns): (i64, Option<u64>),
    ) {
        seen.labels = self.window.thread(thread_labels);
        seen.node = self.window.node_of(&thread.stack, snapshot);
        seen.before = seen.node;
        seen.stack_version = thread.stack_version;
        seen.name = thread.name.clone();
        seen.state = thread.state;
        if thread.state.uses_cpu() {
            seen.computing.push(seen.place(), 0);
            seen.computed_at = Some(seen.node);
        }
        if let Some(cpu_ns) = cpu_ns {
            // A thread lives at least as long as it computes; when exactly it was born
            // between two ticks is not known.
            let wall = cpu_ns.max(snapshot.at_ns.saturating_sub(thread.first_seen_ns));
            let width = self.width();
            let values = values(count, wall, cpu_ns, thread.state);
            self.window.add(seen.node, seen.labels, &values[..width]);
        }
    }

    /// What a thread has spent since it was born, in ns, but for what it has told the labels of.
    fn cpu_of_newborn(&mut self, thread: &ThreadSample, snapshot: &Snapshot) -> u64 {
        let mut cpu_ns = since(thread.cpu_ns, Some(thread.cpu_from_ns));
        for span in snapshot.spans.iter().filter(|span| span.key == thread.key) {
            if span.labels.is_some() && span.end != SpanEnd::Mixed {
                let told_ns = (span.to_ns - span.from_ns).min(cpu_ns);
                cpu_ns -= told_ns;
                if let Some(labels) = self.labels_of(span, snapshot.has_requests) {
                    self.label_cpu.earn(labels, told_ns);
                }
            }
        }
        cpu_ns
    }

    /// The id of a span's labels in this window, if they are recorded.
    fn labels_of(&mut self, span: &CpuSpan, has_requests: bool) -> Option<LabelSetId> {
        self.label_cpu.id_of(
            span,
            self.config.requests,
            self.config.ring.is_some(),
            class_of(has_requests, span.labels.as_deref(), &span.name),
            &mut self.window,
        )
    }

    /// Takes in what threads have told of their labels since the last look.
    pub fn note(&mut self, snapshot: &Snapshot) {
        if !self.paused {
            for span in &snapshot.spans {
                self.note_span(span, snapshot.has_requests);
            }
        }
    }

    fn note_span(&mut self, span: &CpuSpan, has_requests: bool) {
        let width = self.width();
        let Some(seen) = self.threads.get_mut(&span.key) else {
            // It was not seen yet: see `cpu_of_newborn`.
            return;
        };
        let done_ns = seen.cpu_ns.unwrap_or(u64::MAX);
        let cpu_ns = span.to_ns.saturating_sub(span.from_ns.max(done_ns));
        seen.cpu_ns = seen.cpu_ns.max(Some(span.to_ns));
        if cpu_ns > 0 && seen.was_known && seen.window == self.window_number {
            // Before the stretch ends that the look fell into.
            seen.resolve_doubt(&mut self.label_cpu, &mut self.window, width);
        }
        if span.end == SpanEnd::Mixed || span.labels.is_none() {
            seen.mix_span(&mut self.window, width);
            seen.unplaced_cpu_ns += cpu_ns;
            return;
        }
        let labels = self.labels_of(span, has_requests);
        let Some(seen) = self.threads.get_mut(&span.key) else {
            return;
        };
        seen.extend_span(labels, cpu_ns);
        if span.end == SpanEnd::Exact {
            seen.settle_span(&mut self.label_cpu, &mut self.window, width);
        }
    }

    /// Credits the chosen threads with what is open until `observation`, the last one but for that
    /// under way: the ticks at which nothing changed, and the CPU time that no stack was seen
    /// spending, which goes to where they were seen computing last, or else to where they are. No
    /// sum may depend on what was seen.
    fn close(&mut self, observation: u64, is_chosen: impl Fn(&Seen) -> bool) {
        let width = self.width();
        for seen in self.threads.values_mut() {
            if seen.window == self.window_number && is_chosen(seen) {
                seen.catch_up(observation, self.last_wall_ns, &mut self.window, width);
                seen.settle_span(&mut self.label_cpu, &mut self.window, width);
                seen.place_cpu(0, seen.place(), &mut self.window, width);
            }
        }
    }

    fn width(&self) -> usize {
        if self.knows_gil {
            sample_type::MAX_SAMPLED
        } else {
            sample_type::GIL
        }
    }
}

/// How far a clock has gone, in ns.
fn since(now_ns: Option<u64>, before_ns: Option<u64>) -> u64 {
    now_ns
        .zip(before_ns)
        .map_or(0, |(now, before)| now.saturating_sub(before))
}

/// Whether a thread works on a request, where there are any.
fn class_of(has_requests: bool, active: Option<&ActiveLabels>, name: &str) -> Option<&'static str> {
    has_requests.then(|| {
        if active.is_some_and(|active| active.request != 0) {
            CLASS_REQUEST
        } else if name.starts_with(OWN_THREADS) {
            CLASS_PROFILER
        } else {
            CLASS_BACKGROUND
        }
    })
}

/// Whether a look has found the thread computing. It has used `cpu` since the last one, `wall` ago;
/// `waiting_ns` of CPU time wait for such a look.
///
/// A thread that is ready was pushed aside, perhaps by the sampler, if it has had a good part of a
/// CPU, and this is no place to wait or it was seen computing here before. Else it was just woken,
/// and what it has had was spent elsewhere.
/// At an overdue look it was not chance where the others stood: it says nothing about CPU time.
fn is_computing(
    seen: &Seen,
    thread: &ThreadSample,
    snapshot: &Snapshot,
    waits: &FxHashSet<NodeId>,
    (cpu, wall, waiting_ns): (u64, u64, u64),
) -> bool {
    match thread.state {
        _ if cpu == 0 => false,
        _ if snapshot.is_overdue && waiting_ns < MAX_UNPLACED_TICKS * wall => false,
        ThreadState::HoldsGil => thread.on_cpu,
        ThreadState::Ready => {
            cpu >= wall / PUSHED_ASIDE_PART
                && (seen.computed_at == Some(seen.node) && seen.before == seen.node
                    || !waits.contains(&seen.node))
        }
        state => state.uses_cpu(),
    }
}

#[cfg(test)]
#[path = "recording_tests.rs"]
mod tests;
