//! Tasks of asyncio: where each waits, and who waits for it.
//!
//! All of it is read while the program runs. Each address is looked at before it is believed: what an
//! object is, its type tells. A task is read until all that was read of it is the same once more; one
//! that is not to be had so is left out. So is whoever waits for it in a way that is not known here. See
//! [`crate::layout::tasks`] for where things are.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use rustc_hash::FxHashMap;

use super::awaiters::Awaiter;
use super::frames::RawFrame;
use super::task_lists::words;
use super::text::read_strings;
use crate::layout::steps::CopiedFrame;
use crate::layout::tasks::{FIRST, Kind, LOWEST, TYPE, TaskLayout};
use crate::layout::{Instruction, Layout};
use crate::memory::blocks::{BlockStore, Blocks};
use crate::memory::remembered::{Remembered, Remembering};
use crate::memory::{ReadMemory, int32, read_word, word};
use crate::model::task::TaskState;

/// What is known of asyncio, once the program has imported it.
pub static KNOWN: OnceLock<TaskLayout> = OnceLock::new();

/// Coroutines of one task that are followed.
pub(super) const MAX_STEPS: usize = 256;
/// Tasks that wait for one.
pub const MAX_AWAITERS: usize = 64;
/// Readings of a task until it is given up; most stand still.
const MAX_READINGS: usize = 6;
/// Copies by which what is looked for is found; each leads one step further.
pub(super) const MAX_ROUNDS: usize = 1_024;
/// Characters of a name.
const MAX_NAME: usize = 100;
/// What asyncio itself calls a task.
const AUTOMATIC: &str = "Task-";

const WORD: usize = size_of::<usize>();

/// A task as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTask {
    /// Its name, if somebody gave it one.
    pub name: Option<String>,
    /// What it does.
    pub state: TaskState,
    /// Where it waits, innermost first; empty while it runs.
    pub frames: Vec<RawFrame>,
    /// The tasks that wait for it.
    pub awaited_by: Vec<Awaiter>,
    /// The context that it works in.
    pub context: usize,
}

/// Reads tasks. What it learns of types holds for one look only: a type may die.
pub struct TaskReader<'look> {
    pub(super) memory: Remembering<Blocks<'look>>,
    pub(super) layout: &'look Layout,
    pub(super) known: &'look TaskLayout,
    kinds: FxHashMap<usize, Kind>,
    pub(super) looks: usize,
}

impl std::fmt::Debug for TaskReader<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TaskReader").finish_non_exhaustive()
    }
}

impl<'look> TaskReader<'look> {
    /// A reader for one look.
    pub fn new(
        memory: &'look mut (dyn ReadMemory + 'look),
        store: &'look mut BlockStore,
        layout: &'look Layout,
        known: &'look TaskLayout,
    ) -> Self {
        Self {
            memory: Remembering::new(Blocks::new(memory, store)),
            layout,
            known,
            kinds: FxHashMap::default(),
            looks: 0,
        }
    }

    /// What is found by `look`, which is repeated until all that it reads is there.
    fn explore<Found>(&mut self, look: &mut impl FnMut(&mut Self) -> Found) -> Found {
        let mut round = 0;
        loop {
            self.begin();
            let found = look(self);
            round += 1;
            if !self.memory.memory.fetch() || round == MAX_ROUNDS {
                return found;
            }
        }
    }

    pub(super) fn begin(&mut self) {
        self.memory.begin();
        self.memory.memory.begin();
        self.looks = 0;
    }

    /// The same of something that may change meanwhile: `None` if it does not stand still, or is none.
    pub(super) fn steady<Found>(
        &mut self,
        mut look: impl FnMut(&mut Self) -> Option<Found>,
    ) -> Option<Found> {
        for _ in 0..MAX_READINGS {
            let found = self.explore(&mut look);
            if self.is_still() {
                return found;
            }
            self.memory.memory.forget();
        }
        None
    }

    fn is_still(&mut self) -> bool {
        let remembered = std::mem::take(self.memory.remembered_mut());
        let is_still = remembered.is_still(self.memory.memory.memory());
        *self.memory.remembered_mut() = remembered;
        is_still
    }

    /// What `look` finds of each of `all`, with what was read for it: what all of them need next is
    /// copied at once.
    pub(super) fn steady_all<Found>(
        &mut self,
        all: &[usize],
        mut look: impl FnMut(&mut Self, usize) -> Option<Found>,
    ) -> Vec<Option<(Found, Remembered)>> {
        let mut found: Vec<Option<(Found, Remembered)>> = all.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..all.len()).collect();
        for _ in 0..MAX_ROUNDS {
            open.retain(|at| {
                self.begin();
                let seen = look(self, all[*at]);
                let is_open = self.memory.memory.has_missed();
                if !is_open {
                    let remembered = self.memory.remembered().clone();
                    found[*at] = seen.map(|seen| (seen, remembered));
                }
                is_open
            });
            if !self.memory.memory.fetch() || open.is_empty() {
                break;
            }
        }
        let read = found.iter().flatten().map(|(_, remembered)| remembered);
        if Remembered::of(read).is_still(self.memory.memory.memory()) {
            return found;
        }
        for one in &mut found {
            let memory = self.memory.memory.memory();
            if one.as_ref().is_some_and(|(_, read)| !read.is_still(memory)) {
                *one = None;
            }
        }
        self.memory.memory.forget();
        for (at, one) in found
            .iter_mut()
            .enumerate()
            .filter(|(_, one)| one.is_none())
        {
            let again = self.steady(|reader| look(reader, all[at]));
            *one = again.map(|again| (again, self.memory.remembered().clone()));
        }
        found
    }

    /// What the object at `address` is.
    pub(super) fn kind(&mut self, address: usize) -> Kind {
        if address < LOWEST || !address.is_multiple_of(WORD) {
            return Kind::Other;
        }
        match read_word(&mut self.memory, address.wrapping_add(TYPE)) {
            Some(kind) => self.kind_of_type(kind),
            None => Kind::Other,
        }
    }

    /// What objects of a type are.
    pub(super) fn kind_of_type(&mut self, kind: usize) -> Kind {
        if let Some(known) = self.kinds.get(&kind) {
            return *known;
        }
        let found = self.known.kind(self.memory.memory.memory(), kind);
        self.kinds.insert(kind, found);
        found
    }

    /// The context that a task works in.
    pub fn context(&mut self, task: usize) -> Option<usize> {
        let context = read_word(&mut self.memory, task.checked_add(self.known.context)?)?;
        (context >= LOWEST).then_some(context)
    }

    /// The contexts that tasks work in; 0 for none.
    pub fn contexts(&mut self, tasks: &[usize]) -> Vec<usize> {
        let context = self.known.context;
        words(self.memory.memory.memory(), tasks, context)
    }

    /// The task at `address`; `None` if it has ended, or does not stand still for long enough.
    pub fn task(&mut self, address: usize) -> Option<FoundTask> {
        self.steady(|reader| reader.read(address))
    }

    fn read(&mut self, address: usize) -> Option<FoundTask> {
        let head = self.head(address)?;
        let found = self.frames(head.coroutine);
        let awaited_by = self.awaiters_of(address);
        let name = self.name(head.name);
        let (state, frames) = found?;
        Some(FoundTask {
            name,
            state,
            frames,
            awaited_by,
            context: head.context,
        })
    }

    /// What a task leads to.
    pub(super) fn head(&mut self, address: usize) -> Option<TaskHead> {
        if self.kind(address) != Kind::Task {
            return None;
        }
        let known = self.known;
        let mut word = |offset: usize| read_word(&mut self.memory, address.checked_add(offset)?);
        Some(TaskHead {
            its_loop: word(FIRST)?,
            coroutine: word(known.coroutine)?,
            name: word(known.name)?,
            context: self.context(address)?,
        })
    }

    /// A name that somebody gave; asyncio's own say nothing.
    pub(super) fn name(&mut self, address: usize) -> Option<String> {
        if self.kind(address) != Kind::Text {
            return None;
        }
        let [name] = read_strings(&mut self.memory, &self.layout.text, [(address, MAX_NAME)])?;
        let number = name.strip_prefix(AUTOMATIC);
        let is_automatic = number.is_some_and(|number| number.bytes().all(|c| c.is_ascii_digit()));
        (!is_automatic).then_some(name)
    }

    /// The frames of a coroutine and of what it awaits, innermost first. `None` if it has ended.
    pub(super) fn frames(&mut self, coroutine: usize) -> Option<(TaskState, Vec<RawFrame>)> {
        let mut frames = Vec::new();
        let mut object = coroutine;
        for depth in 0..MAX_STEPS {
            let next = match self.step(object, depth == 0)? {
                Step::Into(inner) => Some(inner),
                Step::Runs => return Some((TaskState::Runs, Vec::new())),
                Step::New(frame) => return Some((TaskState::New, vec![frame])),
                Step::Frame(frame, next) => {
                    frames.push(frame);
                    next
                }
                Step::Nothing => None,
            };
            match next {
                Some(next) => object = next,
                None => break,
            }
        }
        frames.reverse();
        (!frames.is_empty()).then_some((TaskState::Waits, frames))
    }

    /// What there is at an object that a coroutine awaits, or at the coroutine itself, which `is_first`.
    /// `None` if it has ended, or runs without the first.
    pub(super) fn step(&mut self, object: usize, is_first: bool) -> Option<Step> {
        let step = &self.known.step;
        let kind = self.kind(object);
        match kind {
            Kind::Wrapper => {
                let inner = read_word(&mut self.memory, object.checked_add(FIRST)?)?;
                return Some(Step::Into(inner));
            }
            Kind::Coroutine | Kind::Generator => {}
            _ => return Some(Step::Nothing),
        }
        let copied = step.copy(&mut self.memory, self.layout, object)?;
        if copied.code < LOWEST {
            return None;
        }
        if copied.state == step.executing && is_first {
            return Some(Step::Runs);
        }
        let awaits = step.awaits(&mut self.memory, self.layout, &copied, kind);
        let is_new = copied.state == step.created;
        if !(awaits || is_new || step.stands(&copied)) {
            // It runs, or has ended: whoever awaits it does no longer.
            return None;
        }
        let frame = self.raw_frame(&copied);
        if is_new && is_first {
            return Some(Step::New(frame));
        }
        let next = awaits
            .then(|| step.top(&mut self.memory, self.layout, &copied))
            .flatten();
        Some(Step::Frame(frame, next))
    }

    /// The frame of a coroutine, as it stands or stood when it called last.
    pub(super) fn raw_frame(&self, copied: &CopiedFrame) -> RawFrame {
        RawFrame {
            code: copied.code,
            instruction: match self.layout.frame.instruction {
                Instruction::Index(at) => int32(&copied.frame, at).max(0) as usize,
                Instruction::Pointer(at) => word(&copied.frame, at),
            },
            address: copied.address,
        }
    }
}

/// What there is at an object on the way from a task to where it waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Another object that it stands for.
    Into(usize),
    /// A frame, and what is awaited there.
    Frame(RawFrame, Option<usize>),
    /// The frame of a task that has not begun.
    New(RawFrame),
    /// A task that runs.
    Runs,
    /// Nothing that has a frame.
    Nothing,
}

/// What a task leads to, by addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct TaskHead {
    pub(super) its_loop: usize,
    pub(super) coroutine: usize,
    pub(super) name: usize,
    pub(super) context: usize,
}
