//! The bytes until the next sample: one count for all that is allocated with the GIL, one for each
//! thread for the rest.
//!
//! A count remembers by which rate it was drawn, so that a hit has the chance of that, whatever the rate
//! is by then.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::law::Chances;

/// Of a count that counts for nothing: so much is never allocated.
pub const STOPPED: i64 = i64::MAX;
/// The rate while nothing is sampled: threads count on, and their hits are nothing.
const IDLE_RATE: f64 = 524_288.0;

/// The rate of the counts to come, as bits of a float; 0 while nothing is sampled.
static RATE: AtomicU64 = AtomicU64::new(0);

/// Bytes between two samples of the counts to come; `None` while nothing is sampled.
#[must_use]
pub fn rate() -> Option<f64> {
    let rate = f64::from_bits(RATE.load(Relaxed));
    (rate > 0.0).then_some(rate)
}

/// Changes the rate of the counts to come.
pub fn set_rate(rate: Option<f64>) {
    RATE.store(rate.unwrap_or(0.0).to_bits(), Relaxed);
}

/// A count of all threads, who take turns: they have the GIL. Where interpreters with a GIL of their own
/// run side by side, what they allocate at the same moment may be counted once only.
#[derive(Debug)]
pub struct Countdown {
    left: AtomicI64,
    rate: AtomicU64,
    chances: AtomicU64,
}

impl Countdown {
    /// A stopped one.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            left: AtomicI64::new(STOPPED),
            rate: AtomicU64::new(0),
            chances: AtomicU64::new(0),
        }
    }

    /// Counts so many bytes; whether one of them is a hit, upon which [`Self::draw`] is to be called.
    #[inline(always)]
    pub fn pass(&self, bytes: usize) -> bool {
        // No add-and-fetch: it would cost more than all else here.
        let left = self.left.load(Relaxed).wrapping_sub(bytes as i64);
        self.left.store(left, Relaxed);
        left < 0
    }

    /// Begins the next count; returns the rate by which the last one was drawn, if it was.
    pub fn draw(&self) -> Option<f64> {
        let hit = f64::from_bits(self.rate.load(Relaxed));
        let Some(rate) = rate() else {
            self.stop();
            return None;
        };
        let mut chances = Chances::new(self.chances.load(Relaxed));
        let left = chances.bytes_to_next(rate);
        self.chances.store(chances.state(), Relaxed);
        self.rate.store(rate.to_bits(), Relaxed);
        self.left.store(left, Relaxed);
        (hit > 0.0).then_some(hit)
    }

    /// Begins to count; `seed` tells processes apart.
    pub fn start(&self, seed: u64) {
        self.chances.store(seed, Relaxed);
        self.rate.store(0, Relaxed);
        self.draw();
    }

    /// Counts for nothing any more.
    pub fn stop(&self) {
        self.rate.store(0, Relaxed);
        self.left.store(STOPPED, Relaxed);
    }

    /// Where it stands, for whoever looks whether anything is counted.
    #[must_use]
    pub fn left(&self) -> i64 {
        self.left.load(Relaxed)
    }
}

impl Default for Countdown {
    fn default() -> Self {
        Self::new()
    }
}

/// The count of one thread.
#[derive(Debug)]
pub struct ThreadCountdown {
    left: Cell<i64>,
    rate: Cell<f64>,
    chances: Cell<u64>,
}

impl ThreadCountdown {
    /// One that has not begun: its first byte asks for it.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            left: Cell::new(0),
            rate: Cell::new(0.0),
            chances: Cell::new(0),
        }
    }

    /// As [`Countdown::pass`].
    #[inline(always)]
    pub fn pass(&self, bytes: usize) -> bool {
        let left = self.left.get().wrapping_sub(bytes as i64);
        self.left.set(left);
        left < 0
    }

    /// Begins the next count; returns the rate by which the last one was drawn, if a block of `bytes` is
    /// a hit. `seed` is asked for where there was none before: then the block counts in the first.
    pub fn draw(&self, bytes: usize, seed: impl FnOnce() -> u64) -> Option<f64> {
        if self.rate.get() == 0.0 {
            self.chances.set(seed());
            self.begin();
            if !self.pass(bytes) {
                return None;
            }
        }
        let hit = self.rate.get();
        self.begin();
        rate().map(|_| hit)
    }

    fn begin(&self) {
        let mut chances = Chances::new(self.chances.get());
        let rate = rate().unwrap_or(IDLE_RATE);
        self.left.set(chances.bytes_to_next(rate));
        self.chances.set(chances.state());
        self.rate.set(rate);
    }

    /// Counts nothing until [`Self::go_on`] is given what this returns.
    #[must_use]
    pub fn pause(&self) -> i64 {
        self.left.replace(STOPPED)
    }

    /// Goes on where it was.
    pub fn go_on(&self, left: i64) {
        self.left.set(left);
    }
}

impl Default for ThreadCountdown {
    fn default() -> Self {
        Self::new()
    }
}
