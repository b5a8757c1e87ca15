//! Reads one thread's stack by the C API.
#![allow(unsafe_code)]

use pyo3::ffi::{self, PyThreadState};

use super::code_cache::CodeCache;
use super::symbols::Symbols;
use crate::model::stack::{Frame, FunctionTable, Stack};

/// Frames read of one stack. Each costs 50-100 ns with the GIL held, and a frame object in the
/// application; a recursion deeper than this keeps its leaf side and hangs below `<incomplete>`.
pub(crate) const MAX_WALKED: usize = 4_096;

/// Replaces `stack` by what `thread` executes now; false if it executes no Python code.
///
/// Frames of rprof itself at the leaf side are left out: a thread inside `rprof.flush()` is where
/// it called that.
///
/// # Safety
/// The GIL must be held and `thread` be a live thread state of the sampled interpreter.
pub(crate) unsafe fn walk(
    thread: *mut PyThreadState,
    symbols: &Symbols,
    cache: &mut CodeCache,
    functions: &mut FunctionTable,
    stack: &mut Stack,
) -> bool {
    // SAFETY: the caller vouches for the GIL and the thread. All is done in one hold, so no frame
    // can end meanwhile; each new reference is given back before the next step, and none is the
    // last one, because the thread's own stack holds frame and code.
    unsafe {
        let mut frame = ffi::PyThreadState_GetFrame(thread);
        if frame.is_null() {
            return false;
        }
        stack.frames.clear();
        stack.incomplete = false;
        let mut depth = 0;
        while !frame.is_null() {
            if depth == MAX_WALKED {
                stack.incomplete = true;
                ffi::Py_DecRef(frame.cast());
                break;
            }
            depth += 1;
            let code = ffi::PyFrame_GetCode(frame).cast();
            let known = cache.code(code, functions);
            if !(known.is_own && stack.frames.is_empty()) {
                let line = cache.line(frame, known.serial);
                stack.frames.push(Frame {
                    function: known.serial,
                    line,
                });
            }
            ffi::Py_DecRef(code);
            let caller = (symbols.frame_back)(frame);
            ffi::Py_DecRef(frame.cast());
            frame = caller;
        }
    }
    true
}
