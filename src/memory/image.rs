//! Recorded memory: an interpreter's state as it was once, for tests that need no interpreter.
//!
//! The format, little-endian: `rprofimg`, the runtime's address, the `PY_VERSION_HEX`, the address
//! of `PyCode_Type`, the number of pieces (64 bits each), and for each piece its address, its length
//! and its bytes. The rest is text. `tests/fixtures/record.py` writes it.
#![forbid(unsafe_code)]

use super::{Range, ReadMemory};

const MAGIC: &[u8; 8] = b"rprofimg";

/// Memory as recorded.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Address of `_PyRuntime`.
    pub runtime: usize,
    /// `PY_VERSION_HEX` of the recorded interpreter.
    pub version_hex: u32,
    /// Address of `PyCode_Type`.
    pub code_type: usize,
    /// What the recorded program says of itself.
    pub remarks: String,
    /// Pieces by address, without overlap.
    pieces: Vec<(usize, Vec<u8>)>,
    copied: Vec<u8>,
}

impl Image {
    /// Reads a recording; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut image = Self {
            runtime: number(&mut rest)?,
            version_hex: u32::try_from(number(&mut rest)?).ok()?,
            code_type: number(&mut rest)?,
            ..Self::default()
        };
        for _ in 0..number(&mut rest)? {
            let address = number(&mut rest)?;
            let length = number(&mut rest)?;
            let (piece, tail) = rest.split_at_checked(length)?;
            image.insert(address, piece.to_vec());
            rest = tail;
        }
        image.remarks = String::from_utf8(rest.to_vec()).ok()?;
        Some(image)
    }

    /// Puts `bytes` at `address`.
    pub fn insert(&mut self, address: usize, bytes: Vec<u8>) {
        let at = self.pieces.partition_point(|(start, _)| *start < address);
        self.pieces.insert(at, (address, bytes));
    }

    /// Takes a stretch out, as if it had been unmapped.
    pub fn remove(&mut self, range: Range) {
        let end = range.address.saturating_add(range.length);
        let mut left = Vec::with_capacity(self.pieces.len() + 1);
        for (start, mut bytes) in self.pieces.drain(..) {
            let last = start + bytes.len();
            if end < last {
                let tail = bytes.split_off(end.saturating_sub(start));
                let kept = end.max(start);
                bytes.truncate(range.address.saturating_sub(start));
                left.push((start, bytes));
                left.push((kept, tail));
            } else {
                bytes.truncate(range.address.saturating_sub(start));
                left.push((start, bytes));
            }
        }
        left.retain(|(_, bytes)| !bytes.is_empty());
        self.pieces = left;
    }

    /// What is recorded of a stretch; `None` unless all of it is.
    pub fn get_mut(&mut self, range: Range) -> Option<&mut [u8]> {
        let (piece, offset) = self.place(range)?;
        self.pieces[piece]
            .1
            .get_mut(offset..offset.checked_add(range.length)?)
    }

    /// The piece that a stretch begins in, or follows, and where in it that is.
    fn place(&self, range: Range) -> Option<(usize, usize)> {
        let after = self
            .pieces
            .partition_point(|(start, _)| *start <= range.address);
        let piece = after.checked_sub(1)?;
        Some((piece, range.address - self.pieces[piece].0))
    }

    fn find(&self, range: Range) -> Option<&[u8]> {
        let (piece, offset) = self.place(range)?;
        let (_, bytes) = &self.pieces[piece];
        bytes.get(offset..offset.checked_add(range.length)?)
    }
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (head, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    usize::try_from(u64::from_le_bytes(*head)).ok()
}

impl ReadMemory for Image {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        let mut copied = std::mem::take(&mut self.copied);
        copied.clear();
        let mut whole = 0;
        for range in ranges {
            match self.find(*range) {
                Some(bytes) if copied.len() + range.length <= self.capacity() => {
                    copied.extend_from_slice(bytes);
                }
                _ => break,
            }
            whole += 1;
        }
        self.copied = copied;
        whole
    }

    fn bytes(&self) -> &[u8] {
        &self.copied
    }

    fn capacity(&self) -> usize {
        1 << 20
    }

    fn name(&self) -> &'static str {
        "image"
    }
}

#[cfg(test)]
mod tests {
    use super::Image;
    use crate::memory::{Range, ReadMemory, read};

    fn recording() -> Vec<u8> {
        let mut bytes = b"rprofimg".to_vec();
        let numbers = [0x1000_u64, 0x030d_00f0, 0x2000, 2];
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        for (address, piece) in [(0x1000_u64, b"first"), (0x1005, b"after")] {
            bytes.extend([address, 5].iter().flat_map(|number| number.to_le_bytes()));
            bytes.extend(piece);
        }
        bytes.extend("thread\t1\n".bytes());
        bytes
    }

    #[test]
    fn a_recording_is_read_whole_or_not_at_all() {
        let bytes = recording();
        let mut image = Image::parse(&bytes).unwrap_or_default();
        assert_eq!((image.runtime, image.version_hex), (0x1000, 0x030d_00f0));
        assert_eq!((image.code_type, &*image.remarks), (0x2000, "thread\t1\n"));
        assert_eq!(read(&mut image, 0x1001, 3), Some(&b"irs"[..]));
        let end = bytes.len() - image.remarks.len();
        for length in 0..end {
            assert!(Image::parse(&bytes[..length]).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        let mut image = Image::default();
        image.insert(0x1000, (0..100).collect());
        for (address, length) in [(0xfff, 1), (0xfff, 2), (0x1000, 101), (0x1064, 1)] {
            assert_eq!(read(&mut image, address, length), None);
        }
        image.remove(Range::new(0x1010, 16));
        image.remove(Range::new(0x1060, usize::MAX));
        let readable: Vec<usize> = (0..120)
            .filter(|offset| read(&mut image, 0x1000 + offset, 1) == Some(&[*offset as u8][..]))
            .collect();
        assert!(readable.iter().copied().eq((0..16).chain(32..96)));
        assert!(image.get_mut(Range::new(0x1000, 17)).is_none());
        let ranges = [(0x1020, 4), (0x1000, 16), (0x1000, 17), (0x1000, 1)];
        let ranges = ranges.map(|(address, length)| Range::new(address, length));
        assert_eq!(image.read_batch(&ranges), 2);
    }
}
