//! What is remembered of a thread from copy to copy.
#![forbid(unsafe_code)]

use crate::memory::Range;

/// Calls from C into Python that are remembered (3.11, 3.12).
const MAX_CFRAMES: usize = 4;
/// Frames outside the data stack at all: the kernel takes 1,024 ranges.
pub(super) const MAX_LONE_FRAMES: usize = 960;
/// Copies in a row after which a stack of 3.10 may begin with another frame than before. A generator
/// gets its caller when it is resumed and loses it when it is left (`gen_send_ex` of
/// Objects/genobject.c): a copy of that moment may show one that runs and has no caller.
const MIN_ROOTS: usize = 4;

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Addresses that lead to the newest frame (3.11, 3.12), those used last first: each call from C
    /// into Python has one of its own, on the C stack.
    pub(super) cframes: Vec<usize>,
    /// Chunks of the data stack, newest first: address, and bytes to copy.
    pub(super) chunks: Vec<Range>,
    /// Frames outside the data stack, each copied by itself; those used last come first.
    pub(super) lone_frames: Vec<usize>,
    /// The frame that the stack began with (3.10).
    root: usize,
    /// Another that it seemed to begin with, and in how many copies in a row.
    other_root: (usize, usize),
}

impl Hints {
    /// Whether the stack may begin with the frame at `address`.
    pub(super) fn takes_root(&mut self, address: usize) -> bool {
        let (other, copies) = self.other_root;
        self.other_root = match address {
            _ if address == self.root => (0, 0),
            _ if address == other => (other, copies + 1),
            _ => (address, 1),
        };
        if self.other_root.1 == MIN_ROOTS {
            self.root = address;
        }
        address == self.root
    }

    /// Whether the chunks to copy hold this stretch.
    pub(super) fn covers(&self, begin: usize, end: usize) -> bool {
        self.chunks
            .iter()
            .any(|chunk| begin >= chunk.address && end <= chunk.address + chunk.length)
    }

    /// Remembers an address that leads to the newest frame.
    pub(super) fn add_cframe(&mut self, address: usize) {
        self.cframes.insert(0, address);
        self.cframes.truncate(MAX_CFRAMES);
    }
}

#[cfg(test)]
mod tests {
    use super::{Hints, MIN_ROOTS};

    #[test]
    fn a_stack_begins_with_another_frame_when_it_has_done_so_several_times_in_a_row() {
        let mut hints = Hints::default();
        let (root, generator) = (0x1000, 0x2000);
        for copy in 1..=MIN_ROOTS {
            assert_eq!(hints.takes_root(root), copy == MIN_ROOTS);
        }
        // Now and then a copy shows another, and is not believed.
        for _ in 0..10 {
            for _ in 1..MIN_ROOTS {
                assert!(!hints.takes_root(generator));
            }
            assert!(hints.takes_root(root));
        }
        for copy in 1..=MIN_ROOTS {
            assert_eq!(hints.takes_root(generator), copy == MIN_ROOTS);
        }
    }
}
