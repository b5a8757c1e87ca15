//! A task joined with what awaits it: one stack, from the task that nobody awaits to the innermost
//! frame.
#![forbid(unsafe_code)]

use super::frames::{Pseudo, RawFrame};
use super::tasks::TaskReader;
use crate::layout::tasks::{Kind, Via};
use crate::memory::read_word;
use crate::memory::remembered::Remembered;
use crate::model::task::TaskState;

/// Frames that are joined to those of a task.
const MAX_FRAMES: usize = 1_024;
/// Tasks that await each other, in a row.
const MAX_TASKS: usize = 64;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct JoinedTask {
    /// Its name, if somebody gave it one.
    pub name: Option<String>,
    /// What it does.
    pub state: TaskState,
    /// The loop that it belongs to.
    pub its_loop: usize,
    /// The context that it works in.
    pub context: usize,
    /// Innermost first: its own frames, of one that runs only the outermost, and those of the tasks
    /// that await it.
    pub frames: Vec<RawFrame>,
    /// How many of them are its own.
    pub own: usize,
    /// What was read to know this.
    pub read: Remembered,
}

impl JoinedTask {
    /// Its outermost frame: if a thread is in it, it runs the task.
    #[must_use]
    pub fn root(&self) -> Option<RawFrame> {
        self.frames.get(self.own.checked_sub(1)?).copied()
    }

    /// The frames of those that await it.
    #[must_use]
    pub fn chain(&self) -> &[RawFrame] {
        &self.frames[self.own..]
    }
}

/// What awaits a task that may run.
#[derive(Clone, Debug)]
pub struct AwaitedTask {
    /// Its name, if somebody gave it one.
    pub name: Option<String>,
    /// Address of its outermost frame: if a thread is in it, it runs the task.
    pub root: usize,
    /// The frames of those that await it, innermost first.
    pub chain: Vec<RawFrame>,
    /// What was read to know this.
    pub read: Remembered,
}

impl TaskReader<'_> {
    /// What awaits the task at `address`; `None` if there is no such task, or not for long enough.
    pub fn awaited(&mut self, address: usize) -> Option<AwaitedTask> {
        let found = self.steady(|reader| {
            let head = reader.head(address)?;
            let root = reader.root_of(head.coroutine);
            let name = reader.name(head.name);
            let mut chain = Vec::new();
            reader.chain(address, &mut chain);
            Some(AwaitedTask {
                name,
                root: root?,
                chain,
                read: Remembered::default(),
            })
        });
        found.map(|found| AwaitedTask {
            read: self.memory.remembered().clone(),
            ..found
        })
    }

    /// Address of the frame of a coroutine.
    fn root_of(&mut self, coroutine: usize) -> Option<usize> {
        if !matches!(self.kind(coroutine), Kind::Coroutine | Kind::Generator) {
            return None;
        }
        let frame = coroutine.checked_add(self.known.step.frame)?;
        if self.layout.has_heap_frames() {
            return read_word(&mut self.memory, frame);
        }
        Some(frame)
    }

    /// The task at `address`; `None` if it has ended, or does not stand still for long enough.
    pub fn joined(&mut self, address: usize) -> Option<JoinedTask> {
        let found = self.steady(|reader| reader.read_joined(address));
        found.map(|found| JoinedTask {
            read: self.memory.remembered().clone(),
            ..found
        })
    }

    /// The same of several.
    pub fn joined_all(&mut self, tasks: &[usize]) -> Vec<Option<JoinedTask>> {
        let found = self.steady_all(tasks, Self::read_joined);
        let joined = found.into_iter();
        joined
            .map(|found| found.map(|(found, read)| JoinedTask { read, ..found }))
            .collect()
    }

    fn read_joined(&mut self, address: usize) -> Option<JoinedTask> {
        let head = self.head(address)?;
        let own = self.own_frames(head.coroutine);
        let name = self.name(head.name);
        let mut chain = Vec::new();
        self.chain(address, &mut chain);
        let (state, mut frames) = own?;
        let own = frames.len();
        frames.append(&mut chain);
        Some(JoinedTask {
            name,
            state,
            its_loop: head.its_loop,
            context: head.context,
            frames,
            own,
            read: Remembered::default(),
        })
    }

    /// The frames of a task's coroutine; of one that runs the outermost alone.
    fn own_frames(&mut self, coroutine: usize) -> Option<(TaskState, Vec<RawFrame>)> {
        let (state, mut frames) = self.frames(coroutine)?;
        if frames.is_empty() {
            let step = &self.known.step;
            let copied = step.copy(&mut self.memory, self.layout, coroutine)?;
            frames.push(self.raw_frame(&copied));
        }
        Some((state, frames))
    }

    /// Adds the frames of the task that awaits the one at `address`, and so on. Of several that await
    /// the same, the first to be told is followed.
    fn chain(&mut self, address: usize, frames: &mut Vec<RawFrame>) {
        let mut seen = vec![address];
        let mut task = address;
        while seen.len() < MAX_TASKS && frames.len() < MAX_FRAMES {
            let awaiters = self.awaiters_of(task);
            let mut new = awaiters.into_iter();
            let Some(awaiter) = new.find(|awaiter| !seen.contains(&awaiter.task)) else {
                return;
            };
            let Some(head) = self.head(awaiter.task) else {
                return;
            };
            let Some((TaskState::Waits, mut own)) = self.frames(head.coroutine) else {
                return;
            };
            frames.extend(awaiter.via.iter().filter_map(|via| match via {
                Via::Gather => Some(RawFrame::pseudo(Pseudo::Gather)),
                Via::Shield => Some(RawFrame::pseudo(Pseudo::Shield)),
                Via::Frames => None,
            }));
            frames.append(&mut own);
            task = awaiter.task;
            seen.push(task);
        }
    }
}
