#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod cpu_account;
mod cpu_queue;
mod events;
mod gil_blame;
mod label_cpu;
mod ledgers;
mod lock_blame;
mod recent_spots;
mod request_filter;
mod sighting;
pub mod steps;
mod subject;
mod thread_ledger;
mod tick;

pub use ledgers::Ledgers;
pub use request_filter::RequestFilter;
pub use subject::Subject;
pub use tick::{Tick, TicksLeftOut};

use sighting::{Sighting, Spot};
use thread_ledger::ThreadLedger;
