//! pprof: the messages of the public schema, writing them and reading them.
#![forbid(unsafe_code)]

pub mod decode;
pub mod encode;
mod fields;
mod foreign;
mod groups;
mod order;
mod problem;
pub mod proto;
mod source;
mod tables;
