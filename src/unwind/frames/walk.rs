//! From a copy to frames: which frame is the newest, who called whom, and what may have changed while
//! it was copied.
#![forbid(unsafe_code)]

use super::chunks::{MAX_CHUNK, MAX_STACK_BYTES};
use super::copy::{Found, RECHECKED_LONE_FRAMES};
use super::hints::{Hints, MAX_LONE_FRAMES};
use super::{Flaw, MAX_FRAMES, NOT_BEGUN, RawFrame, WORD, Walker};
use crate::layout::{
    CHUNK, EXECUTING_3_10, FramePlace, Instruction, Layout, OWNED_BY_GENERATOR, OWNED_BY_THREAD,
    RAISED_3_10, RETURNED_3_10, UNWINDING_3_10,
};
use crate::memory::{int32, word};

/// Remembered frames from which a walk is tried when the newest was left meanwhile.
const MAX_STARTS: usize = 8;
/// What an ordinary chunk of the data stack has (`DATA_STACK_CHUNK_SIZE`, Python/pystate.c).
const ORDINARY_CHUNK: usize = 16 << 10;
/// No frame lies below: the first pages are never mapped.
const LOWEST: usize = 4_096;
/// No owner of a frame is larger: 3.14 has five (`enum _frameowner`), from 0, and may get some more.
const LARGEST_OWNER: u8 = 8;

impl Walker {
    /// Replaces `frames` by those in a copy, leaf first; whether the root side was cut.
    pub(super) fn frames_of(
        &mut self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
        frames: &mut Vec<RawFrame>,
    ) -> Result<bool, Flaw> {
        frames.clear();
        self.used.clear();
        self.chain.clear();
        let Some((newest, newest_again)) = self.newest(bytes, layout, hints)? else {
            return Ok(false);
        };
        self.check_chunk(bytes, layout, hints, newest)?;
        match self.follow(bytes, layout, hints, newest, frames) {
            Ok(is_cut) => {
                // Frames that were left meanwhile are gone.
                if let Some(keep) = self.chain.iter().position(|known| *known == newest_again) {
                    let left = &self.chain[..keep];
                    frames.retain(|frame| !left.contains(&frame.address));
                    return Ok(is_cut);
                }
                if self.has_grown(hints, newest, newest_again) {
                    return Ok(is_cut);
                }
            }
            Err(Flaw::Torn) => {}
            Err(flaw) => return Err(flaw),
        }
        // The frame was left while it was copied. What it was called by, and what the thread was in
        // at the end, will do as well if it ran when it was copied: a generator tells, a frame on
        // the data stack does not. There the thread must be still.
        if newest_again == newest || !hints.lone_frames.contains(&newest_again) {
            return Err(Flaw::Torn);
        }
        self.follow_running(bytes, layout, hints, newest_again, frames)
    }

    /// The newest frame at the begin of the copy and at its end; `None` if the thread executes no
    /// Python code.
    fn newest(
        &self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
    ) -> Result<Option<(usize, usize)>, Flaw> {
        let again = self.copy.newest_again(bytes);
        let (newest, newest_again) = match layout.thread.frame {
            FramePlace::Object(at) | FramePlace::Direct(at) => (word(bytes, at), again),
            FramePlace::CFrame(at, _) => {
                let index = |wanted: usize| hints.cframes.iter().position(|known| *known == wanted);
                let cframe = word(bytes, at);
                if cframe == 0 {
                    return Ok(None);
                }
                let first = index(cframe).ok_or(Flaw::UnknownCFrame(cframe))?;
                let second = match index(again) {
                    Some(second) => second,
                    None if again == 0 => return Err(Flaw::Torn),
                    None => return Err(Flaw::UnknownCFrame(again)),
                };
                (
                    word(bytes, layout.thread.size + first * WORD),
                    self.copy.cframe_again(bytes, second),
                )
            }
        };
        Ok(Some((newest, newest_again)).filter(|both| *both != (0, 0)))
    }

    /// Whether the chunk is known that the newest frame may lie in, and copied far enough.
    fn check_chunk(
        &self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
        newest: usize,
    ) -> Result<(), Flaw> {
        let Some(at) = layout.thread.chunk else {
            return Ok(());
        };
        let chunk = word(bytes, at);
        let known = hints.chunks.first();
        if chunk != 0 && known.is_none_or(|known| known.address != chunk) {
            return Err(Flaw::UnknownChunk(chunk, newest.wrapping_sub(chunk)));
        }
        if let Some(known) = known
            && newest > known.address
            && newest - known.address < MAX_CHUNK
            && newest + layout.frame.size > known.address + known.length
        {
            // Perhaps in this chunk, perhaps in a generator that lies close behind it.
            let used = newest - known.address + layout.frame.size;
            let header = self.copy.find(known.address, WORD * 2);
            let size = header.map_or(0, |header| word(bytes, header.offset + CHUNK.size));
            if used <= size {
                return Err(Flaw::UnknownChunk(chunk, newest - chunk));
            }
        }
        Ok(())
    }

    /// Walks from the frame that was the newest at the end, or else from one of those used last, if it
    /// ran when it was copied.
    fn follow_running(
        &mut self,
        bytes: &[u8],
        layout: &Layout,
        hints: &Hints,
        newest_again: usize,
        frames: &mut Vec<RawFrame>,
    ) -> Result<bool, Flaw> {
        if self.runs(bytes, layout, newest_again) {
            match self.follow(bytes, layout, hints, newest_again, frames) {
                Err(Flaw::Torn) => {}
                followed => return followed,
            }
        }
        for start in hints.lone_frames.iter().take(MAX_STARTS) {
            if self.runs(bytes, layout, *start)
                && let Ok(is_cut) = self.follow(bytes, layout, hints, *start, frames)
            {
                return Ok(is_cut);
            }
        }
        Err(Flaw::Torn)
    }

    /// Whether the thread was last seen above the newest frame of this walk, or in a chunk that is
    /// newer than the known ones: it has only called others on top of these, if they are the same at
    /// the end of the copy, which has them all.
    fn has_grown(&self, hints: &Hints, newest: usize, newest_again: usize) -> bool {
        let Some(chunk) = hints.chunks.first() else {
            return false;
        };
        let end = chunk.address + chunk.length;
        let is_above = (newest + 1..end).contains(&newest_again)
            || !hints.covers(newest_again, newest_again)
                && !hints.lone_frames.contains(&newest_again);
        self.copy.has_again(chunk) && (chunk.address..end).contains(&newest) && is_above
    }

    /// Whether the frame at `address` is one that tells whether it runs, and did when it was copied.
    fn runs(&self, bytes: &[u8], layout: &Layout, address: usize) -> bool {
        let found = self.copy.find(address, layout.frame.size);
        found.is_some_and(|found| {
            let frame = &bytes[found.offset..found.offset + layout.frame.size];
            let owner = frame[layout.frame.owner];
            found.is_lone
                && word(frame, layout.frame.previous) != 0
                && may_call(layout, owner, found.is_lone)
                && (owner == OWNED_BY_GENERATOR || layout.has_heap_frames())
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
    ) -> Result<bool, Flaw> {
        frames.clear();
        self.used.clear();
        self.chain.clear();
        let mut address = newest;
        let mut cursor = 0;
        while address != 0 {
            if self.chain.len() >= MAX_FRAMES {
                return Ok(true);
            }
            if address < LOWEST || !address.is_multiple_of(WORD) {
                return Err(Flaw::Torn);
            }
            let size = layout.frame.size;
            let Some(found) = self.copy.find_from(&mut cursor, address, size) else {
                if self.chain.len() >= MAX_LONE_FRAMES / 2 && is_deep(layout, hints) {
                    return Ok(true);
                }
                return Err(Flaw::MissingFrame(address));
            };
            let frame = &bytes[found.offset..found.offset + size];
            let owner = frame[layout.frame.owner];
            self.chain.push(address);
            if found.is_lone {
                self.used.push(address);
            }
            if owner < layout.frame.first_shim || layout.has_heap_frames() {
                let is_newest = address == newest;
                frames.push(raw_frame(frame, layout, address, found, is_newest)?);
            } else if owner > LARGEST_OWNER {
                return Err(Flaw::Torn);
            }
            let previous = word(frame, layout.frame.previous);
            // Nothing begins with a generator: this one was left while it was copied, which takes
            // its caller from it, and may have been entered again since.
            if previous == 0 && owner == OWNED_BY_GENERATOR && !layout.has_heap_frames() {
                return Err(Flaw::Torn);
            }
            // A data stack grows upwards: a caller in the same chunk lies below its callee.
            if !found.is_lone && previous >= address && previous < self.copy.end_of(cursor) {
                return Err(Flaw::Torn);
            }
            address = previous;
        }
        Ok(false)
    }

    /// How many of the newest frames may have changed between being copied and the end of the copy, or
    /// between its begin and then, but for the newest, which may have been new.
    ///
    /// A frame that was left lies there as it was until the next call; if that came meanwhile, what
    /// was copied is a frame of one call below a caller of another.
    pub(super) fn changed(&self, bytes: &[u8], layout: &Layout, frames: &[RawFrame]) -> usize {
        let (mut changed, mut passed, mut cursor) = (0, 0, 0);
        let size = layout.frame.size;
        for (depth, address) in self.chain.iter().enumerate() {
            if frames
                .get(passed)
                .is_some_and(|frame| frame.address == *address)
            {
                passed += 1;
            }
            // Those on the data stack come first.
            let among = if depth < RECHECKED_LONE_FRAMES {
                usize::MAX
            } else {
                1
            };
            // Most frames of a deep stack are not looked at again, and are not searched for.
            let Some(again) = self.copy.find_again(*address, size, among) else {
                continue;
            };
            let Some(found) = self.copy.find_from(&mut cursor, *address, size) else {
                continue;
            };
            let before = found.offset;
            let code = |offset: usize| word(bytes, offset + layout.frame.code);
            let caller = |offset: usize| word(bytes, offset + layout.frame.previous);
            let is_other_code = code(before) != code(again);
            // A generator that was left has no caller any more.
            let is_other_caller = caller(again) != 0 && caller(again) != caller(before);
            let stood_before = || {
                let at_begin = self.copy.find_before(*address, size);
                at_begin.is_none_or(|at_begin| code(at_begin) == code(before))
            };
            if is_other_code || is_other_caller || depth > 0 && !stood_before() {
                changed = passed;
            }
        }
        changed
    }
}

/// A Python function's frame, unless it contradicts itself.
#[inline]
fn raw_frame(
    frame: &[u8],
    layout: &Layout,
    address: usize,
    found: Found,
    is_newest: bool,
) -> Result<RawFrame, Flaw> {
    let owner = frame[layout.frame.owner];
    let code = word(frame, layout.frame.code) & !layout.frame.code_tags;
    if code < LOWEST
        || !code.is_multiple_of(WORD)
        || !(may_call(layout, owner, found.is_lone) || is_newest && is_ending(layout, owner))
    {
        return Err(Flaw::Torn);
    }
    let instruction = match layout.frame.instruction {
        Instruction::Index(at) => usize::try_from(int32(frame, at)).unwrap_or(NOT_BEGUN),
        Instruction::Pointer(at) => word(frame, at),
    };
    Ok(RawFrame {
        code,
        instruction,
        address,
    })
}

/// Whether a frame of this owner, or state, may have called another where it was found.
fn may_call(layout: &Layout, owner: u8, is_lone: bool) -> bool {
    if layout.has_heap_frames() {
        return matches!(owner, EXECUTING_3_10 | UNWINDING_3_10);
    }
    match owner {
        OWNED_BY_THREAD => !is_lone,
        OWNED_BY_GENERATOR => is_lone,
        // Owned by a frame object: it has ended.
        _ => false,
    }
}

/// Whether a frame of 3.10 has ended, which for a moment is the newest nonetheless.
fn is_ending(layout: &Layout, state: u8) -> bool {
    layout.has_heap_frames() && matches!(state, RETURNED_3_10 | RAISED_3_10)
}

/// Whether the stack fills what is copied of it, so that the rest is beyond the limit.
fn is_deep(layout: &Layout, hints: &Hints) -> bool {
    if layout.has_heap_frames() {
        return hints.lone_frames.len() >= MAX_LONE_FRAMES - 1;
    }
    let copied: usize = hints.chunks.iter().map(|chunk| chunk.length).sum();
    copied + ORDINARY_CHUNK > MAX_STACK_BYTES
}
