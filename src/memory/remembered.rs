//! What was read, remembered, so that one copy tells whether all of it is still so.
#![forbid(unsafe_code)]

use super::{Range, ReadMemory};

/// Ranges that one copy is asked for.
const MAX_AT_ONCE: usize = 1_000;
/// Ranges that are remembered; of more it is not known whether they are still so.
const MAX_RANGES: usize = 4_096;

/// Stretches of memory and what was in them.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    ranges: Vec<Range>,
    bytes: Vec<u8>,
    /// Whether something could not be read, or was not remembered.
    has_gaps: bool,
}

impl Remembered {
    /// Whether everything is as it was, at one moment as far as one copy goes.
    pub fn is_still(&self, memory: &mut (dyn ReadMemory + '_)) -> bool {
        let mut bytes = self.bytes.as_slice();
        !self.has_gaps
            && self.ranges.chunks(MAX_AT_ONCE).all(|ranges| {
                let length = ranges.iter().map(|range| range.length).sum();
                let (before, rest) = bytes.split_at(length);
                bytes = rest;
                memory.read_batch(ranges) == ranges.len() && memory.bytes()[..length] == *before
            })
    }

    /// Remembers what was read by other means.
    pub fn add(&mut self, range: Range, bytes: &[u8]) {
        if self.ranges.len() >= MAX_RANGES || range.length != bytes.len() {
            self.has_gaps = true;
        } else {
            self.ranges.push(range);
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// All of these together.
    pub fn of<'all>(all: impl Iterator<Item = &'all Self>) -> Self {
        let mut together = Self::default();
        for one in all {
            together.ranges.extend_from_slice(&one.ranges);
            together.bytes.extend_from_slice(&one.bytes);
            together.has_gaps |= one.has_gaps;
        }
        together
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.ranges.capacity() * size_of::<Range>() + self.bytes.capacity()
    }

    fn clear(&mut self) {
        self.ranges.clear();
        self.bytes.clear();
        self.has_gaps = false;
    }
}

/// Memory of which is remembered what is read.
pub struct Remembering<Memory> {
    /// What is read.
    pub memory: Memory,
    remembered: Remembered,
}

impl<Memory> Remembering<Memory> {
    /// Nothing was read yet.
    pub fn new(memory: Memory) -> Self {
        Self {
            memory,
            remembered: Remembered::default(),
        }
    }

    /// Forgets what was read until now.
    pub fn begin(&mut self) {
        self.remembered.clear();
    }

    /// What was read since [`Self::begin`].
    #[must_use]
    pub fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// The same, to be taken.
    pub fn remembered_mut(&mut self) -> &mut Remembered {
        &mut self.remembered
    }
}

impl<Memory: ReadMemory> ReadMemory for Remembering<Memory> {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        let whole = self.memory.read_batch(ranges);
        let kept = &mut self.remembered;
        if whole < ranges.len() || kept.ranges.len() + whole > MAX_RANGES {
            kept.has_gaps = true;
        } else {
            let length: usize = ranges.iter().map(|range| range.length).sum();
            kept.ranges.extend_from_slice(ranges);
            kept.bytes.extend_from_slice(&self.memory.bytes()[..length]);
        }
        whole
    }

    fn bytes(&self) -> &[u8] {
        self.memory.bytes()
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
    use super::Remembering;
    use crate::memory::image::Image;
    use crate::memory::{Range, ReadMemory as _, read_word};

    fn image(words: [usize; 4]) -> Image {
        let mut image = Image::default();
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        image.insert(0x1000, bytes.collect());
        image
    }

    #[test]
    fn what_has_changed_is_not_as_it_was() {
        let mut memory = Remembering::new(image([1, 2, 3, 4]));
        assert_eq!(read_word(&mut memory, 0x1008), Some(2));
        memory.begin();
        assert_eq!(read_word(&mut memory, 0x1000), Some(1));
        let ranges = [Range::new(0x1010, 8), Range::new(0x1018, 8)];
        assert_eq!(memory.read_batch(&ranges), 2);
        let remembered = memory.remembered();
        assert!(remembered.is_still(&mut image([1, 2, 3, 4])));
        assert!(remembered.is_still(&mut image([1, 9, 3, 4])));
        assert!(!remembered.is_still(&mut image([1, 2, 3, 9])));
        assert!(!remembered.is_still(&mut Image::default()));
    }

    #[test]
    fn of_what_could_not_be_read_nothing_is_known() {
        let mut memory = Remembering::new(image([1, 2, 3, 4]));
        assert_eq!(read_word(&mut memory, 0x5000), None);
        assert!(!memory.remembered().is_still(&mut image([1, 2, 3, 4])));
        memory.begin();
        assert!(memory.remembered().is_still(&mut image([1, 2, 3, 4])));
    }
}
