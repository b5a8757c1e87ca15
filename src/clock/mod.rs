//! Time: tick deadlines, the overhead budget, the clocks of the system and of each thread.

pub mod budget;
pub mod container;
pub mod cpu;
pub mod descriptors;
pub mod filter;
pub mod kernel;
#[cfg(target_os = "linux")]
mod proc_file;
pub mod resident;
pub mod thread_state;
pub mod ticker;
