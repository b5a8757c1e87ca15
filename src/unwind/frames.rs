//! One thread's frames, copied in one go while the thread runs.
//!
//! All that a stack consists of is copied by one call, from the thread state over the frames to
//! the thread state again, and walked afterwards. What lies outside the data stack (entry frames
//! on the C stack, frames of generators, 3.10's heap frames) is remembered from the last time; if
//! the walk needs more, that is added and everything is copied again.
#![forbid(unsafe_code)]

use crate::layout::{
    CHUNK, EXECUTING_3_10, FramePlace, Instruction, Layout, OWNED_BY_GENERATOR, OWNED_BY_THREAD,
    RAISED_3_10, RETURNED_3_10, UNWINDING_3_10,
};
use crate::memory::own::Lasting;
use crate::memory::{Range, ReadMemory, int32, read, word};

/// Frames walked of one stack; a deeper one is cut at its root side.
pub const MAX_FRAMES: usize = 4_096;
/// Known frames in a row after which the rest of a stack counts as known.
const MAX_KNOWN: usize = 64;
/// Bytes of data stack copied of one thread, newest first: [`MAX_FRAMES`] of an ordinary size.
const MAX_STACK_BYTES: usize = 512 << 10;
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
/// Bytes of the data stack, the newest, that are copied at the begin and again at the end to tell.
const RECHECK_BYTES: usize = 2_048;
/// Remembered frames elsewhere, those used last, that are copied again at the end.
const RECHECKED_PLACES: usize = 8;
/// Remembered frames from which a walk is tried when the newest was left meanwhile.
const MAX_STARTS: usize = 8;
/// Calls from C into Python of which the place is remembered (3.11, 3.12).
const MAX_CFRAMES: usize = 4;
/// Places outside the data stack that are remembered beyond those in use.
const MAX_UNUSED: usize = 16;
/// Places outside the data stack at all: the kernel takes 1,024 ranges.
const MAX_PLACES: usize = 960;
/// Copies in a row after which a stack of 3.10 may begin with another frame than before. A generator
/// gets its caller when it is resumed and loses it when it is left (`gen_send_ex` of
/// Objects/genobject.c): a copy of that moment may show one that runs and has no caller.
const MIN_ROOTS: usize = 4;
/// Copied beyond the newest known frame, for the calls made meanwhile.
const SLACK: usize = 512;
/// When more than this is copied in vain, less is copied.
const MAX_SLACK: usize = 2_048;
/// No data stack is larger (`_PyThreadState_PushFrame` doubles 16 KiB as needed).
const MAX_CHUNK: usize = 64 << 20;
/// No frame lies below: the first pages are never mapped.
const LOWEST: usize = 4_096;

const WORD: usize = size_of::<usize>();

/// Copies of which the newest frames may have changed under way before they are left out. On 3.11 and
/// 3.12 another try may have to find the thread's frames anew, see [`MAX_TORN`].
fn max_unsteady(layout: &Layout) -> usize {
    usize::from(!matches!(layout.thread.frame, FramePlace::CFrame(..)))
}

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

/// What is remembered of a thread from copy to copy.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Places that lead to the newest frame (3.11, 3.12), those used last first: each call from C
    /// into Python has one of its own, on the C stack.
    cframes: Vec<usize>,
    /// Chunks of the data stack, newest first: address, and bytes to copy.
    chunks: Vec<Range>,
    /// Frames elsewhere; those used last come first.
    places: Vec<usize>,
    /// The frame that the stack began with (3.10).
    root: usize,
    /// Another that it seemed to begin with, and in how many copies in a row.
    other_root: (usize, usize),
}

impl Hints {
    /// Whether the stack may begin with the frame at `address`.
    fn takes_root(&mut self, address: usize) -> bool {
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
    fn covers(&self, begin: usize, end: usize) -> bool {
        self.chunks
            .iter()
            .any(|chunk| begin >= chunk.address && end <= chunk.address + chunk.length)
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
}

/// What a walk found besides the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// The root side was cut.
    pub is_cut: bool,
    /// The thread holds the GIL.
    pub holds_gil: bool,
    /// Some thread holds it.
    pub is_gil_held: bool,
    /// The interpreter collects garbage.
    pub is_collecting: bool,
}

/// A stretch of the copy.
#[derive(Clone, Copy, Debug)]
struct Segment {
    address: usize,
    length: usize,
    offset: usize,
}

/// Copies and walks; its buffers are used for every thread.
#[derive(Debug, Default)]
pub struct Walker {
    ranges: Vec<Range>,
    segments: Vec<Segment>,
    /// The places used by this walk.
    used: Vec<usize>,
    /// Addresses of all frames of this walk, entries included.
    chain: Vec<usize>,
    /// Bytes of the copy from the second frame pointer to the interpreter's words.
    frame_bytes: usize,
    /// The newest part of the data stack, copied before anything else.
    precheck: Option<Segment>,
    /// The newest part of the data stack, and the places used last, copied once more at the very end.
    rechecks: Vec<Segment>,
}

/// What one look at a copy came to.
enum Look {
    Whole {
        is_cut: bool,
    },
    /// A frame lies outside of what was copied.
    Missing(usize),
    /// The newest chunk is another, or is used further than was copied.
    Chunk(usize, usize),
    CFrame(usize),
    Torn,
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
    ) -> Result<Walked, Failure> {
        let mut torn = 0;
        let mut unsteady = 0;
        let mut is_moving = false;
        for _ in 0..MAX_ROUNDS {
            let again = self.copy(memory, layout, target, is_moving, hints)?;
            let bytes = memory.bytes();
            let thread = &layout.thread;
            if word(bytes, thread.interpreter) != target.interpreter
                || word(bytes, thread.ident) != target.ident
            {
                return Err(Failure::Gone);
            }
            let mut look = self.look(bytes, layout, hints, again, frames);
            let mut changed = 0;
            if let Look::Whole { .. } = look {
                changed = self.changed(bytes, layout, frames);
                if changed > MAX_CHANGED {
                    look = Look::Torn;
                }
            }
            if let Look::Whole { is_cut: false } = look
                && layout.thread.chunk.is_none()
                && let Some(root) = self.chain.last()
                && !hints.takes_root(*root)
            {
                continue;
            }
            match look {
                Look::Whole { is_cut } => {
                    if changed > 0 && unsteady < max_unsteady(layout) {
                        unsteady += 1;
                        continue;
                    }
                    // Of the newest frames that may have changed, the caller is right.
                    frames.drain(..changed.min(frames.len().saturating_sub(1)));
                    let (is_collecting, holder) = target.look_at_gil(layout).unwrap_or_else(|| {
                        let tail = again + self.frame_bytes;
                        let holder = super::threads::gil_holder(&bytes[tail + WORD..], layout);
                        (int32(bytes, tail) == 1, holder)
                    });
                    let walked = Walked {
                        is_cut,
                        holds_gil: target.gil != 0 && holder == target.address,
                        is_gil_held: target.gil != 0 && holder != 0,
                        is_collecting,
                    };
                    self.remember(layout, hints);
                    return Ok(walked);
                }
                Look::Missing(address) => self.discover(memory, layout, address, hints),
                Look::Chunk(address, length) => {
                    learn_chunk(memory, address, length, is_moving, hints);
                    is_moving = true;
                }
                Look::CFrame(address) => {
                    hints.cframes.insert(0, address);
                    hints.cframes.truncate(MAX_CFRAMES);
                }
                Look::Torn => {
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

    /// Copies everything known of the thread: its state, what is remembered, and last the frame
    /// pointer again, whether its interpreter collects garbage, its GIL, and the newest frames once
    /// more: all of the newest chunk if the stack `is_moving`. Returns where in the copy the second
    /// frame pointer stands.
    fn copy(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        target: &Target,
        is_moving: bool,
        hints: &mut Hints,
    ) -> Result<usize, Failure> {
        let thread = &layout.thread;
        let (frame_field, cframe) = match thread.frame {
            FramePlace::Object(at) | FramePlace::Direct(at) => (at, None),
            FramePlace::CFrame(at, inside) => (at, Some(inside)),
        };
        loop {
            let cframes = cframe.map_or(0, |_| hints.cframes.len());
            let cframe_of = |address: &usize| {
                Range::new(address.wrapping_add(cframe.unwrap_or_default()), WORD)
            };
            self.frame_bytes = WORD + cframes * WORD;
            self.ranges.clear();
            self.ranges.push(Range::new(target.address, thread.size));
            let fixed = self.ranges.len();
            self.ranges
                .extend(hints.cframes[..cframes].iter().map(cframe_of));
            let newest = hints.chunks.first().map(|chunk| {
                let length = if is_moving {
                    chunk.length
                } else {
                    chunk.length.min(RECHECK_BYTES)
                };
                Range::new(chunk.address + chunk.length - length, length)
            });
            let precheck = self.ranges.len();
            self.ranges.extend(newest);
            let places = self.ranges.len();
            // From the root: what is older changes less.
            let remembered = hints.places.iter().rev();
            self.ranges
                .extend(remembered.map(|place| Range::new(*place, layout.frame.size)));
            let chunks = self.ranges.len();
            self.ranges.extend(hints.chunks.iter().rev());
            let again = self.ranges.len();
            self.segments.clear();
            self.precheck = None;
            let mut offset = 0;
            for (index, range) in self.ranges.iter().enumerate() {
                let segment = Segment {
                    address: range.address,
                    length: range.length,
                    offset,
                };
                if index >= places {
                    self.segments.push(segment);
                } else if index == precheck {
                    self.precheck = Some(segment);
                }
                offset += range.length;
            }
            self.ranges
                .push(Range::new(target.address + frame_field, WORD));
            self.ranges
                .extend(hints.cframes[..cframes].iter().map(cframe_of));
            if target.look_at_gil(layout).is_none() {
                let collecting = target.interpreter + layout.interpreter.collecting;
                self.ranges.push(Range::new(collecting, WORD));
                if target.gil != 0 {
                    let length = layout.gil.holder.max(layout.gil.locked) + WORD;
                    self.ranges.push(Range::new(target.gil, length));
                }
            }
            let recent = hints.places.iter().take(RECHECKED_PLACES);
            let frames = recent.map(|place| Range::new(*place, layout.frame.size));
            let end = self.ranges[again..].iter().map(|range| range.length);
            let mut end = offset + end.sum::<usize>();
            self.rechecks.clear();
            // 3.10 tells by each frame's state whether it runs.
            for range in newest
                .iter()
                .copied()
                .chain(frames)
                .take_while(|_| newest.is_some())
            {
                self.rechecks.push(Segment {
                    address: range.address,
                    length: range.length,
                    offset: end,
                });
                end += range.length;
                self.ranges.push(range);
            }
            let whole = memory.read_batch(&self.ranges);
            // What cannot be read any more is forgotten.
            match whole {
                _ if whole == self.ranges.len() => return Ok(offset),
                _ if whole < fixed || whole >= again => return Err(Failure::Gone),
                _ if whole < precheck => drop(hints.cframes.remove(whole - fixed)),
                // The newest are freed first.
                _ if whole < places => drop(hints.chunks.remove(0)),
                _ if whole < chunks => {
                    hints
                        .places
                        .remove(hints.places.len() - 1 - (whole - places));
                }
                _ => drop(hints.chunks.drain(..hints.chunks.len() - (whole - chunks))),
            }
        }
    }

    /// How many of the newest frames may have changed between being copied and the end of the copy, or
    /// between its begin and then, but for the newest, which may have been new.
    ///
    /// A frame that was left lies there as it was until the next call; if that came meanwhile, what
    /// was copied is a frame of one call below a caller of another.
    fn changed(&self, bytes: &[u8], layout: &Layout, frames: &[RawFrame]) -> usize {
        let (mut changed, mut passed, mut last) = (0, 0, 0);
        for (depth, address) in self.chain.iter().enumerate() {
            if frames
                .get(passed)
                .is_some_and(|frame| frame.address == *address)
            {
                passed += 1;
            }
            // Those on the data stack come first.
            let looked_at = if depth < RECHECKED_PLACES {
                self.rechecks.len()
            } else {
                1
            };
            let again_at = |recheck: &Segment| {
                let at = address.wrapping_sub(recheck.address);
                let is_in = at < recheck.length && at + layout.frame.size <= recheck.length;
                is_in.then(|| recheck.offset + at)
            };
            // Most frames of a deep stack are not looked at again, and are not searched for.
            if let Some(again) = self.rechecks.iter().take(looked_at).find_map(again_at)
                && let Some((before, _)) = self.find(*address, layout.frame.size, &mut last)
            {
                let code = layout.frame.code;
                let caller = word(bytes, before + layout.frame.previous);
                // A generator that was left has no caller any more.
                let caller_again = word(bytes, again + layout.frame.previous);
                if word(bytes, before + code) != word(bytes, again + code)
                    || caller_again != 0 && caller_again != caller
                    || depth > 0 && !self.stood_before(bytes, layout, *address, before)
                {
                    changed = passed;
                }
            }
        }
        changed
    }

    fn find(&self, address: usize, length: usize, last: &mut usize) -> Option<(usize, bool)> {
        let is_in = |segment: &Segment| {
            address >= segment.address
                && address.saturating_add(length) <= segment.address + segment.length
        };
        let at = match self.segments.get(*last) {
            Some(segment) if is_in(segment) => *last,
            _ => self.segments.iter().position(is_in)?,
        };
        *last = at;
        let segment = &self.segments[at];
        let is_place = segment.address == address;
        Some((segment.offset + (address - segment.address), is_place))
    }

    fn look(
        &mut self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
        again: usize,
        frames: &mut Vec<RawFrame>,
    ) -> Look {
        let thread = &layout.thread;
        frames.clear();
        self.used.clear();
        self.chain.clear();
        let (newest, newest_again) = match thread.frame {
            FramePlace::Object(at) | FramePlace::Direct(at) => {
                (word(bytes, at), word(bytes, again))
            }
            FramePlace::CFrame(at, _) => {
                let cframe = word(bytes, at);
                if cframe == 0 {
                    return Look::Whole { is_cut: false };
                }
                let cframe_again = word(bytes, again);
                let place = |wanted: usize| hints.cframes.iter().position(|known| *known == wanted);
                let Some(first) = place(cframe) else {
                    return Look::CFrame(cframe);
                };
                let Some(second) = place(cframe_again) else {
                    return if cframe_again == 0 {
                        Look::Torn
                    } else {
                        Look::CFrame(cframe_again)
                    };
                };
                (
                    word(bytes, thread.size + first * WORD),
                    word(bytes, again + WORD + second * WORD),
                )
            }
        };
        if newest == 0 && newest_again == 0 {
            return Look::Whole { is_cut: false };
        }
        if let Some(at) = thread.chunk {
            let chunk = word(bytes, at);
            let known = hints.chunks.first();
            if chunk != 0 && known.is_none_or(|known| known.address != chunk) {
                return Look::Chunk(chunk, newest.wrapping_sub(chunk));
            }
            if let Some(known) = known
                && newest > known.address
                && newest - known.address < MAX_CHUNK
                && newest + layout.frame.size > known.address + known.length
            {
                // Perhaps in this chunk, perhaps in a generator that lies close behind it.
                let used = newest - known.address + layout.frame.size;
                let size = self
                    .find(known.address, WORD * 2, &mut usize::MAX.clone())
                    .map_or(0, |(offset, _)| word(bytes, offset + CHUNK.size));
                if used <= size {
                    return Look::Chunk(chunk, newest - chunk);
                }
            }
        }
        match self.follow(bytes, layout, hints, newest, frames) {
            Ok(is_cut) => {
                // Frames that were left meanwhile are gone.
                if let Some(keep) = self.chain.iter().position(|known| *known == newest_again) {
                    let left = &self.chain[..keep];
                    frames.retain(|frame| !left.contains(&frame.address));
                    return Look::Whole { is_cut };
                }
                if self.has_grown(hints, newest, newest_again) {
                    return Look::Whole { is_cut };
                }
            }
            Err(Look::Torn) => {}
            Err(look) => return look,
        }
        // The frame was left while it was copied. What it was called by, and what the thread was in
        // at the end, will do as well if it ran when it was copied: a generator tells, a frame on
        // the data stack does not. There the thread must be still.
        if newest_again == newest || !hints.places.contains(&newest_again) {
            return Look::Torn;
        }
        if self.runs(bytes, layout, newest_again) {
            match self.follow(bytes, layout, hints, newest_again, frames) {
                Ok(is_cut) => return Look::Whole { is_cut },
                Err(Look::Torn) => {}
                Err(look) => return look,
            }
        }
        for start in hints.places.iter().take(MAX_STARTS) {
            if self.runs(bytes, layout, *start)
                && let Ok(is_cut) = self.follow(bytes, layout, hints, *start, frames)
            {
                return Look::Whole { is_cut };
            }
        }
        Look::Torn
    }

    /// Whether the thread was last seen above the newest frame of this walk, or in a chunk that is
    /// newer than the known ones: it has only called others on top of these, if they are the same at
    /// the end of the copy, which has them all.
    fn has_grown(&self, hints: &Hints, newest: usize, newest_again: usize) -> bool {
        let (Some(chunk), Some(again)) = (hints.chunks.first(), self.rechecks.first()) else {
            return false;
        };
        let end = chunk.address + chunk.length;
        let is_above = (newest + 1..end).contains(&newest_again)
            || !hints.covers(newest_again, newest_again) && !hints.places.contains(&newest_again);
        again.length == chunk.length && (chunk.address..end).contains(&newest) && is_above
    }

    /// Whether the code at `address` was the same at the begin of the copy as `at` its place in it.
    fn stood_before(&self, bytes: &[u8], layout: &Layout, address: usize, at: usize) -> bool {
        let code = layout.frame.code;
        self.precheck.is_none_or(|before| {
            let earlier = address.wrapping_sub(before.address);
            let is_in = earlier < before.length && earlier + layout.frame.size <= before.length;
            !is_in || word(bytes, before.offset + earlier + code) == word(bytes, at + code)
        })
    }

    /// Whether the frame at `address` is one that tells whether it runs, and did when it was copied.
    fn runs(&self, bytes: &[u8], layout: &Layout, address: usize) -> bool {
        let found = self.find(address, layout.frame.size, &mut usize::MAX.clone());
        found.is_some_and(|(offset, is_place)| {
            let frame = &bytes[offset..offset + layout.frame.size];
            let owner = frame[layout.frame.owner];
            is_place
                && word(frame, layout.frame.previous) != 0
                && may_call(layout, owner, is_place)
                && (owner == OWNED_BY_GENERATOR || layout.thread.chunk.is_none())
        })
    }

    /// Walks from the frame at `newest` to the root; returns whether the root side was cut.
    fn follow(
        &mut self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
        newest: usize,
        frames: &mut Vec<RawFrame>,
    ) -> Result<bool, Look> {
        frames.clear();
        self.used.clear();
        self.chain.clear();
        let mut address = newest;
        let mut last = 0;
        while address != 0 {
            if self.chain.len() >= MAX_FRAMES {
                return Ok(true);
            }
            if address < LOWEST || !address.is_multiple_of(WORD) {
                return Err(Look::Torn);
            }
            let Some((offset, is_place)) = self.find(address, layout.frame.size, &mut last) else {
                if self.chain.len() >= MAX_PLACES / 2 && is_deep(layout, hints) {
                    return Ok(true);
                }
                return Err(Look::Missing(address));
            };
            let frame = &bytes[offset..offset + layout.frame.size];
            let owner = frame[layout.frame.owner];
            let previous = word(frame, layout.frame.previous);
            self.chain.push(address);
            if is_place {
                self.used.push(address);
            }
            if owner < layout.frame.first_shim || layout.thread.chunk.is_none() {
                let code = word(frame, layout.frame.code) & !layout.frame.code_tags;
                if code < LOWEST
                    || !code.is_multiple_of(WORD)
                    || !(may_call(layout, owner, is_place)
                        || address == newest && is_ending(layout, owner))
                {
                    return Err(Look::Torn);
                }
                let instruction = match layout.frame.instruction {
                    Instruction::Index(at) => int32(frame, at).max(0) as usize,
                    Instruction::Pointer(at) => word(frame, at),
                };
                frames.push(RawFrame {
                    code,
                    instruction,
                    address,
                });
            } else if owner > 8 {
                return Err(Look::Torn);
            }
            // Nothing begins with a generator: this one was left while it was copied, which takes
            // its caller from it, and may have been entered again since.
            if previous == 0 && owner == OWNED_BY_GENERATOR && layout.thread.chunk.is_some() {
                return Err(Look::Torn);
            }
            // A data stack grows upwards: a caller in the same chunk lies below its callee.
            if !is_place
                && previous >= address
                && previous < self.segments[last].address + self.segments[last].length
            {
                return Err(Look::Torn);
            }
            address = previous;
        }
        Ok(false)
    }

    /// Follows frames one by one from `address`, and remembers those that were not copied. Stops
    /// when a long stretch was known: the rest then is, most likely.
    fn discover(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        address: usize,
        hints: &mut Hints,
    ) {
        let mut address = address;
        let mut last = 0;
        let mut known = 0;
        let mut found = Vec::new();
        for _ in 0..MAX_FRAMES {
            if address == 0 || found.len() == MAX_PLACES || known == MAX_KNOWN {
                break;
            }
            let Some(bytes) = read(memory, address, layout.frame.size) else {
                break;
            };
            let owner = bytes[layout.frame.owner];
            let next = word(bytes, layout.frame.previous);
            if self.find(address, layout.frame.size, &mut last).is_some() {
                known += 1;
            } else if owner == OWNED_BY_THREAD && layout.thread.chunk.is_some() {
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
        hints.places.splice(0..0, found);
        hints.places.truncate(MAX_PLACES);
    }

    /// Puts the places in use first, forgets what was not used for long, and copies less of a data
    /// stack that has shrunk.
    fn remember(&mut self, layout: &Layout, hints: &mut Hints) {
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
        if self.used.len() == hints.places.len() {
            return;
        }
        let used = &self.used;
        hints.places.retain(|place| !used.contains(place));
        hints.places.truncate(MAX_UNUSED);
        hints.places.splice(0..0, used.iter().copied());
        hints.places.truncate(MAX_PLACES);
    }
}

/// Whether a frame of this owner, or state, may have called another where it was found.
fn may_call(layout: &Layout, owner: u8, is_place: bool) -> bool {
    if layout.thread.chunk.is_none() {
        return matches!(owner, EXECUTING_3_10 | UNWINDING_3_10);
    }
    match owner {
        OWNED_BY_THREAD => !is_place,
        OWNED_BY_GENERATOR => is_place,
        // Owned by a frame object: it has ended.
        _ => false,
    }
}

/// Whether a frame of 3.10 has ended, which for a moment is the newest nonetheless.
fn is_ending(layout: &Layout, state: u8) -> bool {
    layout.thread.chunk.is_none() && matches!(state, RETURNED_3_10 | RAISED_3_10)
}

/// Whether the stack fills what is copied of it, so that the rest is beyond the limit.
fn is_deep(layout: &Layout, hints: &Hints) -> bool {
    if layout.thread.chunk.is_none() {
        return hints.places.len() >= MAX_PLACES - 1;
    }
    let copied: usize = hints.chunks.iter().map(|chunk| chunk.length).sum();
    copied + (16 << 10) > MAX_STACK_BYTES
}

/// Remembers the newest chunk and that it is used up to `used` bytes; older ones stay. Of a stack
/// that is moving, calls are faster than copies: there all of the chunk is copied from now on.
fn learn_chunk(
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
fn lengthen_chunk(
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
fn grow_chunks(memory: &mut (dyn ReadMemory + '_), address: usize, hints: &mut Hints) -> bool {
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
