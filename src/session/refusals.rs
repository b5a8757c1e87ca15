//! Threads that were not to be had: when to try again, and what is told of it.
//!
//! At a limit of processes and threads (`RLIMIT_NPROC`, `pids.max`) a fork can leave us without the
//! threads that were ended for it. What they worked with waits; each call that comes by looks here
//! whether to try again.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::health::Health;
use crate::clock::cpu::monotonic_ns;
use crate::error::{Error, ErrorKind};

/// Threads are not asked for more often than this.
const RETRY_NS: u64 = 100_000_000;

/// Whether any thread is missing in one process.
#[derive(Debug, Default)]
pub struct Refusals {
    /// When the last one was refused; 0 if none is missing.
    refused_ns: AtomicU64,
}

impl Refusals {
    /// Whether a thread may be missing.
    #[inline]
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.refused_ns.load(Relaxed) != 0
    }

    /// Whether a thread may be asked for: the last refusal, if there was any, is a while ago.
    #[must_use]
    pub fn may_try(&self) -> bool {
        let refused_ns = self.refused_ns.load(Relaxed);
        refused_ns == 0 || monotonic_ns().saturating_sub(refused_ns) >= RETRY_NS
    }

    /// Notes that a thread was refused which is missing from now on; in words for the first one only.
    #[cold]
    pub fn note(&self, error: &Error, health: &Health) {
        count(error, health);
        if self.refused_ns.swap(monotonic_ns(), Relaxed) == 0 {
            health.set_error(format!("{error}; it is tried again"));
        }
    }

    /// When the last thread was refused, if one is missing and it is time to ask for it again.
    #[inline]
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        let refused_ns = self.refused_ns.load(Relaxed);
        (refused_ns != 0 && self.may_try()).then_some(refused_ns)
    }

    /// All that was missing has been asked for, after a [`Self::due`]: unless something was refused
    /// again since, nothing is missing any more.
    pub fn end(&self, due: u64) {
        // If it is another time now, something is.
        let _ = self.refused_ns.compare_exchange(due, 0, Relaxed, Relaxed);
    }
}

/// Counts that a thread was refused, by the cause.
#[cold]
pub fn count(error: &Error, health: &Health) {
    let counter = match error.kind() {
        ErrorKind::Memory => &health.starved_threads,
        _ => &health.refused_threads,
    };
    Health::add(counter, 1);
}

#[cfg(test)]
mod tests {
    use super::Refusals;
    use crate::error::Error;
    use crate::session::health::Health;

    #[test]
    fn a_refusal_is_told_once_and_counted_by_its_cause() {
        let (refusals, health) = (Refusals::default(), Health::default());
        assert!(refusals.may_try() && !refusals.are_any());
        refusals.note(&Error::os("cannot start a", &"no"), &health);
        refusals.note(&Error::memory("start b"), &health);
        let said = health.last_error();
        assert_eq!(
            said.as_deref(),
            Some("cannot start a: no; it is tried again")
        );
        let counters = health.counters();
        for name in ["refused_threads", "starved_threads"] {
            assert!(counters.contains(&(name, 1)), "{name}");
        }
        // It was just now.
        assert!(refusals.are_any() && !refusals.may_try() && refusals.due().is_none());
    }

    #[test]
    fn what_is_refused_while_it_is_tried_again_is_still_missing() {
        let (refusals, health) = (Refusals::default(), Health::default());
        let error = Error::os("cannot start a", &"no");
        refusals.note(&error, &health);
        let refused_ns = loop {
            if let Some(refused_ns) = refusals.due() {
                break refused_ns;
            }
        };
        refusals.note(&error, &health);
        refusals.end(refused_ns);
        assert!(refusals.are_any());
        let refused_ns = loop {
            if let Some(refused_ns) = refusals.due() {
                break refused_ns;
            }
        };
        refusals.end(refused_ns);
        assert!(!refusals.are_any() && refusals.may_try());
    }
}
