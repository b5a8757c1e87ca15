//! Learning where asyncio keeps its tasks, from specimens that `python/rprof/_tasks.py` makes.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::{circumstances, code_events};
use crate::layout::tasks::{Specimens, TaskLayout};
use crate::memory::blocks::BlockStore;
use crate::memory::own;
use crate::py::steps;
use crate::session::fork::session;
use crate::unwind::ready::ReadyQueue;
use crate::unwind::tasks::{KNOWN, TaskReader};

/// Learns where tasks are. `specimens` are names and addresses of objects that live meanwhile.
#[pyfunction]
/// `find_loop` returns the loop that the calling thread runs, or None, and `find_task` that loop's task.
pub(crate) fn learn_tasks(
    py: Python<'_>,
    specimens: Vec<(String, usize)>,
    find_loop: Py<PyAny>,
    find_task: Py<PyAny>,
) {
    match learn(py, &specimens) {
        // Whoever was first has handed in the same.
        Ok(()) => drop(CURRENT.set(py, [find_loop, find_task])),
        Err(reason) => no_tasks(&reason),
    }
}

/// What finds the task that runs.
static CURRENT: PyOnceLock<[Py<PyAny>; 2]> = PyOnceLock::new();

/// Address of the task that the calling thread runs; 0 if there is none.
pub(in crate::py) fn current_task(py: Python<'_>) -> PyResult<usize> {
    let Some([find_loop, find_task]) = CURRENT.get(py) else {
        return Ok(0);
    };
    let its_loop = find_loop.bind(py).call0()?;
    if its_loop.is_none() {
        return Ok(0);
    }
    let task = find_task.bind(py).call1((its_loop,))?;
    Ok(if task.is_none() {
        0
    } else {
        task.as_ptr() as usize
    })
}

/// Notes why no tasks are shown.
#[pyfunction]
pub(crate) fn no_tasks(reason: &str) {
    let problem = format!("the tasks of asyncio cannot be seen: {reason}");
    session().health().set_error(problem);
}

fn learn(py: Python<'_>, specimens: &[(String, usize)]) -> Result<(), String> {
    let mut memory = own::open(circumstances())?;
    let (_, layout) = code_events::find_layout(py, memory.as_mut())?;
    let minor = u32::from(py.version_info().minor);
    let thread = code_events::own_thread_state(py);
    let mut specimens = specimens.to_vec();
    let dict = code_events::own_thread_dict(py);
    specimens.push(("thread dict".to_owned(), dict));
    let specimens = Specimens(&specimens);
    py.detach(|| {
        let memory = memory.as_mut();
        let mut found = TaskLayout::learn(memory, &layout, minor, thread, specimens)?;
        let task = specimens.get("task")?;
        let mut store = BlockStore::default();
        let mut reader = TaskReader::new(memory, &mut store, &layout, &found);
        let listed = reader.list(&[thread]);
        let read = reader.task(task);
        let code = read.and_then(|read| read.frames.first().map(|frame| frame.code));
        if code != Some(specimens.get("coroutine code")?) || !listed.tasks.contains(&task) {
            return Err("a task that was made to be found is not".to_owned());
        }
        let pair = (specimens.get("idle loop")?, specimens.get("idle queue")?);
        if found.loops.is_none() || !ReadyQueue::is_of(memory, &layout, &found, pair) {
            found.deque = 0;
            let problem =
                "what event loops have ready cannot be seen: it is not where it is looked for";
            session().health().set_error(problem.to_owned());
        }
        // Whoever was first has found the same.
        let _: Result<(), TaskLayout> = KNOWN.set(found);
        Ok::<_, String>(())
    })?;
    if let Some(found) = KNOWN.get()
        && let Err(reason) = steps::learn(&layout, found, specimens)
    {
        steps::tell(&reason);
    }
    Ok(())
}
