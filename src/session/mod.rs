//! The session: one sampler per process, its recordings, its writer, its life across forks.
//!
//! No method of [`Session`] that waits may be called while the GIL is held, but for `park_for_fork`:
//! the sampler may need the GIL to answer.

mod answers;
pub mod config;
pub mod control;
mod crew;
pub mod endings;
pub mod engine;
pub mod facts;
pub mod flight;
pub mod fork;
pub mod health;
pub mod idle;
pub mod last_call;
mod lives;
pub mod native_thread;
pub mod posts;
pub mod recording;
pub mod refusals;
pub mod requests;
pub mod sampler;
pub mod strain;
pub mod turns;
pub mod watch;
pub mod watcher;
pub mod worker;
pub mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::{Condvar, Mutex};

use self::control::{Control, RecordingId};
use self::endings::Endings;
use self::engine::EngineNote;
use self::flight::Ring;
use self::health::Health;
use self::last_call::LastCall;
use self::posts::Posts;
use self::refusals::Refusals;
use self::requests::Requests;
use self::sampler::Sampler;
use self::strain::StrainGauge;
use self::turns::Turns;
use self::watch::Watch;
use self::worker::Worker;
use self::writer::{Job, QUEUE_LENGTH, Writer};
use crate::capture::source::Sources;
use crate::clock::cpu::monotonic_ns;
use crate::clock::kernel::Bell;
use crate::error::{Error, Result};
use crate::fold::profile::Profile;
use crate::sink::Receipt;

/// The finished window of a recording and what became of it.
#[derive(Clone)]
pub struct Finished {
    /// The profile.
    pub profile: Arc<Profile>,
    /// The outcome of delivering it; `None` for a recording without output.
    pub written: Option<Result<Receipt>>,
}

struct State {
    sampler: Worker<Sampler>,
    writer: Worker<Writer>,
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
    sampler_bell: Arc<Bell>,
    last_call: Arc<LastCall>,
    kept: Arc<Mutex<Vec<Receipt>>>,
    started_ns: AtomicU64,
    requests: Requests,
    watch: Watch,
    flight: Mutex<Option<(RecordingId, Arc<Ring>)>>,
    endings: Endings,
    turns: Turns,
    posts: Posts,
    sources: Sources,
    strain: StrainGauge,
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
                sampler: Worker::None,
                writer: Worker::None,
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
            last_call: Arc::new(LastCall::new(sampler_bell.clone())),
            sampler_bell,
            kept: Arc::new(Mutex::new(Vec::new())),
            started_ns: AtomicU64::new(0),
            requests: Requests::default(),
            watch: Watch::default(),
            flight: Mutex::new(None),
            endings: Endings::default(),
            turns: Turns::default(),
            posts: Posts::default(),
            sources: Sources::default(),
            strain: StrainGauge::default(),
        }
    }

    /// The process this session was made in.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// What limits and neighbours have cost the process.
    #[must_use]
    pub fn strain(&self) -> &StrainGauge {
        &self.strain
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

    /// The counters.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Where the profiles of this process are that are kept, oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<Receipt> {
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

    /// What a signal's handler may ask for.
    #[must_use]
    pub fn last_call(&self) -> &LastCall {
        &self.last_call
    }

    /// What tells of events, besides the engine.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Who may begin and end what there is one of.
    #[must_use]
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    pub(super) fn posts(&self) -> &Posts {
        &self.posts
    }

    pub(super) fn endings(&self) -> &Endings {
        &self.endings
    }
}

#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod source_tests;
#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
