//! Native threads that receive no signals.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use parking_lot::Mutex;

use crate::clock::cpu::thread_id;
use crate::clock::{descriptors, filter};
use crate::error::{Error, Result};
use crate::memory::reserve;

/// Deep enough for our own code; the kernel only commits what is touched.
const STACK_BYTES: usize = 512 << 10;
/// What a thread of Python's usually has: CPython counts calls, and not bytes, up to 3.13.
const PYTHON_STACK_BYTES: usize = 8 << 20;

thread_local! {
    static NAME: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// The name of the calling thread, if it is one of ours.
#[must_use]
pub fn own_name() -> Option<&'static str> {
    NAME.get()
}

/// Shows a thread's name to debuggers and `top`. By a file: the standard library does it by `prctl`,
/// which a filter may forbid. Where that cannot be had it has the name of whoever started it.
fn show_name(name: &str) {
    use std::io::Write as _;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/thread-self/comm");
    if let Ok(mut file) = file {
        // It is only for show.
        let _: std::io::Result<()> = file.write_all(name.as_bytes());
    }
}

/// Makes the calling thread's data of the libraries by which it waits, now that there is memory for
/// it: the C library ends a process that has none when they are made (`__cxa_thread_atexit_impl`).
pub(crate) fn meet_thread_locals() {
    // Neither waits, for nobody has any patience. A channel without room prepares to wait before it
    // looks at the time.
    let (_sender, receiver) = bounded::<()>(0);
    let _: std::result::Result<(), RecvTimeoutError> = receiver.recv_timeout(Duration::ZERO);
    let lock = parking_lot::Mutex::new(());
    parking_lot::Condvar::new().wait_for(&mut lock.lock(), Duration::ZERO);
}

/// A running native thread that returns a `T`.
#[derive(Debug)]
pub struct NativeThread<T> {
    handle: JoinHandle<Option<T>>,
    thread_id: Receiver<u64>,
    /// What was received from there.
    id: Option<u64>,
    /// Disconnected when the thread's function has returned.
    ended: Receiver<()>,
}

/// What a thread of ours is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A table of descriptors of its own.
    Own,
    /// The application's descriptors, for who writes to what it has open.
    Sharing,
    /// The same, and room for code of the application.
    Python,
}

/// A thread that was not to be had.
#[derive(Debug)]
pub struct Refused<S> {
    /// What it was to work with.
    pub state: S,
    /// Why it was not to be had.
    pub error: Error,
}

impl<T: Send + 'static> NativeThread<T> {
    /// Starts `body` on a thread of this name, with all signals blocked: a signal that the
    /// application blocked in its own threads must not be delivered on ours.
    ///
    /// A panic of `body` ends the thread quietly; `join` then returns `None` as its result.
    ///
    /// # Errors
    /// When the system has no room or no memory for another thread; `state` is then given back.
    pub fn spawn<S: Send + 'static>(
        kind: Kind,
        name: &'static str,
        state: S,
        body: impl FnOnce(S) -> T + Send + 'static,
    ) -> std::result::Result<Self, Refused<S>> {
        let stack_bytes = match kind {
            Kind::Own | Kind::Sharing => STACK_BYTES,
            Kind::Python => PYTHON_STACK_BYTES,
        };
        if !(reserve::set_aside() && reserve::is_there()) {
            let error = Error::memory(&format!("start the thread {name}"));
            return Err(Refused { state, error });
        }
        // A body that does not get its thread is dropped, and the state must not go with it.
        let kept = Arc::new(Mutex::new(Some(state)));
        let taken = kept.clone();
        let started = Self::start(name, stack_bytes, move || {
            let state = taken.lock().take();
            state.map(|state| {
                if kind == Kind::Own {
                    descriptors::isolate();
                }
                body(state)
            })
        });
        started.map_err(|error| match kept.lock().take() {
            Some(state) => Refused { state, error },
            // Only the thread takes it, and there is none.
            None => unreachable!("a thread that was refused has run"),
        })
    }

    fn start(
        name: &'static str,
        stack_bytes: usize,
        body: impl FnOnce() -> Option<T> + Send + 'static,
    ) -> Result<Self> {
        let refused = |error: &std::io::Error| {
            // The C library says EAGAIN for both.
            if reserve::are_there(stack_bytes) {
                Error::os(format!("cannot start the thread {name}"), error)
            } else {
                Error::memory(&format!("start the thread {name}"))
            }
        };
        #[cfg(test)]
        if tests::is_refused() {
            return Err(refused(&std::io::ErrorKind::WouldBlock.into()));
        }
        let (id_sender, thread_id_receiver) = bounded(1);
        let (ended_sender, ended) = bounded::<()>(0);
        let run = move || {
            let _ended = ended_sender;
            NAME.set(Some(name));
            show_name(name);
            meet_thread_locals();
            // Room for one message is there, so this neither blocks nor fails.
            let _ = id_sender.try_send(thread_id());
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            result.ok().flatten()
        };
        let handle = with_signals_blocked(|| {
            std::thread::Builder::new()
                .stack_size(stack_bytes)
                .spawn(run)
        })
        .map_err(|error| refused(&error))?;
        Ok(Self {
            handle,
            thread_id: thread_id_receiver,
            id: None,
            ended,
        })
    }

    /// Waits until the thread has what it needs to run: what the program uses up from here on is not
    /// missing then.
    pub fn await_begin(&mut self, patience: Duration) {
        if self.id.is_none() {
            self.id = self.thread_id.recv_timeout(patience).ok();
        }
    }

    /// Wakes the thread from `park`.
    pub fn unpark(&self) {
        self.handle.thread().unpark();
    }

    /// Whether the thread's function has returned.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for the end and returns the result (`None` after a panic), or the thread itself when
    /// it did not end in time.
    ///
    /// # Errors
    /// The thread, still running.
    pub fn join(self, patience: Duration) -> std::result::Result<Option<T>, Self> {
        // Nothing is ever sent: the wait ends with a disconnection or the deadline.
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            return Err(self);
        }
        let id = self.id.or_else(|| self.thread_id.try_recv().ok());
        let result = self.handle.join().ok().flatten();
        if let Some(id) = id {
            wait_until_gone(id);
        }
        Ok(result)
    }
}

/// Waits until the kernel no longer counts a joined thread.
///
/// `pthread_join` returns a moment earlier, and CPython 3.12 and later warn at `os.fork` when
/// `/proc/self/stat` counts more than one thread (`Modules/posixmodule.c`,
/// `warn_about_fork_with_threads`).
fn wait_until_gone(id: u64) {
    if cfg!(target_os = "linux") {
        let path = format!("/proc/self/task/{id}");
        let deadline = Instant::now() + Duration::from_millis(20);
        while is_there(&path) && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// By the call that CPython itself makes: the standard library's `exists` makes another, statx.
#[cfg(unix)]
fn is_there(path: &str) -> bool {
    use rustix::fs::{AtFlags, CWD, statat};
    statat(CWD, path, AtFlags::empty()).is_ok()
}

#[cfg(not(unix))]
fn is_there(_path: &str) -> bool {
    false
}

/// Asks the kernel to let the calling thread run soon after it wakes, in return for short turns, or
/// to treat it as any other. A sampler that has to wait for a busy CPU gets it when the application
/// enters the kernel, and would find it there more often than it is. Linux 6.12 and later have it
/// for ordinary threads (`kernel/sched/syscalls.c`, `__setparam_fair`); before, and where it is
/// refused, nothing changes. Where a filter might kill the process for it, it is not asked for:
/// systemd's group `@resources` is often forbidden.
///
/// Threads that wake more often than every [`LEAST_SLEEP_NS`] must not call this: where short turns
/// meet usual ones among control groups, Linux makes other groups' threads wait too long for their
/// next turn (`update_entity_lag` of `kernel/sched/fair.c`; seen with 6.18, mended in later versions
/// by "sched/fair: Fix lag clamp"). The more often they wake, the more often that happens.
#[cfg(target_os = "linux")]
pub fn run_soon(is_wanted: bool) {
    /// The least that the kernel accepts.
    const SHORT_NS: u64 = 100_000;
    /// What it takes for no wish.
    const USUAL: u64 = 0;
    if filter::may_be_there() {
        return;
    }
    // SAFETY: a zeroed sched_attr is valid; the calls read and write it within its size, and 0 means
    // the calling thread.
    unsafe {
        let mut attributes = std::mem::zeroed::<libc::sched_attr>();
        let size = size_of::<libc::sched_attr>() as u32;
        let known = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0);
        let policy = i32::try_from(attributes.sched_policy);
        if known == 0 && policy == Ok(libc::SCHED_OTHER) {
            attributes.sched_runtime = if is_wanted { SHORT_NS } else { USUAL };
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
    }
}

/// There is nothing to ask for on this system.
#[cfg(not(target_os = "linux"))]
pub fn run_soon(_is_wanted: bool) {}

/// Threads that sleep for less than this at a time must not call [`run_soon`].
pub const LEAST_SLEEP_NS: u64 = 1_000_000;

#[cfg(unix)]
fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    let mut previous = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises `all`; pthread_sigmask reads it and initialises `previous`.
    // Neither can fail with these arguments.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), previous.as_mut_ptr());
    }
    let result = spawn();
    // SAFETY: `previous` was initialised above.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, previous.as_ptr(), std::ptr::null_mut());
    }
    result
}

#[cfg(not(unix))]
fn with_signals_blocked<R>(spawn: impl FnOnce() -> R) -> R {
    spawn()
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::{Kind, NativeThread};
    use crate::error::ErrorKind;

    thread_local! {
        static REFUSES: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether the calling thread gets no other, see [`refuse`].
    pub(super) fn is_refused() -> bool {
        REFUSES.get()
    }

    /// Has the calling thread get no other one, or again.
    pub(crate) fn refuse(refuses: bool) {
        REFUSES.set(refuses);
    }

    #[test]
    fn whoever_gets_no_thread_keeps_what_it_was_for() {
        refuse(true);
        let refused = NativeThread::spawn(Kind::Own, "rprof-test", vec![1], |list| list);
        refuse(false);
        let refused = refused.err().unwrap();
        assert_eq!(refused.state, [1]);
        assert_eq!(refused.error.kind(), ErrorKind::Os);
        let patience = std::time::Duration::from_secs(60);
        let thread = NativeThread::spawn(Kind::Own, "rprof-test", refused.state, |list| list);
        assert_eq!(thread.unwrap().join(patience).unwrap(), Some(vec![1]));
    }
}
