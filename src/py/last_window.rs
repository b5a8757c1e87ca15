//! The last window of a process that ends without its interpreter: by `os._exit`, by SIGTERM with its
//! default action, or by `exit` of C, as where uWSGI cuts a request off.
//!
//! What stands in for a function is a native object: between its call and the end of the process no
//! instruction of Python comes at which a signal's handler might raise.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_int;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

pub(super) use imp::Held;

use crate::session::fork::session;

/// The end of the process waits so long for its last window.
const PATIENCE_NS: u64 = 200_000_000;

thread_local! {
    /// Whether this thread has written the last window and is on its way to the end.
    static IS_ENDING: Cell<bool> = const { Cell::new(false) };
}

/// Stands in for a function of a module: `os._exit`, or the one that says what becomes of a signal.
#[pyclass(frozen, dict, module = "rprof._native")]
pub(crate) struct StandIn {
    wrapped: Py<PyAny>,
    name: String,
    /// Whether `wrapped` is `_exit` itself and does nothing else.
    is_exit: bool,
}

#[pymethods]
impl StandIn {
    #[new]
    fn new(wrapped: Py<PyAny>, name: String, is_exit: bool) -> Self {
        Self {
            wrapped,
            name,
            is_exit,
        }
    }

    #[pyo3(signature = (*arguments, **keywords))]
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        arguments: &Bound<'py, PyTuple>,
        keywords: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wrapped = self.wrapped.bind(py);
        if self.name != "_exit" {
            let result = wrapped.call(arguments, keywords)?;
            if arguments.get_item(0)?.extract().ok() == Some(libc::SIGTERM) {
                imp::handle_if_default();
            }
            return Ok(result);
        }
        let has_written = IS_ENDING.replace(true);
        if !has_written && session().last_call().is_of_use() {
            // As the interpreter itself reads it; of anything else it says what is wrong.
            let status = arguments.extract::<(c_int,)>().ok();
            let status = status.filter(|_| self.is_exit && keywords.is_none());
            py.detach(|| {
                session().write_out(PATIENCE_NS);
                if let Some((status,)) = status {
                    // Without the GIL, which another thread may not give back.
                    // SAFETY: the process ends, as by the function that this stands in for.
                    unsafe { libc::_exit(status) };
                }
            });
        }
        let result = wrapped.call(arguments, keywords);
        IS_ENDING.set(has_written);
        result
    }

    /// Pickled as what it stands in for is: by its name.
    fn __reduce__(&self) -> &str {
        &self.name
    }
}

/// Has the last window written at SIGTERM wherever its action is the default one, or no longer.
#[pyfunction]
pub(crate) fn handle_sigterm(is_wanted: bool) {
    imp::handle(is_wanted);
}

/// Where bells ring without a lock.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
))]
mod imp {
    use std::ffi::c_int;
    use std::sync::Once;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::PATIENCE_NS;
    use crate::clock::cpu::monotonic_ns;
    use crate::session::fork::known_session;

    /// Whether SIGTERM is to be handled, for as long as its action would be the default one.
    static IS_WANTED: AtomicBool = AtomicBool::new(false);
    static AT_EXIT: Once = Once::new();

    pub(super) fn handle(is_wanted: bool) {
        IS_WANTED.store(is_wanted, Ordering::Release);
        AT_EXIT.call_once(|| {
            // SAFETY: the function lives as long as the process, see `replace_action`. Without room for
            // it such an end loses the last window.
            unsafe { libc::atexit(on_exit) };
        });
        if is_wanted {
            handle_if_default();
        } else {
            replace_action(on_sigterm as *const () as usize, libc::SIG_DFL);
        }
    }

    /// With the GIL, with which programs of Python change what becomes of a signal.
    pub(super) fn handle_if_default() {
        // The kernel does nothing to the first process of a container where the action is the default.
        if IS_WANTED.load(Ordering::Acquire) && std::process::id() != 1 {
            replace_action(libc::SIG_DFL, on_sigterm as *const () as usize);
        }
    }

    /// Replaces the action for SIGTERM, if it is the expected one.
    fn replace_action(expected: usize, action: usize) {
        // SAFETY: a zeroed sigaction is valid. The handler is async-signal-safe and lives as long as
        // the process, because CPython never unloads an extension module.
        unsafe {
            let mut current = std::mem::zeroed::<libc::sigaction>();
            let known = libc::sigaction(libc::SIGTERM, std::ptr::null(), &raw mut current);
            if known == 0 && current.sa_sigaction == expected {
                let mut new = std::mem::zeroed::<libc::sigaction>();
                new.sa_sigaction = action;
                new.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
                libc::sigaction(libc::SIGTERM, &raw const new, std::ptr::null_mut());
            }
        }
    }

    /// SIGTERM waits while this thread does something with a window that nobody else can finish.
    pub(in crate::py) struct Held {
        previous: Option<libc::sigset_t>,
    }

    impl Held {
        pub(in crate::py) fn begin() -> Self {
            if !IS_WANTED.load(Ordering::Acquire) {
                return Self { previous: None };
            }
            let set = sigterm_alone();
            // SAFETY: a zeroed set is valid, and both live for the length of the call.
            unsafe {
                let mut previous = std::mem::zeroed::<libc::sigset_t>();
                let failed =
                    libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut previous);
                Self {
                    previous: (failed == 0).then_some(previous),
                }
            }
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            if let Some(previous) = &self.previous {
                // SAFETY: it is what this thread had before.
                unsafe {
                    libc::pthread_sigmask(libc::SIG_SETMASK, previous, std::ptr::null_mut());
                }
            }
        }
    }

    fn sigterm_alone() -> libc::sigset_t {
        // SAFETY: the set is initialised before it is used; a signal of this number exists.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGTERM);
            set
        }
    }

    /// Has the sampler and the writer write, and waits for them.
    ///
    /// Calls nothing but what may be called in a signal's handler: `getpid`, `futex`, the time of the
    /// vDSO. No lock is taken, for this thread may hold any.
    fn write_out() {
        // A child that was forked, and does not record, has nothing to write.
        if let Some(session) = known_session() {
            let call = session.last_call();
            if call.is_of_use() {
                let deadline_ns = monotonic_ns() + PATIENCE_NS;
                call.await_answer(call.ask(), deadline_ns);
            }
        }
    }

    /// `exit` of C; at the end of an interpreter there is nothing left to write. May be in a signal's
    /// handler as well.
    extern "C" fn on_exit() {
        if IS_WANTED.load(Ordering::Acquire) {
            write_out();
        }
    }

    /// Has all written, and lets the signal do what it would have done.
    extern "C" fn on_sigterm(signal: c_int) {
        // SAFETY: `errno` of this thread, which the code that was interrupted may be about to read.
        let errno = unsafe { *libc::__errno_location() };
        write_out();
        // SAFETY: as in `replace_action`; the set is initialised, and `errno` as above.
        unsafe {
            let default = std::mem::zeroed::<libc::sigaction>();
            libc::sigaction(signal, &raw const default, std::ptr::null_mut());
            if libc::raise(signal) != 0 {
                // The signal has been taken from the program: it must end.
                libc::_exit(128 + signal);
            }
            let set = sigterm_alone();
            // Not left to the return: what a thread in `sigsuspend` returns to may block it.
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            // Nobody is here but the first process of a container that was forked with the handler.
            *libc::__errno_location() = errno;
        }
    }
}

/// Nothing is done about signals.
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
)))]
mod imp {
    pub(super) fn handle(_is_wanted: bool) {}

    pub(super) fn handle_if_default() {}

    pub(in crate::py) struct Held;

    impl Held {
        pub(in crate::py) fn begin() -> Self {
            Self
        }
    }
}
