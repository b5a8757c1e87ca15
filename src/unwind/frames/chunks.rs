//! Chunks of the data stack: which there are, and how much of each is copied.
#![forbid(unsafe_code)]

use super::hints::Hints;
use crate::layout::CHUNK;
use crate::memory::{Range, ReadMemory, read, word};

/// Bytes of data stack copied of one thread, newest first: [`super::MAX_FRAMES`] of an ordinary size.
pub(super) const MAX_STACK_BYTES: usize = 512 << 10;
/// No data stack is larger (`_PyThreadState_PushFrame` doubles 16 KiB as needed).
pub(super) const MAX_CHUNK: usize = 64 << 20;
/// Copied beyond the newest known frame, for the calls made meanwhile.
pub(super) const SLACK: usize = 512;
/// When more than this is copied in vain, less is copied.
pub(super) const MAX_SLACK: usize = 2_048;

/// Remembers the newest chunk and that it is used up to `used` bytes; older ones stay. Of a stack
/// that is moving, calls are faster than copies: there all of the chunk is copied from now on.
pub(super) fn learn_chunk(
    memory: &mut (dyn ReadMemory + '_),
    address: usize,
    used: usize,
    is_moving: bool,
    hints: &mut Hints,
) {
    let Some(header) = read(memory, address, CHUNK.data) else {
        hints.chunks.clear();
        return;
    };
    let previous = word(header, CHUNK.previous);
    let size = word(header, CHUNK.size);
    if !(CHUNK.data..=MAX_CHUNK).contains(&size) {
        hints.chunks.clear();
        return;
    }
    // The newest frame may be elsewhere (a generator's): then half of an ordinary chunk it is.
    let used = if used < size { used } else { size / 2 };
    let wanted = if is_moving {
        size
    } else {
        used + SLACK + SLACK / 2
    };
    let length = wanted.min(size).min(MAX_STACK_BYTES);
    match hints
        .chunks
        .iter()
        .position(|known| known.address == address)
    {
        Some(at) => {
            hints.chunks.drain(..at);
            hints.chunks[0].length = length;
        }
        None => {
            // A list with a gap would never be filled.
            if hints.chunks.first().map(|known| known.address) != Some(previous) {
                hints.chunks.clear();
            }
            hints.chunks.insert(0, Range::new(address, length));
            let mut total = 0;
            hints.chunks.retain(|chunk| {
                total += chunk.length;
                total <= MAX_STACK_BYTES
            });
        }
    }
}

/// Copies a known chunk up to `end`, if that is where `address` is.
pub(super) fn lengthen_chunk(
    memory: &mut (dyn ReadMemory + '_),
    address: usize,
    end: usize,
    hints: &mut Hints,
) -> bool {
    for chunk in &mut hints.chunks {
        let Some(header) = read(memory, chunk.address, CHUNK.data) else {
            continue;
        };
        let size = word(header, CHUNK.size);
        if address > chunk.address && end <= chunk.address.saturating_add(size) {
            let used = end - chunk.address;
            chunk.length = (used + SLACK).min(size).min(MAX_STACK_BYTES).max(used);
            return true;
        }
    }
    false
}

/// Adds the chunks before the oldest known one, as many as are copied at most; whether `address`
/// is in one of them.
pub(super) fn grow_chunks(
    memory: &mut (dyn ReadMemory + '_),
    address: usize,
    hints: &mut Hints,
) -> bool {
    let Some(oldest) = hints.chunks.last() else {
        return false;
    };
    let mut chunk = oldest.address;
    let mut total: usize = hints.chunks.iter().map(|chunk| chunk.length).sum();
    let mut is_found = false;
    loop {
        let previous =
            read(memory, chunk, CHUNK.data).map_or(0, |header| word(header, CHUNK.previous));
        if previous == 0 {
            return is_found;
        }
        let size = read(memory, previous, CHUNK.data).map_or(0, |header| word(header, CHUNK.size));
        total += size;
        if !(CHUNK.data..=MAX_CHUNK).contains(&size) || total > MAX_STACK_BYTES {
            return is_found;
        }
        hints.chunks.push(Range::new(previous, size));
        is_found |= (previous..previous + size).contains(&address);
        chunk = previous;
    }
}
