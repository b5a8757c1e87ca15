//! The greenlets of this process: which there are, told by whoever makes and frees them.
//!
//! Everything is written by threads that have the GIL, and read by the sampler without it: it takes
//! entries by chance, and looks at each before it believes it. So nothing is locked, and an entry that is
//! moved meanwhile may be missed, or drawn a moment longer.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use rustc_hash::FxHashSet;

use crate::clock::cpu::thread_id;

/// Parts of the table, each of which grows by itself: none takes long.
const SHARDS: usize = 64;
/// Places in the smallest part.
const LEAST_PLACES: usize = 64;
/// How often a part may double.
const GENERATIONS: usize = 10;
/// Greenlets known at a time; more are only counted.
pub const MAX_GREENLETS: usize = SHARDS * (LEAST_PLACES << (GENERATIONS - 1)) / 2;
/// A part is never fuller than one half, nor emptier than this part, unless it is the smallest.
const LEAST_LOAD: usize = 8;
/// Up to so many places all are looked through, beyond it is left to chance.
const MAX_SCAN: usize = 8_192;
/// Places looked at by chance for each greenlet that is wanted.
const MAX_TRIES: usize = 64;
/// Threads that switch greenlets.
const MAX_THREADS: usize = 256;
/// In place of the kernel's id of a thread that a fork has ended.
const GONE: u64 = u64::MAX;

/// A part of the table: open addressing, in which an entry stands at the first free place from where it
/// belongs.
#[derive(Debug)]
struct Shard {
    /// Each twice as long as the one before; those that were left stay, for somebody may be reading.
    generations: [OnceLock<Box<[AtomicUsize]>>; GENERATIONS],
    current: AtomicUsize,
    count: AtomicUsize,
}

impl Shard {
    const fn new() -> Self {
        Self {
            generations: [const { OnceLock::new() }; GENERATIONS],
            current: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
        }
    }

    /// What is in use; empty before the first entry.
    fn places(&self) -> &[AtomicUsize] {
        let places = self.generations[self.current.load(SeqCst)].get();
        places.map_or(&[], |places| &**places)
    }

    fn position(places: &[AtomicUsize], address: usize) -> Result<usize, usize> {
        let mask = places.len() - 1;
        let mut at = place_of(address) & mask;
        loop {
            match places[at].load(Relaxed) {
                0 => return Err(at),
                known if known == address => return Ok(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    /// Whether there was room; an entry that is known stays as it is.
    fn insert(&self, address: usize) -> bool {
        if self.places().is_empty() {
            self.begin(0);
        }
        let Err(at) = Self::position(self.places(), address) else {
            return true;
        };
        let count = self.count.load(Relaxed);
        if 2 * (count + 1) <= self.places().len() {
            self.places()[at].store(address, SeqCst);
        } else {
            let next = self.current.load(Relaxed) + 1;
            if next == GENERATIONS {
                return false;
            }
            self.move_to(next);
            if let Err(at) = Self::position(self.places(), address) {
                self.places()[at].store(address, SeqCst);
            }
        }
        self.count.store(count + 1, Relaxed);
        true
    }

    fn remove(&self, address: usize) -> bool {
        let places = self.places();
        if places.is_empty() {
            return false;
        }
        let Ok(mut free) = Self::position(places, address) else {
            return false;
        };
        // What was put off from its place goes back towards it.
        let mask = places.len() - 1;
        let mut at = free;
        loop {
            at = (at + 1) & mask;
            let moved = places[at].load(Relaxed);
            if moved == 0 {
                break;
            }
            let belongs = place_of(moved) & mask;
            if at.wrapping_sub(belongs) & mask >= at.wrapping_sub(free) & mask {
                places[free].store(moved, SeqCst);
                free = at;
            }
        }
        places[free].store(0, SeqCst);
        let count = self.count.load(Relaxed) - 1;
        self.count.store(count, Relaxed);
        let current = self.current.load(Relaxed);
        if current > 0 && LEAST_LOAD * count < places.len() {
            self.move_to(current - 1);
        }
        true
    }

    fn begin(&self, generation: usize) {
        let length = LEAST_PLACES << generation;
        let make = || (0..length).map(|_| AtomicUsize::new(0)).collect();
        let places = self.generations[generation].get_or_init(make);
        for place in places {
            place.store(0, Relaxed);
        }
    }

    /// Goes on in another generation.
    #[cold]
    fn move_to(&self, generation: usize) {
        self.begin(generation);
        if let Some(next) = self.generations[generation].get() {
            for place in self.places() {
                let address = place.load(Relaxed);
                if address != 0
                    && let Err(at) = Self::position(next, address)
                {
                    next[at].store(address, Relaxed);
                }
            }
        }
        self.current.store(generation, SeqCst);
    }

    fn contains(&self, address: usize) -> bool {
        let places = self.places();
        // While the part is changed without us a walk might not meet a free place.
        let first = place_of(address);
        (0..places.len())
            .map(|step| places[(first + step) & (places.len() - 1)].load(SeqCst))
            .take_while(|known| *known != 0)
            .any(|known| known == address)
    }
}

/// Objects are aligned to 16 bytes; the highest bits of a product are the best.
fn hash(address: usize) -> usize {
    (address >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn shard_of(address: usize) -> usize {
    hash(address) >> (usize::BITS - SHARDS.trailing_zeros())
}

fn place_of(address: usize) -> usize {
    hash(address) >> 24
}

/// A thread by the greenlet that it begins in.
#[derive(Debug)]
struct Thread {
    main: AtomicUsize,
    id: AtomicU64,
}

impl Thread {
    const fn new() -> Self {
        Self {
            main: AtomicUsize::new(0),
            id: AtomicU64::new(0),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct GreenletTable {
    shards: [Shard; SHARDS],
    /// Those that found no room.
    untold: AtomicUsize,
    threads: [Thread; MAX_THREADS],
}

std::thread_local! {
    /// The first greenlet of this thread.
    static OWN_MAIN: Cell<usize> = const { Cell::new(0) };
}

/// Notes that the greenlet `main` is the first of the calling thread, which has the GIL.
pub fn note_own_main(main: usize) {
    if main != 0 && OWN_MAIN.replace(main) != main {
        GREENLETS.insert(main);
        GREENLETS.note_thread(main, thread_id());
    }
}

/// Goes on in a forked child.
pub fn forget_parent() {
    GREENLETS.after_fork(OWN_MAIN.get(), thread_id());
}

/// The greenlets of this process.
pub static GREENLETS: GreenletTable = GreenletTable::new();

impl Default for GreenletTable {
    fn default() -> Self {
        Self::new()
    }
}

impl GreenletTable {
    /// An empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            shards: [const { Shard::new() }; SHARDS],
            untold: AtomicUsize::new(0),
            threads: [const { Thread::new() }; MAX_THREADS],
        }
    }

    /// Notes a greenlet that was made. The caller has the GIL.
    pub fn insert(&self, address: usize) {
        if !self.shards[shard_of(address)].insert(address) {
            self.untold.fetch_add(1, Relaxed);
        }
    }

    /// Notes that a greenlet goes, before its memory is given back. The caller has the GIL.
    pub fn remove(&self, address: usize) {
        if !self.shards[shard_of(address)].remove(address) && self.untold.load(Relaxed) > 0 {
            self.untold.fetch_sub(1, Relaxed);
        }
    }

    /// Whether it is there still.
    #[must_use]
    pub fn contains(&self, address: usize) -> bool {
        self.shards[shard_of(address)].contains(address)
    }

    /// How many greenlets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known() + self.untold()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them found no room.
    #[must_use]
    pub fn untold(&self) -> usize {
        self.untold.load(Relaxed)
    }

    fn known(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.count.load(Relaxed)).sum()
    }

    /// Draws some greenlets, all alike, none twice: `wanted` of them, or all if they are not more.
    /// Returns how many each of them stands for, as a fraction.
    pub fn draw(
        &self,
        wanted: usize,
        random: &mut dyn FnMut() -> u64,
        drawn: &mut Vec<usize>,
    ) -> (u64, u64) {
        let lengths = self.shards.iter().map(|shard| shard.places().len());
        let places: usize = lengths.clone().sum();
        drawn.clear();
        if places <= MAX_SCAN {
            self.list(usize::MAX, drawn);
            let all = drawn.len();
            for at in 0..wanted.min(all) {
                let other = at + below(random(), all - at);
                drawn.swap(at, other);
            }
            drawn.truncate(wanted);
            return ((all + self.untold()) as u64, drawn.len() as u64);
        }
        let mut known = FxHashSet::default();
        for _ in 0..wanted * MAX_TRIES {
            if drawn.len() == wanted {
                break;
            }
            let mut at = below(random(), places);
            for shard in &self.shards {
                let places = shard.places();
                if at >= places.len() {
                    at -= places.len();
                    continue;
                }
                let address = places[at].load(SeqCst);
                if address != 0 && known.insert(address) {
                    drawn.push(address);
                }
                break;
            }
        }
        (self.len() as u64, drawn.len() as u64)
    }

    /// Adds the greenlets that are known, at most `limit`.
    pub fn list(&self, limit: usize, found: &mut Vec<usize>) {
        let places = self.shards.iter().flat_map(Shard::places);
        let addresses = places.map(|place| place.load(SeqCst));
        found.extend(addresses.filter(|address| *address != 0).take(limit));
    }

    /// Notes in which thread the greenlet `main` is the first. The caller has the GIL.
    pub fn note_thread(&self, main: usize, thread_id: u64) {
        let is = |wanted: usize| move |thread: &&Thread| thread.main.load(Relaxed) == wanted;
        let place = self.threads.iter().find(is(main));
        if let Some(place) = place.or_else(|| self.threads.iter().find(is(0))) {
            place.id.store(thread_id, Relaxed);
            place.main.store(main, SeqCst);
        }
    }

    /// Notes that the first greenlet of a thread goes. The caller has the GIL.
    pub fn forget_thread(&self, main: usize) {
        for thread in &self.threads {
            if thread.main.load(Relaxed) == main {
                thread.main.store(0, SeqCst);
            }
        }
    }

    /// The kernel's id of the thread in which the greenlet `main` is the first; `None` if it is gone or
    /// unknown.
    #[must_use]
    pub fn thread_id(&self, main: usize) -> Option<u64> {
        let mut threads = self.threads.iter();
        let known = threads.find(|thread| thread.main.load(SeqCst) == main)?;
        Some(known.id.load(Relaxed)).filter(|id| *id != GONE && main != 0)
    }

    /// Goes on in a forked child: of all threads only that is left in which the greenlet `main` is the
    /// first, and it has another id.
    pub fn after_fork(&self, main: usize, thread_id: u64) {
        for thread in &self.threads {
            let is_left = thread.main.load(Relaxed) == main;
            thread
                .id
                .store(if is_left { thread_id } else { GONE }, Relaxed);
        }
    }
}

/// A number below `limit`, which is not 0.
pub(super) fn below(random: u64, limit: usize) -> usize {
    ((u128::from(random) * limit as u128) >> 64) as usize
}

#[cfg(test)]
#[path = "greenlet_table_tests.rs"]
mod tests;
