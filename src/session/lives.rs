//! How recordings begin and end, and what they are asked for in between.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::answers::{not_running, stuck};
use super::config::RecordingConfig;
use super::control::{Control, RecordingId};
use super::crew::{PATIENCE, REPLY_PATIENCE, STEP};
use super::flight::{Pick, Ring, pick};
use super::native_thread::meet_thread_locals;
use super::recording::Recording;
use super::refusals;
use super::worker::Worker;
use super::writer::Job;
use super::{Finished, Session};
use crate::capture::Engine;
use crate::clock::cpu::{monotonic_ns, unix_time_ns};
use crate::error::{Error, Result};
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::memory::reserve;
use crate::sink::Sink;

/// A start waits this long for its first snapshot before it goes on without.
pub(super) const BASELINE_PATIENCE: Duration = Duration::from_millis(100);
/// How long a start waits for a writer that is behind: for a slow disk at most as for a reply.
const OPEN_PATIENCE: Duration = if cfg!(test) { STEP } else { REPLY_PATIENCE };

impl Session {
    /// Begins to keep the last windows, of `config`'s length, for as long and as large as `ring`
    /// says; the recording is ended by [`Self::stop`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_flight(
        &self,
        config: RecordingConfig,
        ring: Ring,
        engine: Option<(Box<dyn Engine>, String)>,
    ) -> Result<RecordingId> {
        let ring = Arc::new(ring);
        let config = RecordingConfig {
            ring: Some(ring.clone()),
            ..config
        };
        let id = self.start(config, None, engine)?;
        *self.flight.lock() = Some((id, ring));
        Ok(id)
    }

    /// Begins a recording; `engine` and the reason for it replace what there is, if they may.
    ///
    /// # Errors
    /// When a thread cannot be started, or the sampler has failed before.
    pub fn start(
        &self,
        config: RecordingConfig,
        sink: Option<Box<dyn Sink>>,
        engine: Option<(Box<dyn Engine>, String)>,
    ) -> Result<RecordingId> {
        check_memory()?;
        self.end_left();
        let is_new = engine.is_some();
        let id = {
            let mut state = self.settled()?;
            self.check_failure()?;
            if let Some((engine, reason)) = engine {
                self.put_engine(&mut state, engine, reason);
            }
            state.next_id += 1;
            RecordingId(state.next_id)
        };
        let (started, baseline) = bounded(1);
        let has_output = sink.is_some();
        // The outlet first: a window may be due at once, and no window is to come before it.
        let begun = match sink {
            Some(sink) => self.open_outlet(id, sink, config.limits),
            None => Ok(()),
        };
        let begun = begun.and_then(|()| {
            let begun = self.begin(id, config, has_output, started);
            if begun.is_err() && has_output {
                self.close_outlet(id);
            }
            begun
        });
        if let Err(error) = begun {
            self.park_if_idle();
            if is_new {
                // Its choice may have suffered from what ails the start.
                self.forget_engine();
            }
            return Err(error);
        }
        self.strain().begin(id);
        // Nothing is ever sent: the sender's drop tells that the first snapshot was taken, and a
        // time-out that the GIL is busy; the recording then begins with its first tick.
        let _: std::result::Result<(), RecvTimeoutError> = baseline.recv_timeout(BASELINE_PATIENCE);
        Ok(id)
    }

    /// Has the sampler begin a recording whose outlet, if it has one, is open.
    fn begin(
        &self,
        id: RecordingId,
        config: RecordingConfig,
        has_output: bool,
        started: Sender<()>,
    ) -> Result<()> {
        let mut state = self.settled()?;
        if matches!(state.sampler, Worker::None) {
            return Err(Error::state("the sampler has no engine; start again"));
        }
        self.counted(self.start_sampler(&mut state))?;
        if has_output {
            self.counted(self.start_writer(&mut state))?;
        }
        if let Worker::Running(thread) = &mut state.sampler {
            thread.await_thread(BASELINE_PATIENCE);
        }
        if let Worker::Running(thread) = &mut state.writer {
            thread.await_thread(BASELINE_PATIENCE);
        }
        state.recordings.push(id);
        if has_output {
            state.with_output.push(id);
            self.last_call.set_recordings(state.with_output.len());
        }
        let measures = state.engine.measures.union(self.sources.measures());
        let recording = Recording::new(id, config, measures, monotonic_ns(), unix_time_ns())
            .with_output(has_output);
        self.tell(Control::Start(Box::new(recording), started));
        Ok(())
    }

    /// A start says by itself that a thread was refused.
    fn counted(&self, started: Result<()>) -> Result<()> {
        started.inspect_err(|error| refusals::count(error, &self.health))
    }

    fn open_outlet(
        &self,
        recording: RecordingId,
        sink: Box<dyn Sink>,
        limits: Limits,
    ) -> Result<()> {
        let mut state = self.settled()?;
        self.counted(self.start_writer(&mut state))?;
        drop(state);
        let open = Job::Open {
            recording,
            sink,
            limits,
        };
        if self.hand_over(open, OPEN_PATIENCE) {
            return Ok(());
        }
        Err(stuck())
    }

    fn close_outlet(&self, id: RecordingId) {
        // A stuck disk is not waited for; the outlet then goes when it is stuck no more.
        const PATIENCE: Duration = Duration::from_secs(1);
        let (closed, done) = bounded(1);
        if self.hand_over(Job::Close(id, closed), PATIENCE) {
            // As in start: the sender's drop is the answer.
            let _: std::result::Result<(), RecvTimeoutError> = done.recv_timeout(PATIENCE);
        }
    }

    /// Ends a recording; ends the threads with the last one.
    ///
    /// # Errors
    /// When there is no such recording, or the sampler has failed or does not answer.
    pub fn stop(&self, id: RecordingId) -> Result<Finished> {
        self.stop_unless_ended(id)?.ok_or_else(not_running)
    }

    /// The same, but `None` if somebody has ended it already, or is ending it.
    ///
    /// # Errors
    /// When the sampler has failed or does not answer.
    pub fn stop_unless_ended(&self, id: RecordingId) -> Result<Option<Finished>> {
        await_memory();
        self.end_left();
        {
            let mut state = self.settled()?;
            if !state.recordings.contains(&id) || state.ending.contains(&id) {
                return Ok(None);
            }
            state.ending.push(id);
        }
        let has_output = self.has_output(id);
        if has_output {
            self.last_call.begin_ending();
        }
        let finished = self.end(id);
        self.state.lock().ending.retain(|other| *other != id);
        if has_output {
            self.last_call.finish_ending();
        }
        finished.map(Some)
    }

    fn end(&self, id: RecordingId) -> Result<Finished> {
        let profile = self.ask(id, Control::Stop)?;
        let written = self.write(id, profile.clone());
        if self.has_output(id) {
            self.close_outlet(id);
        }
        let mut flight = self.flight.lock();
        if flight.as_ref().is_some_and(|(kept, _)| *kept == id) {
            *flight = None;
        }
        drop(flight);
        self.strain().end(id);
        let mut state = self.state.lock();
        state.recordings.retain(|other| *other != id);
        state.with_output.retain(|other| *other != id);
        self.last_call.set_recordings(state.with_output.len());
        drop(state);
        self.park_if_idle();
        Ok(Finished { profile, written })
    }

    /// Closes the open window of a recording and goes on with an empty one.
    ///
    /// # Errors
    /// When there is no such recording, or the sampler has failed or does not answer.
    pub fn rotate(&self, id: RecordingId) -> Result<Finished> {
        check_memory()?;
        let profile = self.ask(id, Control::Rotate)?;
        let written = self.write(id, profile.clone());
        Ok(Finished { profile, written })
    }

    /// What was recorded lately, up to now.
    ///
    /// # Errors
    /// When nothing keeps it, or nothing was recorded in that time.
    pub fn recent(&self, wanted: &Pick) -> Result<Profile> {
        let Some((id, ring)) = self.flight.lock().clone() else {
            return Err(Error::state(
                "nothing keeps the last minutes; rprof.start() does, unless recent=0",
            ));
        };
        let open = self.rotate(id)?.profile;
        ring.push(open, monotonic_ns());
        pick(&ring.since(wanted.since_ns), wanted)
    }

    /// Lets a recording record nothing until it is resumed.
    pub fn pause(&self, id: RecordingId) {
        let (paused, done) = bounded(1);
        self.tell(Control::Pause(id, paused));
        self.attend_sampler();
        // As in start: the sender's drop is the answer.
        let _: std::result::Result<(), RecvTimeoutError> = done.recv_timeout(BASELINE_PATIENCE);
    }

    /// As [`Self::pause`], without waiting until it holds.
    pub(super) fn pause_soon(&self, id: RecordingId) {
        let (paused, _) = bounded(1);
        self.tell(Control::Pause(id, paused));
    }

    /// Lets a paused recording go on.
    pub fn resume(&self, id: RecordingId) {
        self.tell(Control::Resume(id));
        self.attend_sampler();
    }

    /// Ends all recordings, and waits for those whose end is under way; returns what went wrong.
    pub fn end_all(&self) -> Vec<Error> {
        let recordings = match self.settled() {
            Ok(state) => state.recordings.clone(),
            Err(error) => return vec![error],
        };
        let mut problems = Vec::new();
        for id in recordings {
            match self.stop_unless_ended(id) {
                Ok(finished) => {
                    let written = finished.and_then(|finished| finished.written);
                    problems.extend(written.and_then(Result::err));
                }
                Err(error) => problems.push(error),
            }
        }
        self.await_endings(PATIENCE.writer);
        problems
    }

    /// Has all open windows written, for the process is about to end; for `patience_ns` at most, but
    /// where a thread is missing, for as long as the disk takes. Recordings go on.
    pub fn write_out(&self, patience_ns: u64) {
        if !self.last_call.is_of_use() {
            return;
        }
        let deadline_ns = monotonic_ns() + patience_ns;
        let number = self.last_call.ask();
        self.attend_sampler();
        self.attend_writer();
        self.last_call.await_answer(number, deadline_ns);
    }

    /// Whether a recording is known to have ended; does not wait for whoever is changing that.
    pub(super) fn has_surely_ended(&self, id: RecordingId) -> bool {
        let state = self.state.try_lock();
        state.is_some_and(|state| !state.recordings.contains(&id) || state.ending.contains(&id))
    }
}

/// Waits for memory, for what has to be done in any case: a program that has run out of memory mostly lets go
/// of some.
fn await_memory() {
    const PATIENCE: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while waited < PATIENCE && !reserve::is_there() {
        std::thread::sleep(STEP);
        waited += STEP;
    }
}

/// Nothing is begun that waits without memory, see [`reserve::is_there`].
fn check_memory() -> Result<()> {
    if reserve::is_there() {
        meet_thread_locals();
        return Ok(());
    }
    Err(Error::memory("record"))
}
