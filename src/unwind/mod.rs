//! From memory to stacks: threads, frames, code objects, line tables.

pub mod code;
pub mod frames;
pub mod label_log;
pub mod labels;
pub mod linetable;
pub mod text;
pub mod threads;
