//! A mapping that knows where its free end is and how many blocks of it are in use.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

/// A region's state beyond which it is full: no region is that large.
const CLOSED: u64 = u32::MAX as u64;

/// A mapping from which blocks are cut.
pub(super) struct Region {
    pub(super) begin: AtomicUsize,
    /// 0 while there is no mapping.
    pub(super) length: AtomicUsize,
    /// The number of blocks in use (upper half) and the offset of the free end, or [`CLOSED`].
    pub(super) state: AtomicU64,
    /// Whether the provision for which it was opened still lasts.
    pub(super) is_held: AtomicBool,
}

impl Region {
    pub(super) const fn new() -> Self {
        Self {
            begin: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            state: AtomicU64::new(CLOSED),
            is_held: AtomicBool::new(false),
        }
    }

    /// Maps it; false if there is no memory for that. One thread at a time.
    pub(super) fn open(&self, bytes: usize) -> bool {
        if bytes >= CLOSED as usize {
            return false;
        }
        let Some(begin) = map(bytes) else {
            return false;
        };
        self.cover(begin, bytes);
        true
    }

    pub(super) fn cover(&self, begin: usize, bytes: usize) {
        self.begin.store(begin, Relaxed);
        self.length.store(bytes, Release);
        self.state.store(0, Release);
    }

    /// Unmaps it, if nothing of it is in use.
    pub(super) fn close(&self) -> bool {
        let closing = |state: u64| (blocks(state) == 0 && end(state) != CLOSED).then_some(CLOSED);
        if self.state.fetch_update(AcqRel, Acquire, closing).is_err() {
            return false;
        }
        // Nobody has a block of it, and nobody gets one any more. Its length goes first: before the
        // mapping does and the system's allocator uses the same addresses, and last of all what has
        // another open this region.
        let begin = self.begin.load(Acquire);
        unmap(begin, self.length.swap(0, AcqRel));
        true
    }

    #[inline]
    pub(super) fn contains(&self, address: usize) -> bool {
        let length = self.length.load(Relaxed);
        length != 0 && address.wrapping_sub(self.begin.load(Relaxed)) < length
    }

    pub(super) fn allocate(&self, layout: Layout) -> *mut u8 {
        let mut found = 0;
        let taken = self.state.fetch_update(AcqRel, Acquire, |state| {
            if end(state) == CLOSED {
                return None;
            }
            let begin = self.begin.load(Acquire);
            let place = begin.checked_add(end(state) as usize)?;
            found = place.checked_next_multiple_of(layout.align())?;
            // Empty blocks have addresses of their own as well.
            let after = (found - begin).checked_add(layout.size().max(1))?;
            (after <= self.length.load(Acquire)).then(|| pack(blocks(state) + 1, after as u64))
        });
        taken.map_or(ptr::null_mut(), |_| found as *mut u8)
    }

    pub(super) fn free(&self, address: usize, size: usize) {
        let begin = self.begin.load(Acquire);
        let place = (address - begin) as u64;
        // Cannot fail: the closure always has an answer.
        let _: Result<u64, u64> = self.state.fetch_update(AcqRel, Acquire, |state| {
            let left = blocks(state) - 1;
            let is_last = place + size.max(1) as u64 == end(state);
            Some(match left {
                0 => 0,
                _ if is_last => pack(left, place),
                _ => pack(left, end(state)),
            })
        });
    }

    /// Makes the last block longer or shorter; false if it is not the last, or there is no room.
    pub(super) fn resize(&self, address: usize, size: usize, wanted: usize) -> bool {
        let begin = self.begin.load(Acquire);
        let place = (address - begin) as u64;
        let resized = self.state.fetch_update(AcqRel, Acquire, |state| {
            let is_last = place + size.max(1) as u64 == end(state);
            let after = place.checked_add(wanted.max(1) as u64)?;
            (is_last && after <= self.length.load(Acquire) as u64)
                .then(|| pack(blocks(state), after))
        });
        resized.is_ok()
    }
}

impl std::fmt::Debug for Region {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Region").finish_non_exhaustive()
    }
}

pub(super) fn blocks(state: u64) -> u64 {
    state >> 32
}

fn end(state: u64) -> u64 {
    state & u64::from(u32::MAX)
}

fn pack(blocks: u64, end: u64) -> u64 {
    blocks << 32 | end
}

#[cfg(unix)]
pub(super) fn map(bytes: usize) -> Option<usize> {
    // SAFETY: a new private mapping at an address that the kernel chooses.
    let place = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    (place != libc::MAP_FAILED).then_some(place as usize)
}

#[cfg(unix)]
pub(super) fn unmap(begin: usize, length: usize) {
    // SAFETY: the mapping was made by `map`, and nobody uses it any more.
    unsafe { libc::munmap(begin as *mut libc::c_void, length) };
}

/// Nothing is set aside on this system.
#[cfg(not(unix))]
pub(super) fn map(_bytes: usize) -> Option<usize> {
    None
}

#[cfg(not(unix))]
pub(super) fn unmap(_begin: usize, _length: usize) {}

#[cfg(all(test, unix))]
mod tests {
    use std::alloc::Layout;
    use std::sync::atomic::Ordering::Relaxed;

    use super::{Region, blocks, end};

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap_or_else(|why| unreachable!("{why}"))
    }

    #[test]
    fn a_region_is_whole_again_with_its_last_block() {
        let region = Region::new();
        assert!(region.allocate(layout(1, 1)).is_null());
        assert!(region.open(1 << 16));
        let first = region.allocate(layout(3, 1)) as usize;
        let second = region.allocate(layout(100, 64)) as usize;
        assert!(region.contains(first) && region.contains(second) && second.is_multiple_of(64));
        assert!(!region.close());
        // Only the last one can grow where it is, and as far as there is room.
        assert!(!region.resize(first, 3, 4));
        assert!(region.resize(second, 100, 1_000));
        assert!(!region.resize(second, 1_000, 1 << 16));
        assert!(region.allocate(layout(1 << 16, 1)).is_null());
        let third = region.allocate(layout(8, 8)) as usize;
        region.free(third, 8);
        assert_eq!(region.allocate(layout(8, 8)) as usize, third);
        region.free(first, 3);
        region.free(third, 8);
        assert_eq!(blocks(region.state.load(Relaxed)), 1);
        region.free(second, 1_000);
        assert_eq!(end(region.state.load(Relaxed)), 0);
        let whole = region.allocate(layout(1 << 16, 1)) as usize;
        assert!(region.contains(whole));
        region.free(whole, 1 << 16);
        assert!(region.close() && !region.contains(whole));
        assert!(region.allocate(layout(1, 1)).is_null());
    }

    #[test]
    fn threads_never_get_the_same_block() {
        let region = Region::new();
        // More than all that is ever asked for: with several threads it is seldom whole.
        assert!(region.open(32 << 20));
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                let region = &region;
                scope.spawn(move || {
                    for round in 0..20_000_usize {
                        let size = 1 + round % 200;
                        let block = region.allocate(layout(size, 8));
                        assert!(!block.is_null());
                        // SAFETY: the block is this long and ours until it is freed.
                        unsafe {
                            block.write_bytes(mark, size);
                            let seen = std::slice::from_raw_parts(block, size);
                            assert!(seen.iter().all(|byte| *byte == mark));
                        }
                        region.free(block as usize, size);
                    }
                });
            }
        });
        assert!(region.close());
    }
}
