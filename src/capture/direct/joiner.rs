//! Which task of asyncio or trio a thread runs, and what awaits one of asyncio's: read without the GIL, and
//! put into the thread's stack.
//!
//! A task runs if the thread's stack has the frame that the task's coroutine begins with: so task and
//! stack are of the same moment. What awaits it is put below that frame, above those of the event loop,
//! and is read again only if it has changed, which one copy tells.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::layout::Layout;
use crate::layout::loops::{Running, read_dict};
use crate::layout::tasks::TaskLayout;
use crate::memory::blocks::BlockStore;
use crate::memory::{ReadMemory, read_word};
use crate::unwind::frames::RawFrame;
use crate::unwind::joined::AwaitedTask;
use crate::unwind::tasks::{KNOWN, TaskReader};
use crate::unwind::trio::{self, InStack, KNOWN as KNOWN_TRIO};

/// Tasks that are remembered with what awaits them; one takes some kilobytes.
const MAX_KEPT: usize = 256;
/// Tasks that are remembered by the frame that they begin with.
const MAX_ROOTS: usize = 4_096;
/// Names of tasks that are kept apart at a time.
const MAX_NAMES: usize = 1_000;
/// Tasks that run at a time, of which one is looked for.
const MAX_CURRENT: usize = 256;

/// The task that a thread runs.
#[derive(Clone, Debug, Default)]
pub(super) struct RunningTask {
    /// Its address; 0 if there is none.
    pub(super) task: usize,
    /// What somebody called it.
    pub(super) name: Option<Arc<str>>,
    /// How many frames at the leaf side are the task's, or of those that await it.
    pub(super) frames: usize,
}

/// What was found of a thread's task.
#[derive(Debug)]
pub(super) enum Join {
    /// It runs none.
    None,
    /// It runs one that is not the one in this stack.
    Missed,
    /// It runs this one; so many frames are the task's or below.
    Joined(RunningTask),
}

/// Names of tasks, each of them once.
#[derive(Debug, Default)]
pub(super) struct TaskNames(FxHashSet<Arc<str>>);

impl TaskNames {
    pub(super) fn of(&mut self, name: Option<&str>) -> Option<Arc<str>> {
        let name = name?;
        if let Some(known) = self.0.get(name) {
            return Some(known.clone());
        }
        if self.0.len() >= MAX_NAMES {
            // Those in use live on where they are.
            self.0.clear();
        }
        let name: Arc<str> = Arc::from(name);
        self.0.insert(name.clone());
        Some(name)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct TaskJoiner {
    pub(super) store: BlockStore,
    pub(super) names: TaskNames,
    minor: u32,
    kept: FxHashMap<usize, Kept>,
    /// Tasks, by the address of the frame that they begin with.
    by_root: FxHashMap<usize, usize>,
    current: Vec<(usize, usize)>,
}

#[derive(Debug)]
struct Kept {
    found: AwaitedTask,
    name: Option<Arc<str>>,
}

impl TaskJoiner {
    pub(super) fn new(minor: u32) -> Self {
        Self {
            minor,
            ..Self::default()
        }
    }

    /// Finds the task that the thread with this stack runs, whose state is at `thread`, and puts what
    /// awaits that into the stack, if it is one of asyncio's.
    pub(super) fn join(
        &mut self,
        memory: &mut dyn ReadMemory,
        layout: &Layout,
        thread: usize,
        raw: &mut Vec<RawFrame>,
    ) -> Join {
        let joined = match KNOWN.get() {
            Some(known) => self.join_asyncio(memory, layout, known, thread, raw),
            None => Join::None,
        };
        match (joined, KNOWN_TRIO.get()) {
            (Join::None, Some(known)) => match trio::find(memory, layout, known, raw) {
                InStack::Nothing => Join::None,
                InStack::AnotherTask => Join::Missed,
                InStack::Task(found) => Join::Joined(RunningTask {
                    task: found.task,
                    name: self.names.of(found.name.as_deref()),
                    frames: found.frames,
                }),
            },
            (joined, _) => joined,
        }
    }

    fn join_asyncio(
        &mut self,
        memory: &mut dyn ReadMemory,
        layout: &Layout,
        known: &TaskLayout,
        thread: usize,
        raw: &mut Vec<RawFrame>,
    ) -> Join {
        // A task that was seen before is known by its frame.
        if !self.by_root.is_empty() {
            let by_root = &self.by_root;
            let mut frames = raw.iter();
            let seen = frames.find_map(|frame| by_root.get(&frame.address).copied());
            if let Some(task) = seen
                && let Some(joined) = self.put(memory, layout, known, task, raw)
            {
                return joined;
            }
        }
        self.read_current(memory, known, thread);
        for at in 0..self.current.len() {
            let (_, task) = self.current[at];
            if let Some(joined) = self.put(memory, layout, known, task, raw) {
                return joined;
            }
        }
        match (known.running, self.current.is_empty()) {
            (Running::Thread(_), false) => Join::Missed,
            _ => Join::None,
        }
    }

    /// Whether a thread may run any of the tasks that were found running last.
    fn read_current(&mut self, memory: &mut dyn ReadMemory, known: &TaskLayout, thread: usize) {
        self.current.clear();
        match known.running {
            Running::Unknown => {}
            Running::Thread(offset) => {
                let task = read_word(memory, thread.wrapping_add(offset));
                let task = task.filter(|task| *task != 0);
                self.current.extend(task.map(|task| (0, task)));
            }
            Running::Table(table) => {
                read_dict(memory, self.minor, table, &mut self.current);
                self.current.truncate(MAX_CURRENT);
            }
        }
    }

    /// Puts what awaits a task below its outermost frame; `None` if the stack is not the task's.
    fn put(
        &mut self,
        memory: &mut dyn ReadMemory,
        layout: &Layout,
        known: &TaskLayout,
        task: usize,
        raw: &mut Vec<RawFrame>,
    ) -> Option<Join> {
        let is_known = self
            .kept
            .get(&task)
            .is_some_and(|kept| kept.found.read.is_still(memory));
        if !is_known {
            let old = self.kept.remove(&task);
            if let Some(old) = old {
                self.by_root.remove(&old.found.root);
            }
            let mut reader = TaskReader::new(memory, &mut self.store, layout, known);
            let found = reader.awaited(task)?;
            self.keep(task, found);
        }
        let kept = self.kept.get(&task)?;
        let root = raw
            .iter()
            .position(|frame| frame.address == kept.found.root)?;
        let chain = kept.found.chain.iter().copied();
        raw.splice(root + 1..=root, chain);
        Some(Join::Joined(RunningTask {
            task,
            name: kept.name.clone(),
            frames: root + 1 + kept.found.chain.len(),
        }))
    }

    fn keep(&mut self, task: usize, found: AwaitedTask) {
        if self.kept.len() >= MAX_KEPT {
            self.kept.clear();
        }
        if self.by_root.len() >= MAX_ROOTS {
            self.by_root.clear();
        }
        self.by_root.insert(found.root, task);
        let name = self.names.of(found.name.as_deref());
        self.kept.insert(task, Kept { found, name });
    }

    /// Gives the memory back.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.minor);
    }

    pub(super) fn bytes(&self) -> usize {
        let kept = self.kept.values();
        let kept: usize = kept
            .map(|kept| kept.found.read.held() + size_of::<Kept>())
            .sum();
        kept + self.store.held() + self.by_root.capacity() * 17
    }
}
