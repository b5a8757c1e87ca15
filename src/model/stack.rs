//! Depth limits: a stack keeps its root and its leaf side, the middle is elided.

use super::snapshot::Frame;

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
