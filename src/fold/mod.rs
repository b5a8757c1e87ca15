//! Folding: from snapshots to a call tree, from a call tree to a finished profile.
#![forbid(unsafe_code)]

pub mod call_tree;
pub mod charge;
pub mod interner;
mod levels;
pub mod merge;
pub mod profile;
pub mod window;
