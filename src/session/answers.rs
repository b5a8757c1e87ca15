//! How the sampler and the writer are asked, and how their answers are waited for.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::Session;
use super::control::{Control, RecordingId};
use super::crew::{REPLY_PATIENCE, STEP};
use super::worker::Worker;
use super::writer::Job;
use crate::error::{Error, Result};
use crate::fold::profile::Profile;
use crate::model::snapshot::Snapshot;
use crate::sink::Receipt;

impl Session {
    /// Notes in a snapshot of one look since when threads have been where they are, as far as the
    /// sampler has seen it. Waits for nobody for long.
    pub fn note_standing(&self, snapshot: &mut Snapshot) {
        const PATIENCE: Duration = Duration::from_millis(50);
        let Some(state) = self.state.try_lock_for(PATIENCE) else {
            return;
        };
        let (reply, answer) = bounded(1);
        if !matches!(state.sampler, Worker::Running(_)) {
            return;
        }
        self.tell(Control::Standing(reply));
        drop(state);
        let Ok(standing) = answer.recv_timeout(PATIENCE) else {
            return;
        };
        for thread in &mut snapshot.threads {
            let seen = standing
                .iter()
                .find(|seen| seen.thread_id == thread.thread_id && seen.cpu_ns == thread.cpu_ns);
            if let Some(seen) = seen {
                thread.since_ns = seen.since_ns;
            }
        }
    }

    pub(super) fn check_failure(&self) -> Result<()> {
        if self.health.failed.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let reason = self.health.last_error().unwrap_or_default();
        Err(Error::state(format!(
            "profiling is off in this process after an internal error ({reason}); please report it"
        )))
    }

    pub(super) fn tell(&self, message: Control) {
        // The session itself holds a receiver, so an unbounded channel never refuses.
        drop(self.control.send(message));
        self.sampler_bell.ring();
    }

    /// Sends a message that is answered with a profile, and waits for it.
    pub(super) fn ask(
        &self,
        id: RecordingId,
        message: impl FnOnce(RecordingId, Sender<Box<Profile>>) -> Control,
    ) -> Result<Arc<Profile>> {
        let (reply, answer) = bounded(1);
        {
            let state = self.settled()?;
            if !state.recordings.contains(&id) {
                return Err(not_running());
            }
            self.tell(message(id, reply));
        }
        self.attend_sampler();
        let answered = await_answer(&answer, || {
            self.attend_sampler();
            !self.sampler_has_ended()
        });
        match answered {
            Ok(mut profile) => {
                profile.meta.comments.extend(self.strain().comments(id));
                Ok(Arc::from(profile))
            }
            Err(RecvTimeoutError::Timeout) => Err(Error::state(
                "the sampler does not answer: does a C extension hold the GIL?",
            )),
            Err(RecvTimeoutError::Disconnected) => {
                self.check_failure()?;
                Err(Error::state("the sampler has ended with the interpreter"))
            }
        }
    }

    fn sampler_has_ended(&self) -> bool {
        match &self.state.lock().sampler {
            Worker::Running(thread) => thread.has_ended(),
            _ => false,
        }
    }

    pub(super) fn writer_has_ended(&self) -> bool {
        match &self.state.lock().writer {
            Worker::Running(thread) => thread.has_ended(),
            writer => writer.is_none(),
        }
    }

    /// Why a window was not written whose writer has not said so.
    #[cold]
    fn given_up(&self) -> Error {
        let reason = self.health.last_error().unwrap_or_default();
        Error::state(format!(
            "a profile could not be written because of an internal error ({reason}); please report it"
        ))
    }

    pub(super) fn has_output(&self, id: RecordingId) -> bool {
        self.state.lock().with_output.contains(&id)
    }

    pub(super) fn write(&self, id: RecordingId, profile: Arc<Profile>) -> Option<Result<Receipt>> {
        if !self.has_output(id) {
            return None;
        }
        let (reply, answer) = bounded(1);
        let job = Job::Write {
            recording: id,
            profile,
            reply: Some(reply),
        };
        if !self.hand_over(job, REPLY_PATIENCE) {
            return Some(Err(stuck()));
        }
        let answered = await_answer(&answer, || {
            self.attend_writer();
            !self.writer_has_ended()
        });
        match answered {
            Ok(outcome) => outcome.transpose(),
            Err(RecvTimeoutError::Timeout) => Some(Err(stuck())),
            Err(RecvTimeoutError::Disconnected) => Some(Err(self.given_up())),
        }
    }
}

/// Waits for a worker's answer, with patience; now and then `is_there` sees to the worker and says
/// whether it can answer yet.
fn await_answer<T>(
    answer: &Receiver<T>,
    is_there: impl Fn() -> bool,
) -> std::result::Result<T, RecvTimeoutError> {
    let deadline = Instant::now() + REPLY_PATIENCE;
    loop {
        match answer.recv_timeout(STEP) {
            Err(RecvTimeoutError::Timeout) if !is_there() => {
                return Err(RecvTimeoutError::Disconnected);
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            answered => return answered,
        }
    }
}

#[cold]
pub(super) fn stuck() -> Error {
    Error::state("the writer does not answer; is the disk stuck?")
}

pub(super) fn not_running() -> Error {
    Error::state(
        "this recording is not running: it was stopped, or belongs to the process that this one was \
         forked from",
    )
}
