//! Which addresses may be those of sampled blocks, for whoever frees one: a load and a test, without a
//! lock.
//!
//! A bit says that there is a sample among the addresses that share it; how many there are is known to
//! who has the table locked, so that the bit goes with the last of them.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::Release};

const BITS: usize = 512 << 10;

static FILTER: [AtomicU64; BITS / 64] = [const { AtomicU64::new(0) }; BITS / 64];
/// Samples by bit; 255 are as many as cannot be told any more, and the bit stays.
static COUNTS: [AtomicU8; BITS] = [const { AtomicU8::new(0) }; BITS];

#[inline(always)]
fn bit_of(address: usize) -> usize {
    // Blocks are aligned to 16 bytes. One multiplication has to do: whoever frees a block waits for it.
    ((address as u64 >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - BITS.ilog2())) as usize
}

/// Whether there may be a sample at this address.
#[must_use]
#[inline(always)]
pub fn may_have(address: usize) -> bool {
    let bit = bit_of(address);
    FILTER[bit / 64].load(Relaxed) & 1 << (bit % 64) != 0
}

/// Notes a sample. By who has the table locked, before anybody else has the address.
pub fn add(address: usize) {
    let bit = bit_of(address);
    let count = COUNTS[bit].load(Relaxed);
    COUNTS[bit].store(count.saturating_add(1), Relaxed);
    FILTER[bit / 64].fetch_or(1 << (bit % 64), Release);
}

/// Forgets a sample. By who has the table locked.
pub fn remove(address: usize) {
    let bit = bit_of(address);
    let count = COUNTS[bit].load(Relaxed);
    if count == u8::MAX {
        return;
    }
    COUNTS[bit].store(count.saturating_sub(1), Relaxed);
    if count <= 1 {
        FILTER[bit / 64].fetch_and(!(1 << (bit % 64)), Release);
    }
}
