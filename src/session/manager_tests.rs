#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Seat, Session};
use crate::capture::{Engine, Missed, Taken};
use crate::clock::cpu::monotonic_ns;
use crate::error::{Error, Result};
use crate::fold::window::Limits;
use crate::model::sample_type::{CPU, SAMPLES, WALL};
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use crate::session::config::{RecordingConfig, Requests, ThreadFilter};
use crate::session::native_thread::tests::refuse;
use crate::sink::Sink;

const MS: u64 = 1_000_000;

/// One thread that computes all the time.
struct Steady;

impl Engine for Steady {
    fn name(&self) -> &'static str {
        "steady"
    }

    fn snapshot(&mut self, snapshot: &mut Snapshot) -> std::result::Result<Taken, Missed> {
        let at_ns = monotonic_ns();
        snapshot.threads = vec![ThreadSample {
            key: ThreadKey(1),
            thread_id: 1,
            name: Arc::from("main"),
            cpu_ns: Some(at_ns),
            state: ThreadState::Running,
            on_cpu: true,
            labels: None,
            since_ns: at_ns,
            stack: crate::model::stack::Stack::default(),
            stack_version: 1,
            first_seen_ns: 1,
            cpu_from_ns: 1,
            early_cpu_ns: 0,
            span: None,
        }];
        snapshot.threads_version = 1;
        snapshot.at_ns = at_ns;
        snapshot.moved_ns = at_ns;
        Ok(Taken::default())
    }

    fn read_clocks(&mut self, snapshot: &mut Snapshot) {
        snapshot.at_ns = monotonic_ns();
        for thread in &mut snapshot.threads {
            thread.cpu_ns = Some(snapshot.at_ns);
        }
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// A disk that answers once it is let go.
struct Disk {
    held: Receiver<()>,
    files: Arc<AtomicU64>,
}

impl Disk {
    fn stuck() -> (Self, Sender<()>) {
        let (hold, held) = unbounded();
        let files = Arc::default();
        (Self { held, files }, hold)
    }

    fn good() -> (Box<Self>, Arc<AtomicU64>) {
        let disk = Self::stuck().0;
        let files = disk.files.clone();
        (Box::new(disk), files)
    }
}

impl Sink for Disk {
    fn write(&mut self, encoded: &[u8]) -> Result<PathBuf> {
        assert!(!encoded.is_empty());
        // Until the sender is dropped.
        assert!(self.held.recv_timeout(Duration::from_secs(60)).is_err());
        self.files.fetch_add(1, Relaxed);
        Ok(PathBuf::from("file"))
    }

    fn kept(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

fn config(window_ns: Option<u64>) -> RecordingConfig {
    RecordingConfig {
        period_ns: MS,
        max_overhead: 0.0,
        limits: Limits::default(),
        threads: ThreadFilter::All,
        window_ns,
        program: "test".to_owned(),
        requests: Requests::default(),
        ring: None,
    }
}

fn engine() -> Option<(Box<dyn Engine>, String)> {
    Some((Box::new(Steady), "asked for".to_owned()))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn ticks(session: &Session, more: u64) {
    let before = session.health.ticks.load(Relaxed);
    until("the sampler ticks", || {
        session.health.ticks.load(Relaxed) >= before + more
    });
}

fn counter(session: &Session, wanted: &str) -> u64 {
    let counters = session.health().counters();
    let found = counters.iter().find(|(name, _)| *name == wanted);
    found.unwrap().1
}

/// What a fork at the limit of threads does: both threads end, and neither comes again.
fn fork_at_the_limit(session: &Session) {
    session.before_fork();
    session.park_for_fork();
    refuse(true);
    session.after_fork_in_parent();
}

/// A disk that does not answer, a queue that is full, and a recording that is the reason.
fn stuck_session() -> (Arc<Session>, Sender<()>, super::RecordingId) {
    let session = Arc::new(Session::new());
    let (disk, hold) = Disk::stuck();
    let first = session
        .start(config(Some(1)), Some(Box::new(disk)), engine())
        .unwrap();
    until("the queue is full", || session.jobs.is_full());
    (session, hold, first)
}

#[test]
fn a_recording_begins_once_its_outlet_is_open() {
    let (session, hold, first) = stuck_session();
    let (disk, files) = Disk::good();
    let (tell, told) = bounded(1);
    let starting = std::thread::spawn({
        let session = session.clone();
        move || {
            let started = session.start(config(Some(1)), Some(disk), None);
            tell.send(()).unwrap();
            started
        }
    });
    until("it is starting", || session.state.lock().next_id == 3);
    // It waits for the queue, and nobody records for it meanwhile.
    assert!(told.try_recv().is_err());
    assert_eq!(session.state.lock().recordings, [first]);
    drop(hold);
    let second = starting.join().unwrap().unwrap();
    // A window is due at once.
    until("its windows are written", || files.load(Relaxed) > 2);
    let finished = session.stop(second).unwrap();
    assert_eq!(finished.written, Some(Ok(PathBuf::from("file"))));
    session.stop(first).unwrap();
    assert_eq!(counter(&session, "lost_windows"), 0);
}

#[test]
fn what_is_open_is_written_when_the_process_ends_with_threads_and_without() {
    let session = Session::new();
    // Nothing is there to be written, and nobody to be waited for.
    session.write_out(u64::MAX / 2);
    let (disk, files) = Disk::good();
    let id = session.start(config(None), Some(disk), engine()).unwrap();
    let other = session.start(config(None), None, None).unwrap();
    ticks(&session, 2);
    session.write_out(60_000 * MS);
    assert_eq!(files.load(Relaxed), 1);
    fork_at_the_limit(&session);
    session.write_out(60_000 * MS);
    assert_eq!(files.load(Relaxed), 2);
    refuse(false);
    // What is not written stays with whoever asks for it.
    let kept = session.stop(other).unwrap();
    assert!(kept.profile.totals()[0] > 0);
    session.stop(id).unwrap();
    assert_eq!(files.load(Relaxed), 3);
    session.write_out(u64::MAX / 2);
}

#[test]
fn the_end_of_a_process_does_not_wait_for_a_disk_that_is_stuck() {
    let (session, hold, first) = stuck_session();
    session.write_out(10 * MS);
    drop(hold);
    session.stop(first).unwrap();
}

#[test]
fn a_recording_whose_outlet_cannot_be_opened_does_not_begin() {
    let (session, hold, first) = stuck_session();
    let (disk, files) = Disk::good();
    let refused = session.start(config(Some(1)), Some(disk), None);
    assert!(refused.is_err_and(|error| error.to_string().contains("the disk stuck")));
    let state = session.state.lock();
    assert_eq!(state.recordings, [first]);
    assert_eq!(state.with_output, [first]);
    drop(state);
    drop(hold);
    session.stop(first).unwrap();
    assert_eq!(files.load(Relaxed), 0);
    assert_eq!(counter(&session, "lost_windows"), 0);
}

#[test]
fn a_start_that_gets_no_thread_leaves_nothing() {
    let session = Session::new();
    refuse(true);
    let (disk, _) = Disk::good();
    let refused = session.start(config(None), Some(disk), engine());
    assert!(refused.is_err_and(|error| error.to_string().contains("cannot start the thread")));
    refuse(false);
    assert_eq!(counter(&session, "refused_threads"), 1);
    assert!(!session.refusals().are_any());
    assert!(session.state.lock().recordings.is_empty());
    assert!(session.needs_engine(None).unwrap());
    // Nor is it in the way of the next one.
    let id = session.start(config(None), None, engine()).unwrap();
    ticks(&session, 3);
    assert!(session.stop(id).unwrap().profile.totals()[SAMPLES] > 0);
    assert_eq!(counter(&session, "unattended"), 0);
}

#[test]
fn without_threads_whoever_asks_gets_what_there_is() {
    let session = Session::new();
    let (disk, files) = Disk::good();
    let id = session.start(config(None), Some(disk), engine()).unwrap();
    ticks(&session, 5);
    fork_at_the_limit(&session);
    let flushed = session.rotate(id).unwrap();
    assert!(flushed.profile.totals()[SAMPLES] > 0);
    assert_eq!(flushed.written, Some(Ok(PathBuf::from("file"))));
    session.pause(id);
    session.resume(id);
    // Another recording is refused, and this one goes on.
    assert!(session.start(config(None), None, None).is_err());
    let finished = session.stop(id).unwrap();
    refuse(false);
    assert_eq!(finished.profile.totals()[SAMPLES], 0);
    let comments = &finished.profile.meta.comments;
    let gap = comments.iter().find(|line| line.starts_with("no thread"));
    assert!(gap.is_some(), "{comments:?}");
    assert_eq!(finished.written, Some(Ok(PathBuf::from("file"))));
    assert_eq!(files.load(Relaxed), 2);
    assert_eq!(counter(&session, "unattended"), 1);
    // Of both workers, once at the fork at least.
    assert!(counter(&session, "refused_threads") >= 2);
    assert_eq!(counter(&session, "starved_threads"), 0);
    let said = session.health().last_error().unwrap();
    assert!(
        said.contains("rprof-sampler") && said.contains("tried again"),
        "{said}"
    );
}

#[test]
fn the_time_in_which_nobody_looked_is_nobody_s() {
    let session = Session::new();
    let begin_ns = monotonic_ns();
    let id = session.start(config(None), None, engine()).unwrap();
    for _ in 0..3 {
        ticks(&session, 5);
        fork_at_the_limit(&session);
        assert!(session.refusals().are_any());
        refuse(false);
        until("its thread comes again", || {
            if let Some(due) = session.refusals().due() {
                session.try_again();
                session.refusals().end(due);
            }
            matches!(session.state.lock().sampler, Seat::Running(_))
        });
        assert!(!session.refusals().are_any());
    }
    ticks(&session, 5);
    let profile = session.stop(id).unwrap().profile;
    let elapsed_ns = monotonic_ns() - begin_ns;
    let unattended_ns = counter(&session, "unattended_ns");
    assert_eq!(counter(&session, "unattended"), 3);
    // It was not tried again before that.
    assert!(unattended_ns >= 300 * MS, "{unattended_ns}");
    for kind in [WALL, CPU] {
        let told_ns = profile.totals()[kind];
        let seen_ns = i64::try_from(elapsed_ns - unattended_ns).unwrap();
        assert!(
            0 < told_ns && told_ns <= seen_ns,
            "{kind}: {told_ns} of {seen_ns}"
        );
    }
}

#[test]
fn a_fork_that_does_not_end_is_not_waited_for_for_ever() {
    let session = Session::new();
    let id = session.start(config(None), None, engine()).unwrap();
    session.before_fork();
    for refused in [
        session.rotate(id).map(drop),
        session.start(config(None), None, None).map(drop),
        session.needs_engine(None).map(drop),
    ] {
        assert!(refused.is_err_and(|error: Error| error.to_string().contains("too long")));
    }
    session.after_fork_in_parent();
    session.stop(id).unwrap();
}
