//! The session: one sampler per process, its recordings, its writer, its life across forks.

pub mod config;
pub mod control;
pub mod endings;
pub mod facts;
pub mod flight;
pub mod fork;
pub mod health;
pub mod idle;
pub mod label_cpu;
pub mod last_call;
pub mod manager;
pub mod native_thread;
pub mod recording;
pub mod refusals;
pub mod requests;
pub mod sampler;
pub mod seen;
pub mod turns;
pub mod watcher;
pub mod writer;
