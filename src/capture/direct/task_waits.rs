//! What the tasks that were drawn wait for, if it is asyncio's and no task.
//!
//! The functions at the end of a stack tell that it is; what it is, is copied for all of them at once, and
//! its name is known from the line that waits, so that most draws cost two copies more, and none where no
//! task waits so.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::DirectEngine;
use super::suspended::Drawn;
use super::task_locks::{TaskLocks, depth_of_wait, user_frame};
use crate::layout::locks::variables;
use crate::layout::tasks::TYPE;
use crate::memory::{Range, ReadMemory, copy_each, word};
use crate::model::lock::LockName;
use crate::model::stack::{Frame, FunctionSerial};
use crate::model::task::TaskState;
use crate::unwind::objects::{ObjectKind, may_be_object};
use crate::unwind::task_lists::words;

/// Lines of which is remembered what tasks wait for there, before all are forgotten.
const MAX_PLACES: usize = 4_096;

const WORD: usize = size_of::<usize>();

/// What a task waits for.
#[derive(Clone, Debug)]
pub(super) struct FoundWait {
    pub(super) name: LockName,
    /// The address of the lock, if it is one.
    pub(super) lock: Option<usize>,
}

/// The type of what is waited for, the function and the instruction at which it is, and the function of the
/// program.
type Place = (usize, FunctionSerial, usize, Option<FunctionSerial>);

/// What waits are called, by their lines.
#[derive(Debug, Default)]
pub(super) struct WaitNames(FxHashMap<Place, LockName>);

impl WaitNames {
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * (size_of::<(Place, LockName)>() + 1)
    }
}

/// A task that waits for what is asyncio's.
struct Waiter {
    /// Its index.
    at: usize,
    /// How many frames belong to what it waits for.
    depth: usize,
}

impl DirectEngine {
    /// Notes what tasks wait for that were drawn, whose frames are named.
    pub(super) fn find_waits(&mut self, memory: &mut dyn ReadMemory, drawn: &mut [Drawn]) {
        if !self.locks.is_on {
            return;
        }
        let functions = &self.roster.snapshot().functions;
        let mut waiters = Vec::new();
        for (at, task) in drawn.iter().enumerate() {
            if task.joined.state == TaskState::Waits
                && let Some(frames) = &task.frames
                && let Some(depth) = depth_of_wait(&task.joined.frames, frames, functions)
            {
                waiters.push(Waiter { at, depth });
            }
        }
        if waiters.is_empty() {
            return;
        }
        // What the innermost function belongs to, and the outermost of those that wait.
        let layout = &self.interpreter.layout;
        let own = |waiter: &Waiter| {
            let raw = &drawn[waiter.at].joined.frames;
            let place = |depth: usize| raw[depth].address.wrapping_add(variables(layout));
            [0, waiter.depth - 1].map(|depth| Range::new(place(depth), WORD))
        };
        let ranges: Vec<Range> = waiters.iter().flat_map(own).collect();
        let mut objects = Vec::with_capacity(ranges.len());
        copy_each(memory, &ranges, |bytes| {
            let object = bytes.map_or(0, |bytes| word(bytes, 0) & !layout.frame.code_tags);
            objects.push(if may_be_object(object) { object } else { 0 });
        });
        let types = words(memory, &objects, TYPE);
        let (pairs, _) = objects.as_chunks::<2>();
        let (kinds, _) = types.as_chunks::<2>();
        for ((waiter, [leaf, _]), kinds) in waiters.iter().zip(pairs).zip(kinds) {
            let task = &mut drawn[waiter.at];
            let is_lock = self.locks.types.kind(memory, kinds[0]) == ObjectKind::AsyncLock;
            let kind = if is_lock { kinds[0] } else { kinds[1] };
            let name = self.name_of_wait(memory, waiter.depth, kind, task);
            let lock = is_lock.then_some(*leaf);
            task.wait = name.map(|name| FoundWait { name, lock });
        }
    }

    /// What it is called that a task waits for, for an object of the type `kind`.
    fn name_of_wait(
        &mut self,
        memory: &mut dyn ReadMemory,
        depth: usize,
        kind: usize,
        task: &Drawn,
    ) -> Option<LockName> {
        let frames: &[Frame] = task.frames.as_deref()?;
        let raw = &task.joined.frames;
        let functions = &self.roster.snapshot().functions;
        let place = raw.get(depth).zip(frames.get(depth)).map(|(raw, frame)| {
            let user = user_frame(depth, frames, functions).map(|at| frames[at].function);
            (kind, frame.function, raw.instruction, user)
        });
        if let Some(known) = place.and_then(|place| self.locks.wait_names.0.get(&place)) {
            return Some(known.clone());
        }
        let mut locks = TaskLocks {
            memory,
            layout: &self.interpreter.layout,
            locks: &mut self.locks,
        };
        let text = locks.name(kind, depth, (raw, frames), functions)?;
        let name = self.locks.names.name(&text);
        let known = &mut self.locks.wait_names.0;
        if known.len() >= MAX_PLACES {
            known.clear();
        }
        if let Some(place) = place
            && known.try_reserve(1).is_ok()
        {
            known.insert(place, name.clone());
        }
        Some(name)
    }
}
