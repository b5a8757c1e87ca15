//! Where CPython keeps what: the offsets of the running version.
//!
//! See `README.md` in this directory for what to do about a new CPython.
#![forbid(unsafe_code)]

pub mod context;
pub mod debug_offsets;
pub mod greenlets;
pub mod locks;
pub mod loops;
pub mod steps;
pub mod tasks;
pub mod trio;
pub mod v3_10;
pub mod v3_11;
pub mod v3_12;

use crate::memory::{ReadMemory, read_word};

/// The runtime, `_PyRuntime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeLayout {
    /// First interpreter.
    pub interpreters_head: usize,
    /// The thread state that is shutting the interpreter down, or null.
    pub finalizing: usize,
}

/// An interpreter, `PyInterpreterState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterpreterLayout {
    /// Next interpreter.
    pub next: usize,
    /// Its number; 0 is the main one.
    pub id: usize,
    /// First thread state.
    pub threads_head: usize,
    /// Whether its garbage collector runs, an `int`.
    pub collecting: usize,
}

/// Where a GIL is: in the runtime, or where an interpreter points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GilPlace {
    /// At this offset of the runtime.
    Runtime(usize),
    /// At the address that stands at this offset of the interpreter.
    Interpreter(usize),
}

/// The GIL, `struct _gil_runtime_state` of `Include/internal/pycore_gil.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GilLayout {
    /// Where it is.
    pub place: GilPlace,
    /// How long a thread waits before it asks for it, in µs, an `unsigned long`.
    pub interval: usize,
    /// The thread state that holds it or held it last.
    pub holder: usize,
    /// Whether it is held, an `int`.
    pub locked: usize,
    /// How often it has gone from one thread to another, an `unsigned long`.
    pub switches: usize,
}

impl GilLayout {
    /// Address of the GIL of `interpreter`, an address; `None` if that cannot be read.
    pub fn address(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        runtime: usize,
        interpreter: usize,
    ) -> Option<usize> {
        match self.place {
            GilPlace::Runtime(offset) => Some(runtime + offset),
            GilPlace::Interpreter(offset) => read_word(memory, interpreter.wrapping_add(offset)),
        }
    }
}

/// Bytes from a GIL's begin in which its condition variables and mutexes lie: whoever waits on a
/// futex there waits for the GIL. Four words, and at most two pairs of 48 and 40 bytes (glibc).
pub const GIL_BYTES: usize = 8 * 4 + 2 * (48 + 40);

/// How a thread state leads to the newest frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FramePlace {
    /// A frame object at this offset (3.10).
    Object(usize),
    /// A `_PyCFrame` on the C stack at this offset, and the frame at that offset of it.
    CFrame(usize, usize),
    /// A frame at this offset.
    Direct(usize),
}

/// A thread, `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadLayout {
    /// Next thread state.
    pub next: usize,
    /// Its interpreter.
    pub interpreter: usize,
    /// `threading.get_ident()`.
    pub ident: usize,
    /// The kernel's thread id; `None` where it is not kept (3.10).
    pub native_id: Option<usize>,
    /// The newest frame.
    pub frame: FramePlace,
    /// The newest chunk of the data stack; `None` where frames are heap objects (3.10).
    pub chunk: Option<usize>,
    /// Bytes that hold all of the above.
    pub size: usize,
}

/// A chunk of the data stack, `_PyStackChunk` of `Include/cpython/pystate.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLayout {
    /// The chunk before.
    pub previous: usize,
    /// Its size in bytes.
    pub size: usize,
    /// The first frame.
    pub data: usize,
}

/// The same in every version that has chunks (3.11-3.15).
pub const CHUNK: ChunkLayout = ChunkLayout {
    previous: 0,
    size: 8,
    data: 24,
};

/// How a frame tells its instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// The number of the last instruction, an `int` (3.10).
    Index(usize),
    /// The address of the instruction.
    Pointer(usize),
}

/// A frame: `_PyInterpreterFrame`, or `PyFrameObject` in 3.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// The caller's frame.
    pub previous: usize,
    /// The code object.
    pub code: usize,
    /// Bits of the word at `code` that are no part of the address (3.14 and later).
    pub code_tags: usize,
    /// The instruction.
    pub instruction: Instruction,
    /// Who owns the frame, a byte; in 3.10 the frame's state.
    pub owner: usize,
    /// Owners below this are Python functions, this and above are the interpreter's entries.
    pub first_shim: u8,
    /// Bytes of the fixed part, and so the least that lies between two frames.
    pub size: usize,
}

/// Frames on the data stack.
pub const OWNED_BY_THREAD: u8 = 0;
/// Frames inside a generator or coroutine.
pub const OWNED_BY_GENERATOR: u8 = 1;
/// `FRAME_EXECUTING` of 3.10: the function runs, or waits for one that it called.
pub const EXECUTING_3_10: u8 = 0;
/// `FRAME_RETURNED` of 3.10.
pub const RETURNED_3_10: u8 = 1;
/// `FRAME_UNWINDING` of 3.10: an exception looks for its handler.
pub const UNWINDING_3_10: u8 = 2;
/// `FRAME_RAISED` of 3.10: there was none.
pub const RAISED_3_10: u8 = 3;

/// A code object, `PyCodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    /// `co_filename`.
    pub filename: usize,
    /// `co_qualname`; `co_name` in 3.10.
    pub qualname: usize,
    /// `co_linetable`.
    pub linetable: usize,
    /// `co_firstlineno`, an `int`.
    pub first_line: usize,
    /// Where the instructions begin, inside the code object; `None` in 3.10, where frames count.
    pub instructions: Option<usize>,
    /// `ob_size`: the number of instructions (2 bytes each); unused in 3.10.
    pub length: usize,
    /// Bytes that hold all of the above.
    pub size: usize,
}

/// How `co_linetable` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// `Objects/lnotab_notes.txt` of 3.10.
    Deltas,
    /// `Objects/locations.md` of 3.11 and later.
    Locations,
}

/// A string, `PyASCIIObject` and `PyCompactUnicodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextLayout {
    /// Number of characters.
    pub length: usize,
    /// The bit field, 32 bits.
    pub state: usize,
    /// Lowest bit of `kind` (3 bits) in the bit field; `compact` and `ascii` follow.
    pub kind_bit: u32,
    /// Where the characters of a compact ASCII string begin.
    pub ascii_data: usize,
    /// Where the characters of any other compact string begin.
    pub compact_data: usize,
}

/// A `bytes` object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesLayout {
    /// Its length.
    pub length: usize,
    /// Its content.
    pub data: usize,
}

/// Everything of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// 10 of CPython 3.10.
    pub minor: u32,
    /// The runtime.
    pub runtime: RuntimeLayout,
    /// Interpreters.
    pub interpreter: InterpreterLayout,
    /// The GIL.
    pub gil: GilLayout,
    /// Threads.
    pub thread: ThreadLayout,
    /// Frames.
    pub frame: FrameLayout,
    /// Code objects.
    pub code: CodeLayout,
    /// Line tables.
    pub lines: LineFormat,
    /// Strings.
    pub text: TextLayout,
    /// Bytes.
    pub bytes: BytesLayout,
}

impl Layout {
    /// Whether frames are objects on the heap (3.10), and not stretches of a data stack.
    #[must_use]
    #[inline]
    pub fn has_heap_frames(&self) -> bool {
        self.thread.chunk.is_none()
    }

    /// The layout of the interpreter whose runtime is at `runtime` and says it is `version_hex`
    /// (`PY_VERSION_HEX`).
    ///
    /// # Errors
    /// Why there is none: an unknown version, or a table that contradicts itself.
    pub fn detect(
        memory: &mut (dyn ReadMemory + '_),
        runtime: usize,
        version_hex: u32,
    ) -> Result<Self, String> {
        match (version_hex >> 24, version_hex >> 16 & 0xff) {
            (3, 10) => Ok(v3_10::LAYOUT),
            (3, 11) => Ok(v3_11::LAYOUT),
            (3, 12) => Ok(v3_12::LAYOUT),
            (3, 13..=15) => debug_offsets::detect(memory, runtime, version_hex),
            (major, minor) => Err(format!("CPython {major}.{minor} is not known yet")),
        }
    }
}
