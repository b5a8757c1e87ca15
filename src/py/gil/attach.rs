//! Attaching the sampler's thread to the interpreter, and letting go again.
//!
//! Three wishes pull against each other:
//!
//! 1. A thread state that stays shows as an extra thread in every dump of `faulthandler`, so it
//!    should exist only during a snapshot.
//! 2. Making one allocates from the raw domain without the GIL. While `tracemalloc` traces, that
//!    allocation waits for the GIL inside tracemalloc's hook, and if `tracemalloc.stop()` runs in
//!    that moment the hook then reads what is no more (`Python/tracemalloc.c`, 3.10-3.14,
//!    `tracemalloc_raw_alloc`): a crash. So with tracemalloc about, the state must stay.
//! 3. Asking for the GIL while the interpreter shuts down ends the thread by `pthread_exit` before
//!    3.14 (`Python/ceval_gil.c`, `take_gil`), which must not unwind our frames; pyo3's
//!    `PyEval_RestoreThread` parks the thread for ever instead.
//!
//! A fourth case: CPython up to 3.12 aborts when a thread state is made while there is no other
//! (`Python/pystate.c`, `new_threadstate`), as in a child that was forked by a thread other than
//! the main one, once that thread has ended. There the state is made beforehand and kept.
//!
//! Hence: a state per snapshot while `tracemalloc` was never imported; from the first snapshot
//! that finds it imported on, the state is kept. Should tracing have begun since the snapshot
//! before, no state is made here: a thread that has the GIL makes it (a pending call, or one that
//! comes by), and the ticks until then are counted as skipped.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use pyo3::Python;
use pyo3::ffi::{self, PyInterpreterState, PyObject, PyThreadState};

use super::call;
use super::symbols::{Allocator, NoteState, Symbols};
use crate::capture::Missed;

/// Where a thread that has the GIL puts a thread state that one of ours must not make itself.
#[derive(Debug)]
pub(crate) struct Handover {
    interpreter: AtomicPtr<PyInterpreterState>,
    /// Where this was made: a pending call survives a fork, and nobody waits for it in the child.
    process_id: u32,
    is_wanted: AtomicBool,
    state: AtomicPtr<PyThreadState>,
}

impl Handover {
    /// Has the main thread make a thread state as soon as it runs Python code.
    fn ask(self: &Arc<Self>) {
        if self.is_wanted.swap(true, Ordering::AcqRel) {
            return;
        }
        let argument = Arc::into_raw(self.clone());
        // SAFETY: Py_AddPendingCall may be called without the GIL, and the call owns its argument.
        let result = unsafe { ffi::Py_AddPendingCall(Some(make_state), argument as *mut c_void) };
        if result != 0 {
            // SAFETY: there will be no call, so the reference is still ours.
            drop(unsafe { Arc::from_raw(argument) });
            self.is_wanted.store(false, Ordering::Release);
        }
    }

    /// Makes a thread state, if one is wanted: tracing cannot stop in the middle of this.
    pub(crate) fn make(&self, _py: Python<'_>) {
        if self.process_id != std::process::id() || !self.is_wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        // SAFETY: the GIL is held, as `_py` proves.
        let state = unsafe { ffi::PyThreadState_New(self.interpreter.load(Ordering::Relaxed)) };
        let unused = self.state.swap(state, Ordering::AcqRel);
        if !unused.is_null() {
            // SAFETY: nobody took this state, it was never attached, and the GIL is held.
            unsafe {
                ffi::PyThreadState_Clear(unused);
                ffi::PyThreadState_Delete(unused);
            }
        }
    }
}

/// The pending call: runs on the main thread with the GIL held.
extern "C" fn make_state(handover: *mut c_void) -> c_int {
    // SAFETY: `ask` has given this reference away, to this call alone.
    let handover = unsafe { Arc::from_raw(handover.cast::<Handover>().cast_const()) };
    // SAFETY: pending calls are made with the GIL held.
    handover.make(unsafe { Python::assume_attached() });
    0
}

/// How a thread of ours gets hold of the GIL.
#[derive(Debug)]
pub(crate) struct Attachment {
    symbols: Symbols,
    interpreter: *mut PyInterpreterState,
    /// The interned string `_tracemalloc`.
    tracemalloc_name: *mut PyObject,
    /// The raw allocator as it was while nobody traced.
    untraced: Option<Allocator>,
    /// The thread state that is kept, or null.
    kept: *mut PyThreadState,
    /// Address of the thread state that there is now, or 0, for whoever lists threads.
    state_address: Arc<AtomicUsize>,
    /// Whether a thread state is to be kept between snapshots.
    keep: bool,
    /// Whether the state that there is was made by the thread that uses it.
    is_state_own: bool,
    /// What notes a thread state for the calling thread, where the interpreter does not do that
    /// itself when a state is attached (up to 3.11).
    note: Option<NoteState>,
    handover: Arc<Handover>,
}

// SAFETY: the pointers are only used while the GIL is held, by whichever thread owns the engine;
// an interpreter state lives as long as the process, and the name is immortal by our reference.
unsafe impl Send for Attachment {}

impl Attachment {
    /// `keep`: make the thread state now and keep it, because `tracemalloc` may trace already or
    /// because the interpreter's other thread states may all go.
    pub(crate) fn new(py: Python<'_>, symbols: Symbols, keep: bool) -> Self {
        // SAFETY: the GIL is held.
        let interpreter = unsafe { ffi::PyInterpreterState_Get() };
        // SAFETY: the GIL is held; a null result (no memory) is checked where it is used.
        let tracemalloc_name = unsafe { ffi::PyUnicode_InternFromString(c"_tracemalloc".as_ptr()) };
        let kept = if keep {
            // SAFETY: the GIL is held, so tracing cannot stop in the middle of this.
            unsafe { symbols.make_state(interpreter) }
        } else {
            ptr::null_mut()
        };
        Self {
            untraced: symbols.raw_allocator(),
            note: symbols.note_state(py.version_info().minor),
            symbols,
            interpreter,
            tracemalloc_name,
            state_address: Arc::new(AtomicUsize::new(kept as usize)),
            kept,
            keep,
            is_state_own: false,
            handover: Arc::new(Handover {
                interpreter: AtomicPtr::new(interpreter),
                process_id: std::process::id(),
                is_wanted: AtomicBool::new(false),
                state: AtomicPtr::new(ptr::null_mut()),
            }),
        }
    }

    /// Where threads that have the GIL can leave a thread state, should one be wanted.
    pub(crate) fn handover(&self) -> Arc<Handover> {
        self.handover.clone()
    }

    /// The interpreter whose threads are sampled.
    pub(crate) fn interpreter(&self) -> *mut PyInterpreterState {
        self.interpreter
    }

    /// Tells the address of the thread state that there is at the time, or 0.
    pub(crate) fn state_address(&self) -> Arc<AtomicUsize> {
        self.state_address.clone()
    }

    /// Takes the GIL for as long as the returned guard lives.
    pub(crate) fn attach(&mut self) -> Result<Attached<'_>, Missed> {
        if self.symbols.is_finalizing() {
            return Err(Missed::Finalizing);
        }
        let mut state = std::mem::replace(&mut self.kept, ptr::null_mut());
        if state.is_null() {
            state = self.handover.state.swap(ptr::null_mut(), Ordering::AcqRel);
        }
        if state.is_null() {
            if self.keep || self.symbols.raw_allocator() != self.untraced {
                self.handover.ask();
                return Err(Missed::NotNow);
            }
            // SAFETY: reads the head of the list of thread states.
            if unsafe { (self.symbols.thread_head)(self.interpreter) }.is_null() {
                return Err(Missed::Finalizing);
            }
            // SAFETY: the interpreter is alive (not finalizing), and nobody traces raw memory.
            state = unsafe { self.symbols.make_state(self.interpreter) };
            if state.is_null() {
                return Err(Missed::NotNow);
            }
            self.is_state_own = true;
        }
        self.state_address.store(state as usize, Ordering::Release);
        // SAFETY: `state` belongs to this interpreter and no other thread uses it. Should the
        // interpreter begin to shut down now, pyo3's wrapper parks this thread for ever.
        unsafe { ffi::PyEval_RestoreThread(state) };
        if let Some(note) = self.note
            && !self.is_state_own
        {
            // Or `PyGILState_Check` denies that this thread has the GIL, and the allocator of
            // PYTHONMALLOC=debug aborts the process (`Objects/obmalloc.c`, `_PyMem_DebugCheckGIL`).
            // SAFETY: the state is attached to this thread, and is deleted by it.
            unsafe { note(state) };
        }
        let mut attached = Attached {
            state,
            attachment: self,
        };
        attached.notice_tracemalloc();
        Ok(attached)
    }

    /// Gives up a kept thread state that no thread has used.
    pub(crate) fn release(&mut self, _py: Python<'_>) {
        let unused = std::mem::replace(&mut self.kept, ptr::null_mut());
        if !unused.is_null() {
            // SAFETY: the GIL is held, as `_py` proves, and the state was never attached.
            unsafe {
                ffi::PyThreadState_Clear(unused);
                ffi::PyThreadState_Delete(unused);
            }
        }
    }

    /// Gives a kept thread state up, on the thread that used it: deleting it from another would
    /// clear that one's own (`Python/pystate.c` 3.12, `unbind_gilstate_tstate`).
    pub(crate) fn park(&mut self) {
        if !self.kept.is_null()
            && let Ok(mut attached) = self.attach()
        {
            attached.forget_state();
        }
    }
}

/// The GIL, held by a thread of ours.
pub(crate) struct Attached<'attachment> {
    state: *mut PyThreadState,
    attachment: &'attachment mut Attachment,
}

impl Attached<'_> {
    /// The thread state of the sampler itself.
    pub(crate) fn state(&self) -> *mut PyThreadState {
        self.state
    }

    fn notice_tracemalloc(&mut self) {
        if self.attachment.keep || self.attachment.tracemalloc_name.is_null() {
            return;
        }
        // SAFETY: the GIL is held; sys.modules is borrowed and looked at only if it is a plain
        // dict, and a look-up of an exact str in it runs no code but str's own comparison.
        self.attachment.keep = unsafe {
            let modules = ffi::PyImport_GetModuleDict();
            !modules.is_null()
                && ffi::PyDict_CheckExact(modules) != 0
                && !ffi::PyDict_GetItemWithError(modules, self.attachment.tracemalloc_name)
                    .is_null()
        };
    }

    /// Exchanges the thread state for one that this thread has made, so that Python code can run
    /// with it; false if that cannot be done.
    ///
    /// CPython 3.10 and 3.11 know a state by the thread that made it (`Python/pystate.c`,
    /// `new_threadstate`, `_PyGILState_NoteThreadState`): with one that another has made,
    /// `PyGILState_Ensure` makes a second and waits for the GIL that this thread has. So does the
    /// allocation of a state while `tracemalloc` traces, hence the note before it.
    pub(crate) fn own_state(&mut self) -> bool {
        if self.attachment.is_state_own || self.py().version_info() >= (3, 12) {
            return true;
        }
        let Some(note) = self.attachment.note else {
            return false;
        };
        // SAFETY: the GIL is held, so that tracing cannot stop while a state is made. A state is
        // noted for the calling thread only if none is, and its deletion takes the note back. The
        // old one, noted when it was attached, is used by nobody once this thread has another.
        unsafe {
            let interpreter = self.attachment.interpreter;
            let own = self.attachment.symbols.make_state(interpreter);
            if own.is_null() {
                return false;
            }
            let old = ffi::PyThreadState_Swap(own);
            ffi::PyThreadState_Clear(old);
            ffi::PyThreadState_Delete(old);
            note(own);
            self.state = own;
        }
        self.attachment.is_state_own = true;
        self.attachment
            .state_address
            .store(self.state as usize, Ordering::Release);
        true
    }

    /// The token for pyo3's functions.
    pub(crate) fn py(&self) -> Python<'_> {
        // SAFETY: the GIL is held as long as this lives.
        unsafe { Python::assume_attached() }
    }

    /// Has the state deleted when the guard goes.
    fn forget_state(&mut self) {
        self.attachment.keep = false;
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        if self.attachment.keep {
            // SAFETY: this thread is attached with `state`, which stays valid while detached.
            unsafe { ffi::PyEval_SaveThread() };
            self.attachment.kept = self.state;
        } else {
            // SAFETY: this thread is attached with `state`; Clear needs the GIL, DeleteCurrent
            // releases it. The sampler's state never ran Python code, so it holds no object whose
            // end could run any; the reporter's may run more of it.
            unsafe {
                call::clear(&self.attachment.symbols, self.state);
                (self.attachment.symbols.delete_current)();
            }
            self.attachment.is_state_own = false;
            self.attachment.state_address.store(0, Ordering::Release);
        }
    }
}
