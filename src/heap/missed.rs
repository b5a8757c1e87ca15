//! Blocks that were freed while the tables were locked: told here, and taken out by whoever locks them
//! next.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};

const ROOM: usize = 4_096;

/// The addresses; 0 is none.
#[derive(Debug)]
pub struct MissedFrees {
    next: AtomicUsize,
    are_any: AtomicBool,
    have_overflowed: AtomicBool,
    addresses: [AtomicUsize; ROOM],
}

/// Those of this process.
pub static MISSED: MissedFrees = MissedFrees::new();

impl MissedFrees {
    const fn new() -> Self {
        Self {
            next: AtomicUsize::new(0),
            are_any: AtomicBool::new(false),
            have_overflowed: AtomicBool::new(false),
            addresses: [const { AtomicUsize::new(0) }; ROOM],
        }
    }

    /// Tells of one, before its memory is given back. Neither waits nor fails.
    pub fn push(&self, address: usize) {
        let place = self.next.fetch_add(1, Relaxed) % ROOM;
        if self.addresses[place].swap(address, AcqRel) != 0 {
            self.have_overflowed.store(true, Release);
        }
        self.are_any.store(true, Release);
    }

    /// Hands all to `take`; false if some were too many to tell.
    #[inline]
    pub fn drain(&self, take: impl FnMut(usize)) -> bool {
        !self.are_any.load(Acquire) || self.drain_all(take)
    }

    #[cold]
    fn drain_all(&self, mut take: impl FnMut(usize)) -> bool {
        self.are_any.store(false, Release);
        for place in &self.addresses {
            if place.load(Relaxed) != 0 {
                take(place.swap(0, AcqRel));
            }
        }
        !self.have_overflowed.swap(false, AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::{MissedFrees, ROOM};

    #[test]
    fn all_are_told_once_unless_they_are_too_many() {
        let missed = MissedFrees::new();
        let drain = || {
            let mut told = Vec::new();
            let are_all = missed.drain(|address| told.push(address));
            (told, are_all)
        };
        assert_eq!(drain(), (vec![], true));
        for address in 1..=ROOM {
            missed.push(address);
        }
        assert_eq!(drain(), ((1..=ROOM).collect(), true));
        assert_eq!(drain(), (vec![], true));
        for address in 1..=ROOM + 1 {
            missed.push(address);
        }
        let (told, are_all) = drain();
        assert_eq!((told.len(), are_all), (ROOM, false));
        missed.push(7);
        assert_eq!(drain(), (vec![7], true));
    }
}
