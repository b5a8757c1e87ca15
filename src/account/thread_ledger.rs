//! The account of one thread; the rules are in the room's README.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::cpu_account::{CpuAccount, since};
use super::cpu_queue::{CpuQueue, can_run};
use super::ledgers::{Observation, Shared, class_of};
use super::sighting::{Sighting, Spot, as_value, charge_cpu};
use super::{Subject, Tick};
use crate::fold::call_tree::NodeId;
use crate::fold::charge::{Charge, Fold};
use crate::fold::window::ThreadLabels;
use crate::model::label::LabelSetId;
use crate::model::lock::LockWait;
use crate::model::measure::{Amounts, MeasureId};
use crate::model::off_cpu::OffCpu;
use crate::model::snapshot::{CpuSpan, ThreadSample, ThreadState};

/// A thread that is ready for a CPU, and has had less than this part of one since the last tick, was
/// not computing.
const PUSHED_ASIDE_PART: u64 = 4;

/// No stack's version and no labels' serial.
const NEVER: u64 = u64::MAX;

/// What a recording knows of one thread.
#[derive(Debug)]
pub(super) struct ThreadLedger {
    /// The window that `node` and `labels` belong to.
    window: u64,
    /// The observation that brought this up to date; nothing has changed at the later ones.
    observation: u64,
    /// Wall time in ns up to which the thread's time is charged.
    wall_ns: u64,
    /// What the thread did.
    state: ThreadState,
    /// See [`ThreadSample::off`].
    off: Option<OffCpu>,
    /// See [`ThreadSample::lock`].
    lock: Option<LockWait>,
    /// See [`ThreadSample::ready`].
    ready: u32,
    /// Its waits for a CPU.
    queue: CpuQueue,
    /// Where it was.
    node: NodeId,
    /// Where it was at the tick before.
    node_before: NodeId,
    /// See [`ThreadSample::stack_version`]; [`NEVER`] if the thread is not recorded now, or not yet in
    /// this window.
    stack_version: u64,
    /// What its samples are marked with.
    labels: LabelSetId,
    /// The same without the name of a task.
    plain_labels: LabelSetId,
    /// The name of the task that it ran.
    task: Option<Arc<str>>,
    /// What these are made of besides the name: the labels' serial, and whether threads have classes.
    label_key: (u64, bool),
    /// The kernel's id of the thread.
    thread_id: u64,
    /// The thread's name.
    name: Arc<str>,
    /// Its CPU time.
    cpu: CpuAccount,
}

impl ThreadLedger {
    /// Opens the account of a thread that is seen for the first time. One that was born since the
    /// tick before is charged with its life.
    pub(super) fn open(
        thread: &ThreadSample,
        at: &Observation<'_>,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) -> Self {
        let mut ledger = Self {
            window: at.window,
            observation: at.number,
            wall_ns: at.tick.wall_ns,
            state: ThreadState::Unknown,
            off: None,
            lock: None,
            ready: 0,
            queue: CpuQueue::new(thread.cpu_wait_ns),
            node: NodeId::ROOT,
            node_before: NodeId::ROOT,
            stack_version: NEVER,
            labels: LabelSetId(0),
            plain_labels: LabelSetId(0),
            task: None,
            label_key: (NEVER, false),
            thread_id: thread.thread_id,
            name: Arc::from(""),
            cpu: CpuAccount::new(thread),
        };
        let is_newborn = at.last_ns.is_some_and(|last| thread.first_seen_ns > last);
        let spent = is_newborn.then(|| shared.cpu_of_newborn(thread, at.snapshot, fold));
        if shared.filter.accept(thread.labels.as_deref()) {
            ledger.enter(thread, at, shared, fold);
            if let Some(spent) = spent {
                ledger.charge_life(thread, spent, &at.tick, shared, fold);
            }
        }
        ledger
    }

    /// Begins to record the thread.
    fn enter(
        &mut self,
        thread: &ThreadSample,
        at: &Observation<'_>,
        shared: &Shared,
        fold: &mut impl Fold,
    ) {
        let has_requests = at.snapshot.has_requests;
        self.plain_labels = fold.thread(&thread_labels(thread, has_requests, shared));
        self.mark_task(thread, fold);
        self.label_key = label_key(thread, has_requests);
        self.name = thread.name.clone();
        self.node = fold.node_of(&thread.stack, &at.snapshot.functions);
        self.node_before = self.node;
        self.stack_version = thread.stack_version;
        self.state = thread.state;
        self.off = thread.off;
        self.ready = thread.ready;
        self.cpu.mark_labelled(thread);
        self.lock.clone_from(&thread.lock);
        if thread.state.uses_cpu() {
            self.cpu.see_first(self.sighting(0));
        }
    }

    fn charge_life(
        &mut self,
        thread: &ThreadSample,
        (cpu_ns, bare_ns): (u64, u64),
        tick: &Tick,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        // A thread lives at least as long as it computes; when exactly it was born between two ticks
        // is not known.
        let spent_ns = since(thread.cpu_ns, Some(thread.cpu_from_ns));
        let wall_ns = spent_ns.max(tick.at_ns.saturating_sub(thread.first_seen_ns));
        let from_ns = tick.wall_ns.saturating_sub(wall_ns);
        let amounts = (tick.count, wall_ns, self.cpu.first(cpu_ns, bare_ns));
        // Of its waits for a CPU the kernel has told nothing yet.
        let reason = thread.off.filter(|reason| *reason != OffCpu::CpuQueue);
        self.charge(amounts, reason, (from_ns, tick.wall_ns), shared, fold);
        if self.cpu.is_labelled() && thread.state.uses_cpu() {
            shared.label_cpu.pay(self.sighting(wall_ns), fold);
        }
    }

    /// Charges the time since the last observation: wall time to where the thread is now, CPU time by
    /// the rules.
    pub(super) fn observe(
        &mut self,
        thread: &ThreadSample,
        at: &Observation<'_>,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let count = self.count_of(thread, &at.tick);
        self.catch_up(at.previous, at.last_wall_ns, shared, fold);
        if self.window != at.window {
            self.begin_window(at.window);
        }
        let has_moved = !self.cpu.is_still(thread);
        let cpu_ns = self.cpu.read_clock(thread, self.sighting(0), fold);
        let from_ns = std::mem::replace(&mut self.wall_ns, at.tick.wall_ns);
        let wall_ns = at.tick.wall_ns.saturating_sub(from_ns);
        self.observation = at.number;
        self.find(thread, at, shared, fold);
        self.off = thread.off;
        self.ready = thread.ready;
        if self.lock != thread.lock {
            self.lock.clone_from(&thread.lock);
        }
        let reason = self.queue.reason(thread, has_moved, wall_ns);
        let sighting = self.sighting(wall_ns);
        self.cpu.mark_labelled(thread);
        let waiting_ns = self.cpu.waiting_ns(sighting, &shared.label_cpu);
        // At an overdue tick it was not chance where the thread stood: it says nothing about CPU time.
        let is_believed = !at.tick.is_overdue || CpuAccount::is_urgent(waiting_ns, wall_ns);
        let mut paid_ns = 0;
        if cpu_ns > 0 && is_believed && self.is_computing(thread, (cpu_ns, wall_ns), shared) {
            paid_ns = self.cpu.see(sighting, &mut shared.label_cpu, fold);
        }
        let is_pushed_aside = thread.state == ThreadState::HoldsGil && !thread.on_cpu;
        if cpu_ns > 0 && is_pushed_aside && !at.tick.is_overdue {
            self.cpu.doubt(waiting_ns.min(wall_ns));
        }
        let time_ns = (from_ns, at.tick.wall_ns);
        self.charge((count, wall_ns, paid_ns), reason, time_ns, shared, fold);
        if can_run(self.state) {
            self.queue.charge(self.spot(), time_ns, fold);
        }
    }

    /// How often this tick counts: with those that were left out if nothing has changed since.
    fn count_of(&self, thread: &ThreadSample, tick: &Tick) -> i64 {
        let is_still = self.stack_version == thread.stack_version && self.cpu.is_still(thread);
        let left_out = if is_still { tick.left_out.ticks } else { 0 };
        let left_out = i64::try_from(left_out).unwrap_or(i64::MAX);
        tick.count.saturating_add(left_out)
    }

    fn begin_window(&mut self, window: u64) {
        self.window = window;
        self.stack_version = NEVER;
        self.cpu.begin_window();
    }

    /// Finds the thread's stack and labels.
    fn find(
        &mut self,
        thread: &ThreadSample,
        at: &Observation<'_>,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let was_recorded = self.stack_version != NEVER;
        let was_waiting = was_recorded && self.state.waits();
        self.state = thread.state;
        self.node_before = self.node;
        if !shared.filter.accept(thread.labels.as_deref()) {
            // Both are found again when it is recorded again.
            self.stack_version = NEVER;
            self.node = NodeId::ROOT;
            return;
        }
        if self.stack_version != thread.stack_version {
            self.node = fold.node_of(&thread.stack, &at.snapshot.functions);
            self.stack_version = thread.stack_version;
        }
        let label_key = label_key(thread, at.snapshot.has_requests);
        let is_renamed = !Arc::ptr_eq(&self.name, &thread.name) && self.name != thread.name;
        if !was_recorded || is_renamed || self.label_key != label_key {
            let is_named = was_recorded && is_renamed && self.label_key == label_key;
            self.mark(thread, is_named, at.snapshot.has_requests, shared, fold);
            self.label_key = label_key;
        } else if self.task != thread.task {
            self.mark_task(thread, fold);
        }
        if thread.state.waits() && (self.node_before != self.node || !was_waiting) {
            shared.waits.insert(self.node);
        }
    }

    /// Finds the labels; `is_named`: there is nothing new but the name.
    fn mark(
        &mut self,
        thread: &ThreadSample,
        is_named: bool,
        has_requests: bool,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let subject = Subject::Thread(thread.key);
        if self.name != thread.name {
            let accounts = &mut shared.label_cpu;
            accounts.rename(subject, &self.name, &thread.name, fold);
        }
        self.plain_labels = if is_named && self.name.is_empty() {
            fold.call_thread(self.plain_labels, &thread.name)
        } else {
            fold.thread(&thread_labels(thread, has_requests, shared))
        };
        self.mark_task(thread, fold);
        self.name = thread.name.clone();
    }

    /// Adds the name of the task to the labels.
    fn mark_task(&mut self, thread: &ThreadSample, fold: &mut impl Fold) {
        self.task.clone_from(&thread.task);
        self.labels = fold.with_task(self.plain_labels, self.task.as_ref());
    }

    /// Where the thread was; nowhere if it was not recorded.
    pub(super) fn spot(&self) -> Option<Spot> {
        (self.stack_version != NEVER).then_some((self.node, self.labels))
    }

    /// The lock that it waits for, if somebody is to be blamed for that, and where it does.
    pub(super) fn blamed_wait(&self) -> Option<(&LockWait, Spot)> {
        let lock = self.lock.as_ref().filter(|lock| lock.is_blamed)?;
        Some((lock, self.spot()?))
    }

    /// The thread where it is, up to where its time is charged.
    fn sighting(&self, weight_ns: u64) -> Sighting {
        Sighting {
            spot: self.spot(),
            under: self.plain_labels,
            weight_ns,
            at_ns: self.wall_ns,
        }
    }

    /// Takes in what the thread has told of its labels.
    pub(super) fn note(
        &mut self,
        span: &CpuSpan,
        (window, has_requests): (u64, bool),
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let last = (self.window == window).then(|| self.sighting(0));
        self.cpu.note(span, last, has_requests, shared, fold);
    }

    /// Whether the thread, which has used `cpu_ns` since the last observation `wall_ns` ago, was
    /// found computing.
    ///
    /// A thread that is ready was pushed aside, perhaps by the sampler, if it has had a good part of a
    /// CPU, and nobody was seen waiting here or it was seen computing here before. Else it was just
    /// woken, and what it has had was spent elsewhere.
    fn is_computing(
        &self,
        thread: &ThreadSample,
        (cpu_ns, wall_ns): (u64, u64),
        shared: &Shared,
    ) -> bool {
        match thread.state {
            ThreadState::HoldsGil => thread.on_cpu,
            ThreadState::Ready => {
                let has_computed =
                    self.cpu.computed_at() == Some(self.node) && self.node_before == self.node;
                cpu_ns >= wall_ns / PUSHED_ASIDE_PART
                    && (has_computed || !shared.waits.contains(&self.node))
            }
            state => state.uses_cpu(),
        }
    }

    /// Charges the ticks until `observation`, at `wall_ns`, at which nothing was seen to change.
    fn catch_up(
        &mut self,
        observation: u64,
        wall_ns: u64,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let ticks = observation.saturating_sub(self.observation);
        if ticks == 0 {
            return;
        }
        let from_ns = std::mem::replace(&mut self.wall_ns, wall_ns);
        self.observation = observation;
        self.cpu.forget_doubt();
        if self.stack_version != NEVER {
            let count = i64::try_from(ticks).unwrap_or(i64::MAX);
            let passed_ns = wall_ns.saturating_sub(from_ns);
            self.queue.note_still(self.off, passed_ns);
            let time_ns = (from_ns, wall_ns);
            self.charge((count, passed_ns, 0), self.off, time_ns, shared, fold);
            self.node_before = self.node;
        }
    }

    /// Charges what is open until `observation`, at `wall_ns`.
    pub(super) fn close(
        &mut self,
        (observation, wall_ns): (u64, u64),
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        self.catch_up(observation, wall_ns, shared, fold);
        let here = self.sighting(0);
        self.queue
            .charge(self.cpu.last_spot(here), (wall_ns, wall_ns), fold);
        let unseen_ns = self.cpu.take_unseen();
        if unseen_ns > 0 && shared.filter.accept(None) {
            let has_requests = self.label_key.1;
            let bare = fold.thread(&ThreadLabels {
                id: self.thread_id,
                name: &self.name,
                active: None,
                class: class_of(has_requests, None, &self.name),
                with_request: false,
            });
            shared.label_cpu.earn(bare, unseen_ns);
        }
        self.cpu.close(here, &mut shared.label_cpu, fold);
    }

    /// The window in which the thread was seen last.
    pub(super) fn window(&self) -> u64 {
        self.window
    }

    /// The observation that brought this up to date.
    pub(super) fn observation(&self) -> u64 {
        self.observation
    }

    /// Charges where the thread was with so many sightings and wall time, and with what its state counts
    /// as, under the reason why it was on no CPU; and with CPU time, which has none.
    fn charge(
        &self,
        (count, wall_ns, cpu_ns): (i64, u64, u64),
        reason: Option<OffCpu>,
        (from_ns, to_ns): (u64, u64),
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let Some((node, labels)) = self.spot() else {
            return;
        };
        let wall = as_value(wall_ns);
        let mut values = Amounts::of(MeasureId::Samples, count).and(MeasureId::Wall, wall);
        if cpu_ns > 0 && reason.is_none() {
            values = values.and(MeasureId::Cpu, as_value(cpu_ns));
        }
        if let Some(id) = self.state.measure()
            && fold.measures().contains(id)
        {
            values = values.and(id, wall);
        }
        if self.ready > 0 && fold.measures().contains(MeasureId::LoopBlame) {
            // As with other blame, each that waits counts.
            values = values.and(
                MeasureId::LoopBlame,
                wall.saturating_mul(i64::from(self.ready)),
            );
        }
        let lock = self.lock.as_ref();
        let lock = lock.filter(|_| fold.measures().contains(MeasureId::LockWait));
        if let Some(lock) = lock {
            values = values.and(MeasureId::LockWait, wall);
            if lock.is_blamed {
                shared.lock_blame.add(&lock.name, labels, wall_ns);
            }
        }
        let labels = fold.with_reason(labels, reason);
        let labels = fold.with_lock(labels, lock.map(|lock| &lock.name));
        fold.add(&Charge {
            node,
            labels,
            values,
            from_ns,
            to_ns,
        });
        if reason.is_some() {
            charge_cpu(self.spot(), cpu_ns, (from_ns, to_ns), fold);
        }
    }
}

/// What tells the labels of two ticks apart, besides the thread's name.
fn label_key(thread: &ThreadSample, has_requests: bool) -> (u64, bool) {
    let serial = thread.labels.as_ref().map_or(0, |active| active.serial);
    (serial, has_requests)
}

fn thread_labels<'thread>(
    thread: &'thread ThreadSample,
    has_requests: bool,
    shared: &Shared,
) -> ThreadLabels<'thread> {
    let active = thread.labels.as_deref();
    ThreadLabels {
        id: thread.thread_id,
        name: &thread.name,
        active,
        class: class_of(has_requests, active, &thread.name),
        with_request: shared.filter.keep_apart,
    }
}
