//! The writer thread: hands finished windows to sinks.
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::control::RecordingId;
use super::fork::session;
use super::health::Health;
use super::last_call::LastCall;
use super::native_thread::Kind;
use super::worker::{Handle, Work};
use crate::clock::cpu::own_cpu_ns;
use crate::error::{Error, Result};
use crate::fold::merge::Merge;
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::memory::reserve::Provision;
use crate::sink::{Receipt, Sink};

/// Windows that may wait for the writer; when more are due they go on growing instead.
pub const QUEUE_LENGTH: usize = 4;

/// With nothing to write, the writer looks this often whether it is to go on,
const PATIENCE: Duration = Duration::from_secs(60);
/// and this often while a thread is missing.
const RETRY: Duration = Duration::from_secs(1);

/// What the writer is asked to do.
pub enum Job {
    /// Send this recording's profiles to `sink` from now on.
    Open {
        /// The recording.
        recording: RecordingId,
        /// Its destination.
        sink: Box<dyn Sink>,
        /// Bounds of merged windows.
        limits: Limits,
    },
    /// Deliver a finished window.
    Write {
        /// The recording it belongs to.
        recording: RecordingId,
        /// The window.
        profile: Arc<Profile>,
        /// Who waits for the outcome; `None` there means that the recording has no sink.
        reply: Option<Sender<Result<Option<Receipt>>>>,
    },
    /// The recording has ended; forget its sink, then drop the sender.
    Close(RecordingId, Sender<()>),
    /// Tell that all of this queue before it is done.
    Answer(Arc<LastCall>, u32),
    /// Look whether the thread should end.
    Wake,
    /// End: the interpreter has.
    End,
}

/// One recording's destination.
struct Outlet {
    sink: Box<dyn Sink>,
    limits: Limits,
    /// What the next profile has to hold as well: not stored yet, or replaced by it.
    pending: Option<Arc<Profile>>,
}

/// The state of the writer; like the sampler's it outlives the thread.
pub struct Writer {
    sender: Sender<Job>,
    jobs: Receiver<Job>,
    outlets: FxHashMap<RecordingId, Outlet>,
    health: Arc<Health>,
    quit: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<Receipt>>>,
    cpu_mark_ns: u64,
}

impl Writer {
    /// A writer without sinks; `kept` lists what is in place.
    #[must_use]
    pub fn new(
        sender: Sender<Job>,
        jobs: Receiver<Job>,
        health: Arc<Health>,
        kept: Arc<Mutex<Vec<Receipt>>>,
    ) -> Self {
        Self {
            sender,
            jobs,
            outlets: FxHashMap::default(),
            health,
            quit: Arc::default(),
            kept,
            cpu_mark_ns: 0,
        }
    }

    /// Serves the jobs that wait, on the thread of somebody who needs that, where the writer has none.
    pub fn serve_waiting(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            self.serve(job);
        }
    }

    /// A panic costs the job at which it happens: whoever waits for that is told at once, and the
    /// others go on.
    fn serve(&mut self, job: Job) {
        let is_window = matches!(job, Job::Write { .. });
        let served = catch_unwind(AssertUnwindSafe(|| self.serve_one(job)));
        if served.is_err() && is_window {
            Health::add(&self.health.lost_windows, 1);
        }
    }

    fn serve_one(&mut self, job: Job) {
        match job {
            Job::Open {
                recording,
                sink,
                limits,
            } => {
                let outlet = Outlet {
                    sink,
                    limits,
                    pending: None,
                };
                self.outlets.insert(recording, outlet);
            }
            Job::Write {
                recording,
                mut profile,
                reply,
            } => {
                // Whoever waits for the outcome has had the window before, and has done this.
                if reply.is_none()
                    && let Some(window) = Arc::get_mut(&mut profile)
                {
                    let comments = session().strain().comments(recording);
                    window.meta.comments.extend(comments);
                }
                let outcome = self.write(recording, profile);
                if let Some(reply) = reply {
                    // Whoever asked may have given up waiting; the file is in place anyway.
                    drop(reply.send(outcome));
                }
            }
            Job::Close(recording, _closed) => {
                self.outlets.remove(&recording);
            }
            Job::Answer(call, number) => call.answer(number),
            // Its thread has ended already, or looks for itself.
            Job::Wake | Job::End => {}
        }
    }

    fn write(&mut self, recording: RecordingId, profile: Arc<Profile>) -> Result<Option<Receipt>> {
        let Some(outlet) = self.outlets.get_mut(&recording) else {
            return Ok(None);
        };
        let profile = match outlet.pending.take() {
            None => profile,
            Some(earlier) => match merged(outlet.limits, &earlier, &profile) {
                Ok(merged) => merged,
                Err(error) => {
                    outlet.pending = Some(earlier);
                    Health::add(&self.health.lost_windows, 1);
                    self.health.set_error(error.to_string());
                    return Err(error);
                }
            },
        };
        match outlet.sink.deliver(&profile) {
            Ok(delivery) => {
                Health::add(&self.health.windows, 1);
                Health::add(&self.health.written_bytes, delivery.bytes);
                *self.kept.lock() = outlet.sink.kept();
                if outlet.sink.replaces() {
                    outlet.pending = Some(profile);
                }
                Ok(Some(delivery.receipt))
            }
            Err(error) => {
                Health::add(&self.health.write_errors, 1);
                Health::add(&self.health.merged_windows, 1);
                self.health.set_error(error.to_string());
                outlet.pending = Some(profile);
                Err(error)
            }
        }
    }
}

impl Work for Writer {
    type Handle = WriterHandle;

    const NAME: &'static str = "rprof-writer";
    const KIND: Kind = Kind::Own;

    fn prepare(&mut self) -> WriterHandle {
        self.quit.store(false, Release);
        WriterHandle {
            quit: self.quit.clone(),
            jobs: self.sender.clone(),
        }
    }

    /// Serves jobs until told to quit; the rest of the queue waits.
    fn run(&mut self) {
        self.cpu_mark_ns = own_cpu_ns();
        while !self.quit.load(Acquire) {
            let refusals = session().refusals();
            let patience = if refusals.are_any() { RETRY } else { PATIENCE };
            match self.jobs.recv_timeout(patience) {
                Ok(Job::End) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(job) => self.serve(job),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if refusals.due().is_some() {
                session().try_again();
            }
            let cpu_ns = own_cpu_ns();
            let cost_ns = cpu_ns.saturating_sub(self.cpu_mark_ns);
            self.cpu_mark_ns = cpu_ns;
            Health::add(&self.health.writer_cpu_ns, cost_ns);
        }
    }
}

/// How the writer's thread is reached.
pub struct WriterHandle {
    quit: Arc<AtomicBool>,
    jobs: Sender<Job>,
}

impl Handle for WriterHandle {
    fn stop(&self) {
        self.quit.store(true, Release);
        // A full queue wakes the writer as well.
        drop(self.jobs.try_send(Job::Wake));
    }

    fn take_back(&self) {
        self.quit.store(false, Release);
    }
}

/// Both windows in one.
fn merged(limits: Limits, earlier: &Profile, later: &Profile) -> Result<Arc<Profile>> {
    // The result holds no more than both together; its tables may be doubled as they grow.
    const COPIES: usize = 6;
    let needed_bytes = COPIES * (earlier.bytes() + later.bytes());
    let Some(_provision) = Provision::of(needed_bytes) else {
        return Err(Error::memory("merge two windows"));
    };
    let mut merge = Merge::bounded(limits);
    merge.add(earlier)?;
    merge.add(later)?;
    Ok(Arc::new(merge.finish()?))
}
