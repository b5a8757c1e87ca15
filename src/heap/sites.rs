//! Where samples were allocated: a stack, a thread, labels; and how much, since the beginning.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::index::Index;
use super::law::mix;
use super::said::NONE;
use super::stacks::{Node, OVERFLOW_NODE};

/// Numbers of sites and windows, none of which is used twice in a process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);
static WINDOWS: AtomicU32 = AtomicU32::new(1);

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Site {
    /// Tells it from all others, past ones included; later ones have higher numbers.
    pub number: u64,
    /// Where its stack ends.
    pub node: Node,
    /// The kernel's id of the thread; 0 of those beyond the limit.
    pub thread_id: u32,
    /// Its labels, by number; 0 is none.
    pub labels: u32,
    /// How many live samples it has.
    pub live: u32,
    /// Blocks allocated since the beginning.
    pub objects: f64,
    /// Bytes of these.
    pub bytes: f64,
    /// Of the newest window in which something was allocated.
    epoch: u32,
}

impl Site {
    /// One of which nothing was allocated yet; its number tells nothing.
    #[must_use]
    pub fn at(node: Node, thread_id: u32, labels: u32) -> Self {
        Self {
            node,
            thread_id,
            labels,
            ..Self::default()
        }
    }

    pub(super) fn own_key(&self) -> u64 {
        Self::key(self.node, self.thread_id, self.labels)
    }

    fn key(node: Node, thread_id: u32, labels: u32) -> u64 {
        let thread = mix(u64::from(thread_id) << 32 | u64::from(labels));
        mix(thread ^ u64::from(node)) | 1
    }
}

/// All of them, in a table of fixed size.
#[derive(Debug)]
pub struct Sites {
    sites: Vec<Site>,
    by_key: Index,
    /// Of the newest window that was begun.
    epoch: u32,
    /// Of those that have not ended.
    open: Vec<u32>,
}

impl Sites {
    /// An empty table for so many.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let mut sites = Self {
            sites: Vec::with_capacity(capacity),
            by_key: Index::new(capacity),
            epoch: 0,
            open: Vec::new(),
        };
        // For what finds no room.
        sites.add(OVERFLOW_NODE, 0, 0);
        sites
    }

    /// The place of a site, which is made if there is room, else that of `<overflow>`. Stacks are worth
    /// more than labels: for a new one in a table that is half full `other` says less of these.
    pub fn place_of(
        &mut self,
        node: Node,
        thread_id: u32,
        mut labels: u32,
        other: impl FnOnce(u32) -> u32,
    ) -> u32 {
        if let Some(known) = self.by_key.get(Site::key(node, thread_id, labels)) {
            return known;
        }
        if labels != NONE && self.sites.len() * 2 >= self.sites.capacity() {
            labels = other(labels);
        }
        let known = self.by_key.get(Site::key(node, thread_id, labels));
        known
            .or_else(|| self.add(node, thread_id, labels))
            .unwrap_or(0)
    }

    fn add(&mut self, node: Node, thread_id: u32, labels: u32) -> Option<u32> {
        let place = self.sites.len();
        let key = Site::key(node, thread_id, labels);
        if place == self.sites.capacity() || !self.by_key.put(key, place as u32) {
            return None;
        }
        self.sites.push(Site {
            number: NUMBERS.fetch_add(1, Relaxed),
            ..Site::at(node, thread_id, labels)
        });
        Some(place as u32)
    }

    /// Notes that a sample was taken there which stands for `weight` blocks.
    pub fn allocate(&mut self, place: u32, weight: f64, bytes: u64) {
        let epoch = self.epoch;
        if let Some(site) = self.sites.get_mut(place as usize) {
            site.objects += weight;
            site.bytes += weight * bytes as f64;
            site.epoch = epoch;
        }
    }

    /// Notes that a sample there lives, or does no more.
    pub fn count_live(&mut self, place: u32, lives: bool) {
        if let Some(site) = self.sites.get_mut(place as usize) {
            site.live = if lives {
                site.live + 1
            } else {
                site.live.saturating_sub(1)
            };
        }
    }

    /// Notes that no sample lives.
    pub fn forget_live(&mut self) {
        for site in &mut self.sites {
            site.live = 0;
        }
    }

    /// Begins a window, in whose end what was allocated before does not count.
    pub fn begin(&mut self) -> u32 {
        self.epoch = WINDOWS.fetch_add(1, Relaxed);
        self.open.push(self.epoch);
        self.epoch
    }

    /// Has those that have live samples stay until this window ends.
    pub fn keep_live(&mut self, epoch: u32) {
        for site in self.sites.iter_mut().filter(|site| site.live > 0) {
            site.epoch = epoch;
        }
    }

    /// Ends a window.
    pub fn end(&mut self, epoch: u32) {
        if let Some(at) = self.open.iter().position(|open| *open == epoch) {
            self.open.swap_remove(at);
        }
    }

    /// Ends all windows.
    pub fn end_all(&mut self) {
        self.open.clear();
    }

    /// All sites, by number.
    #[must_use]
    pub fn all(&self) -> &[Site] {
        &self.sites
    }

    /// Whether only few more have room.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        self.sites.len() * 4 >= self.sites.capacity() * 3
    }

    /// Whether a site tells anything to anybody: it has live samples, or what was allocated there in a
    /// window that has not ended.
    fn is_of_use(&self, site: &Site) -> bool {
        let oldest = self.open.iter().min().copied().unwrap_or(u32::MAX);
        site.live > 0 || site.epoch >= oldest
    }

    /// A table with those alone that are of use, at the nodes that `adopt` says, and the new place of
    /// each; they are found once [`Self::move_labels`] was called.
    pub(super) fn compacted(&self, mut adopt: impl FnMut(Node) -> Node) -> (Self, Vec<u32>) {
        let mut compacted = Self {
            sites: Vec::with_capacity(self.sites.capacity()),
            by_key: Index::new(self.sites.capacity()),
            epoch: self.epoch,
            open: self.open.clone(),
        };
        let mut places = vec![0; self.sites.len()];
        for (old, site) in self.sites.iter().enumerate() {
            if old > 0 && !self.is_of_use(site) {
                continue;
            }
            places[old] = compacted.sites.len() as u32;
            let node = adopt(site.node);
            compacted.sites.push(Site { node, ..*site });
        }
        (compacted, places)
    }

    /// The labels of each.
    pub(super) fn labels(&self) -> impl Iterator<Item = u32> {
        self.sites.iter().map(|site| site.labels)
    }

    /// Gives labels other numbers.
    pub(super) fn move_labels(&mut self, number: impl Fn(u32) -> u32) {
        self.by_key.clear();
        for (place, site) in self.sites.iter_mut().enumerate() {
            site.labels = number(site.labels);
            let key = site.own_key();
            if self.by_key.get(key).is_none() {
                self.by_key.put(key, place as u32);
            }
        }
    }

    /// Bytes held, when all of it is used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.sites.capacity() * size_of::<Site>() + self.by_key.bytes()
    }
}
