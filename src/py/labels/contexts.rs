//! The context variable that holds labels, by functions that are not in the limited API.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use pyo3::ffi::PyObject;
use pyo3::prelude::*;

use super::object::Labels;
use crate::clock::cpu::monotonic_ns;
use crate::error::Error;
use crate::unwind::labels::PLACE;

/// The functions of `Include/cpython/context.h`, which are not in the limited API.
pub(super) struct Contexts {
    pub(super) variable: *mut PyObject,
    get: unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut *mut PyObject) -> c_int,
    pub(super) set: unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject,
    /// By which samplers know our objects.
    pub(super) magic: usize,
}

// SAFETY: the functions are used with the GIL held, and the variable is never released.
unsafe impl Send for Contexts {}
// SAFETY: as above.
unsafe impl Sync for Contexts {}

static CONTEXTS: OnceLock<Contexts> = OnceLock::new();

type NewVariable = unsafe extern "C" fn(*const c_char, *mut PyObject) -> *mut PyObject;

/// The variable and the functions, if they have been found.
pub(super) fn known() -> Option<&'static Contexts> {
    CONTEXTS.get()
}

/// Finds the functions and makes the variable, once.
pub(super) fn find(py: Python<'_>) -> PyResult<&'static Contexts> {
    let unsupported = |reason: String| {
        PyErr::from(Error::state(format!(
            "labels are not possible here: {reason}"
        )))
    };
    let found = |name| symbol(name).map_err(unsupported);
    // SAFETY: these are CPython's functions of these names, whose signatures have been the same
    // since 3.7.1.
    let (new_variable, get, set) = unsafe {
        (
            std::mem::transmute::<*mut c_void, NewVariable>(found(c"PyContextVar_New")?),
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut *mut PyObject) -> c_int,
            >(found(c"PyContextVar_Get")?),
            std::mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject,
            >(found(c"PyContextVar_Set")?),
        )
    };
    // SAFETY: the GIL is held; the name is a C string, and there is no default.
    let variable = unsafe { new_variable(c"rprof.labels".as_ptr(), std::ptr::null_mut()) };
    // SAFETY: a new reference, or null with an exception set.
    let variable = unsafe { Bound::from_owned_ptr_or_err(py, variable) }?;
    Ok(CONTEXTS.get_or_init(|| Contexts {
        variable: variable.into_ptr(),
        get,
        set,
        // Not foreseeable, never 0, and no address: all of these are even.
        magic: (monotonic_ns() as usize).rotate_left(32) ^ (&raw const PLACE as usize) | 1,
    }))
}

/// The address of a function of the interpreter.
pub(super) fn symbol(name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: RTLD_DEFAULT searches the loaded objects; `name` is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("it does not export {}", name.to_string_lossy()));
    }
    Ok(address)
}

/// The labels in force in the calling thread.
pub(super) fn current<'py>(
    py: Python<'py>,
    contexts: &Contexts,
) -> PyResult<Option<Bound<'py, Labels>>> {
    let mut value = std::ptr::null_mut();
    // SAFETY: the GIL is held; the variable lives for ever, and without a default a missing value
    // leaves null. The value is a new reference.
    let result = unsafe { (contexts.get)(contexts.variable, std::ptr::null_mut(), &raw mut value) };
    if result != 0 {
        return Err(PyErr::fetch(py));
    }
    // SAFETY: a new reference or null, as above.
    let value = unsafe { Bound::from_owned_ptr_or_opt(py, value) };
    Ok(value.and_then(|value| value.cast_into::<Labels>().ok()))
}

/// Puts labels, or none, in force in the calling thread.
pub(super) fn put(
    py: Python<'_>,
    contexts: &Contexts,
    labels: Option<&Bound<'_, Labels>>,
) -> PyResult<()> {
    let none = py.None();
    let value = labels.map_or(none.as_ptr(), |labels| labels.as_ptr());
    // SAFETY: the GIL is held; the variable lives for ever and takes a reference of its own.
    let token = unsafe { (contexts.set)(contexts.variable, value) };
    // SAFETY: the token is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, token) }?;
    Ok(())
}
