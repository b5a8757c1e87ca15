//! Which task of trio a thread runs, by its stack.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use super::frames::RawFrame;
use super::text::read_strings;
use crate::layout::Layout;
use crate::layout::tasks::{LOWEST, TYPE};
use crate::layout::trio::TrioLayout;
use crate::memory::{ReadMemory, read, read_word, word};

/// What is known of trio, once the program has imported it.
pub static KNOWN: OnceLock<TrioLayout> = OnceLock::new();

/// Characters of a name.
const MAX_NAME: usize = 100;

/// A task of trio that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrioTask {
    /// Its address.
    pub task: usize,
    /// What somebody called it, or its function.
    pub name: Option<String>,
    /// How many frames at the leaf side are its own.
    pub frames: usize,
}

/// What a stack has of trio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InStack {
    /// No task.
    Nothing,
    /// Not the task that runs now, if one does: the stack is of another moment.
    AnotherTask,
    /// This one, which runs.
    Task(TrioTask),
}

/// The task in a stack.
pub fn find(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    known: &TrioLayout,
    raw: &[RawFrame],
) -> InStack {
    match raw.iter().position(|frame| frame.code == known.run) {
        None | Some(0) => InStack::Nothing,
        Some(run) => task_above(memory, layout, known, raw, run).unwrap_or(InStack::Nothing),
    }
}

/// The task that the generator at `run` of a stack runs; `None` if it runs none.
fn task_above(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    known: &TrioLayout,
    raw: &[RawFrame],
    run: usize,
) -> Option<InStack> {
    let root = &raw[run - 1];
    let variable = raw[run].address.checked_add(known.variable)?;
    let task = read_word(memory, variable)? & !layout.frame.code_tags;
    if task < LOWEST {
        return None;
    }
    let length = known.coroutine.max(known.name) + size_of::<usize>();
    let head = read(memory, task, length)?;
    let (kind, name) = (word(head, TYPE), word(head, known.name));
    let frame = word(head, known.coroutine).checked_add(known.frame)?;
    let frame = match layout.has_heap_frames() {
        true => read_word(memory, frame)?,
        false => frame,
    };
    if kind != known.task_type || frame != root.address {
        return Some(InStack::AnotherTask);
    }
    Some(InStack::Task(TrioTask {
        task,
        name: text(memory, layout, known, name),
        frames: run,
    }))
}

fn text(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    known: &TrioLayout,
    address: usize,
) -> Option<String> {
    if address < LOWEST || read_word(memory, address + TYPE)? != known.text_type {
        return None;
    }
    let [name] = read_strings(memory, &layout.text, [(address, MAX_NAME)])?;
    (!name.is_empty()).then_some(name)
}
