//! Memory that nobody changes while the GIL is held.
#![allow(unsafe_code)]

use crate::memory::{Range, ReadMemory};

/// Copies what objects consist of that are alive while the GIL is held: nothing needs to be caught.
#[derive(Debug, Default)]
pub(super) struct OwnedByGil(Vec<u8>);

impl ReadMemory for OwnedByGil {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        self.0.clear();
        for range in ranges {
            // SAFETY: the engine reads with the GIL held, from its own thread states on along the
            // pointers of living objects of the layout that was tested when the first label was made.
            let bytes =
                unsafe { std::slice::from_raw_parts(range.address as *const u8, range.length) };
            self.0.extend_from_slice(bytes);
        }
        ranges.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn capacity(&self) -> usize {
        usize::MAX
    }

    fn name(&self) -> &'static str {
        "plain loads"
    }
}
