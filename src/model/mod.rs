//! The nouns of a profile: function, location, stack, measure, label, snapshot.
#![forbid(unsafe_code)]

pub mod age;
pub mod event;
pub mod facts;
pub mod function;
pub mod hashing;
pub mod label;
pub mod location;
pub mod lock;
pub mod measure;
pub mod memory_facts;
pub mod module_name;
pub mod off_cpu;
pub mod snapshot;
pub mod stack;
pub mod task;
pub mod thread_names;
pub mod window_facts;
