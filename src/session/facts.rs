//! What every profile of this process says of it; see [`crate::model::facts`].
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};

use crate::clock::cpu::main_thread_id;
use crate::model::facts::{JIT, main_thread};

/// Whether the interpreter compiles what is hot, which it decides once, at its start.
static HAS_JIT: AtomicBool = AtomicBool::new(false);

/// Notes whether the interpreter's JIT is on.
pub fn note_jit(is_on: bool) {
    HAS_JIT.store(is_on, Ordering::Relaxed);
}

/// The facts as comments.
#[must_use]
pub fn comments() -> Vec<String> {
    let mut comments = Vec::new();
    if let Some(id) = main_thread_id() {
        comments.push(main_thread(id));
    }
    if HAS_JIT.load(Ordering::Relaxed) {
        comments.push(JIT.to_owned());
    }
    comments
}
