//! The nouns of a profile: function, location, stack, sample type, label, snapshot.
#![forbid(unsafe_code)]

pub mod facts;
pub mod function;
pub mod label;
pub mod location;
pub mod module_name;
pub mod sample_type;
pub mod snapshot;
pub mod stack;
