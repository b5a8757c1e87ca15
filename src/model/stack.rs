//! A stack and its frames. A deep one keeps its root and its leaf side, the middle is elided.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use super::function::Function;

/// A function as whoever reads stacks knows it. No number is used twice in a process, so it cannot
/// name another function later, nor another reader's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FunctionSerial(pub u64);

impl FunctionSerial {
    /// Numbers that no function is ever given: they are of pseudo-frames, in any table.
    pub const GC: Self = Self(u64::MAX);
    /// See [`Self::GC`].
    pub const GATHER: Self = Self(u64::MAX - 1);
    /// See [`Self::GC`].
    pub const SHIELD: Self = Self(u64::MAX - 2);
    /// See [`Self::GC`].
    pub const IDLE: Self = Self(u64::MAX - 3);

    /// A number that was never used before.
    #[must_use]
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What the serials in stacks mean.
pub type FunctionTable = FxHashMap<FunctionSerial, Arc<Function>>;

/// One frame of a stack: a function and the line it was at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The function: the table that comes with the stack says which it is.
    pub function: FunctionSerial,
    /// 1-based line; 0 when unknown.
    pub line: u32,
}

/// How a stack that is deeper than a recording's limit is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elision {
    /// Frames kept at the leaf side.
    pub leaf: usize,
    /// Frames left out.
    pub omitted: usize,
}

/// Where to cut a stack of `depth` frames so that at most `max_depth` remain; `None` if it fits.
///
/// The number left out grows in steps of half the limit. Were it exact, a recursion of varying
/// depth would make a new branch below every distinct `<N frames omitted>` and fill the tree.
#[must_use]
pub fn elide(depth: usize, max_depth: usize) -> Option<Elision> {
    if depth <= max_depth {
        return None;
    }
    let step = (max_depth / 2).max(1);
    let omitted = (depth - max_depth).div_ceil(step) * step;
    let kept = depth - omitted;
    let root = (max_depth / 4).min(kept);
    Some(Elision {
        leaf: kept - root,
        omitted,
    })
}

/// The name of the pseudo-frame that stands for `omitted` frames.
#[must_use]
pub fn omitted_name(omitted: usize) -> String {
    format!("<{omitted} frames omitted>")
}

/// The frames of one thread, leaf first, and whether the walk reached the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// Leaf first.
    pub frames: Vec<Frame>,
    /// The root side could not be read: what is here hangs below `<incomplete>`.
    pub incomplete: bool,
}
