//! Thread names, read from `threading._active` without running any of its code.
#![allow(unsafe_code)]

use std::sync::Arc;

use pyo3::ffi::{self, PyObject};
use pyo3::{Bound, PyAny};

use super::text;
use crate::model::function::bounded;

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

    /// Gives up the references; the reader must not be used afterwards.
    ///
    /// # Safety
    /// The GIL must be held.
    pub(crate) unsafe fn release(&mut self) {
        for reference in [self.active, self.name_key, self.native_key] {
            // SAFETY: the references are owned, and `threading` holds its dict as well.
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
        let mut known = Known::default();
        // SAFETY: the GIL is held; the references taken here are given back here. What is released
        // last is an int of our own and a dict that its thread object also holds.
        unsafe {
            if ffi::PyDict_CheckExact(self.active) == 0 || self.name_key.is_null() {
                return known;
            }
            let key = ffi::PyLong_FromSize_t(ident);
            if key.is_null() {
                ffi::PyErr_Clear();
                return known;
            }
            let thread = ffi::PyDict_GetItemWithError(self.active, key);
            if !thread.is_null() {
                let attributes = ffi::PyObject_GenericGetDict(thread, std::ptr::null_mut());
                if !attributes.is_null() {
                    if ffi::PyDict_CheckExact(attributes) != 0 {
                        let name = ffi::PyDict_GetItemWithError(attributes, self.name_key);
                        known.name = text::of(name)
                            .map(|name| Arc::from(bounded(&name, MAX_NAME_BYTES).as_ref()));
                        let native = ffi::PyDict_GetItemWithError(attributes, self.native_key);
                        if !native.is_null() && ffi::PyLong_CheckExact(native) != 0 {
                            let native = ffi::PyLong_AsUnsignedLongLong(native);
                            known.native_id = (native != u64::MAX).then_some(native);
                        }
                    }
                    ffi::Py_DecRef(attributes);
                }
            }
            ffi::Py_DecRef(key);
            ffi::PyErr_Clear();
        }
        known
    }
}
