//! Reading memory that may change or vanish while it is read.

pub mod blocks;
pub mod image;
#[cfg_attr(not(target_os = "linux"), path = "own_none.rs")]
pub mod own;
pub mod remembered;
pub mod reserve;

/// A stretch of memory to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first byte.
    pub address: usize,
    /// Its bytes.
    pub length: usize,
}

impl Range {
    /// `length` bytes from `address`.
    #[must_use]
    pub fn new(address: usize, length: usize) -> Self {
        Self { address, length }
    }
}

/// Copies memory; what cannot be read fails and does no harm.
pub trait ReadMemory: Send {
    /// Copies `ranges` in order, as close together in time as can be; returns how many of them,
    /// from the first, were copied whole. Ranges beyond [`Self::capacity`] are not copied.
    fn read_batch(&mut self, ranges: &[Range]) -> usize;

    /// What the last batch copied, back to back; beyond that, left-overs of earlier batches.
    fn bytes(&self) -> &[u8];

    /// Bytes that one batch may copy.
    fn capacity(&self) -> usize;

    /// The name of the means, for `status()`.
    fn name(&self) -> &'static str;
}

/// The same memory, for who wants to have it as its own.
pub struct Lent<'memory>(pub &'memory mut (dyn ReadMemory + 'memory));

impl ReadMemory for Lent<'_> {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        self.0.read_batch(ranges)
    }

    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }
}

/// Copies one range; `None` if it cannot be read whole.
pub fn read<'memory>(
    memory: &'memory mut (dyn ReadMemory + '_),
    address: usize,
    length: usize,
) -> Option<&'memory [u8]> {
    (memory.read_batch(&[Range::new(address, length)]) == 1).then(|| &memory.bytes()[..length])
}

/// Copies each of `ranges` by as few calls as can be, and hands over what was copied, in order; `None` for
/// each that cannot be read whole.
pub fn copy_each(
    memory: &mut (dyn ReadMemory + '_),
    ranges: &[Range],
    mut take: impl FnMut(Option<&[u8]>),
) {
    let mut rest = ranges;
    while !rest.is_empty() {
        let whole = memory.read_batch(rest);
        let mut bytes = memory.bytes();
        for range in &rest[..whole] {
            let (copied, others) = bytes.split_at(range.length);
            take(Some(copied));
            bytes = others;
        }
        rest = &rest[whole..];
        // The first may not fit behind others.
        if whole == 0 {
            take(None);
            rest = &rest[1..];
        }
    }
}

/// Copies one pointer-sized word.
pub fn read_word(memory: &mut (dyn ReadMemory + '_), address: usize) -> Option<usize> {
    read(memory, address, size_of::<usize>()).map(|bytes| word(bytes, 0))
}

/// The pointer-sized word at `offset`; 0 where `bytes` is too short.
#[must_use]
pub fn word(bytes: &[u8], offset: usize) -> usize {
    let end = offset.saturating_add(size_of::<usize>());
    bytes
        .get(offset..end)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, usize::from_ne_bytes)
}

/// The signed 32-bit number at `offset`; 0 where `bytes` is too short.
#[must_use]
pub fn int32(bytes: &[u8], offset: usize) -> i32 {
    bytes
        .get(offset..offset.saturating_add(4))
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::image::Image;
    use super::{Range, copy_each};

    #[test]
    fn each_range_is_copied_or_told_to_be_unreadable() {
        let mut image = Image::default();
        image.insert(0x1000, (0..64).collect());
        let ranges = [
            Range::new(0x9000, 8),
            Range::new(0x1002, 2),
            Range::new(0x1000, 100),
            Range::new(0x9000, 8),
            Range::new(0x1008, 1),
        ];
        let mut told = Vec::new();
        copy_each(&mut image, &ranges, |bytes| {
            told.push(bytes.map(<[u8]>::to_vec));
        });
        assert_eq!(told, [None, Some(vec![2, 3]), None, None, Some(vec![8])]);
    }
}
