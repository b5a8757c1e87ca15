//! What has to hold for the hooks is tried out when they are installed.
#![allow(unsafe_code)]

use std::ffi::c_void;

use super::allocators::{
    Access, Allocator, GENERATION, GENERATIONS, MEM, OBJ, RAW, current, make_current,
};
use super::hooks::{LARGE, Seen, THREAD, in_front_of};
use crate::clock::cpu::monotonic_ns;
use crate::heap::filter;

/// Puts the next generation of functions in place; the GIL is held.
///
/// # Errors
/// When there is no other generation, or the allocators are not as they should be.
pub(super) fn install(access: Access) -> Result<(), String> {
    let number = current().map_or(0, |number| number + 1);
    if number >= GENERATIONS {
        return Err(format!(
            "another allocator hook has taken the place of ours {GENERATIONS} times"
        ));
    }
    let generation = &GENERATION[number];
    let originals = [RAW, MEM, OBJ].map(|domain| access.get(domain));
    for (saved, original) in generation.originals.iter().zip(&originals) {
        saved.save(original);
    }
    // RAW first: the others are tried out with it.
    access.set(RAW, in_front_of(&originals[RAW], RAW, number, true));
    let asks_for_large = arrives_whole(&originals[MEM]) && arrives_whole(&originals[OBJ]);
    let limit = largest_small(&originals[OBJ]).min(largest_small(&originals[MEM]));
    generation.decide(limit, asks_for_large && limit < LARGE);
    if let Some(before) = current() {
        GENERATION[before].count.stop();
    }
    make_current(number);
    for domain in [MEM, OBJ] {
        let hooks = in_front_of(
            &originals[domain],
            domain,
            number,
            !generation.asks_for_large(),
        );
        access.set(domain, hooks);
    }
    Ok(())
}

/// Whether what is allocated is counted: the hooks are still called. The GIL is held.
pub(super) fn is_in_place(access: Access) -> bool {
    let Some(number) = current() else {
        return false;
    };
    let count = &GENERATION[number].count;
    [MEM, OBJ].iter().all(|domain| {
        let allocator = access.get(*domain);
        let before = count.left();
        // SAFETY: the allocator is the one in use, the GIL is held, and what it gives goes back to it.
        unsafe {
            let block = (allocator.malloc)(allocator.context, 1);
            (allocator.free)(allocator.context, block);
        }
        count.left() != before
    }) && {
        let allocator = access.get(RAW);
        // SAFETY: as above.
        let block = unsafe { (allocator.malloc)(allocator.context, 1) };
        let seen = trying(
            || {
                // SAFETY: as above.
                unsafe { (allocator.free)(allocator.context, block) };
            },
            block,
        );
        seen.old == block as usize
    }
}

/// What RAW is asked for by `work`, with `marked` as if it were sampled.
fn trying(work: impl FnOnce(), marked: *mut c_void) -> Seen {
    mark(marked, filter::add);
    let left = THREAD.with(|own| {
        own.seen.set(Seen::default());
        own.is_trying.set(true);
        let left = own.count.pause();
        own.count.go_on(-1);
        left
    });
    work();
    let seen = THREAD.with(|own| {
        own.count.go_on(left);
        own.is_trying.set(false);
        own.seen.get()
    });
    mark(marked, filter::remove);
    seen
}

/// Notes a block in the filter, or forgets it: with the tables locked.
fn mark(block: *mut c_void, note: fn(usize)) {
    if !block.is_null()
        && let Some(_heap) = crate::heap::lock()
    {
        note(block as usize);
    }
}

/// Whether a large block is the very one that RAW gives, and RAW hears of its change and its end.
fn arrives_whole(original: &Allocator) -> bool {
    let none = std::ptr::null_mut();
    let context = original.context;
    let mut block = none;
    let work = || {
        // SAFETY: the function is the allocator's, and the GIL is held.
        block = unsafe { (original.malloc)(context, LARGE) };
    };
    let seen = trying(work, none);
    let mut is_whole = !block.is_null() && seen.new == block as usize;
    let old = block;
    let work = || {
        // SAFETY: as above; the block is this allocator's, and stays as it is should this fail.
        block = unsafe { (original.realloc)(context, old, 100) };
    };
    let seen = trying(work, old);
    is_whole &= !block.is_null() && seen.old == old as usize;
    if block.is_null() {
        block = old;
    }
    let work = || {
        // SAFETY: as above, and nobody uses the block any more.
        unsafe { (original.free)(context, block) };
    };
    is_whole &= trying(work, block).old == block as usize;
    let work = || {
        // SAFETY: as above.
        block = unsafe { (original.calloc)(context, 1, LARGE) };
    };
    let seen = trying(work, none);
    is_whole &= !block.is_null() && seen.new == block as usize;
    // SAFETY: as above.
    unsafe { (original.free)(context, block) };
    is_whole
}

/// The largest block of which RAW does not hear; `usize::MAX` where it hears of none.
fn largest_small(original: &Allocator) -> usize {
    let arrives = |bytes: usize| {
        let mut block = std::ptr::null_mut();
        let work = || {
            // SAFETY: the function is the allocator's, and the GIL is held.
            block = unsafe { (original.malloc)(original.context, bytes) };
        };
        let seen = trying(work, std::ptr::null_mut());
        // SAFETY: as above; nobody uses the block.
        unsafe { (original.free)(original.context, block) };
        seen.new != 0
    };
    if !arrives(LARGE) {
        return usize::MAX;
    }
    let (mut small, mut large) = (0, LARGE);
    while large - small > 1 {
        let middle = (small + large) / 2;
        if arrives(middle) {
            large = middle;
        } else {
            small = middle;
        }
    }
    small
}

/// Begins to count.
pub(super) fn start_counting() {
    if let Some(number) = current() {
        GENERATION[number].count.start(monotonic_ns());
    }
}

/// Whether nobody has hooked over us: then what is allocated is counted. Needs no GIL.
pub(super) fn is_on_top(access: Access) -> bool {
    current().is_some_and(|number| {
        [RAW, MEM, OBJ].iter().all(|domain| {
            let there = access.get(*domain);
            let ours = in_front_of(&there, *domain, number, false);
            std::ptr::fn_addr_eq(there.malloc, ours.malloc)
        })
    })
}
