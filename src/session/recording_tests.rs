#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use super::Recording;
use crate::account::{Tick, TicksLeftOut};
use crate::capture::Engine;
use crate::capture::scripted::{Scripted, ScriptedThread, ScriptedTick};
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::model::label::{ActiveLabels, LabelSetId};
use crate::model::measure::{MeasureId, MeasureSet};
use crate::model::snapshot::{CpuSpan, Snapshot, SpanEnd, ThreadState};
use crate::report::collapsed::collapsed;
use crate::session::config::RecordingConfig;
use crate::session::control::RecordingId;
use crate::session::tests::MS;

const STATES: [ThreadState; 6] = [
    ThreadState::Unknown,
    ThreadState::Running,
    ThreadState::Ready,
    ThreadState::HoldsGil,
    ThreadState::WaitsForGil,
    ThreadState::Blocked,
];

/// What happens between two ticks.
#[derive(Clone, Debug)]
enum Event {
    Nothing,
    Moves {
        thread: usize,
        cpu_ns: u64,
        state: ThreadState,
        on_cpu: bool,
        stack: Vec<&'static str>,
    },
    EndsOrBegins(usize),
    IsRenamed(usize),
    WindowEnds,
    SettlesAndEndsWindow,
    PausesForATick,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let stack = prop_oneof![
        Just(vec!["work", "main"]),
        Just(vec!["wait", "main"]),
        Just(vec!["main"]),
    ];
    let moves = (
        0..4_usize,
        0..12 * MS,
        prop::sample::select(&STATES[..]),
        any::<bool>(),
        stack,
    );
    let event = prop_oneof![
        6 => Just(Event::Nothing),
        6 => moves.prop_map(|(thread, cpu_ns, state, on_cpu, stack)| Event::Moves {
            thread, cpu_ns, state, on_cpu, stack
        }),
        1 => (0..4_usize).prop_map(Event::EndsOrBegins),
        1 => (0..4_usize).prop_map(Event::IsRenamed),
        1 => Just(Event::WindowEnds),
        1 => Just(Event::SettlesAndEndsWindow),
        1 => Just(Event::PausesForATick),
    ];
    prop::collection::vec(event, 1..60)
}

fn script(events: &[Event]) -> Vec<ScriptedTick> {
    let mut threads: Vec<(bool, ScriptedThread)> = (0..4)
        .map(|id| {
            let thread = ScriptedThread {
                state: ThreadState::Blocked,
                ..ScriptedThread::new(id, "named", &["main"])
            };
            (id < 2, thread)
        })
        .collect();
    let mut ticks = Vec::new();
    for (number, event) in (1..).zip(events) {
        match event {
            Event::Moves {
                thread,
                cpu_ns,
                state,
                on_cpu,
                stack,
            } => {
                let (_, thread) = &mut threads[*thread];
                thread.cpu_ns += cpu_ns;
                thread.state = *state;
                thread.on_cpu = *on_cpu;
                thread.stack.clone_from(stack);
            }
            Event::EndsOrBegins(thread) => threads[*thread].0 ^= true,
            Event::IsRenamed(thread) => threads[*thread].1.name = "renamed",
            _ => {}
        }
        let alive = threads.iter().filter(|(is_alive, _)| *is_alive);
        ticks.push((number * 10 * MS, alive.map(|(_, t)| t.clone()).collect()));
    }
    ticks
}

fn config() -> RecordingConfig {
    RecordingConfig::of_all("script", 10 * MS)
}

fn recording(config: RecordingConfig) -> Recording {
    Recording::new(RecordingId(1), config, MeasureSet::WITH_GIL, 0, 0)
}

fn tick(snapshot: &Snapshot) -> Tick {
    Tick {
        at_ns: snapshot.at_ns,
        wall_ns: snapshot.at_ns,
        count: 1,
        ..Tick::default()
    }
}

fn settled(snapshot: &Snapshot, wall_ns: u64) -> Tick {
    Tick {
        at_ns: snapshot.at_ns,
        wall_ns,
        ..Tick::default()
    }
}

/// One thread that is found in `stack` at each tick, and has told of spans before it.
type LabelledTick = (
    u64,
    ThreadState,
    &'static str,
    Option<u64>,
    Vec<(Option<u64>, u64, SpanEnd)>,
);

fn route(request: u64) -> Arc<ActiveLabels> {
    let set = vec![crate::model::label::Label {
        key: Arc::from("route"),
        value: crate::model::label::LabelValue::Text(Arc::from("/x")),
    }];
    Arc::new(ActiveLabels {
        serial: request,
        request,
        captures: 0,
        set: Arc::new(set),
    })
}

/// CPU time by stack and request, in ms, of a thread as it was found at these ticks, 10 ms apart.
fn labelled(config: RecordingConfig, ticks: &[LabelledTick]) -> Vec<String> {
    looked_at(config, ticks, true)
}

/// The same; not `on_cpu`: the sampler has pushed the thread aside at each tick.
fn looked_at(config: RecordingConfig, ticks: &[LabelledTick], on_cpu: bool) -> Vec<String> {
    let script = ticks
        .iter()
        .enumerate()
        .map(|(at, (cpu_ms, state, function, ..))| {
            let thread = ScriptedThread {
                cpu_ns: cpu_ms * MS,
                state: *state,
                on_cpu,
                ..ScriptedThread::new(1, "worker", &[*function])
            };
            let is_born = !function.is_empty();
            (
                (at as u64 + 1) * 10 * MS,
                Vec::from_iter(is_born.then_some(thread)),
            )
        });
    let mut engine = Scripted::new(script);
    let mut recording = recording(config);
    let mut done_ms = 0;
    for (.., request, spans) in ticks {
        assert!(engine.look().is_ok());
        let snapshot = engine.snapshot_mut();
        if snapshot.threads.is_empty() {
            recording.observe(snapshot, &tick(snapshot));
            continue;
        }
        let labels = request.map(route);
        let is_known = spans
            .last()
            .is_some_and(|(_, _, end)| *end == SpanEnd::Open);
        snapshot.set_labels(0, labels);
        for &(request, cpu_ms, end) in spans {
            let thread = &mut snapshot.threads[0];
            thread.span = Some(if is_known {
                SpanEnd::Open
            } else {
                SpanEnd::Mixed
            });
            let span = CpuSpan {
                key: thread.key,
                thread_id: thread.thread_id,
                name: thread.name.clone(),
                labels: request.map(route),
                from_ns: done_ms * MS,
                to_ns: (done_ms + cpu_ms) * MS,
                end,
            };
            done_ms += cpu_ms;
            snapshot.spans.push(span);
        }
        snapshot.find_requests(0);
        recording.note(snapshot);
        recording.observe(snapshot, &tick(snapshot));
        snapshot.spans.clear();
    }
    let (profile, _) = recording.take_window(engine.snapshot().at_ns, 0, "scripted");
    let mut found = Vec::new();
    for (sample, values) in profile.rows().filter(|(_, values)| values[2] != 0) {
        let labels = &profile.label_sets[sample.labels.0 as usize];
        let of = |key: &str| labels.iter().find(|label| &*label.key == key);
        let location = profile.tree.location(sample.node).0 as usize;
        let function = profile.symbols.locations[location].function.0 as usize;
        let route = of("route").map_or("", |_| " /x");
        let number = of("request number").map_or(String::new(), |label| match label.value {
            crate::model::label::LabelValue::Number(number, _) => format!(" {number}"),
            crate::model::label::LabelValue::Text(_) => String::new(),
        });
        let name = &profile.symbols.functions[function].name;
        found.push(format!(
            "{name}{route}{number} {}",
            values[2] as f64 / MS as f64
        ));
    }
    found.sort();
    found
}

fn text(profile: &Profile) -> Vec<String> {
    let types = 0..profile.columns.len();
    types
        .map(|at| collapsed(profile, at, true).unwrap())
        .collect()
}

proptest! {
    /// Threads at which nothing changes are left out and caught up with, and so are up to three
    /// ticks; nobody can tell.
    #[test]
    fn what_is_left_out_is_credited_all_the_same(events in events()) {
        let mut engine = Scripted::new(script(&events));
        let [mut lazy, mut eager, mut idle] = [config(), config(), config()].map(recording);
        let mut left_out = 0;
        for (at, event) in events.iter().enumerate() {
            prop_assert!(engine.look().is_ok());
            let snapshot = engine.snapshot();
            let now_ns = snapshot.at_ns;
            let mut folded = Vec::new();
            if let (Event::Nothing, Some(Event::Nothing)) = (event, events.get(at + 1))
                && idle.ledgers.has_observed()
                && left_out < 3
            {
                left_out += 1;
            } else {
                let before = TicksLeftOut { ticks: std::mem::take(&mut left_out), is_idle: true };
                match event {
                    Event::PausesForATick => {
                        idle.settle(snapshot, &settled(snapshot, now_ns));
                        idle.pause();
                        idle.resume(now_ns);
                    }
                    Event::SettlesAndEndsWindow => idle.settle(snapshot, &settled(snapshot, now_ns)),
                    _ => idle.observe(snapshot, &Tick { left_out: before, ..tick(snapshot) }),
                }
                if matches!(event, Event::WindowEnds | Event::SettlesAndEndsWindow) {
                    folded.push(text(&idle.take_window(now_ns, 0, "scripted").0));
                }
            }
            for (recording, is_eager) in [(&mut lazy, false), (&mut eager, true)] {
                if is_eager {
                    recording.ledgers.look_at_all();
                }
                let mut take = |recording: &mut Recording| {
                    folded.push(text(&recording.take_window(now_ns, 0, "scripted").0));
                };
                match event {
                    Event::PausesForATick => {
                        recording.settle(snapshot, &settled(snapshot, now_ns));
                        recording.pause();
                        recording.resume(now_ns);
                    }
                    Event::SettlesAndEndsWindow => {
                        recording.settle(snapshot, &settled(snapshot, now_ns));
                        take(recording);
                    }
                    Event::WindowEnds => {
                        recording.observe(snapshot, &tick(snapshot));
                        take(recording);
                    }
                    _ => recording.observe(snapshot, &tick(snapshot)),
                }
            }
            prop_assert!(folded.windows(2).all(|two| two[0] == two[1]), "{:?}", folded);
        }
        let snapshot = engine.snapshot();
        for recording in [&mut lazy, &mut eager, &mut idle] {
            recording.settle(snapshot, &settled(snapshot, snapshot.at_ns + MS));
        }
        let (lazy, _) = lazy.take_window(snapshot.at_ns + MS, 0, "scripted");
        let (eager, _) = eager.take_window(snapshot.at_ns + MS, 0, "scripted");
        let (idle, _) = idle.take_window(snapshot.at_ns + MS, 0, "scripted");
        prop_assert_eq!(text(&lazy), text(&eager));
        prop_assert_eq!(text(&idle), text(&eager));
    }
}

use SpanEnd::{Exact, Mixed, Open};
use ThreadState::{Blocked, HoldsGil};

#[test]
fn bursts_that_no_look_has_found_go_to_where_the_others_were_found() {
    let mut ticks: Vec<LabelledTick> = vec![(0, Blocked, "sleep", None, vec![(None, 0, Open)])];
    for burst in 1..=6 {
        let spans = vec![(None, 0, Exact), (Some(burst), 3, Exact), (None, 0, Open)];
        ticks.push((3 * burst, Blocked, "sleep", None, spans));
    }
    // Found once, after 2 of its 3 ms.
    ticks.push((
        20,
        HoldsGil,
        "burn",
        Some(7),
        vec![(None, 0, Exact), (Some(7), 2, Open)],
    ));
    ticks.push((
        21,
        Blocked,
        "sleep",
        None,
        vec![(Some(7), 1, Exact), (None, 0, Open)],
    ));
    assert_eq!(labelled(config(), &ticks), ["burn /x 21"]);
    // And if none is found, to their labels: the sleep has not spent it.
    let none = &ticks[..7];
    assert_eq!(labelled(config(), none), ["<not sampled> /x 18"]);
}

#[test]
fn what_is_spent_without_labels_is_not_theirs_where_a_thread_is_first_seen_under_them() {
    let ticks: Vec<LabelledTick> = vec![
        (
            0,
            HoldsGil,
            "burn",
            Some(1),
            vec![(None, 0, Exact), (Some(1), 0, Open)],
        ),
        (
            5,
            Blocked,
            "sleep",
            None,
            vec![(Some(1), 2, Exact), (None, 3, Open)],
        ),
    ];
    assert_eq!(
        labelled(config(), &ticks),
        ["<not sampled> /x 2", "sleep 3"]
    );
}

#[test]
fn a_thread_that_lives_for_one_request_has_spent_the_rest_of_its_life_without_it() {
    let life = vec![(None, 3, Exact), (Some(1), 4, Open)];
    let unborn = (0, HoldsGil, "", None, Vec::new());
    let ticks = [unborn, (7, HoldsGil, "burn", Some(1), life)];
    assert_eq!(labelled(config(), &ticks), ["<not sampled> 3", "burn /x 4"]);
}

#[test]
fn requests_that_are_kept_apart_keep_their_sums() {
    let mut config = config();
    config.requests.keep_apart = true;
    let ticks: Vec<LabelledTick> = vec![
        (0, Blocked, "sleep", None, vec![(None, 0, Open)]),
        (
            3,
            Blocked,
            "sleep",
            None,
            vec![(None, 0, Exact), (Some(1), 3, Exact), (None, 0, Open)],
        ),
        (
            8,
            HoldsGil,
            "burn",
            Some(2),
            vec![(None, 0, Exact), (Some(2), 5, Open)],
        ),
        (
            12,
            Blocked,
            "sleep",
            None,
            vec![(Some(2), 4, Exact), (None, 0, Open)],
        ),
    ];
    let found = labelled(config, &ticks);
    assert_eq!(found, ["<not sampled> /x 1 3", "burn /x 2 9"]);
}

#[test]
fn a_stretch_that_turns_out_to_be_mixed_is_told_apart_by_looks() {
    // A task was found once in 2 ms of its own; then others had their turns as well, and were found
    // twice. Of 9 ms in all, each look stands for 3.
    let ticks: Vec<LabelledTick> = vec![
        (0, Blocked, "select", None, vec![(None, 0, Open)]),
        (
            2,
            HoldsGil,
            "handler",
            Some(1),
            vec![(None, 0, Exact), (Some(1), 2, Open)],
        ),
        (6, HoldsGil, "other", None, vec![(Some(1), 4, Mixed)]),
        (9, HoldsGil, "other", None, vec![(Some(1), 3, Mixed)]),
    ];
    let found = labelled(config(), &ticks);
    let sum: f64 = found
        .iter()
        .filter_map(|row| row.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    assert!((sum - 9.0).abs() < 1e-9, "{found:?}");
    assert!(
        found.iter().any(|row| row.starts_with("handler /x ")),
        "{found:?}"
    );
    assert!(
        !found.iter().any(|row| row.starts_with("select")),
        "{found:?}"
    );
}

#[test]
fn whom_the_sampler_pushes_aside_under_labels_was_computing_there() {
    let begins = |spans| (20, HoldsGil, "burn", Some(1), spans);
    let ends = |end| (22, Blocked, "select", None, vec![(Some(1), 2, end)]);
    for end in [Exact, Mixed] {
        let ticks: Vec<LabelledTick> = vec![
            (0, Blocked, "select", None, vec![(None, 0, Open)]),
            (
                10,
                HoldsGil,
                "burn",
                Some(1),
                vec![(None, 0, Exact), (Some(1), 10, Open)],
            ),
            begins(vec![(Some(1), 10, Open)]),
            ends(end),
        ];
        let found = looked_at(config(), &ticks, false);
        assert_eq!(found, ["burn /x 22"], "{end:?}");
    }
    // Its labels were others meanwhile: it was found computing all the same.
    let ticks: Vec<LabelledTick> = vec![
        (0, Blocked, "select", None, vec![(None, 0, Open)]),
        (
            10,
            HoldsGil,
            "burn",
            Some(1),
            vec![(None, 0, Exact), (Some(1), 10, Open)],
        ),
        begins(vec![
            (Some(1), 4, Exact),
            (None, 1, Exact),
            (Some(1), 5, Open),
        ]),
        ends(Mixed),
    ];
    let found = looked_at(config(), &ticks, false);
    assert!(
        found.iter().all(|row| row.starts_with("burn /x ")),
        "{found:?}"
    );
}

#[test]
fn a_thread_without_python_frames_has_a_sample_that_says_so() {
    let mut window = crate::fold::window::Window::new(Limits::default(), MeasureSet::TIMES);
    let node = window.node_of(
        &crate::model::stack::Stack::default(),
        &Snapshot::default().functions,
    );
    window.add(node, LabelSetId(0), &[(MeasureId::Samples, 1)]);
    assert_ne!(node, crate::fold::call_tree::NodeId::ROOT);
}
