#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{Recording, Unserved};
use crate::capture::Engine;
use crate::capture::scripted::{Scripted, ScriptedThread, ScriptedTick};
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::model::snapshot::{Snapshot, ThreadState};
use crate::report::collapsed::collapsed;
use crate::session::config::{RecordingConfig, Requests, ThreadFilter};
use crate::session::control::RecordingId;

const MS: u64 = 1_000_000;
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
                id,
                name: "named",
                cpu_ns: 0,
                state: ThreadState::Blocked,
                on_cpu: true,
                early_cpu_ns: 0,
                stack: vec!["main"],
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

fn recording() -> Recording {
    let config = RecordingConfig {
        period_ns: 10 * MS,
        max_overhead: 0.0,
        limits: Limits::default(),
        threads: ThreadFilter::All,
        window_ns: None,
        program: "script".to_owned(),
        requests: Requests::default(),
        ring: None,
    };
    Recording::new(RecordingId(1), config, true, 0, 0)
}

fn text(profile: &Profile) -> Vec<String> {
    let types = 0..profile.sample_types.len();
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
        let mut snapshot = Snapshot::default();
        let (mut lazy, mut eager, mut idle) = (recording(), recording(), recording());
        let (none, mut left_out) = (Unserved::default(), 0);
        for (at, event) in events.iter().enumerate() {
            prop_assert!(engine.snapshot(&mut snapshot).is_ok());
            let now_ns = snapshot.at_ns;
            let mut folded = Vec::new();
            if let (Event::Nothing, Some(Event::Nothing)) = (event, events.get(at + 1))
                && idle.last_observed_ns.is_some()
                && left_out < 3
            {
                left_out += 1;
            } else {
                let unserved = Unserved { ticks: std::mem::take(&mut left_out), is_idle: true };
                match event {
                    Event::PausesForATick => {
                        idle.settle(&snapshot, now_ns, none);
                        idle.pause();
                        idle.resume(now_ns);
                    }
                    Event::SettlesAndEndsWindow => idle.settle(&snapshot, now_ns, none),
                    _ => idle.observe(&snapshot, now_ns, unserved),
                }
                if matches!(event, Event::WindowEnds | Event::SettlesAndEndsWindow) {
                    folded.push(text(&idle.take_window(now_ns, 0, "scripted").0));
                }
            }
            for (recording, is_eager) in [(&mut lazy, false), (&mut eager, true)] {
                if is_eager {
                    recording.threads_version = None;
                }
                let mut take = |recording: &mut Recording| {
                    folded.push(text(&recording.take_window(now_ns, 0, "scripted").0));
                };
                match event {
                    Event::PausesForATick => {
                        recording.settle(&snapshot, now_ns, none);
                        recording.pause();
                        recording.resume(now_ns);
                    }
                    Event::SettlesAndEndsWindow => {
                        recording.settle(&snapshot, now_ns, none);
                        take(recording);
                    }
                    Event::WindowEnds => {
                        recording.observe(&snapshot, now_ns, none);
                        take(recording);
                    }
                    _ => recording.observe(&snapshot, now_ns, none),
                }
            }
            prop_assert!(folded.windows(2).all(|two| two[0] == two[1]), "{:?}", folded);
        }
        for recording in [&mut lazy, &mut eager, &mut idle] {
            recording.settle(&snapshot, snapshot.at_ns + MS, none);
        }
        let (lazy, _) = lazy.take_window(snapshot.at_ns + MS, 0, "scripted");
        let (eager, _) = eager.take_window(snapshot.at_ns + MS, 0, "scripted");
        let (idle, _) = idle.take_window(snapshot.at_ns + MS, 0, "scripted");
        prop_assert_eq!(text(&lazy), text(&eager));
        prop_assert_eq!(text(&idle), text(&eager));
    }
}
