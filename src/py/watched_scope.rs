//! Scopes of ASGI in which Starlette's router notes what it has found.
//!
//! The class is made in Python, below one that is made here by hand: PyO3 has classes below `dict`
//! only without the limited API, and of those that Python makes of `dict` itself every look-up is
//! the call of a method (`update_one_slot` of `Objects/typeobject.c`, CPython 3.10 to 3.15).
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PySystemError;
use pyo3::ffi::{self, PyObject};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::requests::Request;

/// A class below `dict` for scopes: what is noted in one, its `_outer` one gets as well, and when a
/// router has noted an endpoint, its request `_begun` is told the route. `_root` is what the whole
/// application is mounted at.
#[pyfunction]
pub(crate) fn make_scope_class(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // CPython copies the slots, but keeps a pointer to the methods. This is called once.
    let methods = Box::leak(Box::new([
        ffi::PyMethodDef {
            ml_name: c"update".as_ptr(),
            ml_meth: ffi::PyMethodDefPointer {
                PyCFunctionWithKeywords: update,
            },
            ml_flags: ffi::METH_VARARGS | ffi::METH_KEYWORDS,
            ml_doc: std::ptr::null(),
        },
        ffi::PyMethodDef::zeroed(),
    ]));
    let slot = |slot, pfunc| ffi::PyType_Slot { slot, pfunc };
    // As slots of this class they are those of the classes below it as well.
    let of_dict = |name| {
        // SAFETY: the GIL is held, and dict is there for ever.
        let function = unsafe { ffi::PyType_GetSlot(&raw mut ffi::PyDict_Type, name) };
        slot(name, function)
    };
    let mut slots = [
        slot(ffi::Py_tp_base, (&raw mut ffi::PyDict_Type).cast()),
        of_dict(ffi::Py_mp_subscript),
        of_dict(ffi::Py_sq_contains),
        slot(
            ffi::Py_mp_ass_subscript,
            assign as ffi::objobjargproc as *mut c_void,
        ),
        slot(ffi::Py_tp_methods, methods.as_mut_ptr().cast()),
        slot(0, std::ptr::null_mut()),
    ];
    let mut spec = ffi::PyType_Spec {
        name: c"rprof._native.ScopeBase".as_ptr(),
        basicsize: 0,
        itemsize: 0,
        flags: c_uint::try_from(ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_BASETYPE)?,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the GIL is held; the functions have the signatures of their slots, and slots and
    // methods end with an empty one.
    let class = unsafe { ffi::PyType_FromSpec(&raw mut spec) };
    // SAFETY: a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, class) }
}

/// `scope[key] = value`, or `del scope[key]` if the value is null.
unsafe extern "C" fn assign(
    scope: *mut PyObject,
    key: *mut PyObject,
    value: *mut PyObject,
) -> c_int {
    // SAFETY: CPython calls it with the GIL held, with an object of a class below `dict`, a key, and
    // a value or null; all live for as long as this runs.
    unsafe {
        called(scope, |scope| {
            let key = Bound::from_borrowed_ptr(scope.py(), key);
            match Bound::from_borrowed_ptr_or_opt(scope.py(), value) {
                Some(value) => set_item(scope, &key, &value),
                None => del_item(scope, &key),
            }
        })
    }
    .map_or(-1, |()| 0)
}

/// `scope.update(*arguments, **keywords)`
unsafe extern "C" fn update(
    scope: *mut PyObject,
    arguments: *mut PyObject,
    keywords: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython calls it with the GIL held, with an object of a class below `dict`, a tuple,
    // and a dict or null; all live for as long as this runs.
    unsafe {
        called(scope, |scope| {
            let py = scope.py();
            let arguments = Bound::from_borrowed_ptr(py, arguments);
            let keywords = Bound::from_borrowed_ptr_or_opt(py, keywords);
            let keywords = keywords.as_ref().map(|given| given.cast_unchecked());
            update_with(scope, arguments.cast_unchecked(), keywords)?;
            Ok(py.None().into_ptr())
        })
    }
    .unwrap_or(std::ptr::null_mut())
}

/// Does what Python has called for; of an error, or a panic, Python is told.
///
/// # Safety
/// The GIL is held, and `scope` is a dict.
unsafe fn called<R>(
    scope: *mut PyObject,
    function: impl FnOnce(&Bound<'_, PyDict>) -> PyResult<R>,
) -> Option<R> {
    // SAFETY: as above.
    let (py, scope) = unsafe {
        let py = Python::assume_attached();
        (
            py,
            Bound::from_borrowed_ptr(py, scope).cast_into_unchecked(),
        )
    };
    let error = match catch_unwind(AssertUnwindSafe(|| function(&scope))) {
        Ok(Ok(result)) => return Some(result),
        Ok(Err(error)) => error,
        Err(_) => PySystemError::new_err("rprof has panicked in a scope"),
    };
    error.restore(py);
    None
}

fn set_item(
    scope: &Bound<'_, PyDict>,
    key: &Bound<'_, PyAny>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    scope.set_item(key, value)?;
    let outer = outer(scope)?;
    match outer.cast_exact::<PyDict>() {
        Ok(outer) => outer.set_item(key, value),
        Err(_) => outer.set_item(key, value),
    }
}

fn del_item(scope: &Bound<'_, PyDict>, key: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = scope.py();
    scope.del_item(key)?;
    let outer = outer(scope)?;
    outer
        .call_method1(intern!(py, "pop"), (key, py.None()))
        .map(drop)
}

fn update_with(
    scope: &Bound<'_, PyDict>,
    arguments: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    let py = scope.py();
    let is_one = arguments.len() == 1 && keywords.is_none();
    let only = is_one.then(|| arguments.get_item(0)).transpose()?;
    let more = match only.map(Bound::cast_into::<PyDict>) {
        Some(Ok(more)) => more,
        // What may be taken once only, for example.
        _ => py
            .get_type::<PyDict>()
            .call(arguments, keywords)?
            .cast_into::<PyDict>()?,
    };
    scope.update(more.as_mapping())?;
    let outer = outer(scope)?;
    match outer.cast_exact::<PyDict>() {
        Ok(outer) => outer.update(more.as_mapping())?,
        Err(_) => drop(outer.call_method1(intern!(py, "update"), (&more,))?),
    }
    if more.contains(intern!(py, "endpoint"))? {
        // Below a mount the one below it is next, if it is of Starlette too.
        let is_mount = more.contains(intern!(py, "root_path"))?;
        note_route(scope, if is_mount { "/{path}" } else { "" })?;
    }
    Ok(())
}

fn outer<'py>(scope: &Bound<'py, PyDict>) -> PyResult<Bound<'py, PyAny>> {
    scope.getattr(intern!(scope.py(), "_outer"))
}

/// Tells the request the pattern of its path.
fn note_route(scope: &Bound<'_, PyDict>, below: &str) -> PyResult<()> {
    let py = scope.py();
    let root = scope.getattr(intern!(py, "_root"))?;
    let pattern = match plain_pattern(scope, &root)? {
        Some(pattern) => pattern,
        None => scope.call_method1(intern!(py, "_pattern"), (root, below))?,
    };
    let begun = scope.getattr(intern!(py, "_begun"))?;
    Request::set_route(begun.cast::<Request>()?, &pattern)
}

/// The pattern of a route above which nothing is mounted or included.
fn plain_pattern<'py>(
    scope: &Bound<'py, PyDict>,
    root: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = scope.py();
    let Some(route) = scope.get_item(intern!(py, "route"))? else {
        return Ok(None);
    };
    let mounted_at = scope.get_item(intern!(py, "root_path"))?;
    let mounted_at = mounted_at.unwrap_or_else(|| intern!(py, "").clone().into_any());
    if scope.contains(intern!(py, "fastapi"))? || !mounted_at.eq(root)? {
        return Ok(None);
    }
    let regex = route.getattr_opt(intern!(py, "path_regex"))?;
    if regex.is_none_or(|regex| regex.is_none()) {
        return Ok(None);
    }
    route.getattr(intern!(py, "path")).map(Some)
}
