//! Memory set aside, so that a process that has none left does not end by our doing.
//!
//! A Rust allocation that fails ends the process (`std::alloc::handle_alloc_error`), where Python
//! raises a `MemoryError` that programs live with. What the system refuses is therefore served from
//! regions that were mapped beforehand: lasting ones for the little things that our threads need
//! between two looks at [`take_shortage`], upon which they stop growing; and for what may need much
//! at once, one of its own for as long as that takes ([`Provision`]), which may be refused.
//!
//! A region knows where its free end is and how many blocks are in use. With the last of these it is
//! whole again. That is all there is to it, for it is used in need alone.
#![allow(unsafe_code)]

mod region;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use self::region::{Region, blocks, map, unmap};

/// Regions that are set aside for good: several, because a block that stays in use keeps all of its
/// region from being whole again.
const LASTING: usize = 4;
/// Bytes of each, the first that can be had of these; only what is used takes memory. A larger block
/// is never served from there: whatever grows that large asks whether it can (`try_reserve`).
const LASTING_BYTES: [usize; 3] = [4 << 20, 1 << 20, 256 << 10];
/// What must be to be had again before memory is no longer short.
const PROBE_BYTES: usize = 2 << 20;
/// Provisions at a time, and those of which something is still in use.
const PROVISIONS: usize = 7;

static SET_ASIDE: [Region; LASTING] = [const { Region::new() }; LASTING];
/// The mapping that they share.
static ALL_SET_ASIDE: Region = Region::new();
static PROVIDED: [Region; PROVISIONS] = [const { Region::new() }; PROVISIONS];
/// Regions of [`PROVIDED`] that are mapped: mostly none, and none need be looked at.
static PROVISIONS_OPEN: AtomicUsize = AtomicUsize::new(0);
static IS_SHORT: AtomicBool = AtomicBool::new(false);

/// What only the regions of provisions do: they count in [`PROVISIONS_OPEN`].
impl Region {
    /// Whether a provision may open it; an old one that nobody uses any more is closed.
    fn is_free(&self) -> bool {
        !self.is_held.load(Acquire) && (self.length.load(Acquire) == 0 || self.give_back())
    }

    /// As [`Self::open`], for a provision.
    fn provide(&self, bytes: usize) -> bool {
        // Before anybody can have a block of it.
        PROVISIONS_OPEN.fetch_add(1, AcqRel);
        let is_open = self.open(bytes);
        if !is_open {
            PROVISIONS_OPEN.fetch_sub(1, AcqRel);
        }
        // No block of it is in use yet, and nobody else may take it for that.
        self.is_held.store(is_open, Release);
        is_open
    }

    /// As [`Self::close`], for a provision.
    fn give_back(&self) -> bool {
        let is_closed = self.close();
        if is_closed {
            PROVISIONS_OPEN.fetch_sub(1, AcqRel);
        }
        is_closed
    }
}

/// Sets memory aside for good, if that was not done yet; false if there is none.
#[must_use]
pub fn set_aside() -> bool {
    static IS_BEING_SET: AtomicBool = AtomicBool::new(false);
    if ALL_SET_ASIDE.length.load(Acquire) != 0 || IS_BEING_SET.swap(true, AcqRel) {
        return true;
    }
    for bytes in LASTING_BYTES {
        if ALL_SET_ASIDE.open(LASTING * bytes) {
            let mut begin = ALL_SET_ASIDE.begin.load(Acquire);
            for region in &SET_ASIDE {
                region.cover(begin, bytes);
                begin += bytes;
            }
            return true;
        }
    }
    IS_BEING_SET.store(false, Release);
    false
}

/// Whether the system has refused memory since this was asked last.
#[must_use]
#[inline]
pub fn take_shortage() -> bool {
    IS_SHORT.load(Relaxed) && IS_SHORT.swap(false, AcqRel)
}

/// Whether the system has refused memory since [`take_shortage`].
#[must_use]
#[inline]
pub fn is_short() -> bool {
    IS_SHORT.load(Relaxed)
}

/// Whether something is in use in half of the regions set aside for good.
#[must_use]
pub fn is_low() -> bool {
    let is_used = |region: &&Region| blocks(region.state.load(Acquire)) > 0;
    SET_ASIDE.iter().filter(is_used).count() >= LASTING / 2
}

/// Whether the system has memory, and not for the least thing only. To be asked before what the standard
/// library takes from the system's allocator itself, past this one: a thread's handle, when one is
/// started and when one that was not started by it waits for the first time.
#[must_use]
pub fn is_there() -> bool {
    are_there(PROBE_BYTES)
}

/// Whether so many bytes could be had at the moment.
#[must_use]
pub fn are_there(bytes: usize) -> bool {
    let Ok(layout) = Layout::from_size_align(bytes.max(1), align_of::<usize>()) else {
        return false;
    };
    // SAFETY: the layout is not empty; the block is freed by whom it was made, with its layout.
    unsafe {
        // Of a block that nobody looks at the compiler would assume that it was to be had.
        let block = std::hint::black_box(System.alloc(layout));
        if !block.is_null() {
            System.dealloc(block, layout);
        }
        !block.is_null()
    }
}

/// Memory set aside for one task. What is still in use after that stays until it is freed.
#[derive(Debug)]
pub struct Provision(Option<&'static Region>);

static IS_PROVIDING: AtomicBool = AtomicBool::new(false);

impl Provision {
    /// Sets so many bytes aside; `None` if they are not to be had. Of many tasks at a time, the last
    /// only see that they could be had.
    #[must_use]
    pub fn of(bytes: usize) -> Option<Self> {
        // Whoever holds it maps something, unless a fork has left its thread behind.
        const MAX_TRIES: usize = 1_000;
        let bytes = bytes.checked_next_multiple_of(1 << 12)?;
        for _ in 0..MAX_TRIES {
            if !IS_PROVIDING.swap(true, AcqRel) {
                let free = PROVIDED.iter().find(|region| region.is_free());
                let provided = free.map(|region| region.provide(bytes).then_some(region));
                IS_PROVIDING.store(false, Release);
                return match provided {
                    Some(region) => region.map(|region| Self(Some(region))),
                    None => Self::seen(bytes),
                };
            }
            std::thread::yield_now();
        }
        Self::seen(bytes)
    }

    fn seen(bytes: usize) -> Option<Self> {
        unmap(map(bytes)?, bytes);
        Some(Self(None))
    }
}

impl Drop for Provision {
    fn drop(&mut self) {
        // If something is in use, whoever wants the place next tries again.
        if let Some(region) = self.0 {
            region.give_back();
            // Last: from now on it may be another's.
            region.is_held.store(false, Release);
        }
    }
}

/// The system's allocator, and in need what was set aside.
#[derive(Debug)]
pub struct Allocator;

impl Allocator {
    #[cold]
    #[inline(never)]
    fn allocate_in_need(layout: Layout) -> *mut u8 {
        for region in &PROVIDED {
            let block = region.allocate(layout);
            if !block.is_null() {
                return block;
            }
        }
        IS_SHORT.store(true, Release);
        let mut blocks = SET_ASIDE.iter().map(|region| region.allocate(layout));
        blocks
            .find(|block| !block.is_null())
            .unwrap_or(ptr::null_mut())
    }

    /// The region that a block belongs to; `None` if it is the system's.
    #[inline]
    fn region_of(block: *mut u8) -> Option<&'static Region> {
        let address = block as usize;
        if ALL_SET_ASIDE.contains(address) {
            return SET_ASIDE.iter().find(|region| region.contains(address));
        }
        if PROVISIONS_OPEN.load(Relaxed) == 0 {
            return None;
        }
        PROVIDED.iter().find(|region| region.contains(address))
    }
}

// SAFETY: blocks are the system's, or parts of a mapping that nobody else was given: a region's state
// changes by one atomic step. Nothing here panics or allocates.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() {
            return Self::allocate_in_need(layout);
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            return block;
        }
        let block = Self::allocate_in_need(layout);
        if !block.is_null() {
            // SAFETY: the block is this long; it may have been used before.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match Self::region_of(block) {
            // SAFETY: the caller's promises are passed on, and the block is the system's.
            None => unsafe { System.dealloc(block, layout) },
            Some(region) => region.free(block as usize, layout.size()),
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let region = Self::region_of(block);
        if region.is_none() {
            // SAFETY: the caller's promises are passed on, and the block is the system's.
            let moved = unsafe { System.realloc(block, layout, size) };
            if !moved.is_null() {
                return moved;
            }
        }
        if region.is_some_and(|region| region.resize(block as usize, layout.size(), size)) {
            return block;
        }
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else {
            return ptr::null_mut();
        };
        // SAFETY: `size` is not 0, as the caller promises; both blocks are as long as what is copied,
        // and the old one is not used any more.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::alloc::Layout;

    use super::{Allocator, Provision};

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap_or_else(|why| unreachable!("{why}"))
    }

    #[test]
    fn what_is_provided_outlives_the_task_as_long_as_it_is_used() {
        let (provision, region) = loop {
            // Other tests may have them all.
            let provision = Provision::of(1 << 20).unwrap_or_else(|| unreachable!());
            if let Some(region) = provision.0 {
                break (provision, region);
            }
            std::thread::yield_now();
        };
        let block = region.allocate(layout(100, 8));
        assert!(Allocator::region_of(block).is_some());
        drop(provision);
        assert!(region.contains(block as usize));
        region.free(block as usize, 100);
        assert!(Provision::of(usize::MAX >> 1).is_none());
    }

    #[test]
    fn nobody_is_given_what_another_has_not_used_yet() {
        let held = || Provision::of(1 << 16).unwrap_or_else(|| unreachable!());
        let provisions: Vec<_> = (0..super::PROVISIONS).map(|_| held()).collect();
        let regions: Vec<_> = provisions.iter().filter_map(|one| one.0).collect();
        for (at, region) in regions.iter().enumerate() {
            let others = regions[at + 1..].iter();
            assert!(
                !others
                    .into_iter()
                    .any(|other| std::ptr::eq(*other, *region))
            );
        }
    }

    #[test]
    fn any_number_of_tasks_is_served_at_a_time() {
        let all: Vec<_> = (0..3 * super::PROVISIONS)
            .map(|_| Provision::of(1 << 16))
            .collect();
        assert!(all.iter().all(Option::is_some));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        assert!(Provision::of(1 << 16).is_some());
                    }
                });
            }
        });
    }
}
