//! CPython 3.10, 64 bits. Frames are heap objects; the GIL is one for the process.
#![forbid(unsafe_code)]

use super::{
    BytesLayout, CodeLayout, FrameLayout, FramePlace, GilLayout, GilPlace, Instruction,
    InterpreterLayout, Layout, LineFormat, RuntimeLayout, TextLayout, ThreadLayout,
};

/// Checked against the installed headers by `tests/layout/check.py`.
pub const LAYOUT: Layout = Layout {
    minor: 10,
    // Include/internal/pycore_runtime.h, _PyRuntimeState.
    runtime: RuntimeLayout {
        interpreters_head: 32,
        finalizing: 16,
    },
    // Include/internal/pycore_interp.h, struct _is; gc.collecting of pycore_gc.h.
    interpreter: InterpreterLayout {
        next: 0,
        id: 24,
        threads_head: 8,
        collecting: 816,
    },
    // Include/internal/pycore_gil.h; _PyRuntimeState.ceval.gil.
    gil: GilLayout {
        place: GilPlace::Runtime(352),
        interval: 0,
        holder: 8,
        locked: 16,
        switches: 24,
    },
    // Include/cpython/pystate.h, struct _ts.
    thread: ThreadLayout {
        next: 8,
        interpreter: 16,
        ident: 176,
        native_id: None,
        frame: FramePlace::Object(24),
        chunk: None,
        size: 192,
    },
    // Include/cpython/frameobject.h, struct _frame.
    frame: FrameLayout {
        previous: 24,
        code: 32,
        code_tags: 0,
        instruction: Instruction::Index(96),
        owner: 108,
        first_shim: 0xff,
        size: 112,
    },
    // Include/cpython/code.h, struct PyCodeObject.
    code: CodeLayout {
        filename: 104,
        qualname: 112,
        linetable: 120,
        first_line: 40,
        instructions: None,
        length: 16,
        size: 176,
    },
    lines: LineFormat::Deltas,
    // Include/cpython/unicodeobject.h, PyASCIIObject: interned has two bits.
    text: TextLayout {
        length: 16,
        state: 32,
        kind_bit: 2,
        ascii_data: 48,
        compact_data: 72,
    },
    // Include/cpython/bytesobject.h.
    bytes: BytesLayout {
        length: 16,
        data: 32,
    },
};
