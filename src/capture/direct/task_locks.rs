//! Which lock of asyncio a task waits for, and which task holds it; or by what else it is to be told
//! something. Told by asyncio's own functions at the end of the stack of a task that waits.
#![forbid(unsafe_code)]

use super::locks::{Locks, first_variable};
use crate::layout::Layout;
use crate::layout::context::TYPE_NAME;
use crate::layout::tasks::TYPE;
use crate::memory::{ReadMemory, read_word};
use crate::model::stack::{Frame, FunctionTable};
use crate::model::task::{Task, TaskHolder, TaskWait};
use crate::unwind::code::FREED;
use crate::unwind::expression::called_on;
use crate::unwind::frames::RawFrame;
use crate::unwind::objects::{ObjectKind, Types, attributes, c_string, may_be_object};

/// Modules whose functions wait for what is theirs.
const MODULES: [&str; 2] = ["asyncio.locks.", "asyncio.queues."];
/// What asyncio's functions begin with.
const OWN_FUNCTIONS: &str = "asyncio.";
/// What asyncio calls its classes; others are of the application.
const KINDS: [&str; 9] = [
    "Lock",
    "Event",
    "Condition",
    "Semaphore",
    "BoundedSemaphore",
    "Barrier",
    "Queue",
    "LifoQueue",
    "PriorityQueue",
];

/// What a function in a stack is called.
fn name_at<'name>(
    frames: &[Frame],
    functions: &'name FunctionTable,
    depth: usize,
) -> Option<&'name str> {
    Some(&*functions.get(&frames.get(depth)?.function)?.name)
}

/// Whether a function of this name waits for what is asyncio's.
pub(super) fn is_wait(function: &str) -> bool {
    MODULES.iter().any(|module| function.starts_with(module))
}

/// How many frames of this stack belong to what is waited for, if it is asyncio's.
pub(super) fn depth_of_wait(
    raw: &[RawFrame],
    frames: &[Frame],
    functions: &FunctionTable,
) -> Option<usize> {
    // One that is left out has no name here.
    if raw.len() != frames.len() {
        return None;
    }
    let is_its = |depth: &usize| name_at(frames, functions, *depth).is_some_and(is_wait);
    let depth = (0..frames.len()).take_while(is_its).count();
    (depth > 0).then_some(depth)
}

/// The innermost frame from this depth on that is not asyncio's.
pub(super) fn user_frame(
    depth: usize,
    frames: &[Frame],
    functions: &FunctionTable,
) -> Option<usize> {
    let is_own = |name: &str| name.starts_with(OWN_FUNCTIONS);
    let mut depths = depth..frames.len();
    depths.find(|depth| !name_at(frames, functions, *depth).is_some_and(is_own))
}

/// The locks that a task or thread does not hold, whatever it is inside of: it is in a function that waits
/// for one, or for news of a condition, and has given the condition's lock back for so long.
pub(super) fn not_held(
    memory: &mut dyn ReadMemory,
    layout: &Layout,
    types: &mut Types,
    leaf: &RawFrame,
) -> Vec<usize> {
    let mut locks = Vec::new();
    if let Some(object) = first_variable(memory, layout, leaf) {
        locks.push(object);
        if types.of(memory, object) == ObjectKind::Condition {
            // Its lock is the first of them.
            attributes(memory, layout, object, 1, &mut locks);
        }
    }
    locks
}

/// Looks at tasks of one look.
pub(super) struct TaskLocks<'look> {
    pub(super) memory: &'look mut dyn ReadMemory,
    pub(super) layout: &'look Layout,
    pub(super) locks: &'look mut Locks,
}

impl TaskLocks<'_> {
    /// What a task of these frames waits for, with the address of the lock if it is one.
    fn look(
        &mut self,
        raw: &[RawFrame],
        frames: &[Frame],
        functions: &FunctionTable,
    ) -> Option<(String, Option<usize>)> {
        let depth = depth_of_wait(raw, frames, functions)?;
        let leaf = first_variable(self.memory, self.layout, raw.first()?)?;
        let is_lock = self.locks.types.of(self.memory, leaf) == ObjectKind::AsyncLock;
        let object = if is_lock {
            leaf
        } else {
            first_variable(self.memory, self.layout, &raw[depth - 1])?
        };
        let kind = read_word(self.memory, object + TYPE)?;
        let name = self.name(kind, depth, (raw, frames), functions)?;
        Some((name, is_lock.then_some(leaf)))
    }

    /// What a wait is called, for an object of the type `kind`; what is waited for has `depth` frames.
    pub(super) fn name(
        &mut self,
        kind: usize,
        depth: usize,
        (raw, frames): (&[RawFrame], &[Frame]),
        functions: &FunctionTable,
    ) -> Option<String> {
        let name = |depth: usize| name_at(frames, functions, depth);
        let kind = self.type_name(kind)?;
        let own = if KINDS.contains(&kind.as_str()) {
            OWN_FUNCTIONS
        } else {
            ""
        };
        let waiter = raw.get(depth).zip(name(depth));
        let expression =
            waiter.and_then(|(frame, name)| called_on(self.memory, self.layout, frame, name));
        let user = user_frame(depth, frames, functions).and_then(name);
        Some(match (expression, user) {
            (Some(expression), _) => format!("{own}{kind} {expression}"),
            (None, Some(function)) => format!("{own}{kind} in {function}"),
            (None, None) => format!("{own}{kind}"),
        })
    }

    /// What a type is called, without its module.
    fn type_name(&mut self, kind: usize) -> Option<String> {
        let kind = may_be_object(kind).then_some(kind)?;
        let name = read_word(self.memory, kind + TYPE_NAME)?;
        let text = c_string(self.memory, name)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        Some(text.rsplit('.').next().unwrap_or(text).to_owned())
    }

    /// Notes what `tasks` wait for, whose frames are these, and who holds it. `is_still` tells of a task
    /// whether it is where it was when its frames were read.
    pub(super) fn note(
        &mut self,
        raw: &[&[RawFrame]],
        functions: &FunctionTable,
        tasks: &mut [Task],
        mut is_still: impl FnMut(&mut dyn ReadMemory, usize) -> bool,
    ) {
        let mut wanted = Vec::new();
        for (at, task) in tasks.iter_mut().enumerate() {
            let Some((name, lock)) = self.look(raw[at], &task.frames, functions) else {
                continue;
            };
            let holder = TaskHolder::Nobody;
            task.waits_for = Some(TaskWait { name, holder });
            wanted.extend(lock.map(|lock| (at, lock)));
        }
        if wanted.is_empty() {
            return;
        }
        let Locks { holders, types, .. } = &mut *self.locks;
        holders.forget_dead(FREED.count());
        let mut held = Vec::new();
        let mut holding = Vec::new();
        for (at, raw) in raw.iter().enumerate() {
            held.clear();
            holders.held(self.memory, self.layout, types, raw, &mut held);
            if depth_of_wait(raw, &tasks[at].frames, functions).is_some()
                && let Some(leaf) = raw.first()
            {
                let others = not_held(self.memory, self.layout, types, leaf);
                held.retain(|lock| !others.contains(lock));
            }
            holding.extend(held.iter().map(|lock| (*lock, at)));
        }
        for (at, lock) in wanted {
            let mut having = holding.iter().filter(|(held, _)| *held == lock);
            let holder = match (having.next(), having.next()) {
                (Some((_, holder)), None) if is_still(self.memory, *holder) => {
                    TaskHolder::Task(*holder)
                }
                _ => TaskHolder::Unknown,
            };
            // They were read one after the other: by now it may have got the lock.
            if !is_still(self.memory, at) {
                tasks[at].waits_for = None;
            } else if let Some(wait) = &mut tasks[at].waits_for {
                wait.holder = holder;
            }
        }
    }
}
