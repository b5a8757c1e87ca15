//! The two threads: how they start and end, for forks too, and what is done where they cannot be had.
//!
//! The state of a worker outlives its thread. Where the system refuses a thread, whoever asks for
//! something does the worker's part with that state: nobody waits for a thread that is not there.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::SendTimeoutError;
use parking_lot::MutexGuard;

use super::worker::Worker;
use super::writer::{Job, Writer};
use super::{Session, State};
use crate::clock::cpu::monotonic_ns;
use crate::error::{Error, Result};

/// A stop waits this long for a sampler that waits for the GIL.
pub(super) const REPLY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a fork, a start or an end of a thread that is under way is waited for.
const SETTLE_PATIENCE: Duration = if cfg!(test) { STEP } else { REPLY_PATIENCE };
/// After so long whoever waits for a worker looks whether it is there.
pub(super) const STEP: Duration = Duration::from_millis(200);
/// How long the end of the threads is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    sampler: Duration,
    /// A write to a slow disk may be under way.
    pub(super) writer: Duration,
}

pub(super) const PATIENCE: Patience = Patience {
    sampler: REPLY_PATIENCE,
    writer: Duration::from_secs(2),
};

impl Session {
    /// Announces a fork: until [`Self::end_fork`] no thread is started.
    pub(super) fn announce_fork(&self) {
        self.state.lock().forks += 1;
    }

    /// Ends both threads ahead of a fork; their state stays.
    pub(super) fn park_with_patience(&self) {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut state = self.state.lock();
        while state.is_changing() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                // The fork is the program's; whatever is being ended or written goes on beside it.
                return;
            }
        }
        self.park(state, PATIENCE);
    }

    /// The same if it can be done within `patience`; false if not, and the threads go on.
    ///
    /// May be called while the GIL is held.
    #[must_use]
    pub(super) fn park_within(&self, patience: Duration) -> bool {
        let state = self.state.lock();
        if state.is_changing() {
            return false;
        }
        self.park(
            state,
            Patience {
                sampler: patience,
                writer: patience,
            },
        )
    }

    /// Starts the threads again in the parent. What cannot be had is tried again later.
    pub(super) fn end_fork(&self) {
        let mut state = self.state.lock();
        if state.forks == 0 {
            return;
        }
        state.forks -= 1;
        self.man(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    /// Starts what threads are missing, if they can be had. Waits for nobody; false if somebody is in
    /// the way.
    pub fn try_again(&self) -> bool {
        let Some(mut state) = self.state.try_lock() else {
            return false;
        };
        self.man(&mut state);
        state.forks == 0
    }

    /// Starts what threads are missing, the sampler's first: without it the others have little to do.
    fn man(&self, state: &mut State) {
        if state.forks > 0 {
            return;
        }
        if !state.recordings.is_empty()
            && let Err(error) = self.start_sampler(state)
        {
            self.refuse(&error);
            if let Worker::Parked(sampler) = &mut state.sampler {
                sampler.leave();
            }
        }
        if !state.with_output.is_empty()
            && let Err(error) = self.start_writer(state)
        {
            self.refuse(&error);
        }
    }

    /// Sees to it that what the sampler was told is heard: where it has no thread, here.
    pub(super) fn attend_sampler(&self) {
        let mut state = self.state.lock();
        if state.recordings.is_empty() || !matches!(state.sampler, Worker::Parked(_)) {
            return;
        }
        if self.refusals.may_try() {
            self.man(&mut state);
        }
        // While a fork is under way its thread may be about to come again.
        if state.forks == 0
            && let Worker::Parked(sampler) = &mut state.sampler
        {
            sampler.answer_unattended();
        }
    }

    /// Hands a job to the writer, if it takes it in time.
    pub(super) fn hand_over(&self, job: Job, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut job = job;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.jobs.send_timeout(job, left.min(STEP)) {
                Ok(()) => {
                    self.attend_writer();
                    return true;
                }
                Err(SendTimeoutError::Timeout(back))
                    if !left.is_zero() && !self.writer_has_ended() =>
                {
                    job = back;
                }
                Err(_) => return false,
            }
            self.attend_writer();
        }
    }

    /// Sees to it that the writer's queue is served: where it has no thread, here.
    pub(super) fn attend_writer(&self) {
        let mut state = self.state.lock();
        if state.forks == 0 && matches!(state.writer, Worker::Parked(_)) && self.refusals.may_try()
        {
            self.man(&mut state);
        }
        while state.forks == 0 && !self.jobs_receiver.is_empty() {
            let mut writer = match state.writer.take() {
                Worker::Parked(writer) => writer,
                other => {
                    state.writer = other;
                    return;
                }
            };
            // Not under the lock: disks can be slow.
            drop(state);
            writer.serve_waiting();
            state = self.state.lock();
            state.writer = Worker::Parked(writer);
            self.changed.notify_all();
        }
    }

    /// Waits until no fork and no start or end of a thread is under way.
    pub(super) fn settled(&self) -> Result<MutexGuard<'_, State>> {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut state = self.state.lock();
        while state.forks > 0 || matches!(state.sampler, Worker::Changing) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::state(
                    "a fork, or the start or end of a thread, has been under way for too long",
                ));
            }
        }
        Ok(state)
    }

    pub(super) fn start_sampler(&self, state: &mut State) -> Result<()> {
        if state.forks > 0 || !matches!(state.sampler, Worker::Parked(_)) {
            return Ok(());
        }
        state.sampler.begin()?;
        self.started_ns
            .compare_exchange(0, monotonic_ns(), Ordering::Relaxed, Ordering::Relaxed)
            .ok();
        Ok(())
    }

    pub(super) fn start_writer(&self, state: &mut State) -> Result<()> {
        if state.forks > 0 {
            return Ok(());
        }
        if state.writer.is_none() {
            state.writer = Worker::Parked(Box::new(Writer::new(
                self.jobs.clone(),
                self.jobs_receiver.clone(),
                self.health.clone(),
                self.kept.clone(),
            )));
        }
        state.writer.begin()
    }

    /// Ends the threads if there is no recording.
    pub(super) fn park_if_idle(&self) {
        // If it is not to be known now, the next end of a recording sees to it.
        if let Ok(state) = self.settled()
            && state.recordings.is_empty()
        {
            self.park(state, PATIENCE);
        }
    }

    /// Ends both threads and keeps their state; false if one did not end in time. Consumes the
    /// guard: it waits without the lock.
    fn park(&self, mut state: MutexGuard<'_, State>, patience: Patience) -> bool {
        let mut sampler = state.sampler.take();
        let is_written = matches!(state.writer, Worker::Changing);
        let mut writer = state.writer.take();
        drop(state);
        let sampler_has_ended = sampler.park(patience.sampler);
        let ended = writer.park(patience.writer) && sampler_has_ended;
        let mut state = self.state.lock();
        state.sampler = sampler;
        // Whoever does its work puts it back.
        if !is_written {
            state.writer = writer;
        }
        drop(state);
        self.changed.notify_all();
        ended
    }
}

impl State {
    fn is_changing(&self) -> bool {
        matches!(self.sampler, Worker::Changing) || matches!(self.writer, Worker::Changing)
    }
}
