//! Tests of the pure rooms through their public interface; no Python is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fold;
mod image;
mod invariants;
mod pprof;
mod report;
mod serve;
mod sink;
mod support;
mod unwind;
