//! The watcher: looks at slow requests, stalled event loops, deadlocks and sudden growth.
//!
//! It needs no GIL to see what is going on; what it saw waits in a queue for somebody who may run
//! Python code.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Session;
use super::native_thread::Kind;
use super::posts::{Occupant, Post};
use super::watch::{Event, Heartbeat, Place, Watch};
use super::worker::{Handle, Work};
use crate::capture::direct::DirectEngine;
use crate::clock::cpu::{monotonic_ns, process_cpu_ns};
use crate::clock::resident::resident_bytes;
use crate::model::label::{OWN_THREADS, thread_title};
use crate::model::snapshot::{Snapshot, ThreadSample, ThreadState};
use crate::model::task::{TaskState, Tasks};
use crate::report::{dump, held_up, tasks};

/// Time between two looks at what changes slowly.
const STEP_INTERVAL_NS: u64 = 1_000_000_000;
/// With nothing to do, the watcher looks this often whether there is.
const PATIENCE: Duration = Duration::from_secs(60);
/// At most one event of a kind per interval.
const RATE_LIMIT_NS: u64 = 60_000_000_000;
/// Growth is measured against the least of this time.
const STEP_WINDOW: usize = 60;

/// What the watcher's thread works with; it outlives the thread.
pub struct Watcher {
    session: &'static Session,
    quit: Arc<AtomicBool>,
    engine: Option<DirectEngine>,
    /// Loops that stand still: heartbeat and when it stopped.
    stalled: Vec<(Arc<Heartbeat>, u64)>,
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
    pub fn new(session: &'static Session, engine: Option<DirectEngine>) -> Self {
        Self {
            session,
            quit: Arc::default(),
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
    fn watch(&mut self) {
        let session = self.session;
        let watch = session.watch();
        while !self.quit.load(Relaxed) {
            let due = session.requests().wait_for_due(self.patience(watch));
            if self.quit.load(Relaxed) {
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
                let places = seen.map_or_else(Vec::new, |snapshot| {
                    let its = snapshot.threads.iter().filter(is_its);
                    its.map(|thread| place(snapshot, thread)).collect()
                });
                let is_seen = seen.is_some();
                let (tasks, waits_in) = self.look_at_tasks(request.number, &mut snapshot);
                watch.tell(Event::Slow {
                    number: request.number,
                    route: request.route.to_string(),
                    elapsed_ns: request.elapsed_ns,
                    look: request.look,
                    places,
                    tasks,
                    waits_in,
                    is_seen,
                });
            }
            self.check_heartbeats(session, &mut snapshot);
            self.check_deadlock(session, &mut snapshot);
            self.check_steps(watch);
        }
    }

    /// How long nothing but a request needs to be looked at.
    fn patience(&self, watch: &Watch) -> Duration {
        let heartbeats = watch.heartbeats.lock();
        let shortest = heartbeats
            .iter()
            .map(|heartbeat| heartbeat.limit_ns / 4)
            .min();
        drop(heartbeats);
        let limits = watch.thresholds();
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
            let mut newest = self.engine.as_mut()?.look_once().ok()?;
            session.note_standing(&mut newest);
            *snapshot = Some(newest);
        }
        snapshot.as_ref()
    }

    /// Where the tasks of a request wait, and the innermost lines of that; empty if none does.
    fn look_at_tasks(&mut self, request: u64, snapshot: &mut Option<Snapshot>) -> (String, String) {
        let (Some(engine), Some(snapshot)) = (&mut self.engine, snapshot) else {
            return Default::default();
        };
        let seen = engine.look_at_tasks(snapshot, Some(&[request]));
        if seen.tasks.iter().all(|task| task.state == TaskState::Runs) {
            // The stack of its thread has told.
            return Default::default();
        }
        (tasks::text(&seen, snapshot), tasks::places(&seen, snapshot))
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

    fn check_heartbeats(&mut self, session: &Session, snapshot: &mut Option<Snapshot>) {
        let watch = session.watch();
        let now_ns = monotonic_ns();
        let heartbeats: Vec<Arc<Heartbeat>> = watch.heartbeats.lock().clone();
        let stalled = std::mem::take(&mut self.stalled);
        for (heartbeat, stopped_ns) in stalled {
            let beat_ns = heartbeat.beat_ns.load(Relaxed);
            if heartbeat.is_over.load(Relaxed) {
                continue;
            }
            if beat_ns == stopped_ns {
                self.stalled.push((heartbeat, stopped_ns));
            } else {
                watch.tell(Event::StallEnd {
                    number: heartbeat.number,
                    name: heartbeat.name.clone(),
                    elapsed_ns: beat_ns - stopped_ns,
                });
            }
        }
        for heartbeat in heartbeats {
            let beat_ns = heartbeat.beat_ns.load(Relaxed);
            let is_known = self
                .stalled
                .iter()
                .any(|(known, _)| Arc::ptr_eq(known, &heartbeat));
            if is_known
                || heartbeat.is_over.load(Relaxed)
                || now_ns.saturating_sub(beat_ns) < heartbeat.limit_ns
            {
                continue;
            }
            let seen = self.look(session, snapshot);
            // It may have turned while it was looked at.
            if heartbeat.beat_ns.load(Relaxed) != beat_ns {
                continue;
            }
            let place = seen.and_then(|snapshot| {
                let mut threads = snapshot.threads.iter();
                let thread = threads.find(|thread| thread.thread_id == heartbeat.thread_id)?;
                Some(place(snapshot, thread))
            });
            watch.tell(Event::Stall {
                number: heartbeat.number,
                name: heartbeat.name.clone(),
                elapsed_ns: now_ns - beat_ns,
                place,
            });
            self.stalled.push((heartbeat, beat_ns));
        }
    }

    fn check_deadlock(&mut self, session: &Session, snapshot: &mut Option<Snapshot>) {
        let watch = session.watch();
        let Some(limit_ns) = watch.thresholds().deadlock_ns else {
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
        let stuck = if all_wait {
            threads
        } else {
            held_up::circles(seen).concat()
        };
        let waiting: FxHashMap<u64, Option<u64>> = stuck
            .iter()
            .map(|thread| (thread.thread_id, thread.cpu_ns))
            .collect();
        if stuck.is_empty() || waiting != self.waiting {
            self.waiting = waiting;
            self.waiting_since_ns = now_ns;
            self.is_deadlocked = false;
            return;
        }
        let elapsed_ns = now_ns - self.waiting_since_ns;
        if elapsed_ns < limit_ns || self.is_deadlocked {
            return;
        }
        self.is_deadlocked = true;
        let text = dump::by_thread(seen, &Tasks::default());
        if self.may_tell("deadlock", now_ns) {
            watch.tell(Event::Deadlock {
                elapsed_ns,
                is_of_all: all_wait,
                text,
            });
        }
    }

    fn check_steps(&mut self, watch: &Watch) {
        const CPU_SECONDS: usize = 10;
        let limits = watch.thresholds();
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

impl Work for Watcher {
    type Handle = WatcherHandle;

    const NAME: &'static str = "rprof-watch";
    const KIND: Kind = Kind::Own;

    fn prepare(&mut self) -> WatcherHandle {
        self.quit.store(false, Relaxed);
        WatcherHandle {
            session: self.session,
            quit: self.quit.clone(),
        }
    }

    fn run(&mut self) {
        self.watch();
    }
}

impl Occupant for Watcher {
    const POST: Post = Post::Watcher;
    /// It may be looking.
    const WITHOUT_GIL: Duration = Duration::from_secs(5);
}

/// How the watcher's thread is reached.
pub struct WatcherHandle {
    session: &'static Session,
    quit: Arc<AtomicBool>,
}

impl Handle for WatcherHandle {
    fn stop(&self) {
        self.quit.store(true, Relaxed);
        self.session.requests().wake();
    }

    fn take_back(&self) {
        self.quit.store(false, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::requests::SlowLimit;
    use crate::session::worker::Worker;

    const LONG: Duration = Duration::from_secs(60);
    const AT_ONCE: SlowLimit = SlowLimit {
        after_ns: 0,
        repeat_ns: 0,
    };

    /// A session with a watcher that has no engine.
    fn watched() -> &'static Session {
        let session: &'static Session = Box::leak(Box::new(Session::new()));
        let watcher = Box::new(Watcher::new(session, None));
        assert!(session.slot::<Watcher>().start(watcher).is_ok());
        session
    }

    fn slow_route(session: &Session) -> Option<String> {
        match session.watch().next_event(LONG) {
            Some(Event::Slow { route, is_seen, .. }) => {
                assert!(!is_seen, "nobody could look");
                Some(route)
            }
            other => {
                assert_eq!(other, None);
                None
            }
        }
    }

    #[test]
    fn a_watcher_that_sleeps_is_woken_by_requests_forks_and_its_end() {
        let session = watched();
        session.requests().begin("/first", Some(AT_ONCE), 0);
        assert_eq!(slow_route(session).as_deref(), Some("/first"));
        // It has nothing to do for a minute.
        session.park_for_fork(&|wait| wait());
        let slot = session.slot::<Watcher>();
        assert!(matches!(*slot.lock(), Worker::Parked(_)));
        session.requests().begin("/second", Some(AT_ONCE), 0);
        assert_eq!(session.watch().next_event(Duration::ZERO), None);
        session.go_on_after_fork();
        assert_eq!(slow_route(session).as_deref(), Some("/second"));
        assert!(slot.end(LONG) && slot.lock().is_none());
    }

    #[test]
    fn a_loop_that_stands_still_is_told_once_and_that_it_turns_again() {
        let session = watched();
        let heartbeat = session.watch().heartbeat("main".to_owned(), 1, 1_000_000);
        session.requests().wake();
        let event = session.watch().next_event(LONG);
        assert!(
            matches!(&event, Some(Event::Stall { name, place: None, .. }) if name == "main"),
            "{event:?}"
        );
        // It is looked at again, and there is nothing new to tell.
        session.requests().begin("/between", Some(AT_ONCE), 0);
        assert_eq!(slow_route(session).as_deref(), Some("/between"));
        if let Some(heartbeat) = heartbeat {
            heartbeat.beat();
        }
        let event = session.watch().next_event(LONG);
        assert!(
            matches!(&event, Some(Event::StallEnd { name, .. }) if name == "main"),
            "{event:?}"
        );
        assert!(session.slot::<Watcher>().end(LONG));
    }
}
