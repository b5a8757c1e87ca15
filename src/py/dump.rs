//! `dump_on_signal`: every stack as text, by a native thread that needs no GIL.
//!
//! The signal's handler only posts a semaphore. A thread of ours waits for that, looks at all
//! threads with an engine of its own, and writes.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::direct;
use super::gil::engine::EngineOptions;
use crate::capture::direct::DirectEngine;
#[cfg(target_os = "linux")]
use crate::clock::cpu::unix_time_ns;
use crate::error::Error;
use crate::model::snapshot::Snapshot;
use crate::report::dump::threads;
use crate::session::fork::session;
use crate::session::native_thread::{Kind, NativeThread};

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
static QUIT: AtomicBool = AtomicBool::new(false);
static DUMPER: Mutex<Option<Dumper>> = Mutex::new(None);

/// What is to be done when the signal comes.
struct Dumper {
    signal: i32,
    previous: libc::sigaction,
    /// The state while no thread runs.
    parked: Option<State>,
    running: Option<NativeThread<State>>,
}

struct State {
    engine: DirectEngine,
    path: Option<PathBuf>,
}

extern "C" fn on_signal(_: i32) {
    // SAFETY: sem_post may be called in a signal handler (POSIX); the semaphore was initialised
    // before the handler was installed. A full counter is as good as one more.
    unsafe { libc::sem_post(ASKED.get()) };
}

impl State {
    fn run(mut self) -> Self {
        loop {
            if !ASKED.wait() {
                continue;
            }
            // Whoever ends this has raised the semaphore once for it: what is left was asked for.
            if QUIT.load(Ordering::Acquire) {
                return self;
            }
            self.dump();
        }
    }

    fn dump(&mut self) {
        let mut snapshot = Snapshot::default();
        let taken = self.engine.look_once(&mut snapshot);
        let text = match taken {
            Ok(_) => {
                session().note_standing(&mut snapshot);
                threads(&snapshot)
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
pub(crate) fn dump_on_signal(
    py: Python<'_>,
    signal: i32,
    path: Option<PathBuf>,
    import_roots: Vec<String>,
    own_directory: String,
) -> PyResult<()> {
    let options = EngineOptions {
        import_roots,
        own_directory,
        keep_thread_state: false,
    };
    let engine = direct::engine_for_dumps(py, &options).map_err(|reason| {
        Error::state(format!(
            "dump_on_signal() needs the direct engine, which cannot be used: {reason}"
        ))
    })?;
    py.detach(|| install(signal, State { engine, path }))?;
    Ok(())
}

fn install(signal: i32, state: State) -> crate::error::Result<()> {
    INITIALISE.call_once(|| {
        // SAFETY: the semaphore is static and initialised once.
        unsafe { libc::sem_init(ASKED.get(), 0, 0) };
    });
    let mut dumper = DUMPER.lock();
    if let Some(mut old) = dumper.take() {
        old.park();
        old.restore();
    }
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
    let mut new = Dumper {
        signal,
        previous,
        parked: Some(state),
        running: None,
    };
    new.unpark()?;
    *dumper = Some(new);
    Ok(())
}

/// Ends dumping on a signal, if there was any, and restores what was done before.
#[pyfunction]
pub(crate) fn no_dump_on_signal(py: Python<'_>) {
    py.detach(|| {
        if let Some(mut old) = DUMPER.lock().take() {
            old.park();
            old.restore();
        }
    });
}

impl Dumper {
    fn unpark(&mut self) -> crate::error::Result<()> {
        if let Some(state) = self.parked.take() {
            QUIT.store(false, Ordering::Release);
            let spawned = NativeThread::spawn(Kind::Sharing, "rprof-dump", state, State::run);
            match spawned {
                Ok(thread) => self.running = Some(thread),
                Err(refused) => {
                    self.parked = Some(refused.state);
                    return Err(refused.error);
                }
            }
        }
        Ok(())
    }

    fn park(&mut self) {
        if let Some(thread) = self.running.take() {
            QUIT.store(true, Ordering::Release);
            // SAFETY: the semaphore was initialised before the thread was started.
            unsafe { libc::sem_post(ASKED.get()) };
            match thread.join(PATIENCE) {
                Ok(state) => self.parked = state,
                Err(thread) => self.running = Some(thread),
            }
        }
    }

    fn restore(&self) {
        // SAFETY: `previous` is what sigaction returned for this signal.
        unsafe {
            libc::sigaction(self.signal, &raw const self.previous, std::ptr::null_mut());
        }
    }
}

/// Ends the thread ahead of a fork. Its work needs no GIL, so this may be called with it.
pub(crate) fn before_fork() {
    if let Some(mut dumper) = DUMPER.try_lock_for(PATIENCE)
        && let Some(dumper) = dumper.as_mut()
    {
        dumper.park();
    }
}

/// Starts the thread again, in the parent or in the child.
pub(crate) fn after_fork() {
    if let Some(mut dumper) = DUMPER.try_lock_for(PATIENCE) {
        go_on(&mut dumper);
    }
}

/// Starts the thread if it could not be had before; waits for nobody. False if somebody is in the way.
pub(crate) fn try_again() -> bool {
    let dumper = DUMPER.try_lock();
    dumper.map(|mut dumper| go_on(&mut dumper)).is_some()
}

/// Without a thread there are no dumps, and the program goes on.
fn go_on(dumper: &mut Option<Dumper>) {
    if let Some(dumper) = dumper
        && let Err(error) = dumper.unpark()
    {
        session().refuse(&error);
    }
}
