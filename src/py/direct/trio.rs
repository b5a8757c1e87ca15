//! Learning which task trio runs, from a specimen that `python/rprof/_trio.py` makes.
#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::{circumstances, code_events};
use crate::layout::tasks::Specimens;
use crate::layout::trio::TrioLayout;
use crate::memory::own;
use crate::session::fork::session;
use crate::unwind::trio::KNOWN;

/// Learns where trio has the running task. `specimens` are names and addresses of objects that live
/// meanwhile.
#[pyfunction]
pub(crate) fn learn_trio(py: Python<'_>, specimens: Vec<(String, usize)>) {
    if let Err(reason) = learn(py, &specimens) {
        no_trio(&reason);
    }
}

/// Notes why trio's tasks are not told.
#[pyfunction]
pub(crate) fn no_trio(reason: &str) {
    let problem = format!("the tasks of trio cannot be seen: {reason}");
    session().health().set_error(problem);
}

fn learn(py: Python<'_>, specimens: &[(String, usize)]) -> Result<(), String> {
    let mut memory = own::open(circumstances())?;
    let (_, layout) = code_events::find_layout(py, memory.as_mut())?;
    let found = TrioLayout::learn(memory.as_mut(), &layout, Specimens(specimens))?;
    // Whoever was first has found the same.
    let _: Result<(), TrioLayout> = KNOWN.set(found);
    Ok(())
}
