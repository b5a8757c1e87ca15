//! Where the calling thread is: its own frames, by plain loads.
//!
//! A thread's own frames cannot move or die while it is here, with the GIL or without. A frame that is
//! being made is not linked yet, and the instruction of one that has called something is written before
//! the call (3.10-3.15).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::OnceLock;

use pyo3::ffi::{self, PyThreadState};

use super::allocators::find;
use super::said::said_in;
use crate::heap::said::Said;
use crate::heap::stacks::{Code, HeapFrame, Look, is_dying};
use crate::heap::texts::{Text, Texts};
use crate::layout::{FramePlace, Instruction, Layout};
use crate::memory::word;
use crate::model::function::{MAX_FILE_BYTES, MAX_NAME_BYTES};
use crate::unwind::linetable::line_in;

type GetState = unsafe extern "C" fn() -> *mut PyThreadState;

/// `ob_type` of every object.
const TYPE_OFFSET: usize = size_of::<usize>();
/// Bytes of an instruction.
const UNIT: usize = 2;
/// Nothing lies below: the first pages are never mapped.
const LOWEST: usize = 4_096;
/// A line table larger than this is not read: it would take too long.
const MAX_LINETABLE: usize = 64 << 10;

/// What has to be known of the interpreter.
struct Interpreter {
    layout: Layout,
    code_type: usize,
    /// The calling thread's state, if it has the GIL; up to 3.11 that of whoever has it.
    get_state: GetState,
    /// Whether `get_state` tells of the calling thread in any case.
    tells_of_thread: bool,
}

static INTERPRETER: OnceLock<Interpreter> = OnceLock::new();

/// Learns where the interpreter has what.
///
/// # Errors
/// When it lacks a function.
pub(super) fn learn(layout: Layout, code_type: usize, version: (u8, u8)) -> Result<(), String> {
    let name = if version >= (3, 13) {
        c"PyThreadState_GetUnchecked"
    } else {
        c"_PyThreadState_UncheckedGet"
    };
    // SAFETY: CPython's functions of these names take nothing and return the state, or null.
    let get_state = unsafe { std::mem::transmute::<*mut c_void, GetState>(find(name)?) };
    let interpreter = Interpreter {
        layout,
        code_type,
        get_state,
        tells_of_thread: version >= (3, 12),
    };
    // What was learnt before is the same.
    drop(INTERPRETER.set(interpreter));
    Ok(())
}

/// The word at an address.
///
/// # Safety
/// It is in memory that the caller knows to be there.
#[inline(always)]
pub(super) unsafe fn load(address: usize) -> usize {
    // SAFETY: as the caller says; objects and frames are aligned to words.
    unsafe { (address as *const usize).read() }
}

/// So many bytes from an address.
///
/// # Safety
/// As for [`load`], and nobody writes to them meanwhile.
#[inline(always)]
unsafe fn bytes_at<'object>(address: usize, length: usize) -> &'object [u8] {
    // SAFETY: as the caller says.
    unsafe { std::slice::from_raw_parts(address as *const u8, length) }
}

pub(super) fn may_be_object(address: usize) -> bool {
    address >= LOWEST && address.is_multiple_of(size_of::<usize>())
}

/// The calling thread.
pub(super) struct Own {
    /// Whether it is sure to have the GIL.
    pub(super) has_gil: bool,
}

impl Own {
    fn state(&self, interpreter: &Interpreter) -> usize {
        if self.has_gil || interpreter.tells_of_thread {
            // SAFETY: it takes nothing, and looks at a variable.
            let state = unsafe { (interpreter.get_state)() };
            if !state.is_null() {
                return state as usize;
            }
        }
        // SAFETY: needs no GIL: it looks at what the thread itself has noted, and knows whether there
        // is an interpreter.
        unsafe { ffi::PyGILState_GetThisThreadState() as usize }
    }
}

impl Look for Own {
    fn walk(&self, frames: &mut Vec<HeapFrame>) -> bool {
        let Some(interpreter) = INTERPRETER.get() else {
            return false;
        };
        let layout = &interpreter.layout;
        let state = self.state(interpreter);
        if state == 0 {
            return true;
        }
        // SAFETY: the state is the calling thread's, which is alive; so is what it points to on this
        // thread's stacks.
        let mut address = unsafe {
            match layout.thread.frame {
                FramePlace::Object(at) | FramePlace::Direct(at) => load(state + at),
                FramePlace::CFrame(at, frame) => match load(state + at) {
                    0 => 0,
                    cframe => load(cframe + frame),
                },
            }
        };
        let mut looked_at = 0;
        while address != 0 {
            if looked_at == frames.capacity() || !may_be_object(address) {
                return false;
            }
            looked_at += 1;
            // SAFETY: frames that are linked are whole, and this thread is in all of them.
            unsafe {
                let owner = (address as *const u8).add(layout.frame.owner).read();
                if owner < layout.frame.first_shim || layout.has_heap_frames() {
                    let code = load(address + layout.frame.code) & !layout.frame.code_tags;
                    let instruction = match layout.frame.instruction {
                        Instruction::Index(at) => {
                            let index = (address as *const u8).add(at).cast::<i32>().read();
                            index.max(0) as usize
                        }
                        Instruction::Pointer(at) => load(address + at),
                    };
                    if may_be_object(code) {
                        frames.push(HeapFrame { code, instruction });
                    }
                }
                address = load(address + layout.frame.previous);
            }
        }
        true
    }

    fn learn(&self, code: usize, texts: &mut Texts) -> Option<Code> {
        let interpreter = INTERPRETER.get()?;
        let layout = &interpreter.layout;
        // SAFETY: a frame of this thread has the object, which is alive with all that it holds; its type
        // says that it is a code object.
        unsafe {
            if is_dying(code) || load(code + TYPE_OFFSET) != interpreter.code_type {
                return None;
            }
            let first_line = (code as *const u8).add(layout.code.first_line);
            let first_line = first_line.cast::<i32>().read();
            Some(Code {
                name: text(
                    load(code + layout.code.qualname),
                    layout,
                    MAX_NAME_BYTES,
                    texts,
                )?,
                file: text(
                    load(code + layout.code.filename),
                    layout,
                    MAX_FILE_BYTES,
                    texts,
                )?,
                first_line: u32::try_from(first_line).unwrap_or(0),
            })
        }
    }

    fn line(&self, code: usize, instruction: usize) -> u32 {
        let Some(interpreter) = INTERPRETER.get() else {
            return 0;
        };
        let layout = &interpreter.layout;
        // SAFETY: as in `learn`, which was called for it first.
        let (first_line, length, table) = unsafe {
            let first_line = (code as *const u8).add(layout.code.first_line);
            let length = match layout.code.instructions {
                Some(_) => load(code + layout.code.length) * UNIT,
                None => usize::MAX,
            };
            let table = load(code + layout.code.linetable);
            (first_line.cast::<i32>().read(), length, table)
        };
        let first_line = u32::try_from(first_line).unwrap_or(0);
        let offset = match layout.code.instructions {
            // f_lasti of 3.10 counts instructions.
            None => instruction * UNIT,
            // A frame that was just made points before its first instruction (3.11, 3.12).
            Some(at) if instruction + UNIT == code + at => return first_line,
            Some(at) => instruction.wrapping_sub(code + at),
        };
        if offset > length || !may_be_object(table) {
            return 0;
        }
        // SAFETY: as above: the table is a bytes object of the code object's.
        let bytes = unsafe {
            let length = load(table + layout.bytes.length);
            if length > MAX_LINETABLE {
                return first_line;
            }
            bytes_at(table + layout.bytes.data, length)
        };
        line_in(layout.lines, first_line, bytes, offset as u32)
    }

    fn said<T>(&self, take: impl FnOnce(&Said<'_>) -> T) -> Option<T> {
        match self.state(INTERPRETER.get()?) {
            0 => None,
            state => said_in(state, take),
        }
    }
}

/// Copies a name, as far as `limit` goes.
///
/// # Safety
/// `object` is a string that is alive.
unsafe fn text(object: usize, layout: &Layout, limit: usize, texts: &mut Texts) -> Option<Text> {
    if !may_be_object(object) {
        return None;
    }
    let place = &layout.text;
    // SAFETY: strings have a head of at least so many bytes.
    let head = unsafe { bytes_at(object, place.ascii_data) };
    let state = word(head, place.state) as u32;
    let width = match state >> place.kind_bit & 7 {
        width @ (1 | 2 | 4) => width as usize,
        _ => return None,
    };
    let is_compact = state >> (place.kind_bit + 3) & 1 == 1;
    if !is_compact {
        return None;
    }
    let is_ascii = state >> (place.kind_bit + 4) & 1 == 1;
    let data = if is_ascii {
        place.ascii_data
    } else {
        place.compact_data
    };
    let length = word(head, place.length).min(limit / width) * width;
    // SAFETY: the characters of a compact string follow its head, and never change.
    let characters = unsafe { bytes_at(object + data, length) };
    texts.put(characters, width as u8)
}
