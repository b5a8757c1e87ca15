//! The writer thread: encodes finished windows and hands the bytes to sinks.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::control::RecordingId;
use super::fork::session;
use super::health::Health;
use super::last_call::LastCall;
use crate::clock::cpu::own_cpu_ns;
use crate::error::{Error, Result};
use crate::fold::merge::Merge;
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::memory::reserve::Provision;
use crate::pprof::encode::encode;
use crate::sink::Sink;

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
    /// Encode and store a finished window.
    Write {
        /// The recording it belongs to.
        recording: RecordingId,
        /// The window.
        profile: Arc<Profile>,
        /// Who waits for the outcome; `None` there means that the recording has no sink.
        reply: Option<Sender<Result<Option<PathBuf>>>>,
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
    jobs: Receiver<Job>,
    outlets: FxHashMap<RecordingId, Outlet>,
    health: Arc<Health>,
    quit: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<PathBuf>>>,
    cpu_mark_ns: u64,
}

impl Writer {
    /// A writer without sinks. It ends soon after `quit` is set; `kept` lists the files in place.
    #[must_use]
    pub fn new(
        jobs: Receiver<Job>,
        health: Arc<Health>,
        quit: Arc<AtomicBool>,
        kept: Arc<Mutex<Vec<PathBuf>>>,
    ) -> Self {
        Self {
            jobs,
            outlets: FxHashMap::default(),
            health,
            quit,
            kept,
            cpu_mark_ns: 0,
        }
    }

    /// Serves jobs until told to quit, and hands the state back with the rest of the queue.
    #[must_use]
    pub fn run(mut self: Box<Self>) -> Box<Self> {
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
        self
    }

    /// Serves the jobs that wait, on the thread of somebody who needs that, where the writer has none.
    pub fn serve_waiting(&mut self) {
        while let Ok(job) = self.jobs.try_recv() {
            self.serve(job);
        }
    }

    fn serve(&mut self, job: Job) {
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
                profile,
                reply,
            } => {
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

    fn write(&mut self, recording: RecordingId, profile: Arc<Profile>) -> Result<Option<PathBuf>> {
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
        let written = encode(&profile).and_then(|bytes| {
            let path = outlet.sink.write(&bytes)?;
            Ok((path, bytes.len() as u64))
        });
        match written {
            Ok((path, bytes)) => {
                Health::add(&self.health.windows, 1);
                Health::add(&self.health.written_bytes, bytes);
                *self.kept.lock() = outlet.sink.kept();
                if outlet.sink.replaces() {
                    outlet.pending = Some(profile);
                }
                Ok(Some(path))
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
