//! The direct engine against what the interpreter itself says, before it is used.
#![allow(unsafe_code)]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::capture::direct::{DirectEngine, Interpreter};
use crate::clock::cpu::thread_id;
use crate::memory::{ReadMemory, read_word};
use crate::py::gil::engine::{EngineOptions, GilEngine};
use crate::unwind::text::read_strings;

/// Strings of each width in memory.
const TEXTS: [&str; 4] = ["ascii", "latin-1: é", "two bytes: €", "four bytes: 🐍"];

/// # Errors
/// What the engine gets wrong.
pub(super) fn run(
    py: Python<'_>,
    interpreter: &Interpreter,
    memory: &mut dyn ReadMemory,
    mut candidate: DirectEngine,
    options: &EngineOptions,
) -> Result<(), String> {
    let layout = &interpreter.layout;
    for text in TEXTS {
        let object = PyString::new(py, text);
        let place = object.as_ptr() as usize;
        let read = read_strings(memory, &layout.text, [(place, 100)]);
        if read.is_none_or(|[read]| read != text) {
            return Err(format!("it reads the string {text:?} wrongly"));
        }
    }
    // SAFETY: the GIL is held, as `py` proves.
    let own_interpreter = unsafe { ffi::PyInterpreterState_Get() } as usize;
    let mut next = read_word(
        memory,
        interpreter.runtime + layout.runtime.interpreters_head,
    );
    while let Some(address) = next.filter(|address| ![0, own_interpreter].contains(address)) {
        next = read_word(memory, address + layout.interpreter.next);
    }
    if next != Some(own_interpreter) {
        return Err("it does not find the interpreter".to_owned());
    }
    let snapshot = candidate
        .look_once()
        .map_err(|_| "it cannot take a snapshot".to_owned())?;
    let own = snapshot
        .threads
        .iter()
        .find(|thread| thread.thread_id == thread_id())
        .ok_or("it does not find the calling thread")?;
    let expected = GilEngine::own_stack(py, options).map_err(|error| error.to_string())?;
    let found: Vec<_> = own
        .stack
        .frames
        .iter()
        .map(|frame| (snapshot.function(frame.function).cloned(), frame.line))
        .collect();
    let is_cut = own.stack.incomplete;
    if !is_cut && found.len() != expected.len() {
        return Err(format!(
            "it finds {} frames where there are {}",
            found.len(),
            expected.len()
        ));
    }
    for (depth, ((function, line), (expected, expected_line))) in
        found.iter().zip(&expected).enumerate()
    {
        if function.as_ref() != Some(expected) || line != expected_line {
            let said = function
                .as_ref()
                .map_or("nothing", |function| &*function.name);
            return Err(format!(
                "at depth {depth} it sees {said} line {line} and not {} line {expected_line}",
                expected.name
            ));
        }
    }
    Ok(())
}
