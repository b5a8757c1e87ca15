//! The accounts of all threads of a recording.
#![forbid(unsafe_code)]

use rustc_hash::{FxHashMap, FxHashSet};

use super::cpu_account::since;
use super::gil_blame::GilBlame;
use super::label_cpu::LabelCpu;
use super::lock_blame::LockBlame;
use super::{RequestFilter, Subject, ThreadLedger, Tick};
use crate::fold::call_tree::NodeId;
use crate::fold::charge::Fold;
use crate::model::label::{
    ActiveLabels, CLASS_BACKGROUND, CLASS_PROFILER, CLASS_REQUEST, LabelSetId, OWN_THREADS,
};
use crate::model::snapshot::{CpuSpan, Snapshot, SpanEnd, ThreadSample};

/// A snapshot at a tick, and how it follows upon the last one.
pub(super) struct Observation<'snapshot> {
    pub(super) snapshot: &'snapshot Snapshot,
    pub(super) tick: Tick,
    /// Its number; the ticks left out before it have numbers, too.
    pub(super) number: u64,
    /// The number of the last observation.
    pub(super) previous: u64,
    /// Monotonic time of the last one in ns, if there was one since the recording began or went on.
    pub(super) last_ns: Option<u64>,
    /// Wall time of the last one in ns.
    pub(super) last_wall_ns: u64,
    /// The number of the window.
    pub(super) window: u64,
}

/// What the accounts of all threads have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) filter: RequestFilter,
    /// See [`LabelCpu::id_of`].
    is_flight: bool,
    /// CPU time whose labels are known.
    pub(super) label_cpu: LabelCpu,
    /// Where threads were seen waiting for something other than a CPU or the GIL, in this window.
    pub(super) waits: FxHashSet<NodeId>,
    /// Who held the locks that others waited for.
    pub(super) lock_blame: LockBlame,
}

impl Shared {
    /// What a thread has spent since it was born, in ns, but for what it has told the labels of; and the
    /// part of it that was spent without labels, as it has told as well.
    pub(super) fn cpu_of_newborn(
        &mut self,
        thread: &ThreadSample,
        snapshot: &Snapshot,
        fold: &mut impl Fold,
    ) -> (u64, u64) {
        let mut cpu_ns = since(thread.cpu_ns, Some(thread.cpu_from_ns));
        let mut bare_ns = 0;
        let own = |span: &&CpuSpan| span.key == thread.key && span.end != SpanEnd::Mixed;
        for span in snapshot.spans.iter().filter(own) {
            let told_ns = (span.to_ns - span.from_ns).min(cpu_ns - bare_ns);
            if span.labels.is_none() {
                bare_ns += told_ns;
                continue;
            }
            cpu_ns -= told_ns;
            if let Some(labels) = self.labels_of(span, snapshot.has_requests, fold) {
                self.label_cpu.earn(labels, told_ns);
            }
        }
        (cpu_ns, bare_ns)
    }

    /// The id of a span's labels in this window, if they are recorded.
    pub(super) fn labels_of(
        &mut self,
        span: &CpuSpan,
        has_requests: bool,
        fold: &mut impl Fold,
    ) -> Option<LabelSetId> {
        let class = class_of(has_requests, span.labels.as_deref(), &span.name);
        self.label_cpu
            .id_of(span, self.filter, self.is_flight, class, fold)
    }
}

/// Whether a thread works on a request, where there are any.
pub(super) fn class_of(
    has_requests: bool,
    active: Option<&ActiveLabels>,
    name: &str,
) -> Option<&'static str> {
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

/// The accounts of all threads of a recording.
#[derive(Debug)]
pub struct Ledgers {
    threads: FxHashMap<Subject, ThreadLedger>,
    shared: Shared,
    gil_blame: GilBlame,
    /// The number of the open window.
    window: u64,
    /// How many observations there were, ticks left out among them.
    observations: u64,
    last_ns: Option<u64>,
    last_wall_ns: u64,
    /// See [`Snapshot::threads_version`]; `None` where all threads have to be looked at.
    threads_version: Option<u64>,
}

impl Ledgers {
    /// No accounts yet, of a recording that takes these requests. `is_flight`: it keeps what was
    /// lately.
    #[must_use]
    pub fn new(filter: RequestFilter, is_flight: bool) -> Self {
        Self {
            threads: FxHashMap::default(),
            shared: Shared {
                filter,
                is_flight,
                label_cpu: LabelCpu::default(),
                waits: FxHashSet::default(),
                lock_blame: LockBlame::default(),
            },
            gil_blame: GilBlame::default(),
            window: 0,
            observations: 0,
            last_ns: None,
            last_wall_ns: 0,
            threads_version: None,
        }
    }

    /// Which requests are taken.
    pub(super) fn filter(&self) -> RequestFilter {
        self.shared.filter
    }

    /// Who held the locks that others waited for.
    pub(super) fn lock_blame(&mut self) -> &mut LockBlame {
        &mut self.shared.lock_blame
    }

    /// Whether anything was observed since the recording began or went on.
    #[must_use]
    pub fn has_observed(&self) -> bool {
        self.last_ns.is_some()
    }

    /// Charges the time since the last observation, of those threads that are accepted.
    #[inline]
    pub fn observe(
        &mut self,
        snapshot: &Snapshot,
        tick: &Tick,
        accepts: impl Fn(&ThreadSample) -> bool,
        fold: &mut impl Fold,
    ) {
        let previous = self.observations;
        self.observations += tick.left_out.ticks + 1;
        let last_ns = self.last_ns.replace(tick.at_ns);
        // Most threads of most programs wait at most ticks, and are caught up with later. In a new
        // window all are looked at: it has nodes of its own.
        let is_whole = tick.count == 0 || self.threads_version != Some(snapshot.threads_version);
        if is_whole || Some(snapshot.moved_ns) > last_ns {
            let observation = Observation {
                snapshot,
                tick: *tick,
                number: self.observations,
                previous,
                last_ns,
                last_wall_ns: self.last_wall_ns,
                window: self.window,
            };
            self.observe_threads(&observation, is_whole, accepts, fold);
        }
        self.last_wall_ns = tick.wall_ns;
    }

    #[inline(never)]
    fn observe_threads(
        &mut self,
        at: &Observation<'_>,
        is_whole: bool,
        accepts: impl Fn(&ThreadSample) -> bool,
        fold: &mut impl Fold,
    ) {
        match at.last_ns {
            Some(_) => self.weigh(at.last_wall_ns),
            None => {
                self.gil_blame.begin(at.tick.wall_ns);
                self.shared.lock_blame.begin(at.tick.wall_ns);
            }
        }
        self.shared.lock_blame.learn(&at.snapshot.held);
        let mut accepted = 0;
        let last_ns = at.last_ns;
        for thread in &at.snapshot.threads {
            let is_still = thread.cpu_ns.is_some() && Some(thread.since_ns) <= last_ns;
            if is_still && !is_whole {
                continue;
            }
            if accepts(thread) {
                accepted += 1;
                self.observe_thread(thread, at, fold);
            }
        }
        if is_whole && self.threads.len() != accepted {
            self.close_until(
                at.previous,
                |ledger| ledger.observation() != at.number,
                fold,
            );
            let (gil_blame, lock_blame) = (&mut self.gil_blame, &mut self.shared.lock_blame);
            self.threads.retain(|subject, ledger| {
                let is_there = ledger.observation() == at.number;
                if !is_there {
                    gil_blame.forget(*subject);
                    lock_blame.forget(*subject);
                }
                is_there
            });
        }
        self.weigh(at.tick.wall_ns);
        self.threads_version = Some(at.snapshot.threads_version);
    }

    /// Has those who wait weigh on those who keep them waiting, until this wall time.
    fn weigh(&mut self, wall_ns: u64) {
        self.gil_blame.weigh(wall_ns);
        self.shared.lock_blame.weigh(wall_ns, &self.threads);
    }

    // Apart from the loop above, which goes over all threads at every tick at which one has moved.
    #[inline(never)]
    fn observe_thread(
        &mut self,
        thread: &ThreadSample,
        at: &Observation<'_>,
        fold: &mut impl Fold,
    ) {
        let subject = Subject::Thread(thread.key);
        if let Some(ledger) = self.threads.get_mut(&subject) {
            ledger.observe(thread, at, &mut self.shared, fold);
            self.gil_blame.see(subject, thread, ledger);
            self.shared.lock_blame.see(subject, ledger);
            return;
        }
        let ledger = ThreadLedger::open(thread, at, &mut self.shared, fold);
        self.gil_blame.see(subject, thread, &ledger);
        self.shared.lock_blame.see(subject, &ledger);
        if self.threads.try_reserve(1).is_ok() {
            self.threads.insert(subject, ledger);
        }
    }

    /// Has the next observation look at all threads, whether something has changed or not.
    #[cfg(test)]
    pub(crate) fn look_at_all(&mut self) {
        self.threads_version = None;
    }

    /// Takes in what threads have told of their labels since the last observation.
    pub fn note(&mut self, snapshot: &Snapshot, fold: &mut impl Fold) {
        let facts = (self.window, snapshot.has_requests);
        for span in &snapshot.spans {
            // Of a thread that was not seen yet, see `cpu_of_newborn`.
            if let Some(ledger) = self.threads.get_mut(&Subject::Thread(span.key)) {
                ledger.note(span, facts, &mut self.shared, fold);
            }
        }
    }

    /// Charges what is open, and forgets all threads: what happens until the next observation belongs
    /// to nobody.
    pub fn interrupt(&mut self, fold: &mut impl Fold) {
        self.close_until(self.observations, |_| true, fold);
        self.weigh(self.last_wall_ns);
        for subject in self.threads.keys() {
            self.gil_blame.forget(*subject);
            self.shared.lock_blame.forget(*subject);
        }
        self.threads.clear();
        self.threads_version = None;
        self.last_ns = None;
    }

    /// Gives memory back that is not in use.
    pub fn shrink(&mut self) {
        self.threads.shrink_to_fit();
    }

    /// Charges what is open to the window, which ends.
    pub fn end_window(&mut self, fold: &mut impl Fold) {
        self.close_until(self.observations, |_| true, fold);
        self.shared.label_cpu.finish(fold);
        self.weigh(self.last_wall_ns);
        self.gil_blame.finish(fold);
        self.shared.lock_blame.finish(fold);
        self.shared.waits.clear();
        self.threads_version = None;
        self.window += 1;
    }

    /// Charges the chosen threads with what is open until `observation`, the last one but for that
    /// under way: the ticks at which nothing changed, and the CPU time that no stack was seen
    /// spending. No sum may depend on what was seen.
    fn close_until(
        &mut self,
        observation: u64,
        is_chosen: impl Fn(&ThreadLedger) -> bool,
        fold: &mut impl Fold,
    ) {
        let end = (observation, self.last_wall_ns);
        for ledger in self.threads.values_mut() {
            if ledger.window() == self.window && is_chosen(ledger) {
                ledger.close(end, &mut self.shared, fold);
            }
        }
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.threads.capacity() * (size_of::<ThreadLedger>() + 16)
            + self.shared.label_cpu.bytes()
            + self.gil_blame.bytes()
            + self.shared.lock_blame.bytes()
            + self.shared.waits.capacity() * (size_of::<NodeId>() + 1)
    }
}
