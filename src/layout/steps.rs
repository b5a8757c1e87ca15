//! Coroutines and generators: where each stands, and what it awaits there.
//!
//! Found in specimens, as the rest of [`super::tasks`].
#![forbid(unsafe_code)]

use super::tasks::{FIRST, Kind, LOWEST, Specimens, TYPE, offset};
use super::{FramePlace, Instruction, Layout};
use crate::memory::{ReadMemory, int32, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// The state of a generator's frame stands before the frame (3.11 and later).
const STATE_BEFORE_FRAME: usize = 5;
/// `PyCodeObject.co_code` (3.10) and `PyBytesObject.ob_sval`.
const CODE_3_10: usize = 48;
const BYTES_3_10: usize = 32;
/// `YIELD_FROM` of 3.10.
const YIELD_FROM_3_10: u8 = 72;

/// How a frame that stands still leads to the value on top of its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Top {
    /// A stack elsewhere and its depth, an `int` (3.10).
    Elsewhere,
    /// The number of values, an `int`, and where they begin (3.11-3.13).
    Count,
    /// The address behind it (3.14); from 3.15 on an empty value stands above.
    Pointer { above: usize },
}

/// Generators, coroutines, asynchronous generators: their heads are the same.
#[derive(Clone, Debug)]
pub struct StepLayout {
    /// The frame inside of it; in 3.10 the address of a frame.
    pub frame: usize,
    is_frame_elsewhere: bool,
    /// The frame's state: before the first step, at an `await`, at a `yield`, running. The second and
    /// the third are the same before 3.13.
    pub created: u8,
    awaiting: u8,
    yielding: u8,
    /// See [`Self::created`].
    pub executing: u8,
    top: Top,
}

impl StepLayout {
    pub(super) fn learn(
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        minor: u32,
        specimens: Specimens<'_>,
    ) -> Result<Self, String> {
        let coroutine = specimens.get("coroutine")?;
        let mut step = Self {
            frame: frame_inside(memory, layout, specimens)?,
            is_frame_elsewhere: matches!(layout.thread.frame, FramePlace::Object(_)),
            created: 0,
            awaiting: 0,
            yielding: 0,
            executing: 0,
            top: match minor {
                10 => Top::Elsewhere,
                11..=13 => Top::Count,
                14 => Top::Pointer { above: 0 },
                _ => Top::Pointer { above: 1 },
            },
        };
        let mut state = |name: &str| -> Result<u8, String> {
            let copied = step.copy(memory, layout, specimens.get(name)?);
            Ok(copied.ok_or("a frame cannot be read")?.state)
        };
        let states = (
            state("created")?,
            state("coroutine")?,
            state("yielding")?,
            state("executing")?,
        );
        (step.created, step.awaiting, step.yielding, step.executing) = states;
        let (created, awaiting, yielding, executing) = states;
        if created == awaiting
            || created == executing
            || awaiting == executing
            || yielding == executing
            || yielding == created
        {
            return Err("a coroutine's state is not where it was".to_owned());
        }
        let top = step
            .copy(memory, layout, coroutine)
            .and_then(|copied| step.top(memory, layout, &copied));
        let on_top = top.and_then(|top| read_word(memory, top.checked_add(FIRST)?));
        if on_top != Some(specimens.get("future")?) {
            return Err("a coroutine does not show what it awaits".to_owned());
        }
        Ok(step)
    }

    /// Where what matters of a coroutine lies, from its type on: its own memory and its frame's.
    pub fn places(&self, layout: &Layout, object: usize) -> Option<(usize, usize)> {
        let frame = object.checked_add(self.frame)?;
        let end = if self.is_frame_elsewhere {
            WORD
        } else {
            // The number of values or the address behind them stands behind what every frame has.
            layout.frame.size.max(72)
        };
        Some((object.checked_add(TYPE)?, frame + end - (object + TYPE)))
    }

    /// What matters of a coroutine or generator; `None` if it cannot be read.
    pub fn copy(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        object: usize,
    ) -> Option<CopiedFrame> {
        let (from, length) = self.places(layout, object)?;
        let own = read(memory, from, length)?.to_vec();
        let (address, frame, state) = if self.is_frame_elsewhere {
            let address = word(&own, self.frame - TYPE);
            if address < LOWEST {
                return Some(CopiedFrame::default());
            }
            let frame = read(memory, address, layout.frame.size)?.to_vec();
            let state = frame[layout.frame.owner];
            (address, frame, state)
        } else {
            let at = self.frame - TYPE;
            let state = own[at - STATE_BEFORE_FRAME];
            (object + self.frame, own[at..].to_vec(), state)
        };
        Some(CopiedFrame {
            address,
            code: word(&frame, layout.frame.code) & !layout.frame.code_tags,
            state,
            frame,
        })
    }

    /// Whether the frame stands where it awaits something.
    pub fn awaits(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        copied: &CopiedFrame,
        kind: Kind,
    ) -> bool {
        if copied.state != self.awaiting {
            return false;
        }
        if self.awaiting != self.yielding || kind == Kind::Coroutine {
            return true;
        }
        // A generator, before 3.13: its next instruction tells.
        let next = match layout.frame.instruction {
            Instruction::Index(at) => {
                let index = usize::try_from(int32(&copied.frame, at)).unwrap_or(0);
                let bytes = read_word(memory, copied.code.wrapping_add(CODE_3_10)).unwrap_or(0);
                bytes.wrapping_add(BYTES_3_10 + (index + 1) * 2)
            }
            Instruction::Pointer(at) => word(&copied.frame, at).wrapping_add(2),
        };
        let Some([instruction, argument]) = read(memory, next, 2).map(|code| [code[0], code[1]])
        else {
            return false;
        };
        if self.is_frame_elsewhere {
            instruction == YIELD_FROM_3_10
        } else {
            // `RESUME`: 2 behind a `yield from`, 3 behind an `await`.
            matches!(argument, 2 | 3)
        }
    }

    /// Whether the frame stands at a `yield` or an `await`.
    #[must_use]
    pub fn stands(&self, copied: &CopiedFrame) -> bool {
        copied.state == self.awaiting || copied.state == self.yielding
    }

    /// The value on top of the stack of a frame that stands still.
    pub fn top(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        copied: &CopiedFrame,
    ) -> Option<usize> {
        /// No function has as many variables and values.
        const MOST: usize = 1 << 16;
        const VALUES: usize = 72;
        const COUNT: usize = 64;
        const STACK_3_10: usize = 64;
        const DEPTH_3_10: usize = 80;
        let count = |at| usize::try_from(int32(&copied.frame, at)).ok();
        let behind = match self.top {
            Top::Elsewhere => {
                let depth = count(DEPTH_3_10).filter(|depth| (1..MOST).contains(depth))?;
                word(&copied.frame, STACK_3_10).checked_add(depth * WORD)?
            }
            Top::Count => {
                let values = count(COUNT).filter(|values| (1..MOST).contains(values))?;
                copied.address.checked_add(VALUES + values * WORD)?
            }
            Top::Pointer { above } => {
                let behind = word(&copied.frame, COUNT).checked_sub(above * WORD)?;
                let is_in = behind.checked_sub(copied.address)?;
                (layout.frame.size + WORD..MOST * WORD)
                    .contains(&is_in)
                    .then_some(behind)?
            }
        };
        let top = read_word(memory, behind.checked_sub(WORD)?)? & !layout.frame.code_tags;
        (top >= LOWEST).then_some(top)
    }
}

/// Where the frame is inside of a coroutine; in 3.10 its address.
pub(super) fn frame_inside(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    specimens: Specimens<'_>,
) -> Result<usize, String> {
    let coroutine = specimens.get("coroutine")?;
    let frame = if matches!(layout.thread.frame, FramePlace::Object(_)) {
        offset(memory, coroutine, specimens.get("frame")?)
    } else {
        let code = specimens.get("coroutine code")?;
        let last = FIRST + layout.frame.code + 16 * WORD;
        let bytes = read(memory, coroutine, last).ok_or("a coroutine cannot be read")?;
        let mut words = (FIRST..last).step_by(WORD).rev();
        words
            .find(|at| word(bytes, *at) & !layout.frame.code_tags == code)
            .and_then(|at| at.checked_sub(layout.frame.code))
    };
    frame.ok_or_else(|| "a coroutine's frame is not to be found".to_owned())
}

/// A frame as it stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopiedFrame {
    /// Where it is; 0 if the function has returned (3.10).
    pub address: usize,
    /// Its code object.
    pub code: usize,
    /// See [`StepLayout::created`].
    pub state: u8,
    /// Its fixed part.
    pub frame: Vec<u8>,
}
