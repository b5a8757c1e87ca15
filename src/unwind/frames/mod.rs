//! One thread's frames, copied in one go while the thread runs.
//!
//! All that a stack consists of is copied by one call, from the thread state over the frames to
//! the thread state again (`copy.rs`), and walked afterwards (`walk.rs`). What lies outside the data
//! stack (entry frames on the C stack, frames of generators, 3.10's heap frames) is remembered from
//! the last time (`hints.rs`); if the walk needs more, that is found (`discover.rs`, `chunks.rs`) and
//! everything is copied again.
#![forbid(unsafe_code)]

mod chunks;
mod copy;
mod discover;
mod hints;
mod walk;

pub use hints::Hints;

use self::chunks::learn_chunk;
use self::copy::ThreadCopy;
use crate::layout::{FramePlace, Layout};
use crate::memory::own::Lasting;
use crate::memory::{ReadMemory, int32, word};

/// Frames walked of one stack; a deeper one is cut at its root side.
pub const MAX_FRAMES: usize = 4_096;
/// Copies until a stack is given up. A new stack takes two or three to become known, and a new
/// generator one.
const MAX_ROUNDS: usize = 80;
/// Copies that may show a contradiction before the stack counts as incomplete. Generators that do
/// next to nothing are entered and left several times while one copy is made, and so are recursions
/// as deep as a copy of hundreds of heap frames takes (3.10). On 3.11 and 3.12 each call from C moves
/// the frame that leads to the newest.
const MAX_TORN: usize = 48;
/// Newest frames that may have changed while a stack was copied and are left out; were it more, the
/// copy shows a contradiction.
const MAX_CHANGED: usize = 3;

const WORD: usize = size_of::<usize>();

/// Copies of which the newest frames may have changed under way before they are left out. On 3.11 and
/// 3.12 another try may have to find the thread's frames once more, see [`MAX_TORN`].
fn max_unsteady(layout: &Layout) -> usize {
    usize::from(!matches!(layout.thread.frame, FramePlace::CFrame(..)))
}

/// What stands for the number of the last instruction of a frame that has executed none yet (3.10), as
/// where a signal or a pending call comes at the begin of a function.
pub const NOT_BEGUN: usize = usize::MAX;

/// A frame as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// Address of the code object.
    pub code: usize,
    /// The last instruction's number (3.10), or its address.
    pub instruction: usize,
    /// Where the frame is.
    pub address: usize,
}

/// What stands in a stack where no frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// Tasks are awaited by `asyncio.gather`.
    Gather = 1,
    /// A task is awaited by `asyncio.shield`.
    Shield = 2,
}

impl RawFrame {
    /// What stands for no frame: its code is at an address that no object has.
    #[must_use]
    pub fn pseudo(pseudo: Pseudo) -> Self {
        Self {
            code: pseudo as usize,
            instruction: 0,
            address: 0,
        }
    }

    /// What it stands for, if it is none.
    #[must_use]
    pub fn as_pseudo(&self) -> Option<Pseudo> {
        [Pseudo::Gather, Pseudo::Shield]
            .into_iter()
            .find(|pseudo| *pseudo as usize == self.code)
    }
}

/// Why a stack could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The thread is gone, or another is in its place.
    Gone,
    /// The copies contradicted themselves.
    Torn,
}

/// A thread to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its thread state.
    pub address: usize,
    /// Its interpreter.
    pub interpreter: usize,
    /// Its ident, which tells it from another in the same place.
    pub ident: usize,
    /// Its interpreter's GIL, or 0.
    pub gil: usize,
    /// Memory that need not be copied by the kernel.
    pub lasting: Lasting,
}

impl Target {
    /// Whether the interpreter collects garbage, and who holds the GIL, or 0; `None` where the words
    /// that tell are not in lasting memory.
    #[must_use]
    pub fn look_at_gil(&self, layout: &Layout) -> Option<(bool, usize)> {
        let word = |address: usize, offset: usize| self.lasting.word(address.checked_add(offset)?);
        let is_one = |address, offset| Some(int32(&word(address, offset)?.to_ne_bytes(), 0) == 1);
        let is_collecting = is_one(self.interpreter, layout.interpreter.collecting)?;
        if self.gil == 0 {
            return Some((is_collecting, 0));
        }
        let is_locked = is_one(self.gil, layout.gil.locked)?;
        let holder = word(self.gil, layout.gil.holder)?;
        Some((is_collecting, if is_locked { holder } else { 0 }))
    }

    /// Whether a copy of the thread state shows this thread.
    fn is_shown_by(&self, bytes: &[u8], layout: &Layout) -> bool {
        word(bytes, layout.thread.interpreter) == self.interpreter
            && word(bytes, layout.thread.ident) == self.ident
    }
}

/// What a walk found besides the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalkResult {
    /// The root side was cut.
    pub is_cut: bool,
    /// The thread holds the GIL.
    pub holds_gil: bool,
    /// Some thread holds it.
    pub is_gil_held: bool,
    /// The interpreter collects garbage.
    pub is_collecting: bool,
}

/// Why a copy does not do.
#[derive(Clone, Copy, Debug)]
enum Flaw {
    /// A frame lies outside of what was copied, at this address.
    MissingFrame(usize),
    /// The newest chunk is this one, and is used up to this many bytes.
    UnknownChunk(usize, usize),
    /// The newest frame is behind this `_PyCFrame`.
    UnknownCFrame(usize),
    /// It contradicts itself.
    Torn,
}

/// Copies and walks; its buffers are used for every thread.
#[derive(Debug, Default)]
pub struct Walker {
    copy: ThreadCopy,
    /// The frames outside the data stack that this walk has used.
    used: Vec<usize>,
    /// The same in order of their addresses, as a buffer.
    sorted: Vec<usize>,
    /// Addresses of all frames of this walk, entries included.
    chain: Vec<usize>,
}

impl Walker {
    /// Replaces `frames` by those of a thread, leaf first.
    ///
    /// # Errors
    /// When the thread is gone or its stack cannot be had whole.
    pub fn walk(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        target: &Target,
        hints: &mut Hints,
        frames: &mut Vec<RawFrame>,
    ) -> Result<WalkResult, Failure> {
        let mut torn = 0;
        let mut unsteady = 0;
        let mut is_moving = false;
        for _ in 0..MAX_ROUNDS {
            self.copy.take(memory, layout, target, is_moving, hints)?;
            let bytes = memory.bytes();
            if !target.is_shown_by(bytes, layout) {
                return Err(Failure::Gone);
            }
            match self.read(bytes, layout, hints, frames) {
                Ok((is_cut, changed)) => {
                    if !is_cut && !self.begins_as_before(layout, hints) {
                        continue;
                    }
                    if changed > 0 && unsteady < max_unsteady(layout) {
                        unsteady += 1;
                        continue;
                    }
                    // Of the newest frames that may have changed, the caller is right.
                    frames.drain(..changed.min(frames.len().saturating_sub(1)));
                    self.remember(layout, hints);
                    return Ok(self.result(bytes, layout, target, is_cut));
                }
                Err(Flaw::MissingFrame(address)) => self.discover(memory, layout, address, hints),
                Err(Flaw::UnknownChunk(address, used)) => {
                    learn_chunk(memory, address, used, is_moving, hints);
                    is_moving = true;
                }
                Err(Flaw::UnknownCFrame(address)) => hints.add_cframe(address),
                Err(Flaw::Torn) => {
                    is_moving = true;
                    torn += 1;
                    if torn == MAX_TORN {
                        return Err(Failure::Torn);
                    }
                }
            }
        }
        Err(Failure::Torn)
    }

    /// Whether the last stack had frames outside the data stack: generators, or any frame (3.10).
    #[must_use]
    pub fn has_left_stack(&self) -> bool {
        !self.used.is_empty()
    }

    /// Reads the frames out of a copy; whether the root side was cut, and how many of the newest may
    /// have changed under way.
    fn read(
        &mut self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
        frames: &mut Vec<RawFrame>,
    ) -> Result<(bool, usize), Flaw> {
        let is_cut = self.frames_of(bytes, layout, hints, frames)?;
        let changed = self.changed(bytes, layout, frames);
        if changed > MAX_CHANGED {
            return Err(Flaw::Torn);
        }
        Ok((is_cut, changed))
    }

    /// Whether a stack of 3.10 begins with a frame that it may begin with.
    fn begins_as_before(&self, layout: &Layout, hints: &mut Hints) -> bool {
        !layout.has_heap_frames() || self.chain.last().is_none_or(|root| hints.takes_root(*root))
    }

    fn result(&self, bytes: &[u8], layout: &Layout, target: &Target, is_cut: bool) -> WalkResult {
        let (is_collecting, holder) = target
            .look_at_gil(layout)
            .unwrap_or_else(|| self.copy.gil(bytes, layout));
        WalkResult {
            is_cut,
            holds_gil: target.gil != 0 && holder == target.address,
            is_gil_held: target.gil != 0 && holder != 0,
            is_collecting,
        }
    }
}
