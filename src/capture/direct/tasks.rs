//! asyncio's tasks, looked at on demand.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::DirectEngine;
use super::task_locks::TaskLocks;
use crate::layout::context::CONTEXT_VARIABLES;
use crate::layout::tasks::TaskLayout;
use crate::memory::blocks::BlockStore;
use crate::memory::{ReadMemory, read_word, reserve};
use crate::model::snapshot::Snapshot;
use crate::model::task::{Task, TaskKind, Tasks};
use crate::unwind::frames::RawFrame;
use crate::unwind::labels::{LabelReader, PLACE};
use crate::unwind::tasks::{FoundTask, KNOWN, TaskReader};
use crate::unwind::threads::{ThreadListing, enumerate};

/// Tasks of which all is told; of more only the number.
const MAX_TASKS: usize = 1_000;
/// Tasks that are asked for their request.
const MAX_ASKED: usize = 20_000;

impl DirectEngine {
    /// The tasks and greenlets at this moment; `requests`: only those that work on one of them. What
    /// their frames are is added to `snapshot`, which the engine has just made.
    pub fn look_at_tasks(&mut self, snapshot: &mut Snapshot, requests: Option<&[u64]>) -> Tasks {
        let mut tasks = self.look_at_asyncio(snapshot, requests);
        self.look_at_greenlets(snapshot, requests, &mut tasks);
        tasks
    }

    fn look_at_asyncio(&mut self, snapshot: &mut Snapshot, requests: Option<&[u64]>) -> Tasks {
        let Some(known) = KNOWN.get().filter(|_| !reserve::is_short()) else {
            return Tasks::default();
        };
        let Some(mut memory) = (self.open_memory)() else {
            return Tasks::default();
        };
        let memory = memory.as_mut();
        let layout = &self.interpreter.layout;
        let mut listing = ThreadListing::default();
        // A list that changed under way ends early.
        enumerate(memory, layout, self.interpreter.runtime, &mut listing);
        let threads = listing.threads.iter().map(|thread| thread.address);
        let threads: Vec<usize> = threads.collect();
        let mut store = BlockStore::default();
        let mut reader = TaskReader::new(memory, &mut store, layout, known);
        let listed = reader.list(&threads);
        let mut total = listed.total;
        let mut wanted = listed.tasks;
        if let Some(requests) = requests {
            wanted.truncate(MAX_ASKED);
            let contexts = reader.contexts(&wanted);
            let contexts: Vec<(usize, usize)> = wanted.iter().copied().zip(contexts).collect();
            let mut asked = Asked::new(&mut self.stacks.labels);
            wanted.clear();
            for (task, context) in contexts {
                if requests.contains(&asked.request(memory, context)) {
                    wanted.push(task);
                }
            }
            total = wanted.len();
            reader = TaskReader::new(memory, &mut store, layout, known);
        }
        let mut found: Vec<(usize, FoundTask)> = Vec::new();
        let mut ended = 0;
        for task in &wanted {
            if found.len() == MAX_TASKS {
                break;
            }
            match reader.task(*task) {
                Some(task_found) => found.push((*task, task_found)),
                None => ended += 1,
            }
        }
        let tasks = self.describe(memory, known, &found, snapshot);
        Tasks {
            omitted: total.saturating_sub(found.len() + ended),
            tasks,
        }
    }

    /// The tasks that were found at these addresses, for people. What their frames are is added to
    /// `snapshot`.
    fn describe(
        &mut self,
        memory: &mut dyn ReadMemory,
        known: &TaskLayout,
        found: &[(usize, FoundTask)],
        snapshot: &mut Snapshot,
    ) -> Vec<Task> {
        let layout = &self.interpreter.layout;
        let indexes: FxHashMap<usize, usize> = found
            .iter()
            .enumerate()
            .map(|(index, (address, _))| (*address, index))
            .collect();
        let mut asked = Asked::new(&mut self.stacks.labels);
        let mut tasks = Vec::with_capacity(found.len());
        for (_, task) in found {
            let mut frames = Vec::new();
            let functions = &mut snapshot.functions;
            let named =
                self.stacks
                    .cache
                    .name(memory, layout, &task.frames, functions, &mut frames);
            if named.is_err() || self.stacks.cache.may_have_died(&task.frames) {
                frames.clear();
            }
            let awaited_by = task.awaited_by.iter();
            tasks.push(Task {
                kind: TaskKind::Task,
                name: task.name.clone(),
                state: task.state,
                frames,
                awaited_by: awaited_by
                    .filter_map(|waiter| indexes.get(&waiter.task).copied())
                    .collect(),
                waits_for: None,
                request: asked.request(memory, task.context),
            });
        }
        if self.locks.is_on {
            let raw: Vec<&[RawFrame]> = found.iter().map(|(_, task)| &*task.frames).collect();
            let mut locks = TaskLocks {
                memory,
                layout,
                locks: &mut self.locks,
            };
            locks.note(&raw, &snapshot.functions, &mut tasks, |memory, at| {
                // What was copied before is not to be believed again.
                let mut store = BlockStore::default();
                let mut reader = TaskReader::new(memory, &mut store, layout, known);
                let (address, task) = &found[at];
                reader.task(*address).as_ref() == Some(task)
            });
        }
        // What this snapshot does not know the cache must not know either, when it is asked again.
        self.stacks.cache.forget_all();
        tasks
    }
}

/// What contexts say of requests. Those that were copied from each other share their variables.
struct Asked<'labels> {
    labels: &'labels mut LabelReader,
    known: FxHashMap<usize, u64>,
}

impl<'labels> Asked<'labels> {
    fn new(labels: &'labels mut LabelReader) -> Self {
        Self {
            labels,
            known: FxHashMap::default(),
        }
    }

    /// The request that is worked on in a context; 0: none.
    fn request(&mut self, memory: &mut (dyn ReadMemory + '_), context: usize) -> u64 {
        let Some(place) = PLACE.get() else {
            return 0;
        };
        let Some(variables) = read_word(memory, context.wrapping_add(CONTEXT_VARIABLES)) else {
            return 0;
        };
        if let Some(known) = self.known.get(&variables) {
            return *known;
        }
        let labels = self.labels.labels_among(memory, place, variables);
        let request = labels.map_or(0, |labels| labels.request);
        self.known.insert(variables, request);
        request
    }
}
