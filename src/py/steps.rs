//! Having each step of a task counted, where that is asked for.
//!
//! A task goes on by one of two functions of `_asyncio`: its first step, and those after `sleep(0)`, by
//! calling an object of a type of its own; the others by `task_wakeup`, which a future calls back. The
//! functions that these lead to are replaced by ours, which call them. They stay once they are there,
//! and do nothing else unless steps are counted. Tasks written in Python go on by neither.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use pyo3::exceptions::PyException;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use super::handed_in::process;
use crate::account::steps::STEPS;
use crate::clock::cpu::{monotonic_ns, own_cpu_ns};
use crate::layout::Layout;
use crate::layout::tasks::{FIRST, SECOND, Specimens, TaskLayout};
use crate::model::module_name::ImportRoots;
use crate::session::fork::session;

/// `PyTypeObject.tp_call` (`Include/cpython/object.h`).
const CALL: usize = 128;
/// By this name a task is woken (`TaskWakeupDef` of `Modules/_asynciomodule.c`).
const WAKEUP: &CStr = c"task_wakeup";
/// The thread's CPU clock is read before a step unless that was done so recently,
const RECENT_NS: u64 = 50_000;
/// and behind one that took at least so long; a shorter one counts as computing.
const LONG_NS: u64 = 1_000_000;

type Call = unsafe extern "C" fn(*mut PyObject, *mut PyObject, *mut PyObject) -> *mut PyObject;
type Method = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;

/// `PyMethodDef`.
#[repr(C)]
struct Definition {
    name: *const c_char,
    method: AtomicPtr<c_void>,
    flags: i32,
}

/// The type of what calls a step; null before it is known.
static STEP_TYPE: AtomicUsize = AtomicUsize::new(0);
static ORIGINAL_CALL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static ORIGINAL_WAKEUP: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
/// From a task to its coroutine, from that to its frame, from there to the code.
static COROUTINE: AtomicUsize = AtomicUsize::new(0);
static FRAME: AtomicUsize = AtomicUsize::new(0);
static CODE: AtomicUsize = AtomicUsize::new(0);
static CODE_TAGS: AtomicUsize = AtomicUsize::new(0);
static HAS_HEAP_FRAMES: AtomicBool = AtomicBool::new(false);
/// The types of tasks and of coroutines.
static TASK_TYPE: AtomicUsize = AtomicUsize::new(0);
static COROUTINE_TYPE: AtomicUsize = AtomicUsize::new(0);
static FUTURE_TYPE: AtomicUsize = AtomicUsize::new(0);
/// Whether steps are to be counted as soon as asyncio is known.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

std::thread_local! {
    /// What this thread's CPU clock showed, and when, both in ns.
    static CLOCK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// A row: the coroutine's name, steps, ns in them, CPU time of these, the longest, and stalls.
type Row = (String, u64, u64, u64, u64, u64);

/// Counts the steps of tasks from now on, or once the program has imported asyncio.
#[pyfunction]
pub(crate) fn begin_task_steps() {
    IS_WANTED.store(true, Ordering::Relaxed);
    if STEP_TYPE.load(Ordering::Relaxed) != 0 {
        install();
    }
    STEPS.begin();
}

/// Counts no more of them.
#[pyfunction]
pub(crate) fn end_task_steps() {
    IS_WANTED.store(false, Ordering::Relaxed);
    STEPS.end();
}

/// What was counted, those with the most time first.
#[pyfunction]
pub(crate) fn task_step_figures() -> Vec<Row> {
    let figures = STEPS.figures().into_iter();
    let rows = figures.map(|row| {
        let times = (row.run_ns, row.cpu_ns, row.longest_ns);
        (
            row.coroutine,
            row.steps,
            times.0,
            times.1,
            times.2,
            row.stalls,
        )
    });
    rows.collect()
}

/// Takes in what the specimens of asyncio have shown. The caller has the GIL.
pub(super) fn learn(
    layout: &Layout,
    found: &TaskLayout,
    specimens: Specimens<'_>,
) -> Result<(), String> {
    let (step, task) = (specimens.get("step")?, specimens.get("task")?);
    // SAFETY: the specimens live, and are objects, with two words behind their heads.
    let (kind, of) = unsafe {
        (
            *((step + size_of::<usize>()) as *const usize),
            *((step + FIRST) as *const usize),
        )
    };
    if of != task {
        return Err("a step of a task does not lead to it".to_owned());
    }
    // SAFETY: `kind` is a type, which any may be asked for its slots (3.10 and later), with the GIL.
    let said = unsafe { ffi::PyType_GetSlot(kind as *mut PyTypeObject, ffi::Py_tp_call) };
    // SAFETY: types are longer than this.
    let there = unsafe { *((kind + CALL) as *const *mut c_void) };
    if said.is_null() || said != there {
        return Err("what steps are called by has an unknown layout".to_owned());
    }
    ORIGINAL_CALL.store(said, Ordering::Release);
    COROUTINE.store(found.coroutine, Ordering::Relaxed);
    FRAME.store(found.step.frame, Ordering::Relaxed);
    CODE.store(layout.frame.code, Ordering::Relaxed);
    CODE_TAGS.store(layout.frame.code_tags, Ordering::Relaxed);
    HAS_HEAP_FRAMES.store(layout.has_heap_frames(), Ordering::Relaxed);
    TASK_TYPE.store(specimens.get("type task")?, Ordering::Relaxed);
    COROUTINE_TYPE.store(specimens.get("type coroutine")?, Ordering::Relaxed);
    FUTURE_TYPE.store(specimens.get("type future")?, Ordering::Relaxed);
    // SAFETY: as above; the type stays as long as the process, for its slot leads to us.
    unsafe { ffi::Py_IncRef(kind as *mut PyObject) };
    let coroutine = specimens.get("coroutine")?;
    // SAFETY: a coroutine that lives and stands at an `await`.
    let code = unsafe { code_of(coroutine) };
    if code != specimens.get("coroutine code")? {
        return Err("a coroutine does not lead to its code".to_owned());
    }
    STEP_TYPE.store(kind, Ordering::Release);
    if IS_WANTED.load(Ordering::Relaxed) {
        install();
    }
    Ok(())
}

fn install() {
    let place = (STEP_TYPE.load(Ordering::Acquire) + CALL) as *mut *mut c_void;
    // SAFETY: the slot was shown to be the type's tp_call; types are writable data, and whoever reads
    // it at this moment gets one of two functions that do the same.
    unsafe { AtomicPtr::from_ptr(place) }.store(on_step as *mut c_void, Ordering::Release);
}

unsafe extern "C" fn on_step(
    step: *mut PyObject,
    positional: *mut PyObject,
    named: *mut PyObject,
) -> *mut PyObject {
    let original = ORIGINAL_CALL.load(Ordering::Relaxed);
    // SAFETY: ORIGINAL_CALL was set to asyncio's own function before this one was installed, and the
    // arguments are the caller's.
    let call =
        || unsafe { std::mem::transmute::<*mut c_void, Call>(original)(step, positional, named) };
    if !STEPS.is_on() {
        return call();
    }
    // SAFETY: a step refers to its task.
    let task = unsafe { *((step as usize + FIRST) as *const usize) };
    // It may be the last thing that holds the task.
    // SAFETY: the task lives, and the GIL is held.
    unsafe { ffi::Py_IncRef(task as *mut PyObject) };
    let result = counted(task, call);
    if ORIGINAL_WAKEUP.load(Ordering::Relaxed).is_null() && !result.is_null() {
        // SAFETY: as above.
        unsafe { find_wakeup(task) };
    }
    // SAFETY: as above.
    unsafe { ffi::Py_DecRef(task as *mut PyObject) };
    result
}

unsafe extern "C" fn on_wakeup(task: *mut PyObject, future: *mut PyObject) -> *mut PyObject {
    let original = ORIGINAL_WAKEUP.load(Ordering::Relaxed);
    // SAFETY: as in `on_step`.
    let call = || unsafe { std::mem::transmute::<*mut c_void, Method>(original)(task, future) };
    if STEPS.is_on() {
        counted(task as usize, call)
    } else {
        call()
    }
}

/// Counts what `call` does as a step of the task.
fn counted(task: usize, call: impl FnOnce() -> *mut PyObject) -> *mut PyObject {
    // SAFETY: the caller has the GIL and a task that lives.
    let key = unsafe { key_of(task) };
    let place = STEPS.place(key, || name_of(key));
    let begun_ns = monotonic_ns();
    let mut clock = CLOCK.get();
    if begun_ns.saturating_sub(clock.1) > RECENT_NS {
        clock = (own_cpu_ns(), begun_ns);
        CLOCK.set(clock);
    }
    let result = call();
    let ended_ns = monotonic_ns();
    let run_ns = ended_ns.saturating_sub(begun_ns);
    let mut cpu_ns = run_ns;
    if run_ns >= LONG_NS {
        let now_ns = own_cpu_ns();
        cpu_ns = now_ns.saturating_sub(clock.0).min(run_ns);
        CLOCK.set((now_ns, ended_ns));
    }
    STEPS.add(place, run_ns, cpu_ns);
    result
}

/// What the steps of a task are counted by: the code of its coroutine, or the type of another awaitable.
///
/// # Safety
/// The GIL is held, and the task lives.
unsafe fn key_of(task: usize) -> usize {
    let word = |address: usize| {
        // SAFETY: a field of an object that lives, at the place that the specimens have shown.
        unsafe { *(address as *const usize) }
    };
    let coroutine = word(task + COROUTINE.load(Ordering::Relaxed));
    if coroutine == 0 {
        return 0;
    }
    let kind = word(coroutine + size_of::<usize>());
    if kind == COROUTINE_TYPE.load(Ordering::Relaxed) {
        // SAFETY: a coroutine that lives, for its task does.
        unsafe { code_of(coroutine) }
    } else {
        kind
    }
}

/// The code of a coroutine; 0 if it has ended.
///
/// # Safety
/// The GIL is held, and the coroutine lives.
unsafe fn code_of(coroutine: usize) -> usize {
    let frame = coroutine + FRAME.load(Ordering::Relaxed);
    let (code, tags) = (
        CODE.load(Ordering::Relaxed),
        CODE_TAGS.load(Ordering::Relaxed),
    );
    // SAFETY: what a coroutine has of its frame, as the specimens have shown; in 3.10 a frame elsewhere,
    // or null.
    unsafe {
        let frame = if HAS_HEAP_FRAMES.load(Ordering::Relaxed) {
            *(frame as *const usize)
        } else {
            frame
        };
        match frame {
            0 => 0,
            frame => *((frame + code) as *const usize) & !tags,
        }
    }
}

/// The name of a code object or type, which lives from now on as long as the process.
#[cold]
fn name_of(key: usize) -> Option<String> {
    // SAFETY: the GIL is held by whoever calls a step, and the key is the address of an object that
    // lives. It is kept: another in its place would be taken for it.
    let object = unsafe {
        let py = Python::assume_attached();
        Bound::from_borrowed_ptr(py, key as *mut PyObject)
    };
    // What a step may leave behind and what it has got are not to be mixed up with ours.
    let named = match object.getattr("co_filename") {
        Ok(file) => {
            let name = object
                .getattr("co_qualname")
                .or_else(|_| object.getattr("co_name"));
            let name = name.and_then(|name| name.extract::<String>()).ok()?;
            let file = file.extract::<String>().ok()?;
            ImportRoots::new(process().import_roots.iter().cloned()).qualify(&file, &name)
        }
        Err(_) => {
            let kind = object.cast::<pyo3::types::PyType>().ok()?;
            kind.qualname().ok()?.extract::<String>().ok()?
        }
    };
    std::mem::forget(object.unbind());
    Some(named)
}

/// Finds the function by which a future wakes the task, and replaces it.
///
/// # Safety
/// The GIL is held, and the task lives.
#[cold]
unsafe fn find_wakeup(task: usize) {
    // SAFETY: the caller vouches for it.
    let task = unsafe {
        let py = Python::assume_attached();
        Bound::from_borrowed_ptr(py, task as *mut PyObject)
    };
    if let Err(error) = replace_wakeup(&task)
        && !error.is_instance_of::<PyException>(task.py())
    {
        error.restore(task.py());
    }
}

/// Looks at what of asyncio's own runs no code of Python.
fn replace_wakeup(task: &Bound<'_, PyAny>) -> PyResult<()> {
    let is_of = |object: &Bound<'_, PyAny>, kind: &AtomicUsize| {
        object.get_type().as_ptr() as usize == kind.load(Ordering::Relaxed)
    };
    if !is_of(task, &TASK_TYPE) {
        return Ok(());
    }
    let future = task.getattr("_fut_waiter")?;
    if !is_of(&future, &TASK_TYPE) && !is_of(&future, &FUTURE_TYPE) {
        return Ok(());
    }
    let callbacks = future.getattr("_callbacks")?;
    if callbacks.is_none() {
        return Ok(());
    }
    let callback = callbacks.get_item(0)?.get_item(0)?;
    // SAFETY: the GIL is held; a function of C has its definition and what it is bound to behind its
    // head. The definition is static data of `_asyncio`.
    unsafe {
        if ffi::PyCFunction_Check(callback.as_ptr()) == 0 {
            return Ok(());
        }
        let words = callback.as_ptr() as usize;
        let bound_to = *((words + SECOND) as *const usize);
        let definition = &**((words + FIRST) as *const *const Definition);
        if bound_to != task.as_ptr() as usize
            || CStr::from_ptr(definition.name) != WAKEUP
            || definition.flags != ffi::METH_O
        {
            return Ok(());
        }
        let original = definition.method.load(Ordering::Acquire);
        ORIGINAL_WAKEUP.store(original, Ordering::Release);
        definition
            .method
            .store(on_wakeup as *mut c_void, Ordering::Release);
    }
    Ok(())
}

/// Notes why steps are not counted.
pub(super) fn tell(reason: &str) {
    let problem = format!("the steps of tasks cannot be counted: {reason}");
    session().health().set_error(problem);
}
