//! Hooks in CPython's allocators, for as long as somebody wants to know of the heap.
//!
//! Once in place they stay: see `allocators.rs`. While nobody wants anything they count towards a number
//! that is never reached.
#![allow(unsafe_code)]

pub(super) mod account;
mod allocators;
mod collect;
mod hooks;
mod said;
mod trial;
mod walk;

use std::ffi::{c_int, c_void};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::ffi;
use pyo3::prelude::*;

pub(super) use self::collect::collect;

use self::allocators::{Access, GENERATION, current};
use self::walk::Own;
use super::direct::{circumstances, find_codes};
use super::gil::engine::{EngineOptions, GilEngine};
use crate::clock::cpu::{monotonic_ns, process_cpu_ns};
use crate::error::Error;
use crate::heap::stacks::{HeapFrame, Look, MAX_FRAMES};
use crate::heap::texts::Texts;
use crate::heap::{self, HeapLimits, report};
use crate::memory::own;
use crate::model::module_name::ImportRoots;

/// What wants to know of the heap, in this process.
#[derive(Default)]
struct Users {
    process_id: u32,
    count: u32,
}

static USERS: Mutex<Users> = Mutex::new(Users {
    process_id: 0,
    count: 0,
});
/// How often somebody else has taken the place of our hooks.
static DISPLACED: AtomicU32 = AtomicU32::new(0);
static HAS_ENDED: AtomicBool = AtomicBool::new(false);

/// Something that wants to know of the heap: samples are taken until the last of them goes.
#[derive(Debug)]
pub(super) struct HeapUse {
    process_id: u32,
}

impl HeapUse {
    /// Begins to take samples, unless that is so already; `rate` is in bytes, `None` has it chosen.
    ///
    /// # Errors
    /// When that is not possible here, and why.
    pub(super) fn begin(
        py: Python<'_>,
        rate: Option<f64>,
        options: &EngineOptions,
    ) -> Result<Self, Error> {
        let refuse =
            |reason: String| Error::state(format!("memory= is not possible here: {reason}"));
        if HAS_ENDED.load(Ordering::Acquire) {
            return Err(refuse("the process is ending".to_owned()));
        }
        let process_id = std::process::id();
        // Locked with the GIL, by threads that have it all the while.
        let mut users = USERS.lock();
        if users.process_id != process_id {
            *users = Users {
                process_id,
                count: 0,
            };
        }
        let access = Access::find().map_err(refuse)?;
        if users.count == 0 {
            prepare(py, options).map_err(refuse)?;
            if current().is_none() {
                // CPython tells of its arenas only as long as nobody has hooked its allocators.
                account::count_arenas(py, access);
                trial::install(access).map_err(refuse)?;
            }
            // A forked child has what its parent had.
            if !report::figures().is_on {
                let now_ns = monotonic_ns();
                heap::start(HeapLimits::default(), rate, now_ns, process_cpu_ns());
                trial::start_counting();
            }
            check(py).map_err(refuse)?;
        }
        users.count += 1;
        Ok(Self { process_id })
    }
}

impl Drop for HeapUse {
    fn drop(&mut self) {
        let mut users = USERS.lock();
        if self.process_id != std::process::id() || users.process_id != self.process_id {
            return;
        }
        users.count -= 1;
        if users.count == 0 {
            stop();
        }
    }
}

fn stop() {
    if let Some(number) = current() {
        GENERATION[number].count.stop();
    }
    heap::stop();
}

/// Learns where the interpreter has what, and shows that a thread finds its own stack.
fn prepare(py: Python<'_>, options: &EngineOptions) -> Result<(), String> {
    static AROUND_FORKS: Once = Once::new();
    let mut memory = own::open(circumstances())?;
    let (layout, code_type) = find_codes(py, memory.as_mut())?;
    let version = py.version_info();
    said::learn(py);
    walk::learn(layout, code_type, (version.major, version.minor))?;
    let expected = GilEngine::own_stack(py, options).map_err(|error| error.to_string())?;
    let roots = ImportRoots::new(options.import_roots.iter().cloned());
    for has_gil in [true, false] {
        let found = own_stack(&Own { has_gil }, &roots, &options.own_directory);
        let wanted = expected
            .iter()
            .map(|(function, line)| (function.name.to_string(), function.first_line, *line));
        if !found.iter().cloned().eq(wanted) {
            return Err("a thread does not find its own stack".to_owned());
        }
    }
    // SAFETY: the handlers live as long as the process, because CPython never unloads an extension
    // module.
    AROUND_FORKS.call_once(|| unsafe {
        libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(in_child));
    });
    Ok(())
}

extern "C" fn before_fork() {
    heap::hold_for_fork();
}

extern "C" fn after_fork() {
    heap::release_after_fork(false);
}

extern "C" fn in_child() {
    hooks::note_fork();
    heap::release_after_fork(true);
    // Whoever has begun a window is in the parent.
    report::forget_windows();
}

/// Name, first line and line of each frame of the calling thread, leaf first.
fn own_stack(own: &Own, roots: &ImportRoots, own_directory: &str) -> Vec<(String, u32, u32)> {
    let mut frames: Vec<HeapFrame> = Vec::with_capacity(MAX_FRAMES);
    own.walk(&mut frames);
    let mut texts = Texts::new(4 << 20);
    let mut named = Vec::new();
    for frame in frames {
        let Some(code) = own.learn(frame.code, &mut texts) else {
            continue;
        };
        let (name, file) = (texts.read(code.name), texts.read(code.file));
        let is_hidden = code.first_line == 0 && name == "__init__" && file == "__init__";
        if is_hidden || named.is_empty() && file.starts_with(own_directory) {
            continue;
        }
        let line = own.line(frame.code, frame.instruction);
        named.push((roots.qualify(&file, &name), code.first_line, line));
    }
    named
}

/// Looks whether the hooks are still called, and hooks anew if somebody has taken their place: then
/// frees were missed, and the live samples are forgotten.
fn check(_: Python<'_>) -> Result<(), String> {
    let access = Access::find()?;
    if trial::is_in_place(access) {
        return Ok(());
    }
    DISPLACED.fetch_add(1, Ordering::Relaxed);
    report::forget_live(monotonic_ns());
    trial::install(access)?;
    trial::start_counting();
    if trial::is_in_place(access) {
        Ok(())
    } else {
        Err("another allocator hook does not pass on what it is asked for".to_owned())
    }
}

/// Whether what is known of blocks in use is true, for whoever has the GIL.
pub(super) fn is_true(py: Python<'_>) -> bool {
    check(py).is_ok()
}

/// The same for a thread without the GIL: where somebody has hooked over us, the interpreter's main
/// thread is asked to look, and waited for a moment.
pub(super) fn is_true_without_gil() -> bool {
    const PATIENCE: u32 = 20;
    static ANSWERS: AtomicUsize = AtomicUsize::new(0);
    static WAS_TRUE: AtomicBool = AtomicBool::new(false);
    extern "C" fn look(_: *mut c_void) -> c_int {
        // SAFETY: pending calls are made with the GIL held.
        let py = unsafe { Python::assume_attached() };
        WAS_TRUE.store(is_true(py), Ordering::Release);
        ANSWERS.fetch_add(1, Ordering::Release);
        0
    }
    let Ok(access) = Access::find() else {
        return false;
    };
    if trial::is_on_top(access) {
        return true;
    }
    let before = ANSWERS.load(Ordering::Acquire);
    // SAFETY: the function lives as long as the process, and takes no argument.
    if unsafe { ffi::Py_AddPendingCall(Some(look), std::ptr::null_mut()) } != 0 {
        return false;
    }
    for _ in 0..PATIENCE {
        if ANSWERS.load(Ordering::Acquire) != before {
            return WAS_TRUE.load(Ordering::Acquire);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// The interpreter is about to end: no thread looks at its stack any more.
pub(super) fn end_with_interpreter(py: Python<'_>) {
    if HAS_ENDED.swap(true, Ordering::AcqRel) || current().is_none() {
        return;
    }
    stop();
    // A thread may need the GIL to go on.
    py.detach(hooks::end_looks);
}

/// How often somebody else has taken the place of our hooks.
pub(super) fn displaced() -> u32 {
    DISPLACED.load(Ordering::Relaxed)
}
