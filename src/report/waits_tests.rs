use std::sync::Arc;

use super::{MAX_PARTIES, Wait, text, waits};
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::{Limits, Window};
use crate::model::function::{Function, UNKNOWN_HOLDER};
use crate::model::label::{Label, LabelSet, LabelValue, thread_labels};
use crate::model::measure::{MeasureId, MeasureSet};
use crate::report::roots::rooted;

const MEASURES: MeasureSet = MeasureSet::of(&[
    MeasureId::Wall,
    MeasureId::GilWait,
    MeasureId::GilBlame,
    MeasureId::CpuWait,
    MeasureId::LockWait,
    MeasureId::LockBlame,
]);

fn labels(pairs: &[(&str, &str)]) -> LabelSet {
    let mut set = thread_labels(1, "x");
    set.extend(pairs.iter().map(|(key, value)| Label {
        key: Arc::from(*key),
        value: LabelValue::Text(Arc::from(*value)),
    }));
    set
}

/// Adds a stack, outermost first: names in `lib` are a library's, those in angle brackets nobody's.
fn add(window: &mut Window, path: &[&str], line: u32, pairs: &[(&str, &str)], values: &[i64]) {
    let functions = path.iter().map(|name| match *name {
        name if name.starts_with("lib") => Function::new(name, "/usr/lib/python3.13/queue.py", 1),
        name if name.starts_with('<') => Function::pseudo(name),
        name => Function::new(name, "/srv/app.py", 1),
    });
    let functions: Vec<Function> = functions.collect();
    let frames = functions.iter().map(|function| (function, line));
    window.add_path(frames, &labels(pairs), values);
}

/// Waits for the GIL, for two locks, a CPU and the network.
fn profile() -> Profile {
    let mut window = Window::new(Limits::default(), MEASURES);
    let w = &mut window;
    let pool = ("lock", "Lock Pool._lock");
    add(w, &["main", "sort"], 3, &[], &[50, 0, 30, 4, 0, 0]);
    add(
        w,
        &["main", "io"],
        9,
        &[("off", "gil")],
        &[30, 30, 0, 0, 0, 0],
    );
    add(
        w,
        &["main", "use", "lib.get"],
        5,
        &[pool, ("off", "lock")],
        &[60, 0, 0, 0, 60, 0],
    );
    add(
        w,
        &["main", "hold", "lib.sleep"],
        7,
        &[pool],
        &[0, 0, 0, 0, 0, 45],
    );
    add(w, &["main", "hold"], 8, &[pool], &[0, 0, 0, 0, 0, 5]);
    add(w, &[UNKNOWN_HOLDER], 0, &[pool], &[0, 0, 0, 0, 0, 10]);
    add(
        w,
        &["main", "other"],
        2,
        &[("lock", "RLock log")],
        &[0, 0, 0, 0, 5, 5],
    );
    add(
        w,
        &["main", "read"],
        4,
        &[("off", "network")],
        &[200, 0, 0, 0, 0, 0],
    );
    window.finish(ProfileMeta::default())
}

fn told(wait: &Wait) -> (&str, &str, &str, i64) {
    (wait.reason, &wait.lock, wait.measure, wait.waited_ns)
}

#[test]
fn who_makes_others_wait_comes_first() {
    let found = waits(&profile()).unwrap_or_default();
    let told: Vec<_> = found.iter().map(told).collect();
    assert_eq!(
        told,
        [
            ("lock", "Lock Pool._lock", "lock_wait", 60),
            ("gil", "", "gil_wait", 30),
            ("lock", "RLock log", "lock_wait", 5),
            ("network", "", "wall", 200),
            ("cpu-queue", "", "cpu_wait", 4),
        ]
    );
    let parties = |parties: &[super::Party]| -> Vec<(String, u32, i64)> {
        let parties = parties.iter();
        parties
            .map(|party| (party.function.to_string(), party.line, party.value))
            .collect()
    };
    // The library's function is told as the user's that called it; the line is the heaviest.
    let pool = &found[0];
    let (hold, unknown) = ("hold".to_owned(), UNKNOWN_HOLDER.to_owned());
    assert_eq!(parties(&pool.culprits), [(hold, 7, 50), (unknown, 0, 10)]);
    assert_eq!(parties(&pool.waiters), [("use".to_owned(), 5, 60)]);
    assert_eq!(parties(&found[1].culprits), [("sort".to_owned(), 3, 30)]);
    assert_eq!(parties(&found[1].waiters), [("io".to_owned(), 9, 30)]);
    assert!(found[3].culprits.is_empty());
    let text = text(&found);
    assert!(
        text.starts_with("lock Lock Pool._lock: 60 ns (lock_wait)\n  caused by\n"),
        "{text}"
    );
    assert!(text.contains("50 ns  83.3%  hold  app.py:7\n"), "{text}");
}

#[test]
fn what_was_not_measured_is_told_by_the_samples() {
    let old = [
        MeasureId::GilWait,
        MeasureId::GilBlame,
        MeasureId::CpuWait,
        MeasureId::LockWait,
        MeasureId::LockBlame,
    ];
    let profile = old.into_iter().fold(profile(), Profile::without);
    let found = waits(&profile).unwrap_or_default();
    let told: Vec<_> = found.iter().map(told).collect();
    let expected = [
        ("network", "", "wall", 200),
        ("lock", "", "wall", 60),
        ("gil", "", "wall", 30),
    ];
    assert_eq!(told, expected);
    let none = Window::new(Limits::default(), MEASURES).finish(ProfileMeta::default());
    assert_eq!(waits(&none).map(|found| found.len()).ok(), Some(0));
    assert!(text(&[]).starts_with("no waits"));
}

#[test]
fn lists_end_and_differences_are_refused() {
    let mut window = Window::new(Limits::default(), MeasureSet::of(&[MeasureId::Wall]));
    for number in 0..50 {
        let name = format!("f{number}");
        add(&mut window, &[&name], 1, &[("off", "sleep")], &[1 + number]);
    }
    let found = waits(&window.finish(ProfileMeta::default())).unwrap_or_default();
    assert_eq!(
        (found[0].waiters.len(), found[0].waited_ns),
        (MAX_PARTIES, 1275)
    );
    let mut window = Window::new(Limits::default(), MeasureSet::of(&[MeasureId::Wall]));
    add(&mut window, &["f"], 1, &[("off", "sleep")], &[-1]);
    assert!(waits(&window.finish(ProfileMeta::default())).is_err());
}

#[test]
fn a_label_becomes_the_root_of_its_stacks() {
    let before = profile();
    let after = rooted(&before, "lock");
    assert_eq!(before.totals(), after.totals());
    let path = |profile: &Profile, at: usize| -> Vec<String> {
        let nodes = profile.tree.path(profile.samples[at].node);
        let names = nodes.map(|node| {
            let place = profile.tree.location(node);
            profile.symbols.function_of(place).name.to_string()
        });
        names.collect()
    };
    assert_eq!(path(&after, 0), path(&before, 0));
    assert_eq!(
        path(&after, 2),
        ["lib.get", "use", "main", "Lock Pool._lock"]
    );
    assert_eq!(
        path(&rooted(&before, "thread name"), 0),
        ["sort", "main", "x"]
    );
}
