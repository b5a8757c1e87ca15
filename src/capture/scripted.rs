//! Replays a script of snapshots: the sampler's tests need no clock and no interpreter.

use std::collections::VecDeque;
use std::sync::Arc;

use super::source::{EventReceiver, EventSender, Source, event_queue};
use super::{Engine, Missed, SnapshotStats};
use crate::model::event::EventSample;
use crate::model::function::Function;
use crate::model::measure::MeasureSet;
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use crate::model::stack::{Frame, FunctionSerial, FunctionTable, Stack};

/// A thread in a scripted snapshot.
#[derive(Clone, Debug)]
pub struct ScriptedThread {
    /// Thread id and key.
    pub id: u64,
    /// Thread name.
    pub name: &'static str,
    /// CPU clock in ns.
    pub cpu_ns: u64,
    /// What the thread does.
    pub state: ThreadState,
    /// Whether it has a CPU.
    pub on_cpu: bool,
    /// What the engine says of [`ThreadSample::early_cpu_ns`].
    pub early_cpu_ns: u64,
    /// Function names, leaf first.
    pub stack: Vec<&'static str>,
}

impl ScriptedThread {
    /// A thread that has used no CPU time yet, of which nobody can tell what it does.
    #[must_use]
    pub fn new(id: u64, name: &'static str, stack: &[&'static str]) -> Self {
        Self {
            id,
            name,
            cpu_ns: 0,
            state: ThreadState::Unknown,
            on_cpu: true,
            early_cpu_ns: 0,
            stack: stack.to_vec(),
        }
    }
}

/// One scripted tick: its time in ns and the threads alive.
pub type ScriptedTick = (u64, Vec<ScriptedThread>);

/// Plays its ticks in order and then misses for ever.
#[derive(Debug, Default)]
pub struct Scripted {
    ticks: VecDeque<ScriptedTick>,
    versions: u64,
    now_ns: u64,
    last_tick_ns: u64,
    snapshot: Snapshot,
}

impl Scripted {
    /// An engine that will play `ticks`.
    #[must_use]
    pub fn new(ticks: impl IntoIterator<Item = ScriptedTick>) -> Self {
        Self {
            ticks: ticks.into_iter().collect(),
            ..Self::default()
        }
    }

    /// An engine that goes on at `now_ns` where another one was.
    #[must_use]
    pub fn after(
        snapshot: &Snapshot,
        now_ns: u64,
        ticks: impl IntoIterator<Item = ScriptedTick>,
    ) -> Self {
        Self {
            snapshot: snapshot.clone(),
            now_ns,
            ..Self::new(ticks)
        }
    }

    /// For what a script cannot say: labels and spans.
    pub fn snapshot_mut(&mut self) -> &mut Snapshot {
        &mut self.snapshot
    }

    /// The sample of a thread at `at_ns`, and whether its stack is another than before.
    fn sample_of(&mut self, thread: &ScriptedThread, at_ns: u64) -> (ThreadSample, bool) {
        let stack = stack_of(&thread.stack, &mut self.snapshot.functions);
        let key = ThreadKey(thread.id);
        let mut known = self.snapshot.threads.iter();
        let known = known.find(|known| known.key == key);
        let same_stack = known.filter(|known| known.stack == stack);
        let stack_version = same_stack.map_or(self.versions + 1, |known| known.stack_version);
        let still_since_ns = same_stack
            .filter(|known| known.cpu_ns == Some(thread.cpu_ns))
            .filter(|known| (known.state, known.on_cpu) == (thread.state, thread.on_cpu))
            .map(|known| known.since_ns);
        let last_ns = self.last_tick_ns;
        let is_newborn = last_ns > 0 && thread.cpu_ns <= at_ns - last_ns;
        let born_at_ns = if is_newborn { 0 } else { thread.cpu_ns };
        let (first_seen_ns, cpu_from_ns) = known.map_or((at_ns, born_at_ns), |known| {
            (known.first_seen_ns, known.cpu_from_ns)
        });
        let is_walked = same_stack.is_none();
        self.versions += u64::from(is_walked);
        let sample = ThreadSample {
            task: None,
            key,
            thread_id: thread.id,
            name: Arc::from(thread.name),
            cpu_ns: Some(thread.cpu_ns),
            state: thread.state,
            on_cpu: thread.on_cpu,
            gil: 0,
            labels: None,
            off: None,
            lock: None,
            cpu_wait_ns: None,
            ready: 0,
            since_ns: still_since_ns.unwrap_or(at_ns),
            stack,
            stack_version,
            first_seen_ns,
            cpu_from_ns,
            early_cpu_ns: thread.early_cpu_ns,
            span: None,
        };
        (sample, is_walked)
    }
}

/// A stack of functions of these names, leaf first; new ones are added to the table.
fn stack_of(names: &[&str], functions: &mut FunctionTable) -> Stack {
    let mut frames = Vec::with_capacity(names.len());
    for name in names {
        let mut known = functions.iter();
        let known = known.find(|(_, function)| &*function.name == *name);
        let function = known.map_or_else(FunctionSerial::fresh, |(serial, _)| *serial);
        functions
            .entry(function)
            .or_insert_with(|| Arc::new(Function::new(name, "script.py", 1)));
        frames.push(Frame { function, line: 1 });
    }
    Stack {
        frames,
        incomplete: false,
    }
}

impl Engine for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn look(&mut self) -> Result<SnapshotStats, Missed> {
        self.snapshot.spans.clear();
        let (at_ns, threads) = self.ticks.pop_front().ok_or(Missed::NotNow)?;
        self.now_ns = at_ns;
        let mut stats = SnapshotStats::default();
        let mut alive = Vec::with_capacity(threads.len());
        for thread in &threads {
            let (sample, is_walked) = self.sample_of(thread, at_ns);
            stats.walked += u32::from(is_walked);
            alive.push(sample);
        }
        self.last_tick_ns = at_ns;
        let who = |threads: &[ThreadSample]| -> Vec<_> {
            let names = threads.iter();
            names.map(|known| (known.key, known.name.clone())).collect()
        };
        let snapshot = &mut self.snapshot;
        if who(&alive) != who(&snapshot.threads) {
            snapshot.threads_version += 1;
        }
        snapshot.at_ns = at_ns;
        let moved = alive.iter().map(|thread| thread.since_ns);
        snapshot.moved_ns = moved.max().unwrap_or(0);
        snapshot.threads = alive;
        Ok(stats)
    }

    fn read_clocks(&mut self) {
        let snapshot = &mut self.snapshot;
        snapshot.spans.clear();
        snapshot.at_ns = self.now_ns;
        let due = self
            .ticks
            .front()
            .filter(|(at_ns, _)| *at_ns <= self.now_ns);
        for thread in due.iter().flat_map(|(_, threads)| threads) {
            let mut known = snapshot.threads.iter_mut();
            if let Some(known) = known.find(|known| known.key == ThreadKey(thread.id)) {
                known.cpu_ns = Some(thread.cpu_ns);
            }
        }
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// A source whose events a test sends, and whose levels it has told before.
#[derive(Debug)]
pub struct ScriptedSource {
    measures: MeasureSet,
    functions: FunctionTable,
    queue: EventReceiver,
    levels: VecDeque<Vec<EventSample>>,
}

impl ScriptedSource {
    /// A source with room for so many events, and where they are sent.
    #[must_use]
    pub fn new(measures: MeasureSet, capacity: usize) -> (Self, EventSender) {
        let (sender, queue) = event_queue(capacity);
        let source = Self {
            measures,
            functions: FunctionTable::default(),
            queue,
            levels: VecDeque::new(),
        };
        (source, sender)
    }

    /// A stack of functions of these names, leaf first.
    pub fn stack(&mut self, names: &[&str]) -> Stack {
        stack_of(names, &mut self.functions)
    }

    /// What it tells at the ends of windows: the first at the first.
    pub fn set_levels(&mut self, levels: impl IntoIterator<Item = Vec<EventSample>>) {
        self.levels = levels.into_iter().collect();
    }
}

impl Source for ScriptedSource {
    fn measures(&self) -> MeasureSet {
        self.measures
    }

    fn drain(&mut self, events: &mut Vec<EventSample>) -> u64 {
        self.queue.drain(events)
    }

    fn levels(&mut self, events: &mut Vec<EventSample>) {
        events.extend(self.levels.pop_front().into_iter().flatten());
    }

    fn functions(&self) -> &FunctionTable {
        &self.functions
    }
}
