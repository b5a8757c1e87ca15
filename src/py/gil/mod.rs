//! The `gil` engine: attach to the interpreter, walk all threads by the C API, detach.
//!
//! It works on every CPython, and sees what a thread with the GIL can see: a thread inside a long
//! C call that holds the GIL is found at the next place where the interpreter lets go.

pub(crate) mod attach;
pub(crate) mod call;
pub(crate) mod code_cache;
pub(crate) mod engine;
mod memory;
pub(crate) mod names;
pub(crate) mod symbols;
pub(crate) mod text;
pub(crate) mod threads;
pub(crate) mod walk;
