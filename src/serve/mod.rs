//! The endpoint: profiles, dumps and counters over HTTP, from native threads that need no GIL.
#![forbid(unsafe_code)]

pub mod address;
pub mod gate;
pub mod query;
pub mod routes;
pub mod server;
pub mod status;
pub mod token;
pub mod workers;
