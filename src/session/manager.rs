//! Starts and ends the two native threads and routes calls to them.
//!
//! No method but `park_within` may be called while the GIL is held: the sampler may need it to
//! answer.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::config::RecordingConfig;
use super::control::{Control, RecordingId};
use super::endings::Endings;
use super::flight::{Pick, Ring, pick};
use super::health::Health;
use super::native_thread::{NativeThread, meet_thread_locals};
use super::recording::{GIL_WAITS_ARE_HIDDEN, Recording};
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
use crate::memory::reserve;
use crate::model::snapshot::Snapshot;
use crate::sink::Sink;

/// A start waits this long for its first snapshot before it goes on without.
const BASELINE_PATIENCE: Duration = Duration::from_millis(100);
/// A stop waits this long for a sampler that waits for the GIL.
const REPLY_PATIENCE: Duration = Duration::from_secs(30);
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

/// Where the sampler is.
enum SamplerPhase {
    /// Never started, or failed.
    None,
    /// Its thread runs.
    Running(NativeThread<Sampler>),
    /// Its state waits for the next thread.
    Parked(Box<Sampler>),
    /// Somebody is starting or ending its thread.
    Changing,
}

enum WriterPhase {
    None,
    Running(NativeThread<Writer>),
    Parked(Box<Writer>),
}

struct State {
    sampler: SamplerPhase,
    writer: WriterPhase,
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
    control: Sender<Control>,
    control_receiver: Receiver<Control>,
    jobs: Sender<Job>,
    jobs_receiver: Receiver<Job>,
    health: Arc<Health>,
    sampler_quit: Arc<AtomicBool>,
    sampler_bell: Arc<Bell>,
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
        Self {
            process_id: std::process::id(),
            state: Mutex::new(State {
                sampler: SamplerPhase::None,
                writer: WriterPhase::None,
                recordings: Vec::new(),
                ending: Vec::new(),
                with_output: Vec::new(),
                forks: 0,
                next_id: 1,
                engine: EngineNote::default(),
            }),
            changed: Condvar::new(),
            control,
            control_receiver,
            jobs,
            jobs_receiver,
            health: Arc::new(Health::default()),
            sampler_quit: Arc::new(AtomicBool::new(false)),
            sampler_bell: Arc::default(),
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
        let state = self.settled();
        if matches!(state.sampler, SamplerPhase::None) {
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
    pub fn install(&self, engine: Box<dyn Engine>, reason: String) {
        let mut state = self.settled();
        if matches!(state.sampler, SamplerPhase::None) {
            self.put_engine(&mut state, engine, reason);
        }
    }

    /// Replaces the engine, unless it is in use: then somebody else was faster, and an engine that
    /// is not used looks at nothing.
    fn put_engine(&self, state: &mut State, engine: Box<dyn Engine>, reason: String) {
        let is_replaceable = match state.sampler {
            SamplerPhase::None => true,
            SamplerPhase::Parked(_) => state.recordings.is_empty(),
            _ => false,
        };
        if is_replaceable {
            state.engine = EngineNote {
                name: engine.name(),
                reason,
                knows_gil: engine.knows_gil(),
            };
            state.sampler = SamplerPhase::Parked(Box::new(Sampler::new(
                engine,
                self.control_receiver.clone(),
                self.sampler_quit.clone(),
                self.sampler_bell.clone(),
                self.jobs.clone(),
                self.health.clone(),
            )));
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
        let (started, baseline) = bounded(1);
        let mut state = self.settled();
        self.check_failure()?;
        let id = RecordingId(state.next_id);
        if let Some((engine, reason)) = engine {
            self.put_engine(&mut state, engine, reason);
        } else if matches!(state.sampler, SamplerPhase::None) {
            return Err(Error::state("the sampler has no engine; start again"));
        }
        if sink.is_some() {
            self.start_writer(&mut state)?;
        }
        self.start_sampler(&mut state)?;
        if let SamplerPhase::Running(thread) = &mut state.sampler {
            thread.await_begin(BASELINE_PATIENCE);
        }
        if let WriterPhase::Running(thread) = &mut state.writer {
            thread.await_begin(BASELINE_PATIENCE);
        }
        state.next_id += 1;
        state.recordings.push(id);
        if sink.is_some() {
            state.with_output.push(id);
        }
        let limits = config.limits;
        let recording = Recording::new(
            id,
            config,
            state.engine.knows_gil,
            monotonic_ns(),
            unix_time_ns(),
        );
        self.tell(Control::Start(Box::new(recording), started));
        drop(state);
        if let Some(sink) = sink {
            // The queue empties itself; opening waits for a slow disk at most as a start may.
            let open = Job::Open {
                recording: id,
                sink,
                limits,
            };
            if self.jobs.send_timeout(open, REPLY_PATIENCE).is_err() {
                return Err(Error::state(
                    "the writer does not answer; is the disk stuck?",
                ));
            }
        }
        // Nothing is ever sent: the sender's drop tells that the first snapshot was taken, and a
        // time-out that the GIL is busy; the recording then begins with its first tick.
        let _: std::result::Result<(), RecvTimeoutError> = baseline.recv_timeout(BASELINE_PATIENCE);
        Ok(id)
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
            let mut state = self.settled();
            if !state.recordings.contains(&id) || state.ending.contains(&id) {
                return Ok(None);
            }
            state.ending.push(id);
        }
        let finished = self.end(id);
        self.state.lock().ending.retain(|other| *other != id);
        finished.map(Some)
    }

    fn end(&self, id: RecordingId) -> Result<Finished> {
        let profile = self.ask(id, Control::Stop)?;
        let written = self.write(id, profile.clone());
        if self.has_output(id) {
            // A stuck disk is not waited for; the outlet then goes when it is stuck no more.
            let patience = Duration::from_secs(1);
            let (closed, done) = bounded(1);
            if self
                .jobs
                .send_timeout(Job::Close(id, closed), patience)
                .is_ok()
            {
                // As in start: the sender's drop is the answer.
                let _: std::result::Result<(), RecvTimeoutError> = done.recv_timeout(patience);
            }
        }
        let mut flight = self.flight.lock();
        if flight.as_ref().is_some_and(|(kept, _)| *kept == id) {
            *flight = None;
        }
        drop(flight);
        let mut state = self.settled();
        state.recordings.retain(|other| *other != id);
        state.with_output.retain(|other| *other != id);
        if state.recordings.is_empty() {
            self.park(state, PATIENCE);
        }
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

    /// Ends all recordings, and waits for those whose end is under way; returns what went wrong.
    pub fn end_all(&self) -> Vec<Error> {
        let recordings = self.settled().recordings.clone();
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
        // As in start: the sender's drop is the answer.
        let _: std::result::Result<(), RecvTimeoutError> = done.recv_timeout(BASELINE_PATIENCE);
    }

    /// Lets a paused recording go on.
    pub fn resume(&self, id: RecordingId) {
        self.tell(Control::Resume(id));
    }

    /// Notes in a snapshot of one look since when threads have been where they are, as far as the
    /// sampler has seen it. Waits for nobody for long.
    pub fn note_standing(&self, snapshot: &mut Snapshot) {
        const PATIENCE: Duration = Duration::from_millis(50);
        let Some(state) = self.state.try_lock_for(PATIENCE) else {
            return;
        };
        let (reply, answer) = bounded(1);
        if !matches!(state.sampler, SamplerPhase::Running(_)) {
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

    /// Announces a fork: until [`Self::after_fork_in_parent`] no thread is started.
    pub fn before_fork(&self) {
        self.state.lock().forks += 1;
    }

    /// Ends both threads ahead of a fork; their state stays.
    pub fn park_for_fork(&self) {
        let mut state = self.state.lock();
        while matches!(state.sampler, SamplerPhase::Changing) {
            self.changed.wait(&mut state);
        }
        self.park(state, PATIENCE);
    }

    /// The same if it can be done within `patience`; false if not, and the threads go on.
    ///
    /// May be called while the GIL is held.
    #[must_use]
    pub fn park_within(&self, patience: Duration) -> bool {
        let state = self.state.lock();
        if matches!(state.sampler, SamplerPhase::Changing) {
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

    /// Starts the threads again in the parent.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn after_fork_in_parent(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.forks == 0 {
            return Ok(());
        }
        state.forks -= 1;
        if state.forks > 0 {
            return Ok(());
        }
        let mut result = Ok(());
        if !state.with_output.is_empty() {
            result = self.start_writer(&mut state);
        }
        if !state.recordings.is_empty() {
            result = result.and_then(|()| self.start_sampler(&mut state));
        }
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Waits until no fork and no start or end of a thread is under way.
    fn settled(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        while state.forks > 0 || matches!(state.sampler, SamplerPhase::Changing) {
            self.changed.wait(&mut state);
        }
        state
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
            let state = self.settled();
            if !state.recordings.contains(&id) {
                return Err(not_running());
            }
            self.tell(message(id, reply));
        }
        let waited_from_ns = monotonic_ns();
        loop {
            match answer.recv_timeout(Duration::from_millis(200)) {
                Ok(profile) => return Ok(Arc::from(profile)),
                Err(RecvTimeoutError::Timeout) if !self.sampler_has_ended() => {}
                Err(_) => {
                    self.check_failure()?;
                    return Err(Error::state("the sampler has ended with the interpreter"));
                }
            }
            let waited = Duration::from_nanos(monotonic_ns().saturating_sub(waited_from_ns));
            if waited > REPLY_PATIENCE {
                return Err(Error::state(
                    "the sampler does not answer: does a C extension hold the GIL?",
                ));
            }
        }
    }

    fn sampler_has_ended(&self) -> bool {
        match &self.state.lock().sampler {
            SamplerPhase::Running(thread) => thread.has_ended(),
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
        if self.jobs.send_timeout(job, REPLY_PATIENCE).is_err() {
            return Some(Err(Error::state(
                "the writer does not answer; is the disk stuck?",
            )));
        }
        match answer.recv_timeout(REPLY_PATIENCE) {
            Ok(outcome) => outcome.transpose(),
            Err(_) => Some(Err(Error::state(
                "the writer does not answer; is the disk stuck?",
            ))),
        }
    }

    fn start_sampler(&self, state: &mut State) -> Result<()> {
        if state.forks > 0 || !matches!(state.sampler, SamplerPhase::Parked(_)) {
            return Ok(());
        }
        let SamplerPhase::Parked(sampler) =
            std::mem::replace(&mut state.sampler, SamplerPhase::None)
        else {
            return Ok(());
        };
        self.sampler_quit.store(false, Ordering::Release);
        let health = self.health.clone();
        let thread = NativeThread::spawn("rprof-sampler", move || {
            let guard = FailureGuard { health };
            let sampler = sampler.run();
            std::mem::forget(guard);
            sampler
        })?;
        self.started_ns
            .compare_exchange(0, monotonic_ns(), Ordering::Relaxed, Ordering::Relaxed)
            .ok();
        state.sampler = SamplerPhase::Running(thread);
        Ok(())
    }

    fn start_writer(&self, state: &mut State) -> Result<()> {
        let writer = match std::mem::replace(&mut state.writer, WriterPhase::None) {
            running @ WriterPhase::Running(_) => {
                state.writer = running;
                return Ok(());
            }
            WriterPhase::Parked(writer) => writer,
            WriterPhase::None => Box::new(Writer::new(
                self.jobs_receiver.clone(),
                self.health.clone(),
                self.writer_quit.clone(),
                self.kept.clone(),
            )),
        };
        self.writer_quit.store(false, Ordering::Release);
        let thread = NativeThread::spawn("rprof-writer", move || writer.run())?;
        state.writer = WriterPhase::Running(thread);
        Ok(())
    }

    /// Ends both threads and keeps their state; false if one did not end in time. Consumes the
    /// guard: it waits without the lock.
    fn park(&self, mut state: MutexGuard<'_, State>, patience: Patience) -> bool {
        let sampler = std::mem::replace(&mut state.sampler, SamplerPhase::Changing);
        let writer = std::mem::replace(&mut state.writer, WriterPhase::None);
        if matches!(sampler, SamplerPhase::Running(_)) {
            self.sampler_quit.store(true, Ordering::Release);
            self.sampler_bell.ring();
        }
        drop(state);

        let sampler = match sampler {
            SamplerPhase::Running(thread) => match thread.join(patience.sampler) {
                Ok(Some(sampler)) => SamplerPhase::Parked(Box::new(sampler)),
                Ok(None) => SamplerPhase::None,
                Err(thread) => {
                    self.sampler_quit.store(false, Ordering::Release);
                    SamplerPhase::Running(thread)
                }
            },
            other => other,
        };
        let writer = match writer {
            WriterPhase::Running(thread) => {
                self.writer_quit.store(true, Ordering::Release);
                // A full queue wakes the writer as well.
                drop(self.jobs.try_send(Job::Wake));
                match thread.join(patience.writer) {
                    Ok(Some(writer)) => WriterPhase::Parked(Box::new(writer)),
                    Ok(None) => WriterPhase::None,
                    Err(thread) => {
                        self.writer_quit.store(false, Ordering::Release);
                        WriterPhase::Running(thread)
                    }
                }
            }
            other => other,
        };

        let ended = !matches!(sampler, SamplerPhase::Running(_))
            && !matches!(writer, WriterPhase::Running(_));
        let mut state = self.state.lock();
        state.sampler = sampler;
        state.writer = writer;
        drop(state);
        self.changed.notify_all();
        ended
    }
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
