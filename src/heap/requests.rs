//! What requests allocated that are under way or have just ended: of each the stacks, in a table of
//! fixed size in which new ones take the place of the oldest.
#![forbid(unsafe_code)]

use super::index::Index;
use super::law::mix;
use super::sites::Site;
use super::stacks::Node;

/// Stacks of requests that are remembered.
const ROWS: usize = 4_096;

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    request: u64,
    key: u64,
    /// Of its newest sample, monotonic time in ns.
    at_ns: u64,
    site: Site,
}

/// The table.
#[derive(Debug)]
pub struct RequestRows {
    rows: Vec<Row>,
    by_key: Index,
    /// Where the next new one goes.
    next: usize,
    /// Of what had to go, the newest.
    lost_ns: u64,
}

/// What one request allocated, as far as it was sampled.
#[derive(Clone, Debug, Default)]
pub(super) struct OfRequest {
    pub(super) sites: Vec<Site>,
    /// Whether nothing had to go that may have been this request's.
    pub(super) is_whole: bool,
}

impl RequestRows {
    /// None, with room for none.
    pub(super) const fn none() -> Self {
        Self {
            rows: Vec::new(),
            by_key: Index::none(),
            next: 0,
            lost_ns: 0,
        }
    }

    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            rows: Vec::with_capacity(ROWS),
            by_key: Index::new(ROWS),
            ..Self::none()
        }
    }

    /// Adds a sample of a request that stands for `weight` blocks.
    pub(super) fn add(
        &mut self,
        request: u64,
        site: Site,
        (weight, bytes): (f64, u64),
        now_ns: u64,
    ) {
        if self.rows.capacity() == 0 {
            return;
        }
        let key = mix(request ^ site.own_key()) | 1;
        let known = self.by_key.get(key);
        let at = known.map_or_else(|| self.place_for(request, key, site), |row| row as usize);
        let row = &mut self.rows[at];
        row.at_ns = now_ns;
        row.site.objects += weight;
        row.site.bytes += weight * bytes as f64;
    }

    fn place_for(&mut self, request: u64, key: u64, site: Site) -> usize {
        let at = self.next;
        self.next = (at + 1) % ROWS;
        let row = Row {
            request,
            key,
            at_ns: 0,
            site,
        };
        match self.rows.get_mut(at) {
            Some(old) => {
                self.lost_ns = self.lost_ns.max(old.at_ns);
                self.by_key.remove(old.key);
                *old = row;
            }
            None => self.rows.push(row),
        }
        self.by_key.put(key, at as u32);
        at
    }

    /// What a request allocated that began at `began_ns`.
    pub(super) fn of(&self, request: u64, began_ns: u64) -> OfRequest {
        let own = self.rows.iter().filter(|row| row.request == request);
        OfRequest {
            sites: own.map(|row| row.site).collect(),
            is_whole: self.lost_ns < began_ns,
        }
    }

    /// Where stacks and labels are found from now on.
    pub(super) fn follow(&mut self, mut node: impl FnMut(Node) -> Node) {
        for row in &mut self.rows {
            row.site.node = node(row.site.node);
        }
    }

    /// The labels of each.
    pub(super) fn labels(&self) -> impl Iterator<Item = u32> {
        self.rows.iter().map(|row| row.site.labels)
    }

    /// Gives labels other numbers.
    pub(super) fn move_labels(&mut self, number: impl Fn(u32) -> u32) {
        for row in &mut self.rows {
            row.site.labels = number(row.site.labels);
        }
    }

    /// Bytes held, when all of it is used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.by_key.bytes()
    }
}

impl Default for RequestRows {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{ROWS, RequestRows};
    use crate::heap::sites::Site;

    fn site(node: u32) -> Site {
        Site::at(node, 1, 0)
    }

    fn bytes(rows: &RequestRows, request: u64) -> f64 {
        rows.of(request, 1)
            .sites
            .iter()
            .map(|site| site.bytes)
            .sum()
    }

    #[test]
    fn each_request_has_its_own_sums() {
        let mut rows = RequestRows::new();
        for turn in 0..100 {
            rows.add(7, site(1), (2.0, 100), 10);
            rows.add(7, site(2), (1.0, 50), 10);
            rows.add(8, site(1), (1.0, turn), 10);
        }
        assert_eq!(rows.of(7, 5).sites.len(), 2);
        assert!((bytes(&rows, 7) - 25_000.0).abs() < 1e-6);
        assert!((bytes(&rows, 8) - 4_950.0).abs() < 1e-6);
        assert!(rows.of(9, 5).sites.is_empty());
        assert!(rows.of(7, 5).is_whole);
    }

    #[test]
    fn the_oldest_goes_and_that_is_known() {
        let mut rows = RequestRows::new();
        let held = rows.bytes();
        for request in 0..2 * ROWS as u64 {
            rows.add(request, site(1), (1.0, 100), 100 + request);
        }
        assert_eq!(rows.bytes(), held);
        assert!(bytes(&rows, 5).abs() < 1e-6);
        let newest = 2 * ROWS as u64 - 1;
        assert!((bytes(&rows, newest) - 100.0).abs() < 1e-6);
        // One that began when something was there which had to go may have lost some of its own.
        assert!(!rows.of(newest, 100).is_whole);
        assert!(rows.of(newest, 100 + newest).is_whole);
    }
}
