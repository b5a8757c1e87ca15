//! Thread names for the direct engine, read by a thread that may wait for the GIL.
//!
//! It sleeps until the sampler asks, which it does when a new thread has appeared and now and then
//! while threads compute.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::prelude::*;

use crate::capture::Missed;
use crate::capture::direct::{NameSource, ThreadName};
use crate::clock::cpu::own_cpu_ns;
use crate::memory::reserve;
use crate::py::gil::attach::Attachment;
use crate::py::gil::names::Names;
use crate::py::gil::symbols::Symbols;
use crate::py::late;
use crate::session::fork::session;
use crate::session::health::Health;
use crate::session::native_thread::Kind;
use crate::session::worker::{Handle, Work, Worker};

/// A park waits this long for a thread that waits for the GIL.
const PATIENCE: Duration = Duration::from_secs(20);

/// Without being asked, the thread looks this often whether it is to go on.
const LOOK: Duration = Duration::from_secs(60);

/// What has to be left for a thread to be started.
const THREAD_BYTES: usize = 32 << 20;

/// All names now.
pub(super) fn all(py: Python<'_>) -> Vec<ThreadName> {
    let mut names = Names::new(py);
    let found = names.all(py);
    names.release(py);
    found
}

/// Names that do not change.
pub(super) struct Fixed(Option<Vec<ThreadName>>);

impl Fixed {
    pub(super) fn new(names: Vec<ThreadName>) -> Self {
        Self(Some(names))
    }
}

impl NameSource for Fixed {
    fn request(&mut self) {}

    fn collect(&mut self) -> Option<Vec<ThreadName>> {
        self.0.take()
    }

    fn thread_state(&self) -> usize {
        0
    }

    fn park(&mut self) {}

    fn end(&mut self) {}
}

/// Names as somebody read them last: those who wait for nobody know no newer ones.
pub(super) struct Known;

/// The newest names that any reader has had.
static NEWEST: Mutex<Vec<ThreadName>> = Mutex::new(Vec::new());

impl Known {
    pub(super) fn new(names: Vec<ThreadName>) -> Self {
        *NEWEST.lock() = names;
        Self
    }
}

impl NameSource for Known {
    fn request(&mut self) {}

    fn collect(&mut self) -> Option<Vec<ThreadName>> {
        Some(NEWEST.lock().clone())
    }

    fn thread_state(&self) -> usize {
        0
    }

    fn park(&mut self) {}

    fn end(&mut self) {}
}

#[derive(Debug, Default)]
struct Shared {
    is_asked: AtomicBool,
    quit: AtomicBool,
    answer: Mutex<Option<Vec<ThreadName>>>,
}

/// What the thread works with; it outlives the thread.
#[derive(Debug)]
struct Reader {
    attachment: Attachment,
    names: Names,
    shared: Arc<Shared>,
}

impl Work for Reader {
    type Handle = ReaderHandle;

    const NAME: &'static str = "rprof-names";
    const KIND: Kind = Kind::Own;

    fn prepare(&mut self) -> ReaderHandle {
        self.shared.quit.store(false, Ordering::Release);
        ReaderHandle(self.shared.clone())
    }

    fn run(&mut self) {
        let mut cpu_mark_ns = 0;
        while !self.shared.quit.load(Ordering::Acquire) {
            if self.shared.is_asked.swap(false, Ordering::AcqRel) {
                match self.attachment.attach() {
                    Ok(attached) => {
                        let found = self.names.all_attached(&attached);
                        late::look(attached.py());
                        drop(attached);
                        NEWEST.lock().clone_from(&found);
                        *self.shared.answer.lock() = Some(found);
                    }
                    Err(Missed::NotNow) => {}
                    Err(Missed::Finalizing) => break,
                }
                let cpu_ns = own_cpu_ns();
                let cost_ns = cpu_ns - std::mem::replace(&mut cpu_mark_ns, cpu_ns);
                Health::add(&session().health().names_cpu_ns, cost_ns);
            } else {
                std::thread::park_timeout(LOOK);
            }
        }
        self.attachment.park();
    }
}

/// How the reader's thread is reached.
#[derive(Debug)]
struct ReaderHandle(Arc<Shared>);

impl Handle for ReaderHandle {
    fn stop(&self) {
        self.0.quit.store(true, Ordering::Release);
    }
}

/// See the module's documentation.
pub(super) struct NameReader {
    shared: Arc<Shared>,
    thread_state: Arc<AtomicUsize>,
    worker: Worker<Reader>,
}

impl NameReader {
    pub(super) fn new(
        py: Python<'_>,
        keep_thread_state: bool,
        first: Vec<ThreadName>,
    ) -> PyResult<Self> {
        let symbols = Symbols::find()
            .map_err(|symbol| crate::error::Error::state(format!("it does not export {symbol}")))?;
        let shared = Arc::new(Shared {
            answer: Mutex::new(Some(first)),
            ..Shared::default()
        });
        let reader = Reader {
            attachment: Attachment::new(py, symbols, keep_thread_state),
            names: Names::new(py),
            shared: shared.clone(),
        };
        Ok(Self {
            shared,
            thread_state: reader.attachment.state_address(),
            worker: Worker::Parked(Box::new(reader)),
        })
    }
}

impl NameSource for NameReader {
    fn request(&mut self) {
        self.shared.is_asked.store(true, Ordering::Release);
        // Without memory no thread can be started, and what it works with would be lost. Much is asked
        // for: this is no set-up, other threads may be about to use the rest up, and a thread that
        // cannot have its data ends the process (glibc, `elf/dl-tls.c`). Names can wait.
        match &self.worker {
            Worker::Running(running) => running.wake(),
            Worker::Parked(_)
                if reserve::are_there(THREAD_BYTES) && session().refusals().may_try() =>
            {
                // Without another thread there are no names, and profiling goes on.
                if let Err(error) = self.worker.begin() {
                    session().refuse(&error);
                }
            }
            _ => {}
        }
    }

    fn collect(&mut self) -> Option<Vec<ThreadName>> {
        self.shared.answer.try_lock()?.take()
    }

    fn end(&mut self) {
        self.worker.stop();
    }

    fn thread_state(&self) -> usize {
        self.thread_state.load(Ordering::Acquire)
    }

    fn park(&mut self) {
        // One that waits for a GIL that nobody gives ends when it gets it.
        self.worker.end(PATIENCE);
    }
}
