#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use super::{Session, Worker};
use crate::capture::{Engine, Missed, SnapshotStats};
use crate::clock::cpu::monotonic_ns;
use crate::error::{Error, Result};
use crate::fold::profile::Profile;
use crate::model::measure::{MeasureId, MeasureSet};
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use crate::session::config::RecordingConfig;
use crate::session::native_thread::tests::refuse;
use crate::sink::{Delivery, Receipt, Sink};

pub(super) const MS: u64 = 1_000_000;

pub(super) const SAMPLES: usize = column(MeasureId::Samples);
pub(super) const WALL: usize = column(MeasureId::Wall);
pub(super) const CPU: usize = column(MeasureId::Cpu);

const fn column(id: MeasureId) -> usize {
    MeasureSet::TIMES.column(id).unwrap()
}

/// One thread that computes all the time.
#[derive(Default)]
struct Steady(Snapshot);

impl Engine for Steady {
    fn name(&self) -> &'static str {
        "steady"
    }

    fn snapshot(&self) -> &Snapshot {
        &self.0
    }

    fn look(&mut self) -> std::result::Result<SnapshotStats, Missed> {
        let at_ns = monotonic_ns();
        let snapshot = &mut self.0;
        snapshot.threads = vec![ThreadSample {
            task: None,
            key: ThreadKey(1),
            thread_id: 1,
            name: Arc::from("main"),
            cpu_ns: Some(at_ns),
            state: ThreadState::Running,
            on_cpu: true,
            gil: 0,
            labels: None,
            off: None,
            lock: None,
            cpu_wait_ns: None,
            ready: 0,
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
        Ok(SnapshotStats::default())
    }

    fn read_clocks(&mut self) {
        let snapshot = &mut self.0;
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
pub(super) struct Disk {
    held: Receiver<()>,
    files: Arc<AtomicU64>,
}

impl Disk {
    fn stuck() -> (Self, Sender<()>) {
        let (hold, held) = unbounded();
        let files = Arc::default();
        (Self { held, files }, hold)
    }

    pub(super) fn good() -> (Box<Self>, Arc<AtomicU64>) {
        let disk = Self::stuck().0;
        let files = disk.files.clone();
        (Box::new(disk), files)
    }
}

impl Sink for Disk {
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery> {
        // Until the sender is dropped.
        assert!(self.held.recv_timeout(Duration::from_secs(60)).is_err());
        self.files.fetch_add(1, Relaxed);
        Ok(Delivery {
            receipt: receipt(),
            bytes: profile.bytes() as u64,
        })
    }

    fn kept(&self) -> Vec<Receipt> {
        Vec::new()
    }
}

pub(super) fn receipt() -> Receipt {
    Receipt::File(PathBuf::from("file"))
}

pub(super) fn config(window_ns: Option<u64>) -> RecordingConfig {
    RecordingConfig {
        window_ns,
        ..RecordingConfig::of_all("test", MS)
    }
}

pub(super) fn engine() -> Option<(Box<dyn Engine>, String)> {
    Some((Box::new(Steady::default()), "asked for".to_owned()))
}

pub(super) fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

pub(super) fn ticks(session: &Session, more: u64) {
    let before = session.health.ticks.load(Relaxed);
    until("the sampler ticks", || {
        session.health.ticks.load(Relaxed) >= before + more
    });
}

pub(super) fn counter(session: &Session, wanted: &str) -> u64 {
    let counters = session.health().counters();
    let found = counters.iter().find(|(name, _)| *name == wanted);
    found.unwrap().1
}

/// What a fork at the limit of threads does: both threads end, and neither comes again.
pub(super) fn fork_at_the_limit(session: &Session) {
    session.announce_fork();
    session.park_with_patience();
    refuse(true);
    session.end_fork();
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
    assert_eq!(finished.written, Some(Ok(receipt())));
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
fn a_fork_that_does_not_end_is_not_waited_for_for_ever() {
    let session = Session::new();
    let id = session.start(config(None), None, engine()).unwrap();
    session.announce_fork();
    for refused in [
        session.rotate(id).map(drop),
        session.start(config(None), None, None).map(drop),
        session.needs_engine(None).map(drop),
    ] {
        assert!(refused.is_err_and(|error: Error| error.to_string().contains("too long")));
    }
    session.end_fork();
    session.stop(id).unwrap();
}

/// Keeps what it is given, and takes nothing while it is full.
#[derive(Clone, Default)]
struct MemorySink {
    profiles: Arc<Mutex<Vec<Profile>>>,
    is_full: Arc<AtomicBool>,
}

impl Sink for MemorySink {
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery> {
        if self.is_full.load(Relaxed) {
            return Err(Error::os("cannot write", &"it is full"));
        }
        self.profiles.lock().push(profile.clone());
        Ok(Delivery {
            receipt: receipt(),
            bytes: profile.bytes() as u64,
        })
    }

    fn kept(&self) -> Vec<Receipt> {
        self.profiles.lock().iter().map(|_| receipt()).collect()
    }
}

#[test]
fn a_sink_that_could_not_take_a_window_gets_it_with_the_next() {
    let session = Session::new();
    let sink = MemorySink::default();
    let profiles = sink.profiles.clone();
    let is_full = sink.is_full.clone();
    is_full.store(true, Relaxed);
    let id = session
        .start(config(None), Some(Box::new(sink)), engine())
        .unwrap();
    ticks(&session, 3);
    let first = session.rotate(id).unwrap();
    assert!(matches!(&first.written, Some(Err(error)) if error.to_string().contains("it is full")));
    assert!(session.kept().is_empty());
    assert!(session.health().last_error().is_some());
    is_full.store(false, Relaxed);
    ticks(&session, 3);
    let second = session.stop(id).unwrap();
    assert_eq!(second.written, Some(Ok(receipt())));
    assert_eq!(session.kept(), [receipt()]);
    let delivered: Vec<_> = profiles.lock().iter().map(Profile::totals).collect();
    let both = first.profile.totals().into_iter();
    let both: Vec<i64> = both
        .zip(second.profile.totals())
        .map(|(first, second)| first + second)
        .collect();
    assert_eq!(delivered, [both]);
    for (name, count) in [
        ("write_errors", 1),
        ("merged_windows", 1),
        ("windows", 1),
        ("lost_windows", 0),
    ] {
        assert_eq!(counter(&session, name), count, "{name}");
    }
}

#[test]
fn a_recording_goes_on_after_a_fork_in_the_parent_and_not_in_the_child() {
    let session = Session::new();
    let sink = MemorySink::default();
    let profiles = sink.profiles.clone();
    let id = session
        .start(config(None), Some(Box::new(sink)), engine())
        .unwrap();
    ticks(&session, 3);
    session.park_for_fork(&|wait| wait());
    let state = session.state.lock();
    assert!(matches!(state.sampler, Worker::Parked(_)));
    assert!(matches!(state.writer, Worker::Parked(_)));
    drop(state);
    let child = Session::new();
    child.inherit_from(&session);
    child.go_on();
    assert!(child.needs_engine(None).unwrap());
    assert!(child.stop(id).is_err() && child.end_all().is_empty());
    let before = counter(&session, "ticks");
    session.go_on_after_fork();
    ticks(&session, 3);
    assert!(counter(&session, "ticks") > before);
    assert_eq!(counter(&session, "unattended"), 0);
    let finished = session.stop(id).unwrap();
    assert_eq!(profiles.lock()[0].totals(), finished.profile.totals());
    // With the last recording its threads go as well.
    let state = session.state.lock();
    assert!(matches!(state.sampler, Worker::Parked(_)));
    assert!(matches!(state.writer, Worker::Parked(_)));
}

/// Fails as only a fault of ours would, once it is told to.
struct Faulty(Steady, Arc<AtomicBool>);

impl Engine for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn snapshot(&self) -> &Snapshot {
        self.0.snapshot()
    }

    fn look(&mut self) -> std::result::Result<SnapshotStats, Missed> {
        if self.1.load(Relaxed) {
            // A panic, without the message that the tests' harness would show.
            std::panic::resume_unwind(Box::new("injected"));
        }
        self.0.look()
    }

    fn read_clocks(&mut self) {
        self.0.read_clocks();
    }

    fn now_ns(&self) -> u64 {
        self.0.now_ns()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

#[test]
fn a_fault_of_our_own_ends_profiling_and_nothing_else() {
    let session = Session::new();
    let is_faulty = Arc::new(AtomicBool::new(false));
    let faulty = Box::new(Faulty(Steady(Snapshot::default()), is_faulty.clone()));
    let id = session
        .start(config(None), None, Some((faulty, String::new())))
        .unwrap();
    is_faulty.store(true, Relaxed);
    until("its sampler fails", || counter(&session, "failed") == 1);
    let stopped = session.stop(id).map(drop);
    let started = session.start(config(None), None, engine()).map(drop);
    for refused in [stopped, started] {
        let said = refused.unwrap_err().to_string();
        assert!(
            said.contains("internal error (the sampler panicked)"),
            "{said}"
        );
    }
    // Neither a fork nor the end of the process waits for what is not there.
    session.park_for_fork(&|wait| wait());
    session.go_on_after_fork();
}

/// Fails once as only a fault of ours would.
struct Spoilt(bool, Box<Disk>);

impl Sink for Spoilt {
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery> {
        if std::mem::take(&mut self.0) {
            std::panic::resume_unwind(Box::new("injected"));
        }
        self.1.deliver(profile)
    }

    fn kept(&self) -> Vec<Receipt> {
        Vec::new()
    }
}

#[test]
fn a_fault_while_a_window_is_written_costs_that_window_and_no_time() {
    let session = Session::new();
    let (disk, files) = Disk::good();
    let id = session
        .start(config(None), Some(Box::new(Spoilt(true, disk))), engine())
        .unwrap();
    let said = session.rotate(id).unwrap().written.unwrap();
    let said = said.map(drop).unwrap_err().to_string();
    assert!(said.contains("internal error"), "{said}");
    assert_eq!(counter(&session, "lost_windows"), 1);
    // The next one is written.
    assert!(session.stop(id).unwrap().written.unwrap().is_ok());
    assert_eq!(files.load(Relaxed), 1);
}
