//! Counters that tell how well the profiler itself does; the only thing that flows outwards.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::recording::WindowCounters;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one session, written by its threads and read by anyone.
        #[derive(Debug, Default)]
        pub struct Health {
            $($(#[$doc])* pub $name: AtomicU64,)*
            last_error: Mutex<Option<String>>,
        }

        impl Health {
            /// Every counter with its name, but for what cannot be known.
            #[must_use]
            pub fn counters(&self) -> Vec<(&'static str, u64)> {
                let mut counters = vec![$((stringify!($name), self.$name.load(Relaxed)),)*];
                if self.gil_waits_hidden.load(Relaxed) != 0 {
                    counters.retain(|(name, _)| *name != "gil_wait_ns");
                }
                counters
            }
        }
    };
}

counters! {
    /// Ticks that brought a snapshot, and idle ones.
    ticks,
    /// Ticks that were not served, and of which is known all the same that nothing had happened.
    idle_ticks,
    /// Deadlines that passed unserved, without its being known that nothing had happened.
    late,
    /// Ticks at which no snapshot could be taken.
    skipped,
    /// Times the process stood still (stopped, suspended).
    gaps,
    /// Length of these in ns.
    gap_ns,
    /// Times the recordings paused because there was no memory left.
    starved,
    /// Length of these in ns.
    starved_ns,
    /// Times the system refused a thread.
    refused_threads,
    /// Times there was no memory for a thread.
    starved_threads,
    /// Times nobody could sample, for want of a thread.
    unattended,
    /// Length of these in ns.
    unattended_ns,
    /// Windows that are in no file: there was no memory for them, or nobody to write them.
    lost_windows,
    /// Recordings that were ended because they had lost their owner.
    abandoned,
    /// Stacks read.
    stacks,
    /// Stacks that could not be read whole.
    incomplete,
    /// Stacks folded into `<overflow>`.
    overflow,
    /// Locks at one look each of which was not asked who holds them, for there was too much to ask.
    unasked_locks,
    /// Present time between two ticks in ns.
    period_ns,
    /// Time the GIL was held by any thread in ns, as seen at the ticks; 0 where it cannot be seen.
    gil_held_ns,
    /// Time all threads together waited for the GIL in ns, as seen at the ticks.
    gil_wait_ns,
    /// 1 once the kernel does not say any more what threads wait for.
    gil_waits_hidden,
    /// CPU time of the sampler thread in ns.
    sampler_cpu_ns,
    /// CPU time of the writer thread in ns.
    writer_cpu_ns,
    /// CPU time of the thread that reads names in ns.
    names_cpu_ns,
    /// Time the engine held the GIL in ns.
    hold_ns,
    /// The longest single hold in ns.
    hold_max_ns,
    /// Memory held by trees and caches in bytes, estimated.
    own_bytes,
    /// Windows handed to a sink.
    windows,
    /// Bytes of these.
    written_bytes,
    /// Windows that were merged into the next because they could not be written.
    merged_windows,
    /// Attempts to write that failed.
    write_errors,
    /// 1 once the sampler has ended on an internal error.
    failed,
}

impl Health {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    /// Adds what has been counted for the open windows.
    pub fn count(&self, counters: &WindowCounters) {
        let counted = [
            (&self.late, counters.late),
            (&self.incomplete, counters.incomplete),
            (&self.skipped, counters.skipped),
            (&self.gaps, u64::from(counters.gap_ns > 0)),
            (&self.gap_ns, counters.gap_ns),
            (&self.starved_ns, counters.starved_ns),
            (&self.unattended_ns, counters.unattended_ns),
        ];
        for (counter, amount) in counted.into_iter().filter(|(_, amount)| *amount > 0) {
            Self::add(counter, amount);
        }
    }

    /// Sets a gauge.
    pub fn set(gauge: &AtomicU64, value: u64) {
        gauge.store(value, Relaxed);
    }

    /// Raises a maximum.
    pub fn raise(maximum: &AtomicU64, value: u64) {
        maximum.fetch_max(value, Relaxed);
    }

    /// The newest error in words.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Remembers an error.
    pub fn set_error(&self, message: impl Into<String>) {
        *self.last_error.lock() = Some(message.into());
    }
}
