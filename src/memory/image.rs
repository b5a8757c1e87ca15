//! Recorded memory: an interpreter's state as it was once, for tests that need no interpreter.
//!
//! The format, little-endian: `rprofimg`, the runtime's address, the `PY_VERSION_HEX`, the number
//! of pieces (64 bits each), and for each piece its address, its length and its bytes.
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
    /// Pieces by address.
    pieces: Vec<(usize, Vec<u8>)>,
    copied: Vec<u8>,
}

impl Image {
    /// Reads a recording; `None` if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut number = || {
            let (head, tail) = rest.split_first_chunk::<8>()?;
            rest = tail;
            Some(u64::from_le_bytes(*head))
        };
        let runtime = usize::try_from(number()?).ok()?;
        let version_hex = u32::try_from(number()?).ok()?;
        let count = number()?;
        let mut image = Self {
            runtime,
            version_hex,
            ..Self::default()
        };
        for _ in 0..count {
            let mut number = || {
                let (head, tail) = rest.split_first_chunk::<8>()?;
                rest = tail;
                usize::try_from(u64::from_le_bytes(*head)).ok()
            };
            let address = number()?;
            let length = number()?;
            let (piece, tail) = rest.split_at_checked(length)?;
            image.insert(address, piece.to_vec());
            rest = tail;
        }
        Some(image)
    }

    /// Puts `bytes` at `address`.
    pub fn insert(&mut self, address: usize, bytes: Vec<u8>) {
        let at = self.pieces.partition_point(|(start, _)| *start < address);
        self.pieces.insert(at, (address, bytes));
    }

    fn find(&self, range: Range) -> Option<&[u8]> {
        let after = self
            .pieces
            .partition_point(|(start, _)| *start <= range.address);
        let (start, bytes) = self.pieces.get(after.checked_sub(1)?)?;
        let offset = range.address - start;
        bytes.get(offset..offset.checked_add(range.length)?)
    }
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
