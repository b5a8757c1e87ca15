//! Replays a script of snapshots: the sampler's tests need no clock and no interpreter.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Engine, Missed, Taken};
use crate::model::function::Function;
use crate::model::snapshot::{
    Frame, FunctionSerial, Snapshot, ThreadKey, ThreadSample, ThreadState,
};
use crate::model::stack::Stack;

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

/// One scripted tick: its time in ns and the threads alive.
pub type ScriptedTick = (u64, Vec<ScriptedThread>);

/// Plays its ticks in order and then misses for ever.
#[derive(Debug, Default)]
pub struct Scripted {
    ticks: VecDeque<ScriptedTick>,
    names: Vec<&'static str>,
    versions: u64,
    now_ns: u64,
    tick_start_ns: u64,
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

    /// The same from `now_ns` on.
    #[must_use]
    pub fn at(now_ns: u64, ticks: impl IntoIterator<Item = ScriptedTick>) -> Self {
        Self {
            now_ns,
            ..Self::new(ticks)
        }
    }

    fn serial(&mut self, name: &'static str) -> FunctionSerial {
        let index = self.names.iter().position(|known| *known == name);
        let index = index.unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        FunctionSerial(index as u64)
    }
}

impl Engine for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn snapshot(&mut self, snapshot: &mut Snapshot) -> Result<Taken, Missed> {
        let (at_ns, threads) = self.ticks.pop_front().ok_or(Missed::NotNow)?;
        let previous_tick_ns = self.tick_start_ns;
        self.tick_start_ns = at_ns;
        self.now_ns = at_ns;
        let mut walked = 0;
        let mut alive = Vec::with_capacity(threads.len());
        for thread in threads {
            let frames: Vec<Frame> = thread
                .stack
                .iter()
                .map(|name| {
                    let function = self.serial(name);
                    snapshot
                        .functions
                        .entry(function)
                        .or_insert_with(|| Arc::new(Function::new(name, "script.py", 1)));
                    Frame { function, line: 1 }
                })
                .collect();
            let stack = Stack {
                frames,
                incomplete: false,
            };
            let known = snapshot
                .threads
                .iter()
                .find(|known| known.key == ThreadKey(thread.id));
            let stack_version = match known {
                Some(known) if known.stack == stack => known.stack_version,
                _ => {
                    walked += 1;
                    self.versions += 1;
                    self.versions
                }
            };
            let is_still = known.is_some_and(|known| {
                let clock = known.cpu_ns == Some(thread.cpu_ns);
                clock
                    && known.stack_version == stack_version
                    && (known.state, known.on_cpu) == (thread.state, thread.on_cpu)
            });
            let newborn = previous_tick_ns > 0 && thread.cpu_ns <= at_ns - previous_tick_ns;
            let (first_seen_ns, cpu_from_ns) = known
                .map_or((at_ns, if newborn { 0 } else { thread.cpu_ns }), |known| {
                    (known.first_seen_ns, known.cpu_from_ns)
                });
            alive.push(ThreadSample {
                key: ThreadKey(thread.id),
                thread_id: thread.id,
                name: Arc::from(thread.name),
                cpu_ns: Some(thread.cpu_ns),
                state: thread.state,
                on_cpu: thread.on_cpu,
                labels: None,
                since_ns: known
                    .filter(|_| is_still)
                    .map_or(at_ns, |known| known.since_ns),
                stack,
                stack_version,
                first_seen_ns,
                cpu_from_ns,
                early_cpu_ns: thread.early_cpu_ns,
                span: None,
            });
        }
        let who = |threads: &[ThreadSample]| -> Vec<_> {
            let names = threads.iter();
            names.map(|known| (known.key, known.name.clone())).collect()
        };
        if who(&alive) != who(&snapshot.threads) {
            snapshot.threads_version += 1;
        }
        snapshot.at_ns = at_ns;
        let moved = alive.iter().map(|thread| thread.since_ns);
        snapshot.moved_ns = moved.max().unwrap_or(0);
        snapshot.threads = alive;
        Ok(Taken {
            walked,
            ..Taken::default()
        })
    }

    fn read_clocks(&mut self, snapshot: &mut Snapshot) {
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
