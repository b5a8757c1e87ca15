//! `dump_on_signal`: every stack as text, by a native thread that needs no GIL.
//!
//! The signal's handler only posts a semaphore. A thread of ours waits for that, looks at all
//! threads with an engine of its own, and writes.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::direct;
use super::handed_in::process_without_thread;
use crate::capture::direct::DirectEngine;
#[cfg(target_os = "linux")]
use crate::clock::cpu::unix_time_ns;
use crate::error::Error;
use crate::report::dump::by_thread;
use crate::session::fork::session;
use crate::session::native_thread::Kind;
use crate::session::posts::{Occupant, Post};
use crate::session::worker::{Handle, Work};

/// How long the end of the thread is waited for before a fork.
const PATIENCE: Duration = Duration::from_secs(2);

/// Without a signal the thread looks this often whether it is to go on.
#[cfg(target_os = "linux")]
const LOOK_SECONDS: libc::time_t = 60;

/// A semaphore that lives as long as the process.
struct Semaphore(UnsafeCell<MaybeUninit<libc::sem_t>>);

// SAFETY: a POSIX semaphore is made to be used by several threads at once.
unsafe impl Sync for Semaphore {}

impl Semaphore {
    fn get(&self) -> *mut libc::sem_t {
        self.0.get().cast()
    }

    /// Waits until it is posted, for [`LOOK_SECONDS`] at most; whether it was.
    #[cfg(target_os = "linux")]
    fn wait(&self) -> bool {
        let now_ns = unix_time_ns();
        let deadline = libc::timespec {
            tv_sec: now_ns / 1_000_000_000 + LOOK_SECONDS,
            tv_nsec: now_ns % 1_000_000_000,
        };
        // A system's clock that is set makes it look earlier or later, and no more.
        // SAFETY: the semaphore was initialised before the thread was started.
        unsafe { libc::sem_timedwait(self.get(), &raw const deadline) == 0 }
    }

    /// Waits until it is posted; whether it was. There is no such wait with a deadline here.
    #[cfg(not(target_os = "linux"))]
    fn wait(&self) -> bool {
        // SAFETY: the semaphore was initialised before the thread was started.
        unsafe { libc::sem_wait(self.get()) == 0 }
    }
}

static ASKED: Semaphore = Semaphore(UnsafeCell::new(MaybeUninit::uninit()));
static INITIALISE: Once = Once::new();
/// The signal, and what was done before when it came.
static HANDLED: Mutex<Option<Handled>> = Mutex::new(None);

struct Handled {
    signal: i32,
    previous: libc::sigaction,
}

impl Handled {
    fn restore(&self) {
        // SAFETY: `previous` is what sigaction returned for this signal.
        unsafe {
            libc::sigaction(self.signal, &raw const self.previous, std::ptr::null_mut());
        }
    }
}

/// Looks and writes when the signal has come.
struct Dumper {
    engine: DirectEngine,
    path: Option<PathBuf>,
    quit: Arc<AtomicBool>,
}

extern "C" fn on_signal(_: i32) {
    // SAFETY: sem_post may be called in a signal handler (POSIX); the semaphore was initialised
    // before the handler was installed. A full counter is as good as one more.
    unsafe { libc::sem_post(ASKED.get()) };
}

impl Work for Dumper {
    type Handle = DumperHandle;

    const NAME: &'static str = "rprof-dump";
    const KIND: Kind = Kind::Sharing;

    fn prepare(&mut self) -> DumperHandle {
        self.quit = Arc::default();
        DumperHandle(self.quit.clone())
    }

    fn run(&mut self) {
        loop {
            if !ASKED.wait() {
                continue;
            }
            // Whoever ends this has raised the semaphore once for it: what is left was asked for.
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            self.dump();
        }
    }
}

impl Occupant for Dumper {
    const POST: Post = Post::Dumper;
    /// Its work needs no GIL.
    const WITH_GIL: Duration = PATIENCE;
    const WITHOUT_GIL: Duration = Duration::ZERO;
    const AGAIN: Duration = PATIENCE;
    /// A child's handler of the signal is its parent's.
    const IS_INHERITED: bool = true;
}

/// How the dumper's thread is reached.
struct DumperHandle(Arc<AtomicBool>);

impl Handle for DumperHandle {
    fn stop(&self) {
        self.0.store(true, Ordering::Release);
        // SAFETY: the semaphore was initialised before the thread was started.
        unsafe { libc::sem_post(ASKED.get()) };
    }
}

impl Dumper {
    fn dump(&mut self) {
        let text = match self.engine.look_once() {
            Ok(mut snapshot) => {
                session().note_standing(&mut snapshot);
                let tasks = self.engine.look_at_tasks(&mut snapshot, None);
                by_thread(&snapshot, &tasks)
            }
            Err(_) => {
                "rprof: no snapshot could be taken; is the interpreter shutting down?\n".to_owned()
            }
        };
        // Nobody is there to be told of a failure to write.
        let _: std::io::Result<()> = match &self.path {
            Some(path) => append(path, &text),
            None => std::io::stderr().write_all(text.as_bytes()),
        };
    }
}

fn append(path: &PathBuf, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Has every thread's stack written when `signal` comes: appended to `path`, or to stderr.
#[pyfunction]
pub(crate) fn dump_on_signal(py: Python<'_>, signal: i32, path: Option<PathBuf>) -> PyResult<()> {
    let engine = direct::engine_for_dumps(py, &process_without_thread()).map_err(|reason| {
        Error::state(format!(
            "dump_on_signal() needs the direct engine, which cannot be used: {reason}"
        ))
    })?;
    let dumper = Dumper {
        engine,
        path,
        quit: Arc::default(),
    };
    py.detach(|| install(signal, dumper))?;
    Ok(())
}

fn install(signal: i32, dumper: Dumper) -> crate::error::Result<()> {
    INITIALISE.call_once(|| {
        // SAFETY: the semaphore is static and initialised once.
        unsafe { libc::sem_init(ASKED.get(), 0, 0) };
    });
    end();
    let mut handled = HANDLED.lock();
    // SAFETY: a zeroed sigaction is valid: no flags, an empty mask.
    let (mut action, mut previous) =
        unsafe { std::mem::zeroed::<(libc::sigaction, libc::sigaction)>() };
    action.sa_sigaction = on_signal as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler is async-signal-safe and lives as long as the process.
    if unsafe { libc::sigaction(signal, &raw const action, &raw mut previous) } != 0 {
        return Err(Error::value(format!(
            "signal={signal} cannot be handled: {}; use for example signal.SIGUSR2",
            std::io::Error::last_os_error()
        )));
    }
    *handled = Some(Handled { signal, previous });
    drop(handled);
    let started = session().slot::<Dumper>().start(Box::new(dumper));
    started.map_err(|refused| {
        end();
        refused.error
    })
}

/// Ends dumping on a signal, if there was any, and restores what was done before.
#[pyfunction]
pub(crate) fn no_dump_on_signal(py: Python<'_>) {
    py.detach(end);
}

fn end() {
    session().slot::<Dumper>().end(PATIENCE);
    if let Some(handled) = HANDLED.lock().take() {
        handled.restore();
    }
}
