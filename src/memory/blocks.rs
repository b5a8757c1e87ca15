//! Memory in blocks that are copied once: what lies together is read together, and what several look
//! for is copied by one call.
//!
//! A copy by the kernel costs as much for a word as for hundreds of bytes, and for many pieces little
//! more than for one. So whoever reads does not wait for each piece: what is not there yet is noted,
//! copied with what others have asked for, and then they read again.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::{Range, ReadMemory};

/// Bytes of a block; it lies within a page, and can be read whole or not at all.
const BLOCK: usize = 512;
/// Blocks kept at a time.
const MAX_BLOCKS: usize = 16_384;
/// Blocks that one copy is asked for.
const MAX_AT_ONCE: usize = 1_000;

/// What was copied; its buffers are used again and again.
#[derive(Debug, Default)]
pub struct BlockStore {
    /// Where each block begins in what was copied; nowhere if it cannot be read.
    places: FxHashMap<usize, Option<usize>>,
    copied: Vec<u8>,
    wanted: Vec<usize>,
    view: Vec<u8>,
}

impl BlockStore {
    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.copied.capacity() + self.places.capacity() * 25 + self.view.capacity()
    }
}

/// See the module's documentation.
pub struct Blocks<'memory> {
    memory: &'memory mut (dyn ReadMemory + 'memory),
    store: &'memory mut BlockStore,
    has_missed: bool,
}

impl<'memory> Blocks<'memory> {
    /// Nothing was copied yet.
    pub fn new(
        memory: &'memory mut (dyn ReadMemory + 'memory),
        store: &'memory mut BlockStore,
    ) -> Self {
        store.places.clear();
        store.copied.clear();
        store.wanted.clear();
        Self {
            memory,
            store,
            has_missed: false,
        }
    }

    /// Whoever reads begins anew.
    pub fn begin(&mut self) {
        self.has_missed = false;
    }

    /// Whether something that was read since [`Self::begin`] was not there.
    #[must_use]
    pub fn has_missed(&self) -> bool {
        self.has_missed
    }

    /// Copies what was asked for and is not there; whether there was anything.
    pub fn fetch(&mut self) -> bool {
        let store = &mut *self.store;
        if store.wanted.is_empty() {
            return false;
        }
        let wanted = std::mem::take(&mut store.wanted);
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let now = &rest[..rest.len().min(MAX_AT_ONCE)];
            let ranges: Vec<Range> = now.iter().map(|at| Range::new(*at, BLOCK)).collect();
            let whole = self.memory.read_batch(&ranges);
            let begin = store.copied.len();
            let copied = &self.memory.bytes()[..whole * BLOCK];
            store.copied.extend_from_slice(copied);
            for (number, at) in now[..whole].iter().enumerate() {
                store.places.insert(*at, Some(begin + number * BLOCK));
            }
            rest = &rest[whole..];
            if let Some(at) = rest.first().filter(|_| whole < now.len()) {
                store.places.insert(*at, None);
                rest = &rest[1..];
            }
        }
        store.wanted = wanted;
        store.wanted.clear();
        true
    }

    /// Forgets what was copied: it has changed.
    pub fn forget(&mut self) {
        self.store.places.clear();
        self.store.copied.clear();
        self.store.wanted.clear();
    }

    /// The memory itself.
    pub fn memory(&mut self) -> &mut (dyn ReadMemory + 'memory) {
        self.memory
    }
}

impl ReadMemory for Blocks<'_> {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        let store = &mut *self.store;
        store.view.clear();
        for (number, range) in ranges.iter().enumerate() {
            let Some(end) = range.address.checked_add(range.length) else {
                return number;
            };
            let mut address = range.address;
            let begin = store.view.len();
            let (mut is_there, mut is_whole) = (true, true);
            while address < end {
                let block = address & !(BLOCK - 1);
                let next = end.min(block.saturating_add(BLOCK));
                match store.places.get(&block) {
                    Some(Some(place)) => {
                        let from = place + address - block;
                        let piece = &store.copied[from..from + next - address];
                        store.view.extend_from_slice(piece);
                    }
                    Some(None) => is_whole = false,
                    None if store.places.len() < MAX_BLOCKS => {
                        is_there = false;
                        if !store.wanted.contains(&block) {
                            store.wanted.push(block);
                        }
                    }
                    None => is_whole = false,
                }
                address = next;
            }
            if !is_there {
                self.has_missed = true;
                return number;
            }
            if !is_whole {
                // Perhaps a part of the block can be.
                store.view.truncate(begin);
                if self.memory.read_batch(&[*range]) == 0 {
                    return number;
                }
                let copied = &self.memory.bytes()[..range.length];
                store.view.extend_from_slice(copied);
            }
        }
        ranges.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.store.view
    }

    fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    fn name(&self) -> &'static str {
        self.memory.name()
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, BlockStore, Blocks};
    use crate::memory::image::Image;
    use crate::memory::{Range, ReadMemory as _, read, read_word};

    #[test]
    fn what_is_asked_for_is_there_after_the_next_copy() {
        let mut image = Image::default();
        let bytes: Vec<u8> = (0..4 * BLOCK).map(|at| at as u8).collect();
        image.insert(0x1000, bytes.clone());
        let mut store = BlockStore::default();
        let mut blocks = Blocks::new(&mut image, &mut store);
        let across = 0x1000 + BLOCK - 4;
        assert_eq!(read(&mut blocks, across, 8), None);
        assert_eq!(read_word(&mut blocks, 0x9000), None);
        assert_eq!(read_word(&mut blocks, 0x1000 + 3 * BLOCK), None);
        assert!(blocks.fetch());
        assert_eq!(read(&mut blocks, across, 8), Some(&bytes[BLOCK - 4..][..8]));
        assert!(read_word(&mut blocks, 0x1000 + 3 * BLOCK).is_some());
        // What cannot be read is not asked for again.
        assert_eq!(read_word(&mut blocks, 0x9000), None);
        assert!(!blocks.fetch());
        let ranges = [
            Range::new(0x1000, 8),
            Range::new(0x9000, 8),
            Range::new(0x1000, 8),
        ];
        assert_eq!(blocks.read_batch(&ranges), 1);
    }
}
