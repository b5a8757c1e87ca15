//! What CPU time is charged to.
#![allow(clippy::unwrap_used)]

use super::tests::{CPU, MS, WALL, charged, config, rig, thread};
use crate::capture::scripted::ScriptedThread;
use crate::fold::profile::Profile;
use crate::model::snapshot::ThreadState;
use crate::session::config::RecordingConfig;

/// The same for an engine that can tell what the thread does.
fn doing(state: ThreadState, cpu_ns: u64, stack: &[&'static str]) -> ScriptedThread {
    ScriptedThread {
        state,
        ..thread(1, cpu_ns, stack)
    }
}

/// What is recorded of a thread that is found like this at these times, in ms.
fn recorded(looks: impl IntoIterator<Item = (u64, ScriptedThread)>) -> Profile {
    let looks = looks.into_iter();
    let ticks: Vec<_> = looks
        .map(|(at_ms, thread)| (at_ms * MS, vec![thread]))
        .collect();
    let count = ticks.len();
    let mut rig = rig(ticks);
    rig.start(1, config());
    for _ in 1..count {
        rig.tick();
    }
    rig.stop(1)
}

#[test]
fn cpu_time_is_not_charged_to_a_wait() {
    use ThreadState::{Blocked, HoldsGil};
    let profile = recorded([
        (100, doing(HoldsGil, 0, &["compute"])),
        (110, doing(HoldsGil, 10 * MS, &["compute"])),
        // Went to sleep after 3 ms: they are kept for the next sight of it.
        (120, doing(Blocked, 13 * MS, &["sleep"])),
        // Woke, computed unseen for 2 ms, slept again.
        (130, doing(Blocked, 15 * MS, &["sleep"])),
        (140, doing(HoldsGil, 19 * MS, &["other"])),
        (150, doing(Blocked, 19 * MS, &["sleep"])),
        // The last burst is seen by nobody, and counted all the same: in parts, as the looks that
        // have found it computing were paid.
        (160, doing(Blocked, 20 * MS, &["sleep"])),
    ]);
    assert_eq!(
        charged(&profile, CPU),
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
    let profile = recorded(
        looks.map(|(state, cpu_ms, name)| (100 + cpu_ms, doing(state, cpu_ms * MS, &[name]))),
    );
    let gathered = 200 * MS;
    // The last look and its part of what it was not paid.
    let waking = 10 * MS + gathered / 16;
    assert_eq!(
        charged(&profile, CPU),
        format!("main;compute {}\nmain;wait {waking}\n", 360 * MS - waking)
    );
}

#[test]
fn cpu_time_of_a_thread_left_alone_goes_to_where_it_waited() {
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
            charged(profile, CPU),
            format!("main;python {}\nmain;write {}\n", 28 * MS, 25 * MS)
        );
    }
    assert_eq!(
        charged(&profile, WALL),
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
        charged(&profile, CPU),
        format!("main;compute {}\n", 20 * MS)
    );
    // Time by the clock passes there all the same.
    assert_eq!(
        charged(&profile, WALL),
        format!("main;ask {}\nmain;compute {}\n", 10 * MS, 10 * MS)
    );
}

#[test]
fn a_thread_pushed_aside_by_the_sampler_alone_was_computing_there() {
    let aside = |cpu_ns, stack: &[&'static str]| ScriptedThread {
        on_cpu: false,
        ..doing(ThreadState::HoldsGil, cpu_ns, stack)
    };
    let profile = recorded([
        (100, doing(ThreadState::HoldsGil, 0, &["compute"])),
        // By the sampler, for it has gone on at the next sight of it.
        (110, aside(10 * MS, &["compute"])),
        // By others, for it has not: they are kept until it is seen on a CPU.
        (120, aside(16 * MS, &["ask"])),
        (130, aside(16 * MS, &["ask"])),
        (140, doing(ThreadState::HoldsGil, 20 * MS, &["other"])),
    ]);
    assert_eq!(
        charged(&profile, CPU),
        format!("main;compute {}\nmain;other {}\n", 10 * MS, 10 * MS)
    );
}

#[test]
fn a_ready_thread_was_computing_unless_it_stands_where_threads_wait() {
    use ThreadState::{Blocked, Ready, Running};
    let profile = recorded([
        (100, doing(Running, 0, &["hash"])),
        // Always pushed aside when it is looked at.
        (110, doing(Ready, 10 * MS, &["hash"])),
        (120, doing(Blocked, 10 * MS, &["sleep"])),
        // Has computed unseen, and is about to wake.
        (130, doing(Ready, 16 * MS, &["sleep"])),
        (140, doing(Running, 20 * MS, &["hash"])),
    ]);
    assert_eq!(charged(&profile, CPU), format!("main;hash {}\n", 20 * MS));
}
