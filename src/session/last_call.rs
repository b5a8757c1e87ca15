//! What is asked for when the process ends without its interpreter: that all open windows are written.
//!
//! Whoever asks may be a signal's handler, which has stopped its thread wherever that was. So here is
//! nothing but atomic numbers and bells: no lock, and no memory that would have to be had.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use crate::clock::cpu::monotonic_ns;
use crate::clock::kernel::Bell;

/// Several may wait, and a bell wakes one of them: the others look this often.
const STEP_NS: u64 = 5_000_000;

/// One number for each time that somebody asks.
#[derive(Debug, Default)]
pub struct LastCall {
    asked: AtomicU32,
    /// Up to which number all has been written.
    answered: AtomicU32,
    /// Recordings that write, and how many of them somebody is ending.
    recordings: AtomicU32,
    endings: AtomicU32,
    /// Wakes the sampler.
    sampler: Arc<Bell>,
    done: Bell,
}

impl LastCall {
    /// One that rings for the sampler by this bell.
    #[must_use]
    pub fn new(sampler: Arc<Bell>) -> Self {
        Self {
            sampler,
            ..Self::default()
        }
    }

    /// How many recordings write from now on.
    pub fn set_recordings(&self, recordings: usize) {
        self.recordings
            .store(u32::try_from(recordings).unwrap_or(u32::MAX), Release);
    }

    /// Whether there is anything to write.
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        self.recordings.load(Acquire) > 0
    }

    /// Somebody begins to end a recording that writes.
    pub fn begin_ending(&self) {
        self.endings.fetch_add(1, AcqRel);
    }

    /// It has ended, and what it had is written.
    pub fn finish_ending(&self) {
        self.endings.fetch_sub(1, AcqRel);
        self.done.ring();
    }

    /// Asks, and returns the number to wait for; that of an earlier call that has not been answered.
    pub fn ask(&self) -> u32 {
        let asked = self.asked.load(Acquire);
        let number = if asked == self.answered.load(Acquire) {
            self.asked.fetch_add(1, AcqRel).wrapping_add(1)
        } else {
            asked
        };
        self.sampler.ring();
        number
    }

    /// The number that was asked for last.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Acquire)
    }

    /// All has been written that was there when this number was asked for.
    pub fn answer(&self, number: u32) {
        self.answered.store(number, Release);
        self.done.ring();
    }

    fn is_answered(&self, number: u32) -> bool {
        let ahead = self.answered.load(Acquire).wrapping_sub(number);
        ahead <= u32::MAX / 2 && self.endings.load(Acquire) == 0
    }

    /// Waits until that is so, for the monotonic clock's `deadline_ns` at most; whether it is.
    pub fn await_answer(&self, number: u32, deadline_ns: u64) -> bool {
        loop {
            if self.is_answered(number) {
                return true;
            }
            let now_ns = monotonic_ns();
            if now_ns >= deadline_ns {
                return false;
            }
            self.done.sleep_until(deadline_ns.min(now_ns + STEP_NS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE_NS: u64 = 60_000_000_000;

    #[test]
    fn whoever_asks_while_somebody_waits_waits_for_the_same() {
        let call = LastCall::default();
        let first = call.ask();
        assert_eq!(call.ask(), first);
        assert!(!call.await_answer(first, monotonic_ns() + 1_000_000));
        call.answer(first);
        assert!(call.await_answer(first, 0));
        let second = call.ask();
        assert_ne!(second, first);
        assert!(call.await_answer(first, 0));
        assert!(!call.await_answer(second, 0));
    }

    #[test]
    fn an_end_that_is_under_way_is_waited_for() {
        let call = LastCall::default();
        call.begin_ending();
        let number = call.ask();
        call.answer(number);
        assert!(!call.await_answer(number, 0));
        let is_answered = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| call.await_answer(number, monotonic_ns() + PATIENCE_NS));
            call.finish_ending();
            waiting.join()
        });
        assert!(is_answered.is_ok_and(|is_answered| is_answered));
    }
}
