#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Flow, Sampler};
use crate::capture::scripted::{Scripted, ScriptedThread, ScriptedTick};
use crate::capture::source::Sources;
use crate::clock::ticker::Ticker;
use crate::fold::profile::Profile;
use crate::model::measure::MeasureSet;
use crate::model::window_facts::{Fact, read};
use crate::report::collapsed::collapsed;
use crate::session::config::{RecordingConfig, ThreadFilter};
use crate::session::control::{Control, RecordingId};
use crate::session::health::Health;
use crate::session::recording::Recording;
pub(super) use crate::session::tests::{CPU, MS, SAMPLES, WALL};
use crate::session::writer::Job;

pub(super) struct Rig {
    pub(super) sampler: Sampler,
    pub(super) sources: Sources,
    /// What recordings measure.
    pub(super) measures: MeasureSet,
    health: Arc<Health>,
    jobs: Receiver<Job>,
    control: Sender<Control>,
}

/// A sampler that plays `ticks`; the first of them is the baseline of the first recording.
pub(super) fn rig(ticks: impl IntoIterator<Item = ScriptedTick>) -> Rig {
    let (control, control_receiver) = unbounded();
    let (windows, jobs) = bounded(1);
    let health = Arc::new(Health::default());
    let engine = Box::new(Scripted::new(ticks));
    let sources = Sources::default();
    Rig {
        sampler: Sampler::new(
            engine,
            sources.clone(),
            control_receiver,
            Arc::default(),
            Arc::default(),
            windows,
            health.clone(),
        ),
        sources,
        measures: MeasureSet::TIMES,
        health,
        jobs,
        control,
    }
}

/// What a profile tells of how it was recorded; 0 if it does not tell.
fn fact(profile: &Profile, wanted: Fact) -> f64 {
    let facts = read(&profile.meta.comments);
    let found = facts.iter().find(|(fact, _)| *fact == wanted);
    found.map_or(0.0, |(_, number)| *number)
}

pub(super) fn config() -> RecordingConfig {
    RecordingConfig::of_all("script", 10 * MS)
}

/// What each stack was charged with.
pub(super) fn charged(profile: &Profile, value: usize) -> String {
    collapsed(profile, value, true).unwrap()
}

fn start_message(id: u64, config: RecordingConfig, measures: MeasureSet) -> Control {
    let (started, _) = bounded(1);
    let recording = Recording::new(RecordingId(id), config, measures, 0, 0);
    Control::Start(Box::new(recording), started)
}

impl Rig {
    pub(super) fn start(&mut self, id: u64, config: RecordingConfig) {
        let message = start_message(id, config, self.measures);
        self.sampler.handle(message);
    }

    pub(super) fn tick(&mut self) {
        self.tick_after(0);
    }

    pub(super) fn tick_after(&mut self, overdue_ns: u64) {
        let deadline_ns = self.deadline_ns();
        assert_eq!(self.sampler.tick(deadline_ns + overdue_ns), Flow::Continue);
    }

    fn deadline_ns(&self) -> u64 {
        self.sampler
            .ticker
            .as_ref()
            .map(Ticker::deadline_ns)
            .unwrap()
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.health.counters();
        counters.iter().find(|(known, _)| *known == name).unwrap().1
    }

    pub(super) fn stop(&mut self, id: u64) -> Profile {
        let (reply, answer) = bounded(1);
        self.sampler.handle(Control::Stop(RecordingId(id), reply));
        *answer.try_recv().unwrap()
    }
}

pub(super) fn thread(id: u64, cpu_ns: u64, stack: &[&'static str]) -> ScriptedThread {
    let name = if id == 1 { "main" } else { "worker" };
    ScriptedThread {
        cpu_ns,
        ..ScriptedThread::new(id, name, stack)
    }
}

#[test]
fn values_are_deltas_charged_to_the_stack_now_seen() {
    let mut rig = rig([
        (100 * MS, vec![thread(1, 7 * MS, &["a", "main"])]),
        (110 * MS, vec![thread(1, 12 * MS, &["a", "main"])]),
        // A late tick loses nothing.
        (140 * MS, vec![thread(1, 15 * MS, &["b", "main"])]),
    ]);
    rig.start(1, config());
    rig.tick();
    rig.tick();
    let profile = rig.stop(1);
    assert_eq!(
        charged(&profile, CPU),
        format!("main;main;a {}\nmain;main;b {}\n", 5 * MS, 3 * MS)
    );
    assert_eq!(
        charged(&profile, WALL),
        format!("main;main;a {}\nmain;main;b {}\n", 10 * MS, 30 * MS)
    );
}

#[test]
fn a_thread_born_in_between_is_accounted_from_birth() {
    let mut rig = rig([
        (100 * MS, vec![thread(1, 0, &["main"])]),
        (
            110 * MS,
            vec![thread(1, 0, &["main"]), thread(2, 4 * MS, &["w"])],
        ),
        (
            120 * MS,
            vec![thread(1, 0, &["main"]), thread(2, 14 * MS, &["w"])],
        ),
        // Thread 3 shows more CPU time than passed since the last look: it is older than that.
        (
            130 * MS,
            vec![thread(1, 0, &["main"]), thread(3, 900 * MS, &["x"])],
        ),
    ]);
    rig.start(1, config());
    for _ in 0..3 {
        rig.tick();
    }
    let profile = rig.stop(1);
    assert_eq!(charged(&profile, CPU), format!("worker;w {}\n", 14 * MS));
}

#[test]
fn recordings_have_their_own_rate_filter_and_tree() {
    let script = (0..=8).map(|tick: u64| {
        let at = (100 + 10 * tick) * MS;
        (
            at,
            vec![
                thread(1, tick * MS, &["a"]),
                thread(2, 2 * tick * MS, &["b"]),
            ],
        )
    });
    // The second recording's baseline repeats the first tick's state.
    let mut script: Vec<ScriptedTick> = script.collect();
    script.insert(1, script[0].clone());
    let mut rig = rig(script);
    rig.start(1, config());
    rig.start(
        2,
        RecordingConfig {
            period_ns: 40 * MS,
            threads: ThreadFilter::Names(vec!["work*".to_owned()]),
            ..config()
        },
    );
    for _ in 0..8 {
        rig.tick();
    }
    let slow = rig.stop(2);
    let fast = rig.stop(1);
    assert_eq!(fast.totals()[CPU], i64::try_from(24 * MS).unwrap());
    assert_eq!(slow.totals()[CPU], i64::try_from(16 * MS).unwrap());
    assert_eq!(slow.totals()[WALL], i64::try_from(80 * MS).unwrap());
    assert!(slow.totals()[SAMPLES] < fast.totals()[SAMPLES] / 2);
}

#[test]
fn a_full_writer_queue_makes_the_window_go_on() {
    let mut rig =
        rig((0..=30).map(|tick: u64| ((100 + 10 * tick) * MS, vec![thread(1, tick * MS, &["a"])])));
    rig.start(
        1,
        RecordingConfig {
            window_ns: Some(50 * MS),
            ..config()
        },
    );
    for _ in 0..30 {
        rig.tick();
    }
    let in_queue = match rig.jobs.try_recv().unwrap() {
        Job::Write { profile, .. } => profile.totals()[CPU],
        _ => 0,
    };
    let rest = rig.stop(1).totals()[CPU];
    assert!(in_queue > 0);
    assert_eq!(in_queue + rest, i64::try_from(30 * MS).unwrap());
    assert!(rig.counter("merged_windows") > 0);
}

#[test]
fn a_gap_is_counted_and_credited_to_nobody() {
    let mut rig = rig([
        (0, vec![thread(1, 0, &["a"])]),
        (3_000 * MS, vec![thread(1, MS, &["a"])]),
        (3_010 * MS, vec![thread(1, 2 * MS, &["a"])]),
    ]);
    rig.start(1, config());
    let late = 3_000 * MS;
    assert_eq!(rig.sampler.tick(late), Flow::Continue);
    rig.tick();
    let profile = rig.stop(1);
    assert!(profile.totals()[WALL] <= i64::try_from(30 * MS).unwrap());
    assert!(fact(&profile, Fact::StoodStillSeconds) > 2.9);
}

#[test]
fn paused_recordings_see_nothing_and_need_no_tick() {
    let mut rig = rig([
        (100 * MS, vec![thread(1, 0, &["a"])]),
        (110 * MS, vec![thread(1, 5 * MS, &["a"])]),
        (200 * MS, vec![thread(1, 90 * MS, &["b"])]),
        (210 * MS, vec![thread(1, 93 * MS, &["c"])]),
    ]);
    rig.start(1, config());
    rig.tick();
    let (paused, _) = bounded(1);
    rig.sampler.handle(Control::Pause(RecordingId(1), paused));
    assert!(rig.sampler.ticker.is_none());
    rig.sampler.handle(Control::Resume(RecordingId(1)));
    rig.tick();
    let profile = rig.stop(1);
    assert_eq!(
        charged(&profile, CPU),
        format!("main;a {}\nmain;c {}\n", 5 * MS, 3 * MS)
    );
}

/// The baseline, 51 ticks in which nothing happens, and one after each of `spans`, in ticks: then
/// the first thread's clock shows what is said, in ms.
fn an_idle_rig(spans: &[(u64, u64)]) -> Rig {
    let threads = |cpu_ms| vec![thread(1, cpu_ms * MS, &["a"]), thread(2, 0, &["b"])];
    let mut script: Vec<ScriptedTick> = (0..=51).map(|tick| (tick * 10 * MS, threads(0))).collect();
    let mut now_ns = 510 * MS;
    for (ticks, cpu_ms) in spans {
        now_ns += ticks * 10 * MS;
        script.push((now_ns, threads(*cpu_ms)));
    }
    let mut rig = rig(script);
    rig.start(1, config());
    for _ in 0..51 {
        rig.tick();
    }
    rig
}

#[test]
fn ticks_at_which_nothing_can_have_happened_are_credited_all_the_same() {
    let mut rig = an_idle_rig(&[(4, 0), (4, 0)]);
    for _ in 0..2 {
        rig.tick();
    }
    let ticks = 1 + 51 + 2 * 4;
    assert_eq!(
        (rig.counter("ticks"), rig.counter("idle_ticks")),
        (ticks, 6)
    );
    assert_eq!(rig.counter("late"), 0);
}

#[test]
fn whoever_moved_between_idle_looks_is_not_said_to_have_stood_still() {
    let mut rig = an_idle_rig(&[(4, 7), (1, 17)]);
    rig.tick();
    assert_eq!((rig.counter("idle_ticks"), rig.counter("late")), (0, 3));
    // From now on every tick is served.
    let deadline_ns = rig.deadline_ns();
    assert!(deadline_ns < 570 * MS, "{deadline_ns}");
    rig.tick();
    let profile = rig.stop(1);
    assert_eq!(charged(&profile, SAMPLES), "main;a 53\nworker;b 56\n");
    let wall_ns = 560 * MS;
    assert_eq!(
        charged(&profile, WALL),
        format!("main;a {wall_ns}\nworker;b {wall_ns}\n")
    );
    assert_eq!(charged(&profile, CPU), format!("main;a {}\n", 17 * MS));
}

#[test]
fn what_was_left_out_is_told_whoever_asks() {
    // Two of three ticks have passed when somebody asks for another recording, or for its end.
    for is_idle in [true, false] {
        let cpu_ms = if is_idle { 0 } else { 5 };
        let mut rig = an_idle_rig(&[]);
        let now_ns = 535 * MS;
        rig.sampler.engine = Box::new(Scripted::after(
            rig.sampler.engine.snapshot(),
            now_ns,
            [(
                now_ns,
                vec![thread(1, cpu_ms * MS, &["a"]), thread(2, 0, &["b"])],
            )],
        ));
        let faster = RecordingConfig {
            period_ns: 5 * MS,
            ..config()
        };
        rig.start(2, faster);
        let known = if is_idle { (2, 0) } else { (0, 2) };
        assert_eq!((rig.counter("idle_ticks"), rig.counter("late")), known);
        let deadline_ns = rig.deadline_ns();
        assert!(deadline_ns < now_ns + 10 * MS);
        let profile = rig.stop(1);
        let told = if is_idle {
            Fact::IdleTicks
        } else {
            Fact::LateTicks
        };
        assert_eq!(fact(&profile, told), 2.0);
        assert!(charged(&profile, SAMPLES).ends_with("worker;b 53\n"));
        assert_eq!(rig.stop(2).totals()[SAMPLES], 0);
    }
}

#[test]
fn a_process_that_was_stopped_has_not_stood_still() {
    let mut rig = rig([
        (0, vec![thread(1, 0, &["a"])]),
        (10 * MS, vec![thread(1, MS, &["a"])]),
        (3_000 * MS, vec![thread(1, MS, &["a"])]),
    ]);
    rig.start(1, config());
    rig.tick();
    assert_eq!(rig.sampler.tick(3_000 * MS), Flow::Continue);
    let deadline_ns = rig.deadline_ns();
    assert!(deadline_ns < 3_020 * MS, "{deadline_ns}");
}

#[test]
fn a_tick_that_is_due_comes_before_each_message() {
    // The second recording's first look has taken long, and the first one's end is in the queue.
    let mut rig = rig([
        (100 * MS, vec![thread(1, 0, &["start"])]),
        (130 * MS, vec![thread(1, 10 * MS, &["work"])]),
        (135 * MS, vec![thread(1, 12 * MS, &["stop"])]),
    ]);
    let (reply, answer) = bounded(1);
    for message in [
        start_message(1, config(), MeasureSet::TIMES),
        start_message(2, config(), MeasureSet::TIMES),
        Control::Stop(RecordingId(1), reply),
    ] {
        rig.control.send(message).unwrap();
    }
    assert_eq!(rig.sampler.answer_call(), Flow::Continue);
    let profile = answer.try_recv().unwrap();
    assert_eq!(charged(&profile, WALL), format!("main;stop {}\n", 35 * MS));
    assert_eq!(fact(&profile, Fact::LateTicks), 2.0);
}

#[test]
fn a_missed_snapshot_is_counted() {
    let mut rig = rig([(100 * MS, vec![thread(1, 0, &["a"])])]);
    rig.start(1, config());
    rig.tick();
    assert_eq!(rig.counter("skipped"), 1);
    assert_eq!(rig.stop(1).totals()[CPU], 0);
}
