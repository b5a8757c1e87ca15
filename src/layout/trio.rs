//! Where trio keeps which task runs, found in a specimen that `python/rprof/_trio.py` makes.
//!
//! trio runs all tasks of a thread by one generator, which has the running one in a variable.
#![forbid(unsafe_code)]

use super::Layout;
use super::locks::variables;
use super::steps::frame_inside;
use super::tasks::{Specimens, offset};
use crate::memory::ReadMemory;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrioLayout {
    /// The code of the generator.
    pub run: usize,
    /// From its frame to the variable.
    pub variable: usize,
    /// The type of tasks.
    pub task_type: usize,
    /// From a task to its coroutine.
    pub coroutine: usize,
    /// From a task to its name.
    pub name: usize,
    /// From a coroutine to its frame; in 3.10 to the address of a frame.
    pub frame: usize,
    /// The type of names.
    pub text_type: usize,
}

impl TrioLayout {
    /// Finds everything in the specimens.
    ///
    /// # Errors
    /// What was not found.
    pub fn learn(
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        specimens: Specimens<'_>,
    ) -> Result<Self, String> {
        let task = specimens.get("task")?;
        let mut at = |name: &str| -> Result<usize, String> {
            offset(memory, task, specimens.get(name)?)
                .ok_or_else(|| format!("a task's {name} is not to be found"))
        };
        let (coroutine, name) = (at("coroutine")?, at("name")?);
        Ok(Self {
            run: specimens.get("run code")?,
            variable: variables(layout) + specimens.get("variable")? * size_of::<usize>(),
            task_type: specimens.get("type task")?,
            coroutine,
            name,
            frame: frame_inside(memory, layout, specimens)?,
            text_type: specimens.get("type str")?,
        })
    }
}
