//! The heap: who allocated what is in use, by samples.
//!
//! A hook in the allocator counts the bytes ([`countdown`]); where the count runs out it tells the block
//! here. What is told within an allocation uses tables of fixed size: it asks for no memory and runs no
//! code of anybody else. Whoever finds the tables locked for longer than a moment goes without: a
//! sample is lost and counted, a freed block is noted ([`missed`]).
#![forbid(unsafe_code)]

pub mod account;
pub mod countdown;
pub mod filter;
pub mod index;
pub mod law;
pub mod live;
pub mod missed;
pub mod pace;
pub mod report;
pub mod requests;
pub mod said;
pub mod sites;
pub mod stacks;
pub mod texts;

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use self::law::{Chances, chance};
use self::live::{Live, LiveTable};
use self::missed::MISSED;
use self::pace::Pace;
use self::requests::RequestRows;
use self::said::SaidSets;
use self::sites::{Site, Sites};
use self::stacks::{Adoption, Look, StackLimits, Stacks};
use crate::clock::cpu::monotonic_ns;

/// How much fits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapLimits {
    /// Live samples.
    pub live: usize,
    /// Places where they were allocated.
    pub sites: usize,
    /// Their stacks.
    pub stacks: StackLimits,
}

impl Default for HeapLimits {
    fn default() -> Self {
        Self {
            live: 32_768,
            sites: 32_768,
            stacks: StackLimits {
                nodes: 65_536,
                lines: 16_384,
                codes: 8_192,
                text_bytes: 1 << 20,
            },
        }
    }
}

/// A block that was hit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Where it is.
    pub address: usize,
    /// As many bytes as were asked for.
    pub bytes: u64,
    /// The rate by which it was hit.
    pub rate: f64,
    /// The kernel's id of the thread.
    pub thread_id: u32,
    /// Monotonic time in ns.
    pub now_ns: u64,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HeapFigures {
    /// Whether anything is being sampled.
    pub is_on: bool,
    /// Bytes between two samples.
    pub rate: f64,
    /// Samples since the beginning.
    pub samples: u64,
    /// Samples that found the tables locked.
    pub lost: u64,
    /// Samples of blocks in use.
    pub live: u64,
    /// How many of these fit in.
    pub live_limit: u64,
    /// Stacks that found no room.
    pub overflowed: u64,
    /// Samples with `<other>` for labels.
    pub left_out: u64,
    /// Times the live samples were forgotten, because frees had been missed.
    pub forgotten: u64,
    /// Time spent on samples in ns.
    pub cost_ns: u64,
    /// Bytes of the tables, when all of them are used.
    pub bytes: u64,
    /// When it began, monotonic time in ns.
    pub started_ns: u64,
    /// Since when no free was missed, likewise.
    pub known_since_ns: u64,
}

/// Samples that found the tables locked.
static LOST: AtomicU64 = AtomicU64::new(0);

/// The tables.
#[derive(Debug)]
pub struct Heap {
    is_on: bool,
    started_ns: u64,
    known_since_ns: u64,
    limits: Option<HeapLimits>,
    live: LiveTable,
    stacks: Stacks,
    sites: Option<Sites>,
    said: SaidSets,
    requests: RequestRows,
    chances: Chances,
    pace: Pace,
    samples: u64,
    forgotten: u64,
    cost_ns: u64,
    /// How often places were given to others.
    compactions: u64,
}

/// Those of this process.
static HEAP: Mutex<Heap> = Mutex::new(Heap::none());
/// Another thread had them when this process was forked: they are locked for ever.
static ARE_LEFT: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The lock on the tables while the process is being forked. Without a destructor, for which a
    /// thread would need memory.
    static HELD: RefCell<Option<ManuallyDrop<MutexGuard<'static, Heap>>>> =
        const { RefCell::new(None) };
}

/// Locks the tables ahead of a fork, so that they are whole in the child.
pub fn hold_for_fork() {
    const LOOKS: usize = 1_000;
    let held = (0..LOOKS).find_map(|_| try_lock());
    HELD.with_borrow_mut(|place| *place = held.map(ManuallyDrop::new));
}

/// Unlocks them after a fork.
pub fn release_after_fork(is_child: bool) {
    let held = HELD.with_borrow_mut(Option::take);
    if held.is_none() && is_child {
        ARE_LEFT.store(true, Release);
    }
    drop(held.map(ManuallyDrop::into_inner));
}

/// Begins to sample, by a rate that was asked for or one that suits; whatever there was is forgotten.
pub fn start(limits: HeapLimits, rate: Option<f64>, now_ns: u64, cpu_ns: u64) {
    let new = Heap::new(limits, rate, now_ns, cpu_ns);
    let Some(mut heap) = lock() else {
        return;
    };
    heap.end();
    let compactions = heap.compactions;
    *heap = Heap { compactions, ..new };
    countdown::set_rate(Some(heap.rate()));
}

/// Samples nothing any more.
pub fn stop() {
    countdown::set_rate(None);
    if let Some(mut heap) = lock() {
        heap.end();
    }
}

/// Locks the tables, for a few steps; not to be called within an allocation. `None` where that is not
/// possible any more.
#[must_use]
pub fn lock() -> Option<MutexGuard<'static, Heap>> {
    if ARE_LEFT.load(Acquire) {
        return None;
    }
    let mut heap = HEAP.lock().unwrap_or_else(PoisonError::into_inner);
    heap.catch_up();
    Some(heap)
}

/// Locks the tables unless somebody else has them for longer than a moment.
#[must_use]
pub fn try_lock() -> Option<MutexGuard<'static, Heap>> {
    const LOOKS: u32 = 64;
    const TURNS: u32 = 16;
    if ARE_LEFT.load(Acquire) {
        return None;
    }
    for look in 0..LOOKS + TURNS {
        match HEAP.try_lock() {
            Ok(mut heap) => {
                heap.catch_up();
                return Some(heap);
            }
            // Whoever had them has failed half-way.
            Err(TryLockError::Poisoned(_)) => return None,
            Err(TryLockError::WouldBlock) if look < LOOKS => std::hint::spin_loop(),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// Counts a sample that was lost.
pub fn count_lost() {
    LOST.fetch_add(1, Relaxed);
}

impl Heap {
    const fn none() -> Self {
        Self {
            is_on: false,
            started_ns: 0,
            known_since_ns: 0,
            limits: None,
            live: LiveTable::none(),
            stacks: Stacks::none(),
            sites: None,
            said: SaidSets::none(),
            requests: RequestRows::none(),
            chances: Chances::new(0),
            pace: Pace::new(None, 0),
            samples: 0,
            forgotten: 0,
            cost_ns: 0,
            compactions: 0,
        }
    }

    /// Tables that take so much, by a rate that was asked for or one that suits.
    #[must_use]
    pub fn new(limits: HeapLimits, rate: Option<f64>, now_ns: u64, cpu_ns: u64) -> Self {
        Self {
            is_on: true,
            started_ns: now_ns,
            known_since_ns: now_ns,
            live: LiveTable::new(limits.live),
            stacks: Stacks::new(&limits.stacks),
            sites: Some(Sites::new(limits.sites)),
            said: SaidSets::new(),
            requests: RequestRows::new(),
            limits: Some(limits),
            chances: Chances::new(now_ns),
            pace: Pace::new(rate, cpu_ns),
            ..Self::none()
        }
    }

    /// Whether samples are taken.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// The rate for the counts to come.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.pace.rate()
    }

    /// Takes no more samples, and gives the tables back.
    pub fn end(&mut self) {
        self.live.clear();
        *self = Self {
            compactions: self.compactions + 1,
            ..Self::none()
        };
    }

    /// Takes a block in that was hit; `look` knows where the calling thread is.
    pub fn record(&mut self, hit: &Hit, look: &impl Look, cpu_ns: impl FnOnce() -> u64) {
        let Some(sites) = self.sites.as_mut().filter(|_| self.is_on) else {
            return;
        };
        // Freed without our knowledge, if there is any.
        if let Some(ghost) = self.live.take(hit.address) {
            sites.count_live(ghost.site, false);
        }
        let node = self.stacks.node_of(look);
        let said = &mut self.said;
        let spoken = look.said(|spoken| (said.number_of(spoken), spoken.request));
        let (labels, request) = spoken.unwrap_or((said::NONE, 0));
        let site = sites.place_of(node, hit.thread_id, labels, |labels| said.other_of(labels));
        let weight = 1.0 / chance(hit.bytes, hit.rate);
        sites.allocate(site, weight, hit.bytes);
        if request != 0 {
            let own = Site::at(node, hit.thread_id, labels);
            self.requests
                .add(request, own, (weight, hit.bytes), hit.now_ns);
        }
        let born = hit.now_ns.saturating_sub(self.started_ns) / live::BORN_NS;
        self.samples += 1;
        self.put(Live {
            address: hit.address,
            bytes: hit.bytes,
            rate: hit.rate,
            born: u32::try_from(born).unwrap_or(u32::MAX),
            site,
        });
        let fill = self.live.len() as f64 / self.limits.map_or(1, |limits| limits.live) as f64;
        if self.pace.count(fill, cpu_ns) {
            countdown::set_rate(Some(self.pace.rate()));
        }
    }

    /// Puts a live sample in, unless it is one too many.
    fn put(&mut self, mut live: Live) {
        let Some(sites) = self.sites.as_mut() else {
            return;
        };
        // Each sum is as large as before, on average.
        const DOUBLINGS: usize = 64;
        for _ in 0..DOUBLINGS {
            if !self.live.is_full() {
                break;
            }
            let rate = self.pace.double();
            countdown::set_rate(Some(self.pace.rate()));
            self.live.thin(rate, &mut self.chances, |thinned| {
                sites.count_live(thinned.site, false);
            });
        }
        let least = self.pace.least();
        if live.rate < least {
            let stays = chance(live.bytes, least) / chance(live.bytes, live.rate);
            if self.chances.unit() > stays {
                return;
            }
            live.rate = least;
        }
        if self.live.put(&live) {
            sites.count_live(live.site, true);
        }
    }

    /// Takes the sample of a block out that is about to be freed, if there is any.
    pub fn take(&mut self, address: usize) -> Option<Live> {
        let live = self.live.take(address)?;
        if let Some(sites) = &mut self.sites {
            sites.count_live(live.site, false);
        }
        Some(live)
    }

    /// Puts a sample back whose block has not been freed after all.
    pub fn put_back(&mut self, live: Live) {
        if self.is_on {
            self.take(live.address);
            self.put(live);
        }
    }

    /// Forgets the live samples: frees were missed, and nobody knows which.
    pub fn forget_live(&mut self, now_ns: u64) {
        self.known_since_ns = now_ns;
        self.live.clear();
        if let Some(sites) = &mut self.sites {
            sites.forget_live();
        }
        self.forgotten += 1;
    }

    /// Takes out what was freed while somebody had the tables.
    fn catch_up(&mut self) {
        let are_all = MISSED.drain(|address| {
            self.take(address);
        });
        if !are_all {
            self.forget_live(monotonic_ns());
        }
    }

    /// Adds what a sample has cost.
    pub fn add_cost(&mut self, ns: u64) {
        self.cost_ns += ns;
    }

    /// What was counted.
    #[must_use]
    pub fn figures(&self) -> HeapFigures {
        let sites = self.sites.as_ref().map_or(0, Sites::bytes);
        let of_labels = self.said.bytes() + self.requests.bytes();
        HeapFigures {
            is_on: self.is_on,
            rate: self.pace.rate(),
            samples: self.samples,
            lost: LOST.load(Relaxed),
            live: self.live.len() as u64,
            live_limit: self.limits.map_or(0, |limits| limits.live) as u64,
            overflowed: self.stacks.overflowed(),
            left_out: self.said.left_out(),
            forgotten: self.forgotten,
            cost_ns: self.cost_ns,
            bytes: (self.live.bytes() + self.stacks.bytes() + of_labels + sites) as u64,
            started_ns: self.started_ns,
            known_since_ns: self.known_since_ns,
        }
    }

    /// Gives the places of stacks to others that nobody needs any more, if there are only few left. Not
    /// within an allocation: it asks for memory.
    pub fn compact(&mut self) {
        let Some((sites, limits)) = self.sites.as_ref().zip(self.limits) else {
            return;
        };
        let are_full = self.said.is_nearly_full() || sites.is_nearly_full();
        if !(self.stacks.is_nearly_full() || are_full) {
            return;
        }
        let mut stacks = Stacks::new(&limits.stacks);
        let mut adoption = Adoption::new(&self.stacks);
        let (mut sites, places) = sites.compacted(|node| stacks.adopt(&mut adoption, node));
        self.requests
            .follow(|node| stacks.adopt(&mut adoption, node));
        let used = sites.labels().chain(self.requests.labels());
        let (said, numbers) = self.said.compacted(used);
        sites.move_labels(|old| numbers[old as usize]);
        self.requests.move_labels(|old| numbers[old as usize]);
        self.said = said;
        stacks.end_adoption(&adoption);
        self.live.move_sites(|old| places[old as usize]);
        self.stacks = stacks;
        self.sites = Some(sites);
        self.compactions += 1;
    }
}

#[cfg(test)]
#[path = "heap_tests.rs"]
mod tests;
