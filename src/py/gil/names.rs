//! Thread names, read from `threading._active` without running any of its code.
#![allow(unsafe_code)]

use std::sync::Arc;

use pyo3::ffi::{self, PyObject};
use pyo3::{Bound, PyAny, Python};

use super::attach::Attached;
use super::text;
use crate::capture::direct::ThreadName;
use crate::model::function::bounded;
use crate::unwind::threads::MAX_THREADS;

/// Longest thread name kept, in bytes.
const MAX_NAME_BYTES: usize = 128;

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
    active: *mut PyObject,
    name_key: *mut PyObject,
    native_key: *mut PyObject,
}

// SAFETY: the three references are owned for ever and used only while the GIL is held.
unsafe impl Send for Names {}

impl Names {
    /// `active` is `threading._active`, a dict from `get_ident()` to `Thread`.
    pub(crate) fn new(active: &Bound<'_, PyAny>) -> Self {
        // SAFETY: the GIL is held, as `active` proves; null results are checked at use.
        let (name_key, native_key) = unsafe {
            (
                ffi::PyUnicode_InternFromString(c"_name".as_ptr()),
                ffi::PyUnicode_InternFromString(c"_native_id".as_ptr()),
            )
        };
        Self {
            active: active.clone().into_ptr(),
            name_key,
            native_key,
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

    /// # Safety
    /// The GIL must be held.
    unsafe fn list(&self) -> Vec<ThreadName> {
        let mut names = Vec::new();
        let (mut position, mut key, mut thread) = (0, std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the caller vouches for the GIL. Key and thread are borrowed from the dict, which
        // nothing below can change: no Python code runs.
        unsafe {
            if ffi::PyDict_CheckExact(self.active) == 0 {
                return names;
            }
            while names.len() < MAX_THREADS
                && ffi::PyDict_Next(
                    self.active,
                    &raw mut position,
                    &raw mut key,
                    &raw mut thread,
                ) != 0
            {
                let ident = ffi::PyLong_AsSize_t(key);
                if let Some(name) = self.read(thread).name {
                    names.push(ThreadName { ident, name });
                }
            }
            ffi::PyErr_Clear();
        }
        names
    }

    /// Gives up the references; the reader must not be used afterwards.
    pub(crate) fn release(&mut self, _py: Python<'_>) {
        for reference in [self.active, self.name_key, self.native_key] {
            // SAFETY: the GIL is held; the references are owned, and `threading` holds its dict.
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
        // SAFETY: the GIL is held; the key is an int of our own.
        unsafe {
            if ffi::PyDict_CheckExact(self.active) == 0 {
                return Known::default();
            }
            let key = ffi::PyLong_FromSize_t(ident);
            if key.is_null() {
                ffi::PyErr_Clear();
                return Known::default();
            }
            let thread = ffi::PyDict_GetItemWithError(self.active, key);
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
