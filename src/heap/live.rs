//! The live samples: blocks that were sampled and have not been freed, by address, in a table of fixed
//! size that thins itself out.
#![forbid(unsafe_code)]

use super::filter;
use super::index::Index;
use super::law::{Chances, chance};

/// The unit of births in ns.
pub const BORN_NS: u64 = 100_000_000;

/// A sampled block that is in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Live {
    /// Where it is.
    pub address: usize,
    /// As many bytes as were asked for.
    pub bytes: u64,
    /// The rate by which it was sampled, or which it has survived since.
    pub rate: f64,
    /// When it was allocated, in [`BORN_NS`] since the beginning.
    pub born: u32,
    /// Where; see [`super::sites`].
    pub site: u32,
}

impl Live {
    /// How many blocks it stands for.
    #[must_use]
    pub fn weight(&self) -> f64 {
        1.0 / chance(self.bytes, self.rate)
    }
}

/// Address, bytes, rate, birth and site. As words that may be zero: the kernel gives the pages.
type Row = [u64; 4];

/// The table.
#[derive(Debug)]
pub struct LiveTable {
    rows: Vec<Row>,
    /// Row by address.
    by_address: Index,
    /// The first free row, each of which has the next one in its place of bytes, all plus 1; beyond
    /// `used` they were never used.
    free: u64,
    used: usize,
}

/// What a table that was full has cost the samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thinned {
    /// Where the sample was allocated that is no more.
    pub site: u32,
}

impl LiveTable {
    /// None.
    pub(super) const fn none() -> Self {
        Self {
            rows: Vec::new(),
            by_address: Index::none(),
            free: 0,
            used: 0,
        }
    }

    /// An empty one for so many samples.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            rows: vec![[0; 4]; capacity],
            by_address: Index::new(capacity),
            free: 0,
            used: 0,
        }
    }

    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Whether there is room for no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= self.rows.len()
    }

    /// Rows that were ever used; [`Self::row`] tells of each whether it is.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// The sample in a row, if there is any.
    #[must_use]
    pub fn row(&self, row: usize) -> Option<Live> {
        let [address, bytes, rate, rest] = *self.rows.get(row)?;
        (address != 0).then(|| Live {
            address: address as usize,
            bytes,
            rate: f64::from_bits(rate),
            born: (rest >> 32) as u32,
            site: rest as u32,
        })
    }

    /// Puts a sample in; false if there is no room. None must be at its address.
    pub fn put(&mut self, live: &Live) -> bool {
        let row = match self.free {
            0 if self.used < self.rows.len() => self.used,
            0 => return false,
            free => free as usize - 1,
        };
        if !self.by_address.put(live.address as u64, row as u32) {
            return false;
        }
        if self.free == 0 {
            self.used += 1;
        } else {
            self.free = self.rows[row][1];
        }
        self.rows[row] = [
            live.address as u64,
            live.bytes,
            live.rate.to_bits(),
            u64::from(live.born) << 32 | u64::from(live.site),
        ];
        filter::add(live.address);
        true
    }

    /// Takes the sample at this address out, if there is any.
    pub fn take(&mut self, address: usize) -> Option<Live> {
        let row = self.by_address.remove(address as u64)? as usize;
        let live = self.row(row);
        self.rows[row] = [0, self.free, 0, 0];
        self.free = row as u64 + 1;
        filter::remove(address);
        live
    }

    /// Takes out as many samples as `rate` would not have brought; those that stay weigh more, so that
    /// every sum is as large as before, on average.
    pub fn thin(&mut self, rate: f64, chances: &mut Chances, mut thinned: impl FnMut(Thinned)) {
        for row in 0..self.used {
            let Some(live) = self.row(row).filter(|live| live.rate < rate) else {
                continue;
            };
            let stays = chance(live.bytes, rate) / chance(live.bytes, live.rate);
            if chances.unit() <= stays {
                self.rows[row][2] = rate.to_bits();
            } else {
                self.take(live.address);
                thinned(Thinned { site: live.site });
            }
        }
    }

    /// Forgets all samples.
    pub fn clear(&mut self) {
        for row in 0..self.used {
            if let Some(live) = self.row(row) {
                filter::remove(live.address);
            }
            self.rows[row] = [0; 4];
        }
        self.by_address.clear();
        (self.free, self.used) = (0, 0);
    }

    /// Bytes held, when all of it is used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.len() * size_of::<Row>() + self.by_address.bytes()
    }

    /// Gives a sample's site another number.
    pub(super) fn move_sites(&mut self, mut number: impl FnMut(u32) -> u32) {
        for row in 0..self.used {
            if self.rows[row][0] != 0 {
                let rest = self.rows[row][3];
                self.rows[row][3] = rest & !0xffff_ffff | u64::from(number(rest as u32));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustc_hash::FxHashMap;

    use proptest::prelude::*;

    use super::{Live, LiveTable};
    use crate::heap::filter;

    proptest! {
        #[test]
        fn it_has_what_was_put_in_and_not_taken_out(
            steps in prop::collection::vec((1_usize..30, any::<bool>()), 0..300),
        ) {
            // Addresses of this test alone: the filter is shared with others.
            const BASE: usize = 0x7000_0000;
            const CAPACITY: usize = 12;
            let mut table = LiveTable::new(CAPACITY);
            let mut truth: FxHashMap<usize, Live> = FxHashMap::default();
            for (number, (key, is_put)) in steps.into_iter().enumerate() {
                let address = BASE + key * 16;
                if is_put && !truth.contains_key(&address) {
                    let live = Live {
                        address,
                        bytes: number as u64 + 1,
                        rate: 512.0,
                        born: number as u32,
                        site: key as u32,
                    };
                    prop_assert_eq!(table.put(&live), truth.len() < CAPACITY);
                    if truth.len() < CAPACITY {
                        truth.insert(address, live);
                    }
                } else {
                    prop_assert_eq!(table.take(address), truth.remove(&address));
                }
                prop_assert_eq!(table.len(), truth.len());
                let rows: Vec<Live> = (0..table.used()).filter_map(|row| table.row(row)).collect();
                prop_assert_eq!(rows.len(), truth.len());
                for live in rows {
                    prop_assert_eq!(truth.get(&live.address), Some(&live));
                    prop_assert!(filter::may_have(live.address));
                }
            }
            table.clear();
            prop_assert!(table.is_empty());
        }
    }
}
