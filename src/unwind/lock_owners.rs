//! Which thread has taken a lock, noted in the lock by whoever takes it, where that is asked for.
//!
//! What is noted is one word of 32 bits: of the thread's ident and the kernel's id of it, for an ident is
//! given again to the next thread, and of a key that is another one each time this begins. So what
//! stands there from before, or was never written, is taken for no thread's. Words are written by the
//! hooks of the door with the GIL, taken away when the lock is released, and read by the engine without it.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct LockOwners {
    /// 0 while nobody wants words.
    key: AtomicU32,
    contended: AtomicU64,
    given_up: AtomicU64,
    waited_ns: AtomicU64,
    /// How often it was counted anew.
    rounds: AtomicU32,
}

/// Those of this process.
pub static OWNERS: LockOwners = LockOwners::new();

/// What was counted since words are noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockFigures {
    /// Locks that were had by a thread that had found them taken.
    pub contended: u64,
    /// Locks that were found taken and not had.
    pub given_up: u64,
    /// How long both took together, in ns.
    pub waited_ns: u64,
    /// Which count that is, of those that began one after the other.
    pub round: u32,
}

impl LockFigures {
    /// What has been counted since `earlier`, or all of it if it was counted anew since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        if self.round != earlier.round {
            return *self;
        }
        Self {
            contended: self.contended.saturating_sub(earlier.contended),
            given_up: self.given_up.saturating_sub(earlier.given_up),
            waited_ns: self.waited_ns.saturating_sub(earlier.waited_ns),
            round: self.round,
        }
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.counters().iter().all(|(_, count)| *count == 0)
    }

    /// The same for scrapes, by name.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 3] {
        [
            ("locks_contended", self.contended),
            ("locks_given_up", self.given_up),
            ("locks_waited_ns", self.waited_ns),
        ]
    }
}

impl LockOwners {
    /// Nothing is noted yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            key: AtomicU32::new(0),
            contended: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            waited_ns: AtomicU64::new(0),
            rounds: AtomicU32::new(0),
        }
    }

    /// Has words noted from now on, and counts from nothing. `seed` is another one each time.
    pub fn begin(&self, seed: u64) {
        self.count_anew();
        self.key.store((mix(seed) >> 32) as u32 | 1, SeqCst);
    }

    /// Has no more of them noted, and those that are there forgotten.
    pub fn end(&self) {
        self.key.store(0, SeqCst);
    }

    /// Forgets what was counted.
    pub fn count_anew(&self) {
        for counter in [&self.contended, &self.given_up, &self.waited_ns] {
            counter.store(0, Relaxed);
        }
        self.rounds.fetch_add(1, Relaxed);
    }

    /// Whether words are noted.
    #[must_use]
    #[inline]
    pub fn is_on(&self) -> bool {
        self.key.load(Relaxed) != 0
    }

    /// The word of a thread; `None` while none are noted. It is never 0.
    #[must_use]
    #[inline]
    pub fn word(&self, ident: usize, thread_id: u64) -> Option<u32> {
        let key = self.key.load(Relaxed);
        let word = (mix(ident as u64 ^ thread_id.rotate_left(42)) >> 32) as u32 ^ key;
        (key != 0).then_some(word.max(1))
    }

    /// Counts a lock that was found taken. The caller may hold any GIL.
    pub fn count(&self, was_had: bool, waited_ns: u64) {
        let counter = if was_had {
            &self.contended
        } else {
            &self.given_up
        };
        counter.fetch_add(1, Relaxed);
        self.waited_ns.fetch_add(waited_ns, Relaxed);
    }

    /// What was counted.
    #[must_use]
    pub fn figures(&self) -> LockFigures {
        LockFigures {
            contended: self.contended.load(Relaxed),
            given_up: self.given_up.load(Relaxed),
            waited_ns: self.waited_ns.load(Relaxed),
            round: self.rounds.load(Relaxed),
        }
    }
}

/// Spreads what numbers differ in over their upper halves.
const fn mix(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::{LockFigures, LockOwners};

    #[test]
    fn a_word_is_one_threads_and_of_one_time() {
        let owners = LockOwners::new();
        assert_eq!(owners.word(0x7f00_0000_1740, 4711), None);
        owners.begin(1);
        let word = owners.word(0x7f00_0000_1740, 4711);
        assert!(word.is_some_and(|word| word != 0));
        // Another thread that was given the same ident, and another at the same kernel's id.
        assert_ne!(owners.word(0x7f00_0000_1740, 4712), word);
        assert_ne!(owners.word(0x7f00_0080_1740, 4711), word);
        owners.end();
        assert!(!owners.is_on());
        assert_eq!(owners.word(0x7f00_0000_1740, 4711), None);
        owners.begin(2);
        assert_ne!(owners.word(0x7f00_0000_1740, 4711), word);
    }

    #[test]
    fn no_two_of_many_threads_have_the_same_word() {
        let owners = LockOwners::new();
        owners.begin(3);
        // Stacks of 8 MiB, one below the other.
        let words = (0..4_000_usize).map(|at| {
            let ident = 0x7fff_f000_0740 - (at << 23);
            owners.word(ident, 10_000 + at as u64)
        });
        let words: rustc_hash::FxHashSet<_> = words.collect();
        assert_eq!(words.len(), 4_000);
    }

    #[test]
    fn what_is_counted_is_what_was_found_taken() {
        let owners = LockOwners::new();
        owners.begin(1);
        owners.count(true, 5);
        owners.count(false, 7);
        let figures = LockFigures {
            contended: 1,
            given_up: 1,
            waited_ns: 12,
            round: 1,
        };
        assert_eq!(owners.figures(), figures);
        assert!(figures.since(&figures).is_nothing() && !figures.is_nothing());
        owners.count(true, 3);
        let more = owners.figures().since(&figures);
        assert_eq!((more.contended, more.given_up, more.waited_ns), (1, 0, 3));
        let figures = owners.figures();
        owners.end();
        assert_eq!(owners.figures(), figures);
        owners.begin(2);
        assert!(owners.figures().is_nothing());
        // Counted anew, and more than before by now.
        for _ in 0..9 {
            owners.count(true, 100);
        }
        assert_eq!(owners.figures().since(&figures), owners.figures());
    }
}
