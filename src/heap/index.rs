//! A hash table of fixed size from 64 bits to 32: it never asks for memory once it is made.
#![forbid(unsafe_code)]

use super::law::mix;

/// Open addressing with linear probing; no key is 0.
#[derive(Debug)]
pub struct Index {
    keys: Vec<u64>,
    values: Vec<u32>,
    count: usize,
}

impl Index {
    /// One that takes no keys.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            keys: Vec::new(),
            values: Vec::new(),
            count: 0,
        }
    }

    /// A table that is at most half full with `capacity` keys.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let size = (capacity * 2).next_power_of_two();
        Self {
            // Zeros are pages that the kernel gives when they are written to.
            keys: vec![0; size],
            values: vec![0; size],
            count: 0,
        }
    }

    /// How many keys it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it takes no more keys.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count * 2 >= self.keys.len()
    }

    fn place(&self, key: u64) -> usize {
        mix(key) as usize & (self.keys.len() - 1)
    }

    /// Where the key is, or where it would go.
    fn find(&self, key: u64) -> usize {
        let mut at = self.place(key);
        while self.keys[at] != 0 && self.keys[at] != key {
            at = (at + 1) & (self.keys.len() - 1);
        }
        at
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: u64) -> Option<u32> {
        if self.keys.is_empty() || key == 0 {
            return None;
        }
        let at = self.find(key);
        (self.keys[at] == key).then(|| self.values[at])
    }

    /// Puts a key in, or gives it another value; false if there is no room for it.
    pub fn put(&mut self, key: u64, value: u32) -> bool {
        if self.keys.is_empty() || key == 0 {
            return false;
        }
        let at = self.find(key);
        if self.keys[at] == 0 {
            if self.is_full() {
                return false;
            }
            self.keys[at] = key;
            self.count += 1;
        }
        self.values[at] = value;
        true
    }

    /// Takes a key out and returns its value.
    pub fn remove(&mut self, key: u64) -> Option<u32> {
        if self.keys.is_empty() || key == 0 {
            return None;
        }
        let mut hole = self.find(key);
        if self.keys[hole] == 0 {
            return None;
        }
        let value = self.values[hole];
        let mask = self.keys.len() - 1;
        let mut at = hole;
        // What stands behind and would be found no more moves up (Knuth, 6.4, algorithm R).
        loop {
            at = (at + 1) & mask;
            if self.keys[at] == 0 {
                break;
            }
            let home = self.place(self.keys[at]);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.keys[hole] = self.keys[at];
                self.values[hole] = self.values[at];
                hole = at;
            }
        }
        self.keys[hole] = 0;
        self.count -= 1;
        Some(value)
    }

    /// All keys with their values.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        let pairs = self.keys.iter().copied().zip(self.values.iter().copied());
        pairs.filter(|(key, _)| *key != 0)
    }

    /// Takes all keys out.
    pub fn clear(&mut self) {
        self.keys.fill(0);
        self.count = 0;
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.keys.len() * (size_of::<u64>() + size_of::<u32>())
    }
}

#[cfg(test)]
mod tests {
    use rustc_hash::FxHashMap;

    use proptest::prelude::*;

    use super::Index;

    proptest! {
        #[test]
        fn it_is_a_map_of_fixed_size(
            steps in prop::collection::vec((1_u64..40, any::<u32>(), any::<bool>()), 0..300),
        ) {
            const CAPACITY: usize = 16;
            let (mut index, mut truth) = (Index::new(CAPACITY), FxHashMap::default());
            for (key, value, is_put) in steps {
                if is_put {
                    let fits = truth.contains_key(&key) || truth.len() < CAPACITY;
                    prop_assert_eq!(index.put(key, value), fits);
                    if fits {
                        truth.insert(key, value);
                    }
                } else {
                    prop_assert_eq!(index.remove(key), truth.remove(&key));
                }
                prop_assert_eq!(index.len(), truth.len());
                for key in 0..41 {
                    prop_assert_eq!(index.get(key), truth.get(&key).copied());
                }
            }
            index.clear();
            prop_assert!(index.is_empty() && index.get(1).is_none());
        }
    }
}
