//! The watcher: looks at slow requests, stalled event loops, deadlocks and sudden growth.
//!
//! It needs no GIL to see what is going on; what it saw waits in a queue for somebody who may run
//! Python code.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::manager::Session;
use crate::capture::direct::DirectEngine;
use crate::clock::cpu::{monotonic_ns, process_cpu_ns};
use crate::clock::resident::resident_bytes;
use crate::model::label::{OWN_THREADS, thread_title};
use crate::model::snapshot::{Snapshot, ThreadSample, ThreadState};
use crate::report::dump;

/// Events that wait to be told; more are dropped and counted.
const MAX_EVENTS: usize = 256;
/// Event loops watched at a time.
const MAX_HEARTS: usize = 64;
/// Time between two looks at what changes slowly.
const STEP_INTERVAL_NS: u64 = 1_000_000_000;
/// With nothing to do, the watcher looks this often whether there is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of each kind of trouble there is one event in this time.
const RATE_LIMIT_NS: u64 = 60_000_000_000;
/// Growth is measured against the least of this time.
const STEP_WINDOW: usize = 60;

/// Where a thread was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The kernel's id.
    pub thread_id: u64,
    /// Its name.
    pub thread: String,
    /// What it was doing, in words.
    pub doing: &'static str,
    /// Function, file and line, innermost first.
    pub frames: Vec<(String, String, u32)>,
}

/// Something that somebody should be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Whoever waits for events is to look around.
    Wake,
    /// A request is slow and under way.
    Slow {
        /// Its number.
        number: u64,
        /// Its route.
        route: String,
        /// Time since its begin in ns.
        elapsed_ns: u64,
        /// Which look this is, from 1.
        look: u32,
        /// Where its threads are; empty if it is on none at the moment.
        places: Vec<Place>,
        /// Whether it could be looked at.
        is_seen: bool,
    },
    /// An event loop has not turned for too long.
    Stall {
        /// Its number among all that were watched.
        number: u64,
        /// What it was called.
        name: String,
        /// So long, in ns.
        elapsed_ns: u64,
        /// What it is doing instead.
        place: Option<Place>,
    },
    /// It turns again.
    StallEnd {
        /// Its number among all that were watched.
        number: u64,
        /// What it was called.
        name: String,
        /// So long it did not, in ns.
        elapsed_ns: u64,
    },
    /// All threads wait for locks.
    Deadlock {
        /// For so long, in ns.
        elapsed_ns: u64,
        /// Every thread's stack.
        text: String,
    },
    /// The process uses more CPU or memory than it did.
    Step {
        /// `cpu` (cores) or `rss` (bytes).
        kind: &'static str,
        /// What it was.
        from: f64,
        /// What it is.
        to: f64,
    },
}

/// An event loop that tells when it turns.
#[derive(Debug)]
pub struct Heart {
    /// Its number among all that were watched.
    pub number: u64,
    name: String,
    thread_id: u64,
    limit_ns: u64,
    beat_ns: AtomicU64,
    is_over: AtomicBool,
}

impl Heart {
    /// The loop turns.
    pub fn beat(&self) {
        self.beat_ns.store(monotonic_ns(), Relaxed);
    }

    /// The loop is not watched any more.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }
}

/// What is watched besides requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// All threads wait for locks for so long, in ns.
    pub deadlock_ns: Option<u64>,
    /// Cores in use for ten seconds.
    pub cpu_cores: Option<f64>,
    /// Bytes of memory more than the least of the last minute.
    pub rss_bytes: Option<u64>,
}

/// What is watched in one process, and the events of it.
#[derive(Debug)]
pub struct Watch {
    hearts: Mutex<Vec<Arc<Heart>>>,
    limits: Mutex<Limits>,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    /// Events that nobody took in time.
    pub dropped: AtomicU64,
    quit: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        let (sender, receiver) = bounded(MAX_EVENTS);
        Self {
            hearts: Mutex::default(),
            limits: Mutex::default(),
            sender,
            receiver,
            dropped: AtomicU64::new(0),
            quit: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// Watches an event loop that runs on this thread; `None` if there are too many.
    #[must_use]
    pub fn heart(&self, name: String, thread_id: u64, limit_ns: u64) -> Option<Arc<Heart>> {
        let mut hearts = self.hearts.lock();
        hearts.retain(|heart| !heart.is_over.load(Relaxed));
        if hearts.len() >= MAX_HEARTS {
            return None;
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let heart = Arc::new(Heart {
            number: NEXT.fetch_add(1, Relaxed),
            name,
            thread_id,
            limit_ns,
            beat_ns: AtomicU64::new(monotonic_ns()),
            is_over: AtomicBool::new(false),
        });
        hearts.push(heart.clone());
        Some(heart)
    }

    /// Sets what else is watched.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock() = limits;
    }

    /// What else is watched.
    #[must_use]
    pub fn limits(&self) -> Limits {
        *self.limits.lock()
    }

    /// The next event; `None` after so long without one.
    #[must_use]
    pub fn next_event(&self, patience: Duration) -> Option<Event> {
        self.receiver.recv_timeout(patience).ok()
    }

    /// Hands an event over.
    pub fn tell(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Ends the watcher's loop, or permits it again.
pub fn set_quit(session: &Session, quit: bool) {
    session.watch().quit.store(quit, Relaxed);
    if quit {
        session.requests().quit();
    } else {
        session.requests().resume();
    }
}

/// What the watcher's thread works with; it outlives the thread.
pub struct Watcher {
    engine: Option<DirectEngine>,
    /// Loops that stand still: heart and when it stopped.
    stalled: Vec<(Arc<Heart>, u64)>,
    /// Each waiting thread's CPU clock.
    waiting: FxHashMap<u64, Option<u64>>,
    waiting_since_ns: u64,
    looked_ns: u64,
    is_deadlocked: bool,
    stepped_ns: u64,
    /// The process's CPU time in ns and memory in bytes, once a second.
    history: VecDeque<(u64, u64)>,
    is_busy: bool,
    told_ns: FxHashMap<&'static str, u64>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// A watcher that looks by this engine, if there is one.
    #[must_use]
    pub fn new(engine: Option<DirectEngine>) -> Self {
        Self {
            engine,
            stalled: Vec::new(),
            waiting: FxHashMap::default(),
            waiting_since_ns: 0,
            looked_ns: 0,
            is_deadlocked: false,
            stepped_ns: 0,
            history: VecDeque::new(),
            is_busy: false,
            told_ns: FxHashMap::default(),
        }
    }

    /// Watches until told to quit.
    pub fn run(&mut self, session: &Session) {
        let watch = session.watch();
        while !watch.quit.load(Relaxed) {
            let due = session.requests().wait_for_due(self.patience(watch));
            if watch.quit.load(Relaxed) {
                return;
            }
            let mut snapshot = None;
            for request in due {
                let seen = self.look(session, &mut snapshot);
                let is_its = |thread: &&ThreadSample| {
                    thread
                        .labels
                        .as_ref()
                        .is_some_and(|labels| labels.request == request.number)
                };
                watch.tell(Event::Slow {
                    number: request.number,
                    route: request.route.to_string(),
                    elapsed_ns: request.elapsed_ns,
                    look: request.look,
                    places: seen.map_or_else(Vec::new, |snapshot| {
                        let its = snapshot.threads.iter().filter(is_its);
                        its.map(|thread| place(snapshot, thread)).collect()
                    }),
                    is_seen: seen.is_some(),
                });
            }
            self.check_hearts(session, &mut snapshot);
            self.check_deadlock(session, &mut snapshot);
            self.check_steps(watch);
        }
    }

    /// How long nothing but a request needs to be looked at.
    fn patience(&self, watch: &Watch) -> Duration {
        let hearts = watch.hearts.lock();
        let shortest = hearts.iter().map(|heart| heart.limit_ns / 4).min();
        drop(hearts);
        let limits = watch.limits();
        let mut patience = PATIENCE;
        if let Some(limit_ns) = shortest {
            patience = patience.min(Duration::from_nanos(limit_ns.max(1_000_000)));
        }
        if let Some(limit_ns) = limits.deadlock_ns {
            patience = patience.min(Duration::from_nanos((limit_ns / 4).max(1_000_000)));
        }
        if limits.cpu_cores.is_some() || limits.rss_bytes.is_some() {
            patience = patience.min(Duration::from_nanos(STEP_INTERVAL_NS));
        }
        patience
    }

    /// All threads now, looked at once for all that ask.
    fn look<'snapshot>(
        &mut self,
        session: &Session,
        snapshot: &'snapshot mut Option<Snapshot>,
    ) -> Option<&'snapshot Snapshot> {
        if snapshot.is_none() {
            let mut taken = Snapshot::default();
            self.engine.as_mut()?.look_once(&mut taken).ok()?;
            session.note_standing(&mut taken);
            *snapshot = Some(taken);
        }
        snapshot.as_ref()
    }

    /// Whether an event of this kind may be told now.
    fn may_tell(&mut self, kind: &'static str, now_ns: u64) -> bool {
        let told_ns = self.told_ns.get(kind).copied();
        if told_ns.is_some_and(|told_ns| now_ns - told_ns < RATE_LIMIT_NS) {
            return false;
        }
        self.told_ns.insert(kind, now_ns);
        true
    }

    fn check_hearts(&mut self, session: &Session, snapshot: &mut Option<Snapshot>) {
        let watch = session.watch();
        let now_ns = monotonic_ns();
        let hearts: Vec<Arc<Heart>> = watch.hearts.lock().clone();
        let stalled = std::mem::take(&mut self.stalled);
        for (heart, stopped_ns) in stalled {
            let beat_ns = heart.beat_ns.load(Relaxed);
            if heart.is_over.load(Relaxed) {
                continue;
            }
            if beat_ns == stopped_ns {
                self.stalled.push((heart, stopped_ns));
            } else {
                watch.tell(Event::StallEnd {
                    number: heart.number,
                    name: heart.name.clone(),
                    elapsed_ns: beat_ns - stopped_ns,
                });
            }
        }
        for heart in hearts {
            let beat_ns = heart.beat_ns.load(Relaxed);
            let is_known = self
                .stalled
                .iter()
                .any(|(known, _)| Arc::ptr_eq(known, &heart));
            if is_known
                || heart.is_over.load(Relaxed)
                || now_ns.saturating_sub(beat_ns) < heart.limit_ns
            {
                continue;
            }
            let seen = self.look(session, snapshot);
            // It may have turned while it was looked at.
            if heart.beat_ns.load(Relaxed) != beat_ns {
                continue;
            }
            let place = seen.and_then(|snapshot| {
                let mut threads = snapshot.threads.iter();
                let thread = threads.find(|thread| thread.thread_id == heart.thread_id)?;
                Some(place(snapshot, thread))
            });
            watch.tell(Event::Stall {
                number: heart.number,
                name: heart.name.clone(),
                elapsed_ns: now_ns - beat_ns,
                place,
            });
            self.stalled.push((heart, beat_ns));
        }
    }

    fn check_deadlock(&mut self, session: &Session, snapshot: &mut Option<Snapshot>) {
        let watch = session.watch();
        let Some(limit_ns) = watch.limits().deadlock_ns else {
            return;
        };
        let now_ns = monotonic_ns();
        if now_ns - self.looked_ns < limit_ns / 4 {
            return;
        }
        self.looked_ns = now_ns;
        let Some(seen) = self.look(session, snapshot) else {
            return;
        };
        let threads: Vec<&ThreadSample> = seen
            .threads
            .iter()
            .filter(|thread| !thread.name.starts_with(OWN_THREADS))
            .collect();
        let all_wait = threads.len() > 1
            && threads
                .iter()
                .all(|thread| thread.state == ThreadState::WaitsForLock);
        let waiting: FxHashMap<u64, Option<u64>> = threads
            .iter()
            .map(|thread| (thread.thread_id, thread.cpu_ns))
            .collect();
        if !all_wait || waiting != self.waiting {
            self.waiting = if all_wait {
                waiting
            } else {
                FxHashMap::default()
            };
            self.waiting_since_ns = now_ns;
            self.is_deadlocked = false;
            return;
        }
        let elapsed_ns = now_ns - self.waiting_since_ns;
        if elapsed_ns < limit_ns || self.is_deadlocked {
            return;
        }
        self.is_deadlocked = true;
        let text = dump::threads(seen);
        if self.may_tell("deadlock", now_ns) {
            watch.tell(Event::Deadlock { elapsed_ns, text });
        }
    }

    fn check_steps(&mut self, watch: &Watch) {
        const CPU_SECONDS: usize = 10;
        let limits = watch.limits();
        let now_ns = monotonic_ns();
        if limits.cpu_cores.is_none() && limits.rss_bytes.is_none()
            || now_ns - self.stepped_ns < STEP_INTERVAL_NS
        {
            return;
        }
        let passed_ns = now_ns - std::mem::replace(&mut self.stepped_ns, now_ns);
        if passed_ns > 3 * STEP_INTERVAL_NS {
            // It was not looked for a while: nothing can be said of the time between.
            self.history.clear();
        }
        let (cpu_ns, bytes) = (process_cpu_ns(), resident_bytes().unwrap_or(0));
        self.history.push_back((cpu_ns, bytes));
        if self.history.len() > STEP_WINDOW {
            self.history.pop_front();
        }
        let cores = |newest: usize, seconds: usize| {
            let (from, to) = (
                self.history.get(newest.checked_sub(seconds)?)?,
                self.history.get(newest)?,
            );
            Some((to.0 - from.0) as f64 / (seconds as f64 * 1e9))
        };
        let newest = self.history.len() - 1;
        if let (Some(limit), Some(now)) = (limits.cpu_cores, cores(newest, CPU_SECONDS)) {
            let before = newest
                .checked_sub(CPU_SECONDS)
                .and_then(|at| cores(at, CPU_SECONDS));
            let was_busy = std::mem::replace(&mut self.is_busy, now >= limit);
            if now >= limit && !was_busy && self.may_tell("cpu", now_ns) {
                watch.tell(Event::Step {
                    kind: "cpu",
                    from: before.unwrap_or(0.0),
                    to: now,
                });
            }
        }
        let least = self.history.iter().map(|(_, bytes)| *bytes).min();
        if let (Some(limit), Some(least)) = (limits.rss_bytes, least)
            && bytes.saturating_sub(least) >= limit
        {
            // The next step is measured from here.
            for kept in &mut self.history {
                kept.1 = bytes;
            }
            if self.may_tell("rss", now_ns) {
                watch.tell(Event::Step {
                    kind: "rss",
                    from: least as f64,
                    to: bytes as f64,
                });
            }
        }
    }
}

/// Where a thread is.
fn place(snapshot: &Snapshot, thread: &ThreadSample) -> Place {
    Place {
        thread_id: thread.thread_id,
        thread: thread_title(thread.thread_id, &thread.name).into_owned(),
        doing: dump::doing(thread.state),
        frames: dump::frames(snapshot, thread)
            .map(|(function, file, line)| (function.to_owned(), file.to_owned(), line))
            .collect(),
    }
}
