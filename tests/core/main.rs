//! Tests of the pure rooms through their public interface; no Python is needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod account;
#[cfg(target_os = "linux")]
mod direct;
mod fold;
mod image;
mod invariants;
mod leaks;
mod pprof;
mod recorded;
mod report;
mod serve;
mod sink;
mod support;
mod tasks;
mod unwind;
