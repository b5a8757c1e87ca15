#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::{Flow, Sampler};
use crate::capture::scripted::{Scripted, ScriptedThread, ScriptedTick};
use crate::clock::ticker::Ticker;
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::model::sample_type::{CPU, SAMPLES, WALL};
use crate::model::snapshot::ThreadState;
use crate::report::collapsed::collapsed;
use crate::session::config::{RecordingConfig, Requests, ThreadFilter};
use crate::session::control::{Control, RecordingId};
use crate::session::health::Health;
use crate::session::recording::Recording;
use crate::session::writer::Job;

const MS: u64 = 1_000_000;

struct Rig {
    sampler: Sampler,
    health: Arc<Health>,
    jobs: Receiver<Job>,
    control: Sender<Control>,
}

/// A sampler that plays `ticks`; the first of them is the baseline of the first recording.
fn rig(ticks: impl IntoIterator<Item = ScriptedTick>) -> Rig {
    let (control, control_receiver) = unbounded();
    let (windows, jobs) = bounded(1);
    let health = Arc::new(Health::default());
    let engine = Box::new(Scripted::new(ticks));
    Rig {
        sampler: Sampler::new(
            engine,
            control_receiver,
            Arc::default(),
            Arc::default(),
            Arc::default(),
            windows,
            health.clone(),
        ),
        health,
        jobs,
        control,
    }
}

fn config() -> RecordingConfig {
    RecordingConfig {
        period_ns: 10 * MS,
        max_overhead: 0.0,
        limits: Limits::default(),
        threads: ThreadFilter::All,
        window_ns: None,
        program: "script".to_owned(),
        requests: Requests::default(),
        ring: None,
    }
}

fn start_message(id: u64, config: RecordingConfig) -> Control {
    let (started, _) = bounded(1);
    let recording = Recording::new(RecordingId(id), config, false, 0, 0);
    Control::Start(Box::new(recording), started)
}

impl Rig {
    fn start(&mut self, id: u64, config: RecordingConfig) {
        self.sampler.handle(start_message(id, config));
    }

    fn tick(&mut self) {
        self.tick_after(0);
    }

    fn tick_after(&mut self, overdue_ns: u64) {
        let deadline_ns = self
            .sampler
            .ticker
            .as_ref()
            .map(Ticker::deadline_ns)
            .unwrap();
        assert_eq!(self.sampler.tick(deadline_ns + overdue_ns), Flow::Continue);
    }

    fn stop(&mut self, id: u64) -> Profile {
        let (reply, answer) = bounded(1);
        self.sampler.handle(Control::Stop(RecordingId(id), reply));
        *answer.try_recv().unwrap()
    }
}

fn thread(id: u64, cpu_ns: u64, stack: &[&'static str]) -> ScriptedThread {
    ScriptedThread {
        id,
        name: if id == 1 { "main" } else { "worker" },
        cpu_ns,
        state: ThreadState::Unknown,
        on_cpu: true,
        early_cpu_ns: 0,
        stack: stack.to_vec(),
    }
}

/// The same for an engine that can tell what the thread does.
fn doing(state: ThreadState, cpu_ns: u64, stack: &[&'static str]) -> ScriptedThread {
    ScriptedThread {
        state,
        ..thread(1, cpu_ns, stack)
    }
}

#[test]
fn cpu_time_is_not_charged_to_a_wait() {
    use ThreadState::{Blocked, HoldsGil};
    let mut rig = rig([
        (100 * MS, vec![doing(HoldsGil, 0, &["compute"])]),
        (110 * MS, vec![doing(HoldsGil, 10 * MS, &["compute"])]),
        // Went to sleep after 3 ms: they are kept for the next sight of it.
        (120 * MS, vec![doing(Blocked, 13 * MS, &["sleep"])]),
        // Woke, computed unseen for 2 ms, slept again.
        (130 * MS, vec![doing(Blocked, 15 * MS, &["sleep"])]),
        (140 * MS, vec![doing(HoldsGil, 19 * MS, &["other"])]),
        (150 * MS, vec![doing(Blocked, 19 * MS, &["sleep"])]),
        // The last burst is seen by nobody, and counted all the same: in parts, as the looks that
        // have found it computing were paid.
        (160 * MS, vec![doing(Blocked, 20 * MS, &["sleep"])]),
    ]);
    rig.start(1, config());
    for _ in 0..6 {
        rig.tick();
    }
    let profile = rig.stop(1);
    assert_eq!(
        collapsed(&profile, CPU, true).unwrap(),
        "main;compute 10526315\nmain;other 9473685\n"
    );
}

#[test]
fn what_has_gathered_is_not_given_to_whatever_is_seen_next() {
    use ThreadState::{Blocked, HoldsGil, Running};
    let computing = (0..16).map(|tick| (HoldsGil, tick * 10, "compute"));
    // Where others want the CPUs too, it may be looked at only while it does not run.
    let waiting = (16..36).map(|tick| (Blocked, tick * 10, "wait"));
    let waking = [(Running, 360, "wait")];
    let looks = computing.chain(waiting).chain(waking);
    let mut rig = rig(looks.map(|(state, cpu_ms, name)| {
        let at_ns = (100 + cpu_ms) * MS;
        (at_ns, vec![doing(state, cpu_ms * MS, &[name])])
    }));
    rig.start(1, config());
    for _ in 0..36 {
        rig.tick();
    }
    let profile = rig.stop(1);
    let gathered = 200 * MS;
    // The last look and its part of what it was not paid.
    let waking = 10 * MS + gathered / 16;
    assert_eq!(
        collapsed(&profile, CPU, true).unwrap(),
        format!("main;compute {}\nmain;wait {waking}\n", 360 * MS - waking)
    );
}

#[test]
fn cpu_time_of_a_rest_goes_to_where_the_thread_rested() {
    use ThreadState::{Blocked, HoldsGil};
    let early = |cpu| ScriptedThread {
        early_cpu_ns: 25 * MS,
        ..doing(HoldsGil, cpu * MS, &["python"])
    };
    let mut rig = rig([
        (100 * MS, vec![doing(Blocked, 0, &["write"])]),
        // It computed in C for three ticks while its clock was not read.
        (110 * MS, vec![doing(Blocked, 0, &["write"])]),
        (120 * MS, vec![doing(Blocked, 0, &["write"])]),
        (130 * MS, vec![doing(Blocked, 0, &["write"])]),
        (140 * MS, vec![early(33)]),
        // The number counts once.
        (150 * MS, vec![early(43)]),
        (160 * MS, vec![early(53)]),
    ]);
    rig.start(1, config());
    let slow = RecordingConfig {
        period_ns: 20 * MS,
        ..config()
    };
    rig.start(2, slow);
    for _ in 0..6 {
        rig.tick();
    }
    let profile = rig.stop(1);
    for profile in [&profile, &rig.stop(2)] {
        assert_eq!(
            collapsed(profile, CPU, true).unwrap(),
            format!("main;python {}\nmain;write {}\n", 28 * MS, 25 * MS)
        );
    }
    assert_eq!(
        collapsed(&profile, WALL, true).unwrap(),
        format!("main;python {}\nmain;write {}\n", 30 * MS, 30 * MS)
    );
}

#[test]
fn an_overdue_look_says_nothing_about_cpu_time() {
    let mut rig = rig([
        (
            100 * MS,
            vec![doing(ThreadState::HoldsGil, 0, &["compute"])],
        ),
        // The kernel has ended its turn where it asked for something.
        (
            110 * MS,
            vec![doing(ThreadState::HoldsGil, 10 * MS, &["ask"])],
        ),
        (
            120 * MS,
            vec![doing(ThreadState::HoldsGil, 20 * MS, &["compute"])],
        ),
    ]);
    rig.start(1, config());
    rig.tick_after(MS);
    rig.tick();
    let profile = rig.stop(1);
    assert_eq!(
        collapsed(&profile, CPU, true).unwrap(),
        format!("main;compute {}\n", 20 * MS)
    );
    // Time by the clock passes there all the same.
    assert_eq!(
        collapsed(&profile, WALL, true).unwrap(),
        format!("main;ask {}\nmain;compute {}\n", 10 * MS, 10 * MS)
    );
}

#[test]
fn a_thread_pushed_aside_by_the_sampler_alone_was_computing_there() {
    let aside = |cpu_ns, stack: &[&'static str]| ScriptedThread {
        on_cpu: false,
        ..doing(ThreadState::HoldsGil, cpu_ns, stack)
    };
    let mut rig = rig([
        (
            100 * MS,
            vec![doing(ThreadState::HoldsGil, 0, &["compute"])],
        ),
        // By the sampler, for it has gone on at the next sight of it.
        (110 * MS, vec![aside(10 * MS, &["compute"])]),
        // By others, for it has not: they are kept until it is seen on a CPU.
        (120 * MS, vec![aside(16 * MS, &["ask"])]),
        (130 * MS, vec![aside(16 * MS, &["ask"])]),
        (
            140 * MS,
            vec![doing(ThreadState::HoldsGil, 20 * MS, &["other"])],
        ),
    ]);
    rig.start(1, config());
    for _ in 0..4 {
        rig.tick();
    }
    let profile = rig.stop(1);
    assert_eq!(
        collapsed(&profile, CPU, true).unwrap(),
        format!("main;compute {}\nmain;other {}\n", 10 * MS, 10 * MS)
    );
}

#[test]
fn a_ready_thread_was_computing_unless_it_stands_where_threads_wait() {
    use ThreadState::{Blocked, Ready, Running};
    let mut rig = rig([
        (100 * MS, vec![doing(Running, 0, &["hash"])]),
        // Always pushed aside when it is looked at.
        (110 * MS, vec![doing(Ready, 10 * MS, &["hash"])]),
        (120 * MS, vec![doing(Blocked, 10 * MS, &["sleep"])]),
        // Has computed unseen, and is about to wake.
        (130 * MS, vec![doing(Ready, 16 * MS, &["sleep"])]),
        (140 * MS, vec![doing(Running, 20 * MS, &["hash"])]),
    ]);
    rig.start(1, config());
    for _ in 0..4 {
        rig.tick();
    }
    let profile = rig.stop(1);
    assert_eq!(
        collapsed(&profile, CPU, true).unwrap(),
        format!("main;hash {}\n", 20 * MS)
    );
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
        collapsed(&profile, CPU, true).unwrap(),
        format!("main;main;a {}\nmain;main;b {}\n", 5 * MS, 3 * MS)
    );
    assert_eq!(
        collapsed(&profile, WALL, true).unwrap(),
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
    assert_eq!(
        collapsed(&profile, CPU, true).unwrap(),
        format!("worker;w {}\n", 14 * MS)
    );
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
    let counters = rig.health.counters();
    let merged = counters.iter().find(|(name, _)| *name == "merged_windows");
    assert!(merged.unwrap().1 > 0);
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
    assert!(
        profile
            .meta
            .comments
            .iter()
            .any(|line| line.contains("stood still"))
    );
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
        collapsed(&profile, CPU, true).unwrap(),
        format!("main;a {}\nmain;c {}\n", 5 * MS, 3 * MS)
    );
}

/// The baseline, 51 ticks in which nothing happens, and one after each of `spans`, in ticks: then
/// the first thread's clock shows what is said, in ms.
fn a_rest(spans: &[(u64, u64)]) -> Rig {
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

fn by_thread(profile: &Profile, value: usize) -> String {
    collapsed(profile, value, true).unwrap().replace('\n', " ")
}

impl Rig {
    fn counter(&self, name: &str) -> u64 {
        let counters = self.health.counters();
        counters.iter().find(|(known, _)| *known == name).unwrap().1
    }
}

#[test]
fn ticks_at_which_nothing_can_have_happened_are_credited_unserved() {
    let mut rig = a_rest(&[(4, 0), (4, 0)]);
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
fn whoever_moved_in_a_rest_is_not_said_to_have_stood_still() {
    let mut rig = a_rest(&[(4, 7), (1, 17)]);
    rig.tick();
    assert_eq!((rig.counter("idle_ticks"), rig.counter("late")), (0, 3));
    // From now on every tick is served.
    let deadline_ns = rig.sampler.ticker.as_ref().unwrap().deadline_ns();
    assert!(deadline_ns < 570 * MS, "{deadline_ns}");
    rig.tick();
    let profile = rig.stop(1);
    assert_eq!(by_thread(&profile, SAMPLES), "main;a 53 worker;b 56 ");
    let wall_ns = 560 * MS;
    assert_eq!(
        by_thread(&profile, WALL),
        format!("main;a {wall_ns} worker;b {wall_ns} ")
    );
    assert_eq!(by_thread(&profile, CPU), format!("main;a {} ", 17 * MS));
}

#[test]
fn what_a_rest_has_left_out_is_told_whoever_ends_it() {
    // Two of three ticks have passed when somebody asks for another recording, or for its end.
    for is_idle in [true, false] {
        let cpu_ms = if is_idle { 0 } else { 5 };
        let mut rig = a_rest(&[]);
        let now_ns = 535 * MS;
        rig.sampler.engine = Box::new(Scripted::at(
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
        let deadline_ns = rig.sampler.ticker.as_ref().unwrap().deadline_ns();
        assert!(deadline_ns < now_ns + 10 * MS);
        let profile = rig.stop(1);
        let told = if is_idle {
            "idle ticks: 2"
        } else {
            "late ticks: 2"
        };
        let comments = &profile.meta.comments;
        assert!(
            comments.iter().any(|line| line.starts_with(told)),
            "{comments:?}"
        );
        assert!(by_thread(&profile, SAMPLES).ends_with("worker;b 53 "));
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
    let deadline_ns = rig.sampler.ticker.as_ref().unwrap().deadline_ns();
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
        start_message(1, config()),
        start_message(2, config()),
        Control::Stop(RecordingId(1), reply),
    ] {
        rig.control.send(message).unwrap();
    }
    assert_eq!(rig.sampler.answer_call(), Flow::Continue);
    let profile = answer.try_recv().unwrap();
    assert_eq!(
        collapsed(&profile, WALL, true).unwrap(),
        format!("main;stop {}\n", 35 * MS)
    );
    assert!(profile.meta.comments.contains(&"late ticks: 2".to_owned()));
}

#[test]
fn a_missed_snapshot_is_counted() {
    let mut rig = rig([(100 * MS, vec![thread(1, 0, &["a"])])]);
    rig.start(1, config());
    rig.tick();
    let counters = rig.health.counters();
    assert!(counters.contains(&("skipped", 1)));
    assert_eq!(rig.stop(1).totals()[CPU], 0);
}
