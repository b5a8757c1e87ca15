//! The endpoint: profiles, dumps and counters over HTTP, from native threads that need no GIL.
#![forbid(unsafe_code)]

pub mod address;
mod admit;
mod answers;
pub mod context;
pub mod gate;
mod heap;
pub mod query;
pub mod routes;
pub mod server;
pub mod status;
pub mod token;
pub mod workers;
