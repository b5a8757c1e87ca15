//! From memory to stacks: threads, frames, code objects, line tables.

pub mod awaiters;
pub mod code;
pub mod expression;
pub mod frames;
pub mod greenlet_table;
pub mod greenlets;
pub mod holders;
pub mod joined;
pub mod label_log;
pub mod labels;
pub mod linetable;
pub mod lock_owners;
pub mod locks;
pub mod objects;
pub mod opcodes;
pub mod ready;
pub mod standing;
pub mod task_lists;
pub mod task_rings;
pub mod task_sets;
pub mod tasks;
pub mod text;
pub mod threads;
pub mod trio;
