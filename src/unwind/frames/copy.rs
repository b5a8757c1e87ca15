//! What is copied of a thread, in which order, and where it lies in the copy.
#![forbid(unsafe_code)]

use super::hints::Hints;
use super::{Failure, Target, WORD};
use crate::layout::{FramePlace, Layout};
use crate::memory::{Range, ReadMemory, int32, word};
use crate::unwind::threads::gil_holder;

/// Bytes of the data stack, the newest, that are copied at the begin and again at the end to tell.
const RECHECK_BYTES: usize = 2_048;
/// Remembered frames elsewhere, those used last, that are copied again at the end.
pub(super) const RECHECKED_LONE_FRAMES: usize = 8;

/// A stretch of the copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) address: usize,
    pub(super) length: usize,
    pub(super) offset: usize,
}

impl Segment {
    /// The offset in the copy of a stretch, if that lies in this segment.
    #[inline]
    fn offset_of(&self, address: usize, length: usize) -> Option<usize> {
        let inside = address.wrapping_sub(self.address);
        let is_in = inside < self.length && inside + length <= self.length;
        is_in.then(|| self.offset + inside)
    }
}

/// Where a frame lies in the copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) offset: usize,
    /// Whether it was copied by itself, being outside the data stack.
    pub(super) is_lone: bool,
}

/// The copy of one thread, and where in it everything is. The bytes themselves lie in the memory that
/// was read.
#[derive(Debug, Default)]
pub(super) struct ThreadCopy {
    ranges: Vec<Range>,
    /// The bytes of all ranges.
    length: usize,
    /// What was remembered of frames, in the order of the copy.
    segments: Vec<Segment>,
    /// The newest part of the data stack, copied before anything else.
    precheck: Option<Segment>,
    /// The newest part of the data stack, and the lone frames used last, copied again at the end.
    rechecks: Vec<Segment>,
    /// Where the second frame pointer stands; the second `_PyCFrame`s follow.
    again: usize,
    /// Where the interpreter's words stand: whether it collects garbage, and its GIL.
    interpreter: usize,
}

/// At which range what is remembered begins, kind by kind.
struct Sections {
    cframes: usize,
    precheck: usize,
    lone_frames: usize,
    chunks: usize,
    again: usize,
}

impl Sections {
    /// Forgets what could not be read: the range at `unread`.
    fn forget(&self, unread: usize, hints: &mut Hints) -> Result<(), Failure> {
        match unread {
            _ if unread < self.cframes || unread >= self.again => return Err(Failure::Gone),
            _ if unread < self.precheck => drop(hints.cframes.remove(unread - self.cframes)),
            // The newest are freed first.
            _ if unread < self.lone_frames => drop(hints.chunks.remove(0)),
            _ if unread < self.chunks => {
                let last = hints.lone_frames.len() - 1;
                hints.lone_frames.remove(last - (unread - self.lone_frames));
            }
            _ => drop(
                hints
                    .chunks
                    .drain(..hints.chunks.len() - (unread - self.chunks)),
            ),
        }
        Ok(())
    }
}

impl ThreadCopy {
    /// Copies everything known of the thread: its state, what is remembered, and last the frame
    /// pointer again, whether its interpreter collects garbage, its GIL, and the newest frames once
    /// more: all of the newest chunk if the stack `is_moving`.
    pub(super) fn take(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        target: &Target,
        is_moving: bool,
        hints: &mut Hints,
    ) -> Result<(), Failure> {
        loop {
            let sections = self.plan(layout, target, is_moving, hints);
            let whole = memory.read_batch(&self.ranges);
            if whole == self.ranges.len() {
                return Ok(());
            }
            sections.forget(whole, hints)?;
        }
    }

    fn plan(
        &mut self,
        layout: &Layout,
        target: &Target,
        is_moving: bool,
        hints: &Hints,
    ) -> Sections {
        self.ranges.clear();
        self.segments.clear();
        self.length = 0;
        let newest = newest_of(hints, is_moving);
        self.push(Range::new(target.address, layout.thread.size));
        let cframes = self.ranges.len();
        self.push_cframes(layout, hints);
        let precheck = self.ranges.len();
        self.precheck = newest.map(|range| self.push(range));
        let lone_frames = self.ranges.len();
        // From the root: what is older changes less.
        for frame in hints.lone_frames.iter().rev() {
            let segment = self.push(Range::new(*frame, layout.frame.size));
            self.segments.push(segment);
        }
        let chunks = self.ranges.len();
        for chunk in hints.chunks.iter().rev() {
            let segment = self.push(*chunk);
            self.segments.push(segment);
        }
        let again = self.ranges.len();
        self.plan_end(layout, target, newest, hints);
        Sections {
            cframes,
            precheck,
            lone_frames,
            chunks,
            again,
        }
    }

    /// What is copied last: once more what may have changed meanwhile.
    fn plan_end(&mut self, layout: &Layout, target: &Target, newest: Option<Range>, hints: &Hints) {
        let frame = match layout.thread.frame {
            FramePlace::Object(at) | FramePlace::Direct(at) | FramePlace::CFrame(at, _) => at,
        };
        self.again = self.length;
        self.push(Range::new(target.address + frame, WORD));
        self.push_cframes(layout, hints);
        self.interpreter = self.length;
        if target.look_at_gil(layout).is_none() {
            let collecting = target.interpreter + layout.interpreter.collecting;
            self.push(Range::new(collecting, WORD));
            if target.gil != 0 {
                let length = layout.gil.holder.max(layout.gil.locked) + WORD;
                self.push(Range::new(target.gil, length));
            }
        }
        self.rechecks.clear();
        // Where there is no data stack (3.10), each frame's state tells whether it runs.
        let Some(newest) = newest else {
            return;
        };
        let newest = self.push(newest);
        self.rechecks.push(newest);
        for frame in hints.lone_frames.iter().take(RECHECKED_LONE_FRAMES) {
            let segment = self.push(Range::new(*frame, layout.frame.size));
            self.rechecks.push(segment);
        }
    }

    fn push(&mut self, range: Range) -> Segment {
        let segment = Segment {
            address: range.address,
            length: range.length,
            offset: self.length,
        };
        self.length += range.length;
        self.ranges.push(range);
        segment
    }

    fn push_cframes(&mut self, layout: &Layout, hints: &Hints) {
        if let FramePlace::CFrame(_, inside) = layout.thread.frame {
            for address in &hints.cframes {
                self.push(Range::new(address.wrapping_add(inside), WORD));
            }
        }
    }

    /// The word in the thread state that leads to the newest frame, at the end of the copy.
    pub(super) fn newest_again(&self, bytes: &[u8]) -> usize {
        word(bytes, self.again)
    }

    /// What the `index`th `_PyCFrame` says is the newest frame, at the end of the copy.
    pub(super) fn cframe_again(&self, bytes: &[u8], index: usize) -> usize {
        word(bytes, self.again + WORD + index * WORD)
    }

    /// Whether the interpreter collects garbage, and who holds the GIL, or 0.
    pub(super) fn gil(&self, bytes: &[u8], layout: &Layout) -> (bool, usize) {
        let holder = gil_holder(&bytes[self.interpreter + WORD..], layout);
        (int32(bytes, self.interpreter) == 1, holder)
    }

    /// Where a stretch lies in the copy.
    pub(super) fn find(&self, address: usize, length: usize) -> Option<Found> {
        let mut nowhere = usize::MAX;
        self.find_from(&mut nowhere, address, length)
    }

    /// The same. `cursor` is the segment in which the stretch before was found, where this one most
    /// often lies, too.
    #[inline]
    pub(super) fn find_from(
        &self,
        cursor: &mut usize,
        address: usize,
        length: usize,
    ) -> Option<Found> {
        let found = |segment: &Segment, offset: usize| Found {
            offset,
            is_lone: segment.address == address,
        };
        // Frames that were copied each by itself stand side by side, as they call each other.
        for near in [*cursor, cursor.wrapping_sub(1), cursor.wrapping_add(1)] {
            if let Some(segment) = self.segments.get(near)
                && let Some(offset) = segment.offset_of(address, length)
            {
                *cursor = near;
                return Some(found(segment, offset));
            }
        }
        for (at, segment) in self.segments.iter().enumerate() {
            if let Some(offset) = segment.offset_of(address, length) {
                *cursor = at;
                return Some(found(segment, offset));
            }
        }
        None
    }

    /// The end of a segment.
    #[inline]
    pub(super) fn end_of(&self, segment: usize) -> usize {
        self.segments[segment].address + self.segments[segment].length
    }

    /// Where a stretch lies in what was copied once more at the end: in the first `among` of that.
    #[inline]
    pub(super) fn find_again(&self, address: usize, length: usize, among: usize) -> Option<usize> {
        let mut rechecks = self.rechecks.iter().take(among);
        rechecks.find_map(|recheck| recheck.offset_of(address, length))
    }

    /// Where a stretch lies in what was copied before anything else; `None` if nothing of that was.
    #[inline]
    pub(super) fn find_before(&self, address: usize, length: usize) -> Option<usize> {
        self.precheck?.offset_of(address, length)
    }

    /// Whether all of `chunk` was copied once more at the end.
    pub(super) fn has_again(&self, chunk: &Range) -> bool {
        let again = self.rechecks.first();
        again.is_some_and(|again| again.length == chunk.length)
    }
}

/// The newest part of the newest chunk, which is copied three times.
fn newest_of(hints: &Hints, is_moving: bool) -> Option<Range> {
    let chunk = hints.chunks.first()?;
    let length = if is_moving {
        chunk.length
    } else {
        chunk.length.min(RECHECK_BYTES)
    };
    Some(Range::new(chunk.address + chunk.length - length, length))
}
