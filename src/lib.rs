#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

/// See [`memory::reserve`].
#[global_allocator]
static ALLOCATOR: memory::reserve::Allocator = memory::reserve::Allocator;

pub mod error;

pub mod clock;
pub mod memory;
pub mod model;

pub mod fold;
pub mod layout;

pub mod account;
pub mod heap;
pub mod pprof;
pub mod report;
pub mod unwind;

pub mod capture;
pub mod sink;

pub mod session;

#[cfg(unix)]
pub mod serve;

#[cfg(feature = "python")]
mod py;
