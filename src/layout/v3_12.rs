//! CPython 3.12, 64 bits. As 3.11, with a GIL for each interpreter and entry frames on the C stack.
#![forbid(unsafe_code)]

use super::{
    BytesLayout, CodeLayout, FrameLayout, FramePlace, GilLayout, GilPlace, Instruction,
    InterpreterLayout, Layout, LineFormat, RuntimeLayout, TextLayout, ThreadLayout,
};

/// Checked against the installed headers by `tests/layout/check.py`.
pub const LAYOUT: Layout = Layout {
    minor: 12,
    // Include/internal/pycore_runtime.h, _PyRuntimeState.
    runtime: RuntimeLayout {
        interpreters_head: 40,
        finalizing: 24,
    },
    // Include/internal/pycore_interp.h, struct _is; gc.collecting of pycore_gc.h.
    interpreter: InterpreterLayout {
        next: 0,
        id: 8,
        threads_head: 72,
        collecting: 312,
    },
    // Include/internal/pycore_gil.h; PyInterpreterState.ceval.gil is a pointer.
    gil: GilLayout {
        place: GilPlace::Interpreter(384),
        interval: 0,
        holder: 8,
        locked: 16,
        switches: 24,
    },
    // Include/cpython/pystate.h, struct _ts; _PyCFrame.current_frame.
    thread: ThreadLayout {
        next: 8,
        interpreter: 16,
        ident: 136,
        native_id: Some(144),
        frame: FramePlace::CFrame(56, 0),
        chunk: Some(232),
        size: 240,
    },
    // Include/internal/pycore_frame.h, struct _PyInterpreterFrame; FRAME_OWNED_BY_CSTACK is 3.
    frame: FrameLayout {
        previous: 8,
        code: 0,
        code_tags: 0,
        instruction: Instruction::Pointer(56),
        owner: 70,
        first_shim: 3,
        size: 80,
    },
    // Include/cpython/code.h, _PyCode_DEF.
    code: CodeLayout {
        filename: 112,
        qualname: 128,
        linetable: 136,
        first_line: 68,
        instructions: Some(192),
        length: 16,
        size: 200,
    },
    lines: LineFormat::Locations,
    // Include/cpython/unicodeobject.h, PyASCIIObject: interned has two bits.
    text: TextLayout {
        length: 16,
        state: 32,
        kind_bit: 2,
        ascii_data: 40,
        compact_data: 56,
    },
    // Include/cpython/bytesobject.h.
    bytes: BytesLayout {
        length: 16,
        data: 32,
    },
};
