//! The two threads: how they start and end, for forks too, and what is done where they cannot be had.
//!
//! The state of a worker outlives its thread. Where the system refuses a thread, whoever asks for
//! something does the worker's part with that state: nobody waits for a thread that is not there.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::SendTimeoutError;
use parking_lot::MutexGuard;

use super::{PATIENCE, Patience, SETTLE_PATIENCE, STEP, Seat, Session, State};
use crate::clock::cpu::monotonic_ns;
use crate::error::{Error, Result};
use crate::session::health::Health;
use crate::session::native_thread::{Kind, NativeThread, Refused};
use crate::session::writer::{Job, Writer};

impl Session {
    /// Announces a fork: until [`Self::after_fork_in_parent`] no thread is started.
    pub fn before_fork(&self) {
        self.state.lock().forks += 1;
    }

    /// Ends both threads ahead of a fork; their state stays.
    pub fn park_for_fork(&self) {
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
    pub fn park_within(&self, patience: Duration) -> bool {
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
    pub fn after_fork_in_parent(&self) {
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
            if let Seat::Parked(sampler) = &mut state.sampler {
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
        if state.recordings.is_empty() || !matches!(state.sampler, Seat::Parked(_)) {
            return;
        }
        if self.refusals.may_try() {
            self.man(&mut state);
        }
        // While a fork is under way its thread may be about to come again.
        if state.forks == 0
            && let Seat::Parked(sampler) = &mut state.sampler
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
                Err(SendTimeoutError::Timeout(back)) if !left.is_zero() => job = back,
                Err(_) => return false,
            }
            self.attend_writer();
        }
    }

    /// Sees to it that the writer's queue is served: where it has no thread, here.
    pub(super) fn attend_writer(&self) {
        let mut state = self.state.lock();
        if state.forks == 0 && matches!(state.writer, Seat::Parked(_)) && self.refusals.may_try() {
            self.man(&mut state);
        }
        while state.forks == 0 && !self.jobs_receiver.is_empty() {
            let mut writer = match std::mem::replace(&mut state.writer, Seat::Changing) {
                Seat::Parked(writer) => writer,
                other => {
                    state.writer = other;
                    return;
                }
            };
            // Not under the lock: disks can be slow.
            drop(state);
            writer.serve_waiting();
            state = self.state.lock();
            state.writer = Seat::Parked(writer);
            self.changed.notify_all();
        }
    }

    /// Waits until no fork and no start or end of a thread is under way.
    pub(super) fn settled(&self) -> Result<MutexGuard<'_, State>> {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut state = self.state.lock();
        while state.forks > 0 || matches!(state.sampler, Seat::Changing) {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return Err(Error::state(
                    "a fork, or the start or end of a thread, has been under way for too long",
                ));
            }
        }
        Ok(state)
    }

    pub(super) fn start_sampler(&self, state: &mut State) -> Result<()> {
        if state.forks > 0 {
            return Ok(());
        }
        let sampler = match std::mem::replace(&mut state.sampler, Seat::None) {
            Seat::Parked(sampler) => sampler,
            other => {
                state.sampler = other;
                return Ok(());
            }
        };
        self.sampler_quit.store(false, Ordering::Release);
        let health = self.health.clone();
        let spawned = NativeThread::spawn(Kind::Own, "rprof-sampler", sampler, move |sampler| {
            let guard = FailureGuard { health };
            let sampler = sampler.run();
            std::mem::forget(guard);
            sampler
        });
        state.sampler = match spawned {
            Ok(thread) => Seat::Running(thread),
            Err(Refused {
                state: sampler,
                error,
            }) => {
                state.sampler = Seat::Parked(sampler);
                return Err(error);
            }
        };
        self.started_ns
            .compare_exchange(0, monotonic_ns(), Ordering::Relaxed, Ordering::Relaxed)
            .ok();
        Ok(())
    }

    pub(super) fn start_writer(&self, state: &mut State) -> Result<()> {
        if state.forks > 0 {
            return Ok(());
        }
        let writer = match std::mem::replace(&mut state.writer, Seat::Changing) {
            Seat::Parked(writer) => writer,
            Seat::None => Box::new(Writer::new(
                self.jobs_receiver.clone(),
                self.health.clone(),
                self.writer_quit.clone(),
                self.kept.clone(),
            )),
            other => {
                state.writer = other;
                return Ok(());
            }
        };
        self.writer_quit.store(false, Ordering::Release);
        let spawned = NativeThread::spawn(Kind::Own, "rprof-writer", writer, |writer| writer.run());
        let (writer, result) = match spawned {
            Ok(thread) => (Seat::Running(thread), Ok(())),
            Err(refused) => (Seat::Parked(refused.state), Err(refused.error)),
        };
        state.writer = writer;
        result
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
        let sampler = std::mem::replace(&mut state.sampler, Seat::Changing);
        let is_written = matches!(state.writer, Seat::Changing);
        let writer = std::mem::replace(&mut state.writer, Seat::Changing);
        if matches!(sampler, Seat::Running(_)) {
            self.sampler_quit.store(true, Ordering::Release);
            self.sampler_bell.ring();
        }
        drop(state);

        let sampler = match sampler {
            Seat::Running(thread) => match thread.join(patience.sampler) {
                Ok(Some(sampler)) => Seat::Parked(sampler),
                Ok(None) => Seat::None,
                Err(thread) => {
                    self.sampler_quit.store(false, Ordering::Release);
                    Seat::Running(thread)
                }
            },
            other => other,
        };
        let writer = match writer {
            Seat::Running(thread) => {
                self.writer_quit.store(true, Ordering::Release);
                // A full queue wakes the writer as well.
                drop(self.jobs.try_send(Job::Wake));
                match thread.join(patience.writer) {
                    Ok(Some(writer)) => Seat::Parked(writer),
                    Ok(None) => Seat::None,
                    Err(thread) => {
                        self.writer_quit.store(false, Ordering::Release);
                        Seat::Running(thread)
                    }
                }
            }
            other => other,
        };

        let ended = !matches!(sampler, Seat::Running(_)) && !matches!(writer, Seat::Running(_));
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
        matches!(self.sampler, Seat::Changing) || matches!(self.writer, Seat::Changing)
    }
}

/// Tells the session when the sampler ends by a panic.
struct FailureGuard {
    health: Arc<Health>,
}

impl Drop for FailureGuard {
    fn drop(&mut self) {
        Health::set(&self.health.failed, 1);
        if self.health.last_error().is_none() {
            self.health.set_error("the sampler panicked");
        }
    }
}
