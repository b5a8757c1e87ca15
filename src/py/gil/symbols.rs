//! CPython functions outside the limited API, found at run time.
//!
//! A wheel that linked them would not be an abi3 wheel; all of them are exported by CPython
//! 3.10-3.15 (`Include/cpython/pystate.h`, `pyframe.h`, `pymem.h`, `pylifecycle.h`,
//! `Include/pythread.h`).
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_ulong, c_void};

use pyo3::ffi::{self, PyFrameObject, PyInterpreterState, PyObject, PyThreadState};

/// `PyMemAllocatorEx` of `Include/cpython/pymem.h`; only compared, never called.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocator {
    context: *mut c_void,
    malloc: *mut c_void,
    calloc: *mut c_void,
    realloc: *mut c_void,
    free: *mut c_void,
}

/// The functions; those that some version lacks are optional.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbols {
    pub(crate) thread_head: ThreadHead,
    pub(crate) thread_next: ThreadNext,
    pub(crate) frame_back: FrameBack,
    pub(crate) delete_current: DeleteCurrent,
    /// `threading.get_ident()` as CPython knows it; gevent puts another function there.
    pub(crate) thread_ident: ThreadIdent,
    /// `PyObject_Call` as a function that may unwind; see [`super::call`].
    pub(super) call: Call,
    /// `PyThreadState_Clear` likewise.
    pub(super) clear_state: ClearState,
    /// 3.11 and later.
    pub(crate) frame_lasti: Option<FrameLasti>,
    /// 3.13 and later.
    pub(crate) weakref_get: Option<WeakrefGet>,
    /// Up to 3.14.
    pub(crate) weakref_get_borrowed: Option<WeakrefGetBorrowed>,
    /// 3.10, and what took its place in 3.11, where the first one ends the process.
    init_state: Option<NoteState>,
    set_current_state: Option<NoteState>,
    /// Makes a thread state and no more, where there is such a function.
    preallocate_state: Option<MakeState>,
    is_finalizing: Option<IsFinalizing>,
    get_allocator: Option<GetAllocator>,
}

/// The address of an exported function, or null.
fn find(name: &CStr) -> *mut c_void {
    // SAFETY: RTLD_DEFAULT searches the loaded objects; `name` is a C string.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

type ThreadHead = unsafe extern "C" fn(*mut PyInterpreterState) -> *mut PyThreadState;
type ThreadNext = unsafe extern "C" fn(*mut PyThreadState) -> *mut PyThreadState;
type FrameBack = unsafe extern "C" fn(*mut PyFrameObject) -> *mut PyFrameObject;
type ThreadIdent = unsafe extern "C" fn() -> c_ulong;
type DeleteCurrent = unsafe extern "C" fn();
pub(super) type Call =
    unsafe extern "C-unwind" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
pub(super) type ClearState = unsafe extern "C-unwind" fn(*mut PyThreadState);
type FrameLasti = unsafe extern "C" fn(*mut PyFrameObject) -> c_int;
type WeakrefGet = unsafe extern "C" fn(*mut PyObject, *mut *mut PyObject) -> c_int;
type WeakrefGetBorrowed = unsafe extern "C" fn(*mut PyObject) -> *mut PyObject;
type MakeState = unsafe extern "C" fn(*mut PyInterpreterState) -> *mut PyThreadState;
pub(super) type NoteState = unsafe extern "C" fn(*mut PyThreadState);
type IsFinalizing = unsafe extern "C" fn() -> c_int;
type GetAllocator = unsafe extern "C" fn(c_int, *mut Allocator);

macro_rules! function {
    ($name:literal, $signature:ty) => {{
        let address = find($name);
        if address.is_null() {
            None
        } else {
            // SAFETY: the symbol is CPython's function of this name, whose C signature is the type
            // of the field it is stored in and has not changed between 3.10 and 3.15.
            Some(unsafe { std::mem::transmute::<*mut c_void, $signature>(address) })
        }
    }};
}

impl Symbols {
    /// Finds the functions; the error names the first that is missing.
    pub(crate) fn find() -> Result<Self, &'static str> {
        Ok(Self {
            thread_head: function!(c"PyInterpreterState_ThreadHead", ThreadHead)
                .ok_or("PyInterpreterState_ThreadHead")?,
            thread_next: function!(c"PyThreadState_Next", ThreadNext)
                .ok_or("PyThreadState_Next")?,
            frame_back: function!(c"PyFrame_GetBack", FrameBack).ok_or("PyFrame_GetBack")?,
            delete_current: function!(c"PyThreadState_DeleteCurrent", DeleteCurrent)
                .ok_or("PyThreadState_DeleteCurrent")?,
            thread_ident: function!(c"PyThread_get_thread_ident", ThreadIdent)
                .ok_or("PyThread_get_thread_ident")?,
            call: function!(c"PyObject_Call", Call).ok_or("PyObject_Call")?,
            clear_state: function!(c"PyThreadState_Clear", ClearState)
                .ok_or("PyThreadState_Clear")?,
            frame_lasti: function!(c"PyFrame_GetLasti", FrameLasti),
            weakref_get: function!(c"PyWeakref_GetRef", WeakrefGet),
            weakref_get_borrowed: function!(c"PyWeakref_GetObject", WeakrefGetBorrowed),
            init_state: function!(c"_PyThreadState_Init", NoteState),
            set_current_state: function!(c"_PyThreadState_SetCurrent", NoteState),
            preallocate_state: function!(c"_PyThreadState_Prealloc", MakeState),
            is_finalizing: function!(c"Py_IsFinalizing", IsFinalizing)
                .or(function!(c"_Py_IsFinalizing", IsFinalizing)),
            get_allocator: function!(c"PyMem_GetAllocator", GetAllocator),
        })
    }

    /// A new thread state of the calling thread; null if there is no memory for it.
    ///
    /// CPython 3.11 itself does not look whether it got any (`Python/pystate.c`,
    /// `PyThreadState_New`): there its two steps are taken one by one. It alone has both functions.
    ///
    /// # Safety
    /// As for `PyThreadState_New`, which may be called without the GIL.
    pub(super) unsafe fn make_state(
        &self,
        interpreter: *mut PyInterpreterState,
    ) -> *mut PyThreadState {
        // SAFETY: the caller's promises are passed on; a state is noted only if there is one.
        unsafe {
            match (self.preallocate_state, self.set_current_state) {
                (Some(make), Some(note)) => {
                    let state = make(interpreter);
                    if !state.is_null() {
                        note(state);
                    }
                    state
                }
                _ => ffi::PyThreadState_New(interpreter),
            }
        }
    }

    /// What notes a thread state for the calling thread, if none is; CPython 3.10 and 3.11.
    pub(super) fn note_state(&self, minor: u8) -> Option<NoteState> {
        match minor {
            10 => self.init_state,
            11 => self.set_current_state,
            _ => None,
        }
    }

    /// Whether the interpreter has begun to shut down; may be asked without the GIL.
    pub(crate) fn is_finalizing(&self) -> bool {
        // SAFETY: the function only reads a flag of the runtime.
        self.is_finalizing.is_some_and(|ask| unsafe { ask() } != 0)
    }

    /// The interpreter's id of the calling thread.
    pub(crate) fn own_ident(&self) -> usize {
        // SAFETY: the function takes no argument and needs no GIL.
        unsafe { (self.thread_ident)() as usize }
    }

    /// The allocator of the raw domain; may be asked without the GIL.
    pub(crate) fn raw_allocator(&self) -> Option<Allocator> {
        const PYMEM_DOMAIN_RAW: c_int = 0;
        let get = self.get_allocator?;
        let mut allocator = Allocator {
            context: std::ptr::null_mut(),
            malloc: std::ptr::null_mut(),
            calloc: std::ptr::null_mut(),
            realloc: std::ptr::null_mut(),
            free: std::ptr::null_mut(),
        };
        // SAFETY: `allocator` is writable and laid out as PyMemAllocatorEx; the function copies
        // five pointers into it, under CPython's own lock where it has one.
        unsafe { get(PYMEM_DOMAIN_RAW, &raw mut allocator) };
        Some(allocator)
    }
}
