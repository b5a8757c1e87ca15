//! Learning where greenlets keep what, and having each one told that is made or freed.
//!
//! A function is put in front of `tp_new` and one in front of `tp_dealloc` of the type `greenlet`, and
//! of those of its subclasses that have taken these over. They stay: a subclass made meanwhile has
//! copied them. Neither runs code of Python, waits, nor fails. A switch between greenlets costs nothing.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyType};

use super::direct::find_layout;
use crate::layout::greenlets::{GreenletLayout, GreenletState};
use crate::layout::tasks::Specimens;
use crate::memory::own;
use crate::session::fork::session;
use crate::unwind::greenlet_table::{GREENLETS, note_own_main};
use crate::unwind::greenlets::{GreenletReader, KNOWN};

use super::direct::circumstances;

/// `PyTypeObject.tp_dealloc` and `tp_new` (`Include/cpython/object.h`).
const DEALLOC: usize = 48;
/// See [`DEALLOC`].
const NEW: usize = 312;
/// Subclasses looked at.
const MAX_CLASSES: usize = 10_000;

type New = unsafe extern "C" fn(*mut PyTypeObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
type NewContext = unsafe extern "C" fn() -> *mut PyObject;
type Dealloc = unsafe extern "C" fn(*mut PyObject);

static ORIGINAL_NEW: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static ORIGINAL_DEALLOC: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// The interpreter whose greenlets are noted.
static INTERPRETER: AtomicUsize = AtomicUsize::new(0);
/// See [`Places`].
static PLACES: Places = Places {
    inside: AtomicUsize::new(0),
    main: AtomicUsize::new(0),
    parent: AtomicUsize::new(0),
    frame: AtomicUsize::new(0),
};

/// What the hooks need of [`GreenletLayout`].
struct Places {
    inside: AtomicUsize,
    main: AtomicUsize,
    parent: AtomicUsize,
    frame: AtomicUsize,
}

/// Notes why greenlets are not seen.
#[pyfunction]
pub(crate) fn no_greenlets(reason: &str) {
    let problem = format!("suspended greenlets cannot be seen: {reason}");
    session().health().set_error(problem);
}

/// An empty context, as `contextvars.Context()`.
#[pyfunction]
pub(crate) fn new_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: RTLD_DEFAULT searches the loaded objects; the function is part of CPython's API, though not
    // of the stable one, takes no argument and returns a new reference, or null with an exception. The
    // GIL is held.
    unsafe {
        let found = libc::dlsym(libc::RTLD_DEFAULT, c"PyContext_New".as_ptr());
        if found.is_null() {
            return Err(PyRuntimeError::new_err("it does not export PyContext_New"));
        }
        let new = std::mem::transmute::<*mut c_void, NewContext>(found);
        Bound::from_owned_ptr_or_err(py, new())
    }
}

/// Learns where greenlets keep what, and has all of them noted from now on. `specimens` are names and
/// addresses of objects that live meanwhile, `class` is the type `greenlet`, and the greenlets that there
/// are already are among `existing`.
#[pyfunction]
#[expect(clippy::needless_pass_by_value, reason = "as Python hands it over")]
pub(crate) fn learn_greenlets(
    py: Python<'_>,
    specimens: Vec<(String, usize)>,
    class_: &Bound<'_, PyType>,
    existing: &Bound<'_, PyList>,
) -> PyResult<()> {
    match learn(py, Specimens(&specimens), class_, existing) {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => no_greenlets(&reason),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn learn(
    py: Python<'_>,
    specimens: Specimens<'_>,
    class: &Bound<'_, PyType>,
    existing: &Bound<'_, PyList>,
) -> PyResult<Result<(), String>> {
    let found = match find_places(py, specimens) {
        Ok(found) => found,
        Err(reason) => return Ok(Err(reason)),
    };
    let classes = subclasses(class)?;
    if let Err(reason) = install(py, &found, &classes) {
        return Ok(Err(reason));
    }
    for object in existing.iter() {
        if object.get_type().is_subclass(class)? {
            GREENLETS.insert(object.as_ptr() as usize);
        }
    }
    let probe = class.call0()?;
    let address = probe.as_ptr() as usize;
    let was_noted = GREENLETS.contains(address);
    drop(probe);
    if !was_noted || GREENLETS.contains(address) {
        return Ok(Err("one that was made to be noticed was not".to_owned()));
    }
    let main = specimens.get("main").unwrap_or(0);
    note_own_main(main);
    // Whoever was first has found the same.
    let _: Result<(), GreenletLayout> = KNOWN.set(found);
    Ok(Ok(()))
}

/// Where everything is, as the specimens have shown.
fn find_places(py: Python<'_>, specimens: Specimens<'_>) -> Result<GreenletLayout, String> {
    let mut memory = own::open(circumstances())?;
    let memory = memory.as_mut();
    let (_, layout) = find_layout(py, memory)?;
    let found = GreenletLayout::learn(memory, &layout, specimens)?;
    let mut read = |name: &str| {
        let read = GreenletReader::new(memory, &layout, &found).read(&[specimens.get(name)?]);
        let read = read.into_iter().next().flatten();
        read.ok_or_else(|| "one that was made to be read cannot be".to_owned())
    };
    if read("running")?.state != GreenletState::Runs
        || read("bare")?.state != GreenletState::Suspended
    {
        return Err("one that runs is not told from others".to_owned());
    }
    let read = read("greenlet")?;
    let codes: Vec<usize> = read.frames.iter().map(|frame| frame.code).collect();
    if codes != [specimens.get("code")?, specimens.get("outer code")?] || read.is_cut {
        return Err("one that was made to be read has other frames".to_owned());
    }
    if read.name.as_deref() != Some(NAME) {
        return Err("one that was made to be read has another name".to_owned());
    }
    Ok(found)
}

/// What `python/rprof/_greenlets.py` calls its specimen.
const NAME: &str = "a specimen of rprof's";

/// A class and all that are made of it.
fn subclasses<'py>(class: &Bound<'py, PyType>) -> PyResult<Vec<Bound<'py, PyType>>> {
    let ask = class.py().get_type::<PyType>().getattr("__subclasses__")?;
    let mut classes = vec![class.clone()];
    let mut at = 0;
    while at < classes.len().min(MAX_CLASSES) {
        for class in ask.call1((&classes[at],))?.try_iter()? {
            classes.push(class?.cast_into::<PyType>()?);
        }
        at += 1;
    }
    Ok(classes)
}

/// Puts the hooks in front of the functions of `classes`, of which the first is `greenlet`.
fn install(
    _: Python<'_>,
    found: &GreenletLayout,
    classes: &[Bound<'_, PyType>],
) -> Result<(), String> {
    if !ORIGINAL_NEW.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let Some(class) = classes.first() else {
        return Ok(());
    };
    let kind = class.as_ptr().cast::<PyTypeObject>();
    let slot = |class: &Bound<'_, PyType>, offset: usize| {
        let place = (class.as_ptr() as usize + offset) as *mut *mut c_void;
        // SAFETY: a type's slots are words of writable data, at the places that are checked below, and
        // are only changed with the GIL, which is held.
        unsafe { AtomicPtr::from_ptr(place) }
    };
    // SAFETY: the GIL is held, and any type may be asked for its slots (3.10 and later).
    let (new, dealloc) = unsafe {
        (
            ffi::PyType_GetSlot(kind, ffi::Py_tp_new),
            ffi::PyType_GetSlot(kind, ffi::Py_tp_dealloc),
        )
    };
    if new.is_null()
        || dealloc.is_null()
        || slot(class, NEW).load(Ordering::Acquire) != new
        || slot(class, DEALLOC).load(Ordering::Acquire) != dealloc
    {
        return Err("its types have an unknown layout".to_owned());
    }
    PLACES.inside.store(found.inside, Ordering::Relaxed);
    PLACES.main.store(found.main, Ordering::Relaxed);
    PLACES.parent.store(found.parent, Ordering::Relaxed);
    PLACES.frame.store(found.frame, Ordering::Relaxed);
    // SAFETY: the GIL is held.
    let interpreter = unsafe { ffi::PyInterpreterState_Get() } as usize;
    INTERPRETER.store(interpreter, Ordering::Relaxed);
    ORIGINAL_NEW.store(new, Ordering::Release);
    ORIGINAL_DEALLOC.store(dealloc, Ordering::Release);
    // All in one go: `greenlet.__new__` refuses a subclass that has another `tp_new` than its base.
    for class in classes {
        for (offset, original, hook) in [
            (NEW, new, on_new as *mut c_void),
            (DEALLOC, dealloc, on_dealloc as *mut c_void),
        ] {
            if slot(class, offset).load(Ordering::Relaxed) == original {
                slot(class, offset).store(hook, Ordering::Release);
            }
        }
    }
    Ok(())
}

unsafe extern "C" fn on_new(
    kind: *mut PyTypeObject,
    positional: *mut PyObject,
    named: *mut PyObject,
) -> *mut PyObject {
    let original = ORIGINAL_NEW.load(Ordering::Relaxed);
    // SAFETY: ORIGINAL_NEW was set to greenlet's own function before this one was installed, and the
    // arguments are the caller's.
    let made =
        unsafe { std::mem::transmute::<*mut c_void, New>(original)(kind, positional, named) };
    if !made.is_null() && is_main_interpreter() {
        GREENLETS.insert(made as usize);
        // SAFETY: a greenlet that was just made, with the GIL.
        note_own_main(unsafe { main_of_maker(made as usize) });
    }
    made
}

unsafe extern "C" fn on_dealloc(greenlet: *mut PyObject) {
    if is_main_interpreter() {
        // SAFETY: a greenlet that has not been freed yet, with the GIL.
        if unsafe { is_main(greenlet as usize) } {
            GREENLETS.forget_thread(greenlet as usize);
        }
        // One that is brought to life again by what it still has to do is not seen any more.
        GREENLETS.remove(greenlet as usize);
    }
    let original = ORIGINAL_DEALLOC.load(Ordering::Relaxed);
    // SAFETY: as in `on_new`.
    unsafe { std::mem::transmute::<*mut c_void, Dealloc>(original)(greenlet) };
}

fn is_main_interpreter() -> bool {
    // SAFETY: whoever makes or frees an object has a thread state.
    unsafe { ffi::PyInterpreterState_Get() as usize == INTERPRETER.load(Ordering::Relaxed) }
}

/// The word at `offset` of a greenlet's object of C++; 0 if it has none.
///
/// # Safety
/// `greenlet` is one, and lives.
unsafe fn inside(greenlet: usize, offset: usize) -> usize {
    let inside = (greenlet + PLACES.inside.load(Ordering::Relaxed)) as *const usize;
    // SAFETY: the specimens have shown where a greenlet refers to its object of C++, which is there as
    // long as the greenlet, or null, and that it has a word at `offset`.
    unsafe {
        match *inside {
            0 => 0,
            inside => *((inside + offset) as *const usize),
        }
    }
}

/// # Safety
/// As of [`inside`].
unsafe fn is_main(greenlet: usize) -> bool {
    const STACK_STOP_BEFORE: usize = 5 * size_of::<usize>();
    let stop = PLACES.frame.load(Ordering::Relaxed) - STACK_STOP_BEFORE;
    // SAFETY: the caller vouches for it.
    unsafe { inside(greenlet, stop) == usize::MAX }
}

/// The first greenlet of the thread in which `greenlet` was just made; 0 if that cannot be told. The
/// parent of a new one is the one that runs.
///
/// # Safety
/// As of [`inside`].
unsafe fn main_of_maker(greenlet: usize) -> usize {
    let (main, parent) = (
        PLACES.main.load(Ordering::Relaxed),
        PLACES.parent.load(Ordering::Relaxed),
    );
    // SAFETY: the caller vouches for it; a greenlet holds its parent.
    unsafe {
        match inside(greenlet, parent) {
            0 => 0,
            maker if is_main(maker) => maker,
            maker => inside(maker, main),
        }
    }
}
