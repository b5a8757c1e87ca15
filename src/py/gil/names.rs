//! Thread names, read from `threading._active` without running any of its code.
//!
//! While nobody has imported `threading`, no thread has a name.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use pyo3::Python;
use pyo3::ffi::{self, PyObject};

use super::attach::Attached;
use super::text;
use crate::capture::direct::ThreadName;
use crate::model::function::bounded;
use crate::model::thread_names;
use crate::unwind::threads::MAX_THREADS;

/// Longest thread name kept, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// What the thread is called that reports; `threading` does not know it.
pub(crate) const REPORTER: &str = "rprof-reporter";
static REPORTER_IDENT: AtomicUsize = AtomicUsize::new(0);
static REPORTER_ID: AtomicU64 = AtomicU64::new(0);

/// Notes who the calling thread is; 0 and 0 when it is no more.
pub(crate) fn introduce_reporter(ident: usize, thread_id: u64) {
    REPORTER_ID.store(thread_id, Relaxed);
    REPORTER_IDENT.store(ident, Relaxed);
}

fn reporter_ident() -> Option<usize> {
    Some(REPORTER_IDENT.load(Relaxed)).filter(|ident| *ident != 0)
}

/// What `threading` knows of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: Option<Arc<str>>,
    /// `Thread.native_id`.
    pub(crate) native_id: Option<u64>,
}

/// Reads thread objects.
#[derive(Debug)]
pub(crate) struct Names {
    threading_key: *mut PyObject,
    active_key: *mut PyObject,
    name_key: *mut PyObject,
    native_key: *mut PyObject,
}

// SAFETY: the references are owned for ever and used only while the GIL is held.
unsafe impl Send for Names {}

impl Names {
    /// A reader of whatever there will be.
    pub(crate) fn new(_py: Python<'_>) -> Self {
        // SAFETY: the GIL is held, as `_py` proves; null results are checked at use.
        let key = |name: &CStr| unsafe { ffi::PyUnicode_InternFromString(name.as_ptr()) };
        Self {
            threading_key: key(c"threading"),
            active_key: key(c"_active"),
            name_key: key(c"_name"),
            native_key: key(c"_native_id"),
        }
    }

    /// `threading._active`, a dict from `get_ident()` to `Thread`, borrowed; null if there is none.
    ///
    /// Looks only into plain dicts: a module may load itself when it is asked for an attribute.
    ///
    /// # Safety
    /// The GIL must be held.
    unsafe fn active(&self) -> *mut PyObject {
        // SAFETY: the caller vouches for the GIL; all is borrowed, and looking up an exact str in
        // an exact dict runs no code but str's own comparison.
        unsafe {
            let mut found = ffi::PyImport_GetModuleDict();
            for key in [self.threading_key, self.active_key] {
                if found.is_null() || key.is_null() || ffi::PyDict_CheckExact(found) == 0 {
                    return std::ptr::null_mut();
                }
                found = ffi::PyDict_GetItemWithError(found, key);
                if key == self.threading_key && !found.is_null() {
                    found = if ffi::PyModule_Check(found) != 0 {
                        ffi::PyModule_GetDict(found)
                    } else {
                        std::ptr::null_mut()
                    };
                }
            }
            if found.is_null() || ffi::PyDict_CheckExact(found) == 0 {
                return std::ptr::null_mut();
            }
            found
        }
    }

    /// The names of all threads that `threading` knows.
    pub(crate) fn all(&self, _py: Python<'_>) -> Vec<ThreadName> {
        // SAFETY: the GIL is held, as `_py` proves.
        unsafe { self.list() }
    }

    /// The same for a thread of ours.
    pub(crate) fn all_attached(&self, _attached: &Attached<'_>) -> Vec<ThreadName> {
        // SAFETY: the GIL is held as long as `_attached` lives.
        unsafe { self.list() }
    }

    /// Remembers the names of all threads, for whoever tells of them without the GIL.
    pub(crate) fn note_all(py: Python<'_>) {
        let mut names = Self::new(py);
        // SAFETY: the GIL is held, as `py` proves.
        unsafe {
            names.each(|_, known| {
                if let (Some(id), Some(name)) = (known.native_id, &known.name) {
                    thread_names::note(id, name);
                }
            });
        }
        names.release(py);
    }

    /// # Safety
    /// The GIL must be held.
    unsafe fn list(&self) -> Vec<ThreadName> {
        let mut names = Vec::new();
        if let Some(ident) = reporter_ident() {
            names.push(ThreadName {
                ident,
                name: Arc::from(REPORTER),
            });
        }
        // SAFETY: as the caller says.
        unsafe {
            self.each(|ident, known| {
                names.extend(known.name.map(|name| ThreadName { ident, name }));
            });
        }
        names
    }

    /// Tells `take` of each thread that `threading` knows.
    ///
    /// # Safety
    /// The GIL must be held.
    unsafe fn each(&self, mut take: impl FnMut(usize, Known)) {
        let (mut position, mut key, mut thread) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the caller vouches for the GIL. Key and thread are borrowed from the dict, which
        // nothing below can change: no Python code runs.
        unsafe {
            let active = self.active();
            if active.is_null() {
                return;
            }
            for _ in 0..MAX_THREADS {
                if ffi::PyDict_Next(active, &raw mut position, &raw mut key, &raw mut thread) == 0 {
                    break;
                }
                take(ffi::PyLong_AsSize_t(key), self.read(thread));
            }
            ffi::PyErr_Clear();
        }
    }

    /// Gives up the references; the reader must not be used afterwards.
    pub(crate) fn release(&mut self, _py: Python<'_>) {
        let keys = [
            self.threading_key,
            self.active_key,
            self.name_key,
            self.native_key,
        ];
        for reference in keys {
            // SAFETY: the GIL is held; the references are owned or null.
            unsafe { ffi::Py_DecRef(reference) };
        }
    }

    /// What `threading` knows of the thread called `ident`.
    ///
    /// Looks only into plain dicts: `getattr` could run a property of a `Thread` subclass.
    ///
    /// # Safety
    /// The GIL must be held.
    pub(crate) unsafe fn of(&self, ident: usize) -> Known {
        if reporter_ident() == Some(ident) {
            return Known {
                name: Some(Arc::from(REPORTER)),
                native_id: Some(REPORTER_ID.load(Relaxed)),
            };
        }
        // SAFETY: the GIL is held; the key is an int of our own.
        unsafe {
            let active = self.active();
            if active.is_null() {
                return Known::default();
            }
            let key = ffi::PyLong_FromSize_t(ident);
            if key.is_null() {
                ffi::PyErr_Clear();
                return Known::default();
            }
            let thread = ffi::PyDict_GetItemWithError(active, key);
            let known = self.read(thread);
            ffi::Py_DecRef(key);
            ffi::PyErr_Clear();
            known
        }
    }

    /// What a `Thread` object says of itself.
    ///
    /// # Safety
    /// The GIL must be held and `thread` be a live object or null.
    unsafe fn read(&self, thread: *mut PyObject) -> Known {
        let mut known = Known::default();
        if thread.is_null() || self.name_key.is_null() || self.native_key.is_null() {
            return known;
        }
        // SAFETY: the caller vouches for the GIL and the object. The new reference to the dict is
        // given back here, and is not the last one: its thread object holds it too.
        unsafe {
            let attributes = ffi::PyObject_GenericGetDict(thread, std::ptr::null_mut());
            if attributes.is_null() {
                ffi::PyErr_Clear();
                return known;
            }
            if ffi::PyDict_CheckExact(attributes) != 0 {
                let name = ffi::PyDict_GetItemWithError(attributes, self.name_key);
                known.name =
                    text::of(name).map(|name| Arc::from(bounded(&name, MAX_NAME_BYTES).as_ref()));
                let native = ffi::PyDict_GetItemWithError(attributes, self.native_key);
                if !native.is_null() && ffi::PyLong_CheckExact(native) != 0 {
                    let native = ffi::PyLong_AsUnsignedLongLong(native);
                    known.native_id = (native != u64::MAX).then_some(native);
                }
            }
            ffi::Py_DecRef(attributes);
        }
        known
    }
}
