//! CPython 3.11, 64 bits. Frames lie on a data stack; a frame on the C stack leads to the newest.
#![forbid(unsafe_code)]

use super::{
    BytesLayout, CodeLayout, FrameLayout, FramePlace, GilLayout, GilPlace, Instruction,
    InterpreterLayout, Layout, LineFormat, RuntimeLayout, TextLayout, ThreadLayout,
};

/// Checked against the installed headers by `tests/layout/check.py`.
pub const LAYOUT: Layout = Layout {
    minor: 11,
    // Include/internal/pycore_runtime.h, _PyRuntimeState.
    runtime: RuntimeLayout {
        interpreters_head: 40,
        finalizing: 24,
    },
    // Include/internal/pycore_interp.h, struct _is; gc.collecting of pycore_gc.h.
    interpreter: InterpreterLayout {
        next: 0,
        id: 48,
        threads_head: 16,
        collecting: 848,
    },
    // Include/internal/pycore_gil.h; _PyRuntimeState.ceval.gil.
    gil: GilLayout {
        place: GilPlace::Runtime(360),
        interval: 0,
        holder: 8,
        locked: 16,
        switches: 24,
    },
    // Include/cpython/pystate.h, struct _ts; _PyCFrame.current_frame.
    thread: ThreadLayout {
        next: 8,
        interpreter: 16,
        ident: 152,
        native_id: Some(160),
        frame: FramePlace::CFrame(56, 8),
        chunk: Some(296),
        size: 304,
    },
    // Include/internal/pycore_frame.h, struct _PyInterpreterFrame; there are no entry frames.
    frame: FrameLayout {
        previous: 48,
        code: 32,
        code_tags: 0,
        instruction: Instruction::Pointer(56),
        owner: 69,
        first_shim: 3,
        size: 80,
    },
    // Include/cpython/code.h, _PyCode_DEF.
    code: CodeLayout {
        filename: 112,
        qualname: 128,
        linetable: 136,
        first_line: 72,
        instructions: Some(184),
        length: 16,
        size: 192,
    },
    lines: LineFormat::Locations,
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
