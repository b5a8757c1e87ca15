//! Starts and ends the two native threads and routes calls to them.
//!
//! No method but `park_within` may be called while the GIL is held: the sampler may need it to
//! answer.
#![forbid(unsafe_code)]

mod crew;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::{Condvar, Mutex};

use super::config::RecordingConfig;
use super::control::{Control, RecordingId};
use super::endings::Endings;
use super::flight::{Pick, Ring, pick};
use super::health::Health;
use super::last_call::LastCall;
use super::native_thread::{NativeThread, meet_thread_locals};
use super::recording::{GIL_WAITS_ARE_HIDDEN, Recording};
use super::refusals::{self, Refusals};
use super::requests::Requests;
use super::sampler::Sampler;
use super::turns::Turns;
use super::watcher::Watch;
use super::writer::{Job, QUEUE_LENGTH, Writer};
use crate::capture::Engine;
use crate::clock::cpu::{monotonic_ns, unix_time_ns};
use crate::clock::kernel::Bell;
use crate::error::{Error, Result};
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::memory::reserve;
use crate::model::snapshot::Snapshot;
use crate::sink::Sink;

/// A start waits this long for its first snapshot before it goes on without.
const BASELINE_PATIENCE: Duration = Duration::from_millis(100);
/// A stop waits this long for a sampler that waits for the GIL.
const REPLY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a fork, a start or an end of a thread that is under way is waited for.
const SETTLE_PATIENCE: Duration = if cfg!(test) { STEP } else { REPLY_PATIENCE };
/// How long a start waits for a writer that is behind: for a slow disk at most as for a reply.
const OPEN_PATIENCE: Duration = if cfg!(test) { STEP } else { REPLY_PATIENCE };
/// After so long whoever waits for a worker looks whether it is there.
const STEP: Duration = Duration::from_millis(200);
/// How long the end of the threads is waited for.
#[derive(Clone, Copy, Debug)]
struct Patience {
    sampler: Duration,
    /// A write to a slow disk may be under way.
    writer: Duration,
}

const PATIENCE: Patience = Patience {
    sampler: REPLY_PATIENCE,
    writer: Duration::from_secs(2),
};

/// The finished window of a recording and what became of it on disk.
#[derive(Clone)]
pub struct Finished {
    /// The profile.
    pub profile: Arc<Profile>,
    /// The outcome of writing it; `None` for a recording without output.
    pub written: Option<Result<PathBuf>>,
}

/// Where one of the two workers is.
enum Seat<T> {
    /// Never started, or failed.
    None,
    /// Its thread runs.
    Running(NativeThread<Box<T>>),
    /// Its state waits for the next thread.
    Parked(Box<T>),
    /// Somebody is starting or ending its thread, or does its work.
    Changing,
}

struct State {
    sampler: Seat<Sampler>,
    writer: Seat<Writer>,
    /// Recordings started and not stopped.
    recordings: Vec<RecordingId>,
    /// Those of them that somebody is ending.
    ending: Vec<RecordingId>,
    /// Those of them that have a sink.
    with_output: Vec<RecordingId>,
    /// Forks under way; no thread may be started meanwhile.
    forks: u32,
    next_id: u64,
    engine: EngineNote,
}

/// What is known of the engine without asking the sampler, which owns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineNote {
    /// Its name; empty before the first recording.
    pub name: &'static str,
    /// Why this one.
    pub reason: String,
    knows_gil: bool,
}

/// What one process has of rprof.
pub struct Session {
    process_id: u32,
    state: Mutex<State>,
    changed: Condvar,
    refusals: Refusals,
    control: Sender<Control>,
    control_receiver: Receiver<Control>,
    jobs: Sender<Job>,
    jobs_receiver: Receiver<Job>,
    health: Arc<Health>,
    sampler_quit: Arc<AtomicBool>,
    sampler_bell: Arc<Bell>,
    last_call: Arc<LastCall>,
    writer_quit: Arc<AtomicBool>,
    kept: Arc<Mutex<Vec<PathBuf>>>,
    started_ns: AtomicU64,
    requests: Requests,
    watch: Watch,
    flight: Mutex<Option<(RecordingId, Arc<Ring>)>>,
    endings: Endings,
    turns: Turns,
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Session {
    /// A session without threads.
    #[must_use]
    pub fn new() -> Self {
        let (control, control_receiver) = unbounded();
        let (jobs, jobs_receiver) = bounded(QUEUE_LENGTH);
        let sampler_bell = Arc::<Bell>::default();
        Self {
            process_id: std::process::id(),
            state: Mutex::new(State {
                sampler: Seat::None,
                writer: Seat::None,
                recordings: Vec::new(),
                ending: Vec::new(),
                with_output: Vec::new(),
                forks: 0,
                next_id: 1,
                engine: EngineNote::default(),
            }),
            changed: Condvar::new(),
            refusals: Refusals::default(),
            control,
            control_receiver,
            jobs,
            jobs_receiver,
            health: Arc::new(Health::default()),
            sampler_quit: Arc::new(AtomicBool::new(false)),
            last_call: Arc::new(LastCall::new(sampler_bell.clone())),
            sampler_bell,
            writer_quit: Arc::new(AtomicBool::new(false)),
            kept: Arc::new(Mutex::new(Vec::new())),
            started_ns: AtomicU64::new(0),
            requests: Requests::default(),
            watch: Watch::default(),
            flight: Mutex::new(None),
            endings: Endings::default(),
            turns: Turns::default(),
        }
    }

    /// The process this session was made in.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// Whether any thread is missing.
    #[must_use]
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Notes that a thread was not to be had.
    pub fn refuse(&self, error: &Error) {
        self.refusals.note(error, &self.health);
    }

    /// The requests that the application serves.
    #[must_use]
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// What is watched besides requests, and the events.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

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

    /// The counters.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Files of this process that are in place, oldest first.
    #[must_use]
    pub fn kept_files(&self) -> Vec<PathBuf> {
        self.kept.lock().clone()
    }

    /// Time since the sampler's thread was first started, in ns.
    #[must_use]
    pub fn age_ns(&self) -> u64 {
        match self.started_ns.load(Ordering::Relaxed) {
            0 => 0,
            started => monotonic_ns().saturating_sub(started),
        }
    }

    /// The engine in use.
    #[must_use]
    pub fn engine(&self) -> EngineNote {
        let mut engine = self.state.lock().engine.clone();
        if self.health.gil_waits_hidden.load(Ordering::Relaxed) != 0 {
            engine.reason = format!("{}; no gil_wait: {GIL_WAITS_ARE_HIDDEN}", engine.reason);
        }
        engine
    }

    /// Whether the next start needs a new engine: there is none, or it is not `wanted` and no
    /// recording uses it.
    ///
    /// # Errors
    /// When a recording uses another engine than the one `wanted`.
    pub fn needs_engine(&self, wanted: Option<&str>) -> Result<bool> {
        let state = self.settled()?;
        if matches!(state.sampler, Seat::None) {
            return Ok(true);
        }
        match wanted {
            Some(wanted) if wanted != state.engine.name => {
                if state.recordings.is_empty() {
                    return Ok(true);
                }
                Err(Error::state(format!(
                    "engine={wanted:?} is not possible now: a recording with the {} engine is \
                     running, and a process has one engine; stop it first or leave engine out",
                    state.engine.name
                )))
            }
            _ => Ok(false),
        }
    }

    /// Takes an engine for the recordings to come, if there is none.
    ///
    /// # Errors
    /// When a fork or the like is under way for too long.
    pub fn install(&self, engine: Box<dyn Engine>, reason: String) -> Result<()> {
        let mut state = self.settled()?;
        if matches!(state.sampler, Seat::None) {
            self.put_engine(&mut state, engine, reason);
        }
        Ok(())
    }

    /// Replaces the engine, unless it is in use: then somebody else was faster, and an engine that
    /// is not used looks at nothing.
    fn put_engine(&self, state: &mut State, engine: Box<dyn Engine>, reason: String) {
        let is_replaceable = match state.sampler {
            Seat::None => true,
            Seat::Parked(_) => state.recordings.is_empty(),
            _ => false,
        };
        if is_replaceable {
            state.engine = EngineNote {
                name: engine.name(),
                reason,
                knows_gil: engine.knows_gil(),
            };
            state.sampler = Seat::Parked(Box::new(Sampler::new(
                engine,
                self.control_receiver.clone(),
                self.sampler_quit.clone(),
                self.sampler_bell.clone(),
                self.last_call.clone(),
                self.jobs.clone(),
                self.health.clone(),
            )));
        }
    }

    /// The next start is to bring an engine.
    fn forget_engine(&self) {
        let mut state = self.state.lock();
        if state.recordings.is_empty() && matches!(state.sampler, Seat::Parked(_)) {
            let sampler = std::mem::replace(&mut state.sampler, Seat::None);
            drop(state);
            drop(sampler);
        }
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
        if matches!(state.sampler, Seat::None) {
            return Err(Error::state("the sampler has no engine; start again"));
        }
        self.counted(self.start_sampler(&mut state))?;
        if has_output {
            self.counted(self.start_writer(&mut state))?;
        }
        if let Seat::Running(thread) = &mut state.sampler {
            thread.await_begin(BASELINE_PATIENCE);
        }
        if let Seat::Running(thread) = &mut state.writer {
            thread.await_begin(BASELINE_PATIENCE);
        }
        state.recordings.push(id);
        if has_output {
            state.with_output.push(id);
            self.last_call.set_recordings(state.with_output.len());
        }
        let knows_gil = state.engine.knows_gil;
        let recording = Recording::new(id, config, knows_gil, monotonic_ns(), unix_time_ns())
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

    /// What a signal's handler may ask for.
    #[must_use]
    pub fn last_call(&self) -> &LastCall {
        &self.last_call
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

    /// Whether a recording is known to have ended; does not wait for whoever is changing that.
    pub(super) fn has_surely_ended(&self, id: RecordingId) -> bool {
        let state = self.state.try_lock();
        state.is_some_and(|state| !state.recordings.contains(&id) || state.ending.contains(&id))
    }

    /// Who may begin and end what there is one of.
    #[must_use]
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(super) fn endings(&self) -> &Endings {
        &self.endings
    }

    /// As [`Self::pause`], without waiting until it holds.
    pub(super) fn pause_soon(&self, id: RecordingId) {
        let (paused, _) = bounded(1);
        self.tell(Control::Pause(id, paused));
    }

    /// Lets a recording record nothing until it is resumed.
    pub fn pause(&self, id: RecordingId) {
        let (paused, done) = bounded(1);
        self.tell(Control::Pause(id, paused));
        self.attend_sampler();
        // As in start: the sender's drop is the answer.
        let _: std::result::Result<(), RecvTimeoutError> = done.recv_timeout(BASELINE_PATIENCE);
    }

    /// Lets a paused recording go on.
    pub fn resume(&self, id: RecordingId) {
        self.tell(Control::Resume(id));
        self.attend_sampler();
    }

    /// Notes in a snapshot of one look since when threads have been where they are, as far as the
    /// sampler has seen it. Waits for nobody for long.
    pub fn note_standing(&self, snapshot: &mut Snapshot) {
        const PATIENCE: Duration = Duration::from_millis(50);
        let Some(state) = self.state.try_lock_for(PATIENCE) else {
            return;
        };
        let (reply, answer) = bounded(1);
        if !matches!(state.sampler, Seat::Running(_)) {
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

    /// Makes the sampler panic, for tests.
    pub fn inject_panic(&self) {
        self.tell(Control::Panic);
    }

    fn check_failure(&self) -> Result<()> {
        if self.health.failed.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let reason = self.health.last_error().unwrap_or_default();
        Err(Error::state(format!(
            "profiling is off in this process after an internal error ({reason}); please report it"
        )))
    }

    fn tell(&self, message: Control) {
        // The session itself holds a receiver, so an unbounded channel never refuses.
        drop(self.control.send(message));
        self.sampler_bell.ring();
    }

    /// Sends a message that is answered with a profile, and waits for it.
    fn ask(
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
            Ok(profile) => Ok(Arc::from(profile)),
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
            Seat::Running(thread) => thread.has_ended(),
            _ => false,
        }
    }

    fn has_output(&self, id: RecordingId) -> bool {
        self.state.lock().with_output.contains(&id)
    }

    fn write(&self, id: RecordingId, profile: Arc<Profile>) -> Option<Result<PathBuf>> {
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
            true
        });
        answered.map_or_else(|_| Some(Err(stuck())), Result::transpose)
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
fn stuck() -> Error {
    Error::state("the writer does not answer; is the disk stuck?")
}

fn not_running() -> Error {
    Error::state(
        "this recording is not running: it was stopped, or belongs to the process that this one was \
         forked from",
    )
}

/// The same for what has to be done in any case: a program that has run out of memory mostly lets go
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

#[cfg(test)]
#[path = "manager_tests.rs"]
mod tests;
