//! Folding: from snapshots to a call tree, from a call tree to a finished profile.
#![forbid(unsafe_code)]

pub mod call_tree;
pub mod interner;
pub mod merge;
pub mod profile;
pub mod window;
