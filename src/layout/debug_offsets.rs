//! CPython 3.13-3.15, 64 bits: the table of offsets that the runtime begins with.
//!
//! `struct _Py_DebugOffsets`, in `Include/internal/pycore_runtime.h` (3.13) and
//! `pycore_debug_offsets.h` (3.14, 3.15). The table's own shape changes from minor to minor, so
//! each has its list of words here.
#![forbid(unsafe_code)]

use super::{
    BytesLayout, CodeLayout, FrameLayout, FramePlace, GilLayout, GilPlace, Instruction,
    InterpreterLayout, Layout, LineFormat, RuntimeLayout, TextLayout, ThreadLayout,
};
use crate::memory::{ReadMemory, read, word};

const COOKIE: &[u8; 8] = b"xdebugpy";
const WORD: usize = size_of::<usize>();

/// Where each offset stands in the table, in words.
struct Places {
    words: usize,
    interpreter: InterpreterPlaces,
    thread: usize,
    native_id: usize,
    chunk: usize,
    frame: usize,
    code: usize,
    bytes: usize,
    text: usize,
    gc: usize,
    tags: usize,
}

struct InterpreterPlaces {
    id: usize,
    gc: usize,
    gil: usize,
}

/// The words before `interpreter_state`: cookie, version, free_threaded, runtime_state (size,
/// finalizing, interpreters_head).
const FREE_THREADED: usize = 2;
const FINALIZING: usize = 4;
const INTERPRETERS_HEAD: usize = 5;

const V3_13: Places = Places {
    words: 73,
    // size id next threads_head gc imports_modules sysdict builtins ceval_gil gil_runtime_state
    // (itself, enabled, locked, holder)
    interpreter: InterpreterPlaces {
        id: 7,
        gc: 10,
        gil: 14,
    },
    // size prev next interp current_frame thread_id native_thread_id datastack_chunk status
    thread: 19,
    native_id: 25,
    chunk: 26,
    // size previous executable instr_ptr localsplus owner
    frame: 28,
    // size filename name qualname linetable firstlineno argcount localsplusnames
    // localspluskinds co_code_adaptive
    code: 34,
    // pyobject 2, type 4, tuple 3, list 3, dict 3, float 2, long 3 words; then bytes: size ob_size
    // ob_sval; unicode: size state length asciiobject_size; gc: size collecting
    bytes: 64,
    text: 67,
    gc: 71,
    tags: 0,
};

const V3_14: Places = Places {
    words: 95,
    // As 3.13 with threads_main after threads_head, and code_object_generation and
    // tlbc_generation at the end.
    interpreter: InterpreterPlaces {
        id: 7,
        gc: 11,
        gil: 15,
    },
    thread: 22,
    native_id: 28,
    chunk: 29,
    // and stackpointer, tlbc_index
    frame: 31,
    // and co_tlbc
    code: 39,
    // pyobject 2, type 4, tuple 3, list 3, set 4, dict 3, float 2, long 3
    bytes: 74,
    text: 77,
    gc: 81,
    tags: 3,
};

const V3_15: Places = Places {
    words: 111,
    interpreter: InterpreterPlaces {
        id: 7,
        gc: 11,
        gil: 15,
    },
    // size prev next interp current_frame base_frame last_profiled_frame last_profiled_frame_seq
    // thread_id native_thread_id datastack_chunk status holds_gil gil_requested
    // current_exception exc_state
    thread: 22,
    native_id: 31,
    chunk: 32,
    // err_stackitem has 1 word before
    frame: 39,
    code: 47,
    // pyobject 2, type 6, heap type 2, tuple 3, list 3, set 4, dict 3, float 2, long 3
    bytes: 86,
    // and compactunicodeobject_size
    text: 89,
    gc: 94,
    tags: 3,
};

/// Reads and checks the table at `runtime`.
///
/// # Errors
/// What is wrong with it.
pub fn read_table(
    memory: &mut (dyn ReadMemory + '_),
    runtime: usize,
    version_hex: u32,
) -> Result<Vec<usize>, String> {
    let places = places(version_hex)?;
    let bytes = read(memory, runtime, places.words * WORD)
        .ok_or("its table of debug offsets cannot be read")?;
    if &bytes[..WORD] != COOKIE {
        return Err("its runtime does not begin with a table of debug offsets".to_owned());
    }
    let table: Vec<usize> = (0..places.words).map(|at| word(bytes, at * WORD)).collect();
    if table[1] != version_hex as usize {
        return Err(format!(
            "its debug offsets are for version {:#x}, and it is {version_hex:#x}",
            table[1]
        ));
    }
    Ok(table)
}

/// The layout that the table at `runtime` describes.
///
/// # Errors
/// What is wrong with it.
pub fn detect(
    memory: &mut (dyn ReadMemory + '_),
    runtime: usize,
    version_hex: u32,
) -> Result<Layout, String> {
    let places = places(version_hex)?;
    let table = read_table(memory, runtime, version_hex)?;
    if table[FREE_THREADED] != 0 {
        return Err("free-threaded builds are not supported yet".to_owned());
    }
    layout(&table, version_hex >> 16 & 0xff, places)
}

fn places(version_hex: u32) -> Result<&'static Places, String> {
    match version_hex >> 16 & 0xff {
        13 => Ok(&V3_13),
        14 => Ok(&V3_14),
        15 => Ok(&V3_15),
        minor => Err(format!("the debug offsets of 3.{minor} are not known")),
    }
}

/// The layout that a table of debug offsets tells. Longer than 80 lines, because it is itself a table:
/// a line for each field of the layout.
fn layout(table: &[usize], minor: u32, places: &Places) -> Result<Layout, String> {
    // Structures are small; an offset beyond this is no offset.
    const LARGEST: usize = 1 << 20;
    let at = |place: usize| match table[place] {
        offset if offset < LARGEST => Ok(offset),
        offset => Err(format!("its debug offset number {place} is {offset:#x}")),
    };
    let interpreter = &places.interpreter;
    let thread = places.thread;
    let frame = places.frame;
    let code = places.code;
    let gil = interpreter.gil;
    let inside_gil = |place: usize| {
        at(place)?
            .checked_sub(at(gil + 1)?)
            .ok_or_else(|| "its debug offsets of the GIL contradict each other".to_owned())
    };
    let thread_offsets = [
        at(thread + 2)?,
        at(thread + 3)?,
        at(thread + 4)?,
        at(places.native_id - 1)?,
        at(places.native_id)?,
        at(places.chunk)?,
    ];
    let code_offsets = [
        at(code + 1)?,
        at(code + 3)?,
        at(code + 4)?,
        at(code + 5)?,
        at(code + 9)?,
    ];
    let size = |offsets: &[usize]| offsets.iter().max().map_or(0, |last| last + WORD);
    let ascii_data = at(places.text + 3)?;
    Ok(Layout {
        minor,
        runtime: RuntimeLayout {
            interpreters_head: at(INTERPRETERS_HEAD)?,
            finalizing: at(FINALIZING)?,
        },
        interpreter: InterpreterLayout {
            id: at(interpreter.id)?,
            next: at(interpreter.id + 1)?,
            threads_head: at(interpreter.id + 2)?,
            collecting: at(interpreter.gc)? + at(places.gc + 1)?,
        },
        gil: GilLayout {
            place: GilPlace::Interpreter(at(gil)?),
            locked: inside_gil(gil + 3)?,
            // Not in the table: `switch_number` follows (Include/internal/pycore_gil.h, 3.13-3.15).
            switches: (inside_gil(gil + 3)? + size_of::<i32>()).next_multiple_of(WORD),
            // Nor is `interval`, which stands before `last_holder`.
            interval: inside_gil(gil + 4)?.saturating_sub(WORD),
            holder: inside_gil(gil + 4)?,
        },
        thread: ThreadLayout {
            next: thread_offsets[0],
            interpreter: thread_offsets[1],
            frame: FramePlace::Direct(thread_offsets[2]),
            ident: thread_offsets[3],
            native_id: Some(thread_offsets[4]),
            chunk: Some(thread_offsets[5]),
            size: size(&thread_offsets),
        },
        frame: FrameLayout {
            previous: at(frame + 1)?,
            code: at(frame + 2)?,
            code_tags: places.tags,
            instruction: Instruction::Pointer(at(frame + 3)?),
            owner: at(frame + 5)?,
            first_shim: 3,
            size: at(frame + 4)?,
        },
        code: CodeLayout {
            filename: code_offsets[0],
            qualname: code_offsets[1],
            linetable: code_offsets[2],
            first_line: code_offsets[3],
            instructions: Some(code_offsets[4]),
            // PyVarObject.ob_size, which the table does not name; ob_type is the word before.
            length: 16,
            size: size(&code_offsets),
        },
        lines: LineFormat::Locations,
        text: TextLayout {
            state: at(places.text + 1)?,
            length: at(places.text + 2)?,
            // interned has two bits (Include/cpython/unicodeobject.h).
            kind_bit: 2,
            ascii_data,
            // utf8_length and utf8 (3.13, 3.14 do not name PyCompactUnicodeObject's size).
            compact_data: ascii_data + 16,
        },
        bytes: BytesLayout {
            length: at(places.bytes + 1)?,
            data: at(places.bytes + 2)?,
        },
    })
}
