//! Finds the interpreter's parts in memory, and has it report each code object that dies.
//!
//! The report is a function put in front of `PyCode_Type.tp_dealloc`. `PyCode_AddWatcher` (3.12
//! and later) would do the same for one interpreter only, takes one of eight places, and is not
//! there in 3.10 and 3.11. A code object's type is one static object for all interpreters.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use pyo3::Python;
use pyo3::ffi::{self, PyObject, PyTypeObject};

use crate::capture::direct::Interpreter;
use crate::clock::cpu::thread_id;
use crate::heap::stacks::{end_death, note_death};
use crate::layout::Layout;
use crate::memory::own::Lasting;
use crate::memory::{ReadMemory, int32, read, read_word, word};
use crate::session::native_thread::{Kind, NativeThread};
use crate::unwind::code::FREED;

/// `PyTypeObject.tp_dealloc` (`Include/cpython/object.h`): after the head of a variable-sized
/// object, the name and two sizes.
const DEALLOC_OFFSET: usize = 48;
/// Bytes of glibc's or musl's `struct pthread` that are searched for the kernel's thread id.
const PTHREAD_BYTES: usize = 2_048;
/// How long a thread is waited for that has next to nothing to do.
const PATIENCE: Duration = Duration::from_secs(5);

type Dealloc = unsafe extern "C" fn(*mut PyObject);

static ORIGINAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

fn find(name: &CStr) -> Result<usize, String> {
    // SAFETY: RTLD_DEFAULT searches the loaded objects; `name` is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return Err(format!("it does not export {}", name.to_string_lossy()));
    }
    Ok(address as usize)
}

/// Address of `_PyRuntime`, and where the interpreter has what.
pub(in crate::py) fn find_layout(
    py: Python<'_>,
    memory: &mut dyn ReadMemory,
) -> Result<(usize, Layout), String> {
    let runtime = find(c"_PyRuntime")?;
    let version = py.version_info();
    let said = Python::version_str();
    if said.contains("PyPy") || said.contains("free-threading") {
        return Err(format!("it is {said}"));
    }
    // SAFETY: Py_Version is a constant of CPython 3.11 and later, found by name or not at all.
    let version_hex = find(c"Py_Version").map_or_else(
        |_| u32::from(version.major) << 24 | u32::from(version.minor) << 16,
        |address| unsafe { *(address as *const std::ffi::c_ulong) as u32 },
    );
    Ok((runtime, Layout::detect(memory, runtime, version_hex)?))
}

/// Where the interpreter has what, and the address of `PyCode_Type`. From here on the death of code
/// objects is reported.
pub(in crate::py) fn find_codes(
    py: Python<'_>,
    memory: &mut dyn ReadMemory,
) -> Result<(Layout, usize), String> {
    let (_, layout) = find_layout(py, memory)?;
    let code_type = find(c"PyCode_Type")?;
    report_dead_codes(memory, code_type)?;
    Ok((layout, code_type))
}

/// Address of the calling thread's state.
pub(super) fn own_thread_state(_: Python<'_>) -> usize {
    // SAFETY: the GIL is held, as the token proves.
    unsafe { ffi::PyThreadState_Get() as usize }
}

/// Address of the dictionary that the calling thread has for itself; 0 if it cannot be had.
pub(super) fn own_thread_dict(_: Python<'_>) -> usize {
    // SAFETY: the GIL is held, as the token proves; the reference is the thread's own.
    unsafe { ffi::PyThreadState_GetDict() as usize }
}

/// What the engine must know, and the address of `PyCode_Type`. From here on the death of code
/// objects is reported.
pub(super) fn find_interpreter(
    py: Python<'_>,
    memory: &mut dyn ReadMemory,
) -> Result<(Interpreter, usize), String> {
    let (runtime, layout) = find_layout(py, memory)?;
    let code_type = find(c"PyCode_Type")?;
    let state = own_thread_state(py);
    let actual = thread_id();
    let (stale_id, id_from_ident) = match layout.thread.native_id {
        Some(at) => {
            let said = read_word(memory, state + at).unwrap_or(0) as u64;
            ((said != actual).then_some((said, actual)), None)
        }
        None => (None, Some(find_id_from_ident(memory)?)),
    };
    report_dead_codes(memory, code_type)?;
    let main = read_word(memory, runtime + layout.runtime.interpreters_head).unwrap_or(0);
    let threads = main.wrapping_add(layout.interpreter.threads_head);
    let gil = layout.gil.address(memory, runtime, main).unwrap_or(0);
    let turns = gil.wrapping_add(layout.gil.switches);
    // The main interpreter is on the heap in 3.10.
    let lasting = Lasting::variable(runtime, threads.max(turns))
        .or_else(|| Lasting::variable(runtime, turns))
        .unwrap_or_default();
    let interpreter = Interpreter {
        layout,
        runtime,
        gil,
        lasting,
        knows_locks: false,
        stale_id,
        id_from_ident,
    };
    Ok((interpreter, code_type))
}

/// Where a `struct pthread` has the kernel's thread id: where it is right for two threads.
pub(in crate::py) fn find_id_from_ident(memory: &mut dyn ReadMemory) -> Result<usize, String> {
    // SAFETY: pthread_self takes no argument and always succeeds.
    let ids = || (unsafe { libc::pthread_self() } as usize, thread_id());
    let (done, finished) = std::sync::mpsc::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    let other = NativeThread::spawn(Kind::Sharing, "rprof-probe", tell, move |tell| {
        // Alive until it has been looked at.
        if tell.send(ids()).is_ok() {
            let _: Result<(), std::sync::mpsc::RecvTimeoutError> = finished.recv_timeout(PATIENCE);
        }
    })
    .map_err(|refused| refused.error.to_string())?;
    let mut places: Vec<usize> = (0..PTHREAD_BYTES / 4).map(|at| at * 4).collect();
    for (ident, native) in [Some(ids()), told.recv_timeout(PATIENCE).ok()]
        .into_iter()
        .flatten()
    {
        places.retain(|at| {
            read(memory, ident + at, 4)
                .is_some_and(|bytes| u64::try_from(int32(bytes, 0)) == Ok(native))
        });
    }
    drop(done);
    // A thread that has nothing left to do ends.
    drop(other.join(PATIENCE));
    match places[..] {
        [place] => Ok(place),
        _ => Err("the C library's threads have an unknown layout".to_owned()),
    }
}

/// Puts [`on_dealloc`] in front of the type's own function, once in a process.
fn report_dead_codes(memory: &mut dyn ReadMemory, code_type: usize) -> Result<(), String> {
    if !ORIGINAL.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    // SAFETY: the GIL is held by the caller; PyCode_Type is a type, and static types may be asked
    // for their slots (3.10 and later).
    let said =
        unsafe { ffi::PyType_GetSlot(code_type as *mut PyTypeObject, ffi::Py_tp_dealloc) as usize };
    let found =
        read(memory, code_type, DEALLOC_OFFSET + 8).map(|bytes| word(bytes, DEALLOC_OFFSET));
    if said == 0 || found != Some(said) {
        return Err("its types have an unknown layout".to_owned());
    }
    ORIGINAL.store(said as *mut c_void, Ordering::Release);
    let slot = (code_type + DEALLOC_OFFSET) as *mut *mut c_void;
    // SAFETY: the word was just shown to be this type's tp_dealloc. Types are writable data, and
    // whoever reads the slot at this moment gets one of two functions that do the same.
    unsafe { AtomicPtr::from_ptr(slot) }.store(on_dealloc as *mut c_void, Ordering::Release);
    Ok(())
}

unsafe extern "C" fn on_dealloc(code: *mut PyObject) {
    FREED.push(code as usize);
    let before = note_death(code as usize);
    let original = ORIGINAL.load(Ordering::Acquire);
    // SAFETY: ORIGINAL was set to CPython's own function before this one was installed.
    unsafe { std::mem::transmute::<*mut c_void, Dealloc>(original)(code) };
    end_death(before);
}
