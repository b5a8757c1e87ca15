//! Python strings as Rust strings, without running any Python code.
#![allow(unsafe_code)]

use std::borrow::Cow;

use pyo3::ffi::{self, PyObject};

/// The text of an exact `str`; lone surrogates become U+FFFD. `None` for any other object.
///
/// # Safety
/// The GIL must be held and `object` be a live object or null; the text must be used before the
/// object is released.
pub(crate) unsafe fn of<'text>(object: *mut PyObject) -> Option<Cow<'text, str>> {
    // SAFETY: the caller vouches for the GIL and the object.
    unsafe {
        if object.is_null() || ffi::PyUnicode_CheckExact(object) == 0 {
            return None;
        }
        let mut length: ffi::Py_ssize_t = 0;
        let bytes = ffi::PyUnicode_AsUTF8AndSize(object, &raw mut length);
        if !bytes.is_null() {
            let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), length as usize);
            return std::str::from_utf8(bytes).ok().map(Cow::Borrowed);
        }
        // A lone surrogate, as in file names that are not UTF-8.
        ffi::PyErr_Clear();
        let length = ffi::PyUnicode_GetLength(object);
        let text = (0..length)
            .map(|index| {
                char::from_u32(ffi::PyUnicode_ReadChar(object, index))
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            })
            .collect::<String>();
        Some(Cow::Owned(text))
    }
}
