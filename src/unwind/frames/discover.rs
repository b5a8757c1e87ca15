//! What a walk needs and has not got: followed frame by frame, and remembered for the next copy.
#![forbid(unsafe_code)]

use super::chunks::{MAX_SLACK, SLACK, grow_chunks, lengthen_chunk};
use super::hints::{Hints, MAX_LONE_FRAMES};
use super::{MAX_FRAMES, Walker};
use crate::layout::{Layout, OWNED_BY_THREAD};
use crate::memory::{ReadMemory, read, word};

/// Known frames in a row after which the rest of a stack counts as known.
const MAX_KNOWN: usize = 16;
/// Frames outside the data stack that are remembered beyond those in use.
const MAX_UNUSED: usize = 16;

impl Walker {
    /// Follows frames one by one from `address`, and remembers those that were not copied. Stops
    /// when a long stretch was known: the rest then is, most likely.
    pub(super) fn discover(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        address: usize,
        hints: &mut Hints,
    ) {
        let mut address = address;
        let mut cursor = 0;
        let mut known = 0;
        let mut found = Vec::new();
        for _ in 0..MAX_FRAMES {
            if address == 0 || found.len() == MAX_LONE_FRAMES || known == MAX_KNOWN {
                break;
            }
            let Some(bytes) = read(memory, address, layout.frame.size) else {
                break;
            };
            let owner = bytes[layout.frame.owner];
            let next = word(bytes, layout.frame.previous);
            if self
                .copy
                .find_from(&mut cursor, address, layout.frame.size)
                .is_some()
            {
                known += 1;
            } else if owner == OWNED_BY_THREAD && !layout.has_heap_frames() {
                // On the data stack, but beyond what was copied, or in an older chunk.
                let end = address + layout.frame.size;
                if hints.covers(address, end) {
                    known += 1;
                } else if !lengthen_chunk(memory, address, end, hints)
                    && !grow_chunks(memory, address, hints)
                {
                    break;
                }
            } else if found.contains(&address) {
                break;
            } else {
                known = 0;
                found.push(address);
            }
            address = next;
        }
        hints.lone_frames.splice(0..0, found);
        hints.lone_frames.truncate(MAX_LONE_FRAMES);
    }

    /// Puts the frames in use first, forgets what was not used for long, and copies less of a data
    /// stack that has shrunk.
    pub(super) fn remember(&mut self, layout: &Layout, hints: &mut Hints) {
        if let Some(chunk) = hints.chunks.first_mut() {
            let end = chunk.address + chunk.length;
            let in_chunk = |address: &&usize| (chunk.address..end).contains(*address);
            if let Some(newest) = self.chain.iter().find(in_chunk) {
                let used = newest + layout.frame.size - chunk.address;
                if used + MAX_SLACK < chunk.length {
                    chunk.length = used + SLACK;
                }
            }
        }
        if self.used.len() == hints.lone_frames.len() {
            return;
        }
        let (used, sorted) = (&self.used, &mut self.sorted);
        sorted.clone_from(used);
        sorted.sort_unstable();
        hints
            .lone_frames
            .retain(|frame| sorted.binary_search(frame).is_err());
        hints.lone_frames.truncate(MAX_UNUSED);
        hints.lone_frames.splice(0..0, used.iter().copied());
        hints.lone_frames.truncate(MAX_LONE_FRAMES);
    }
}
