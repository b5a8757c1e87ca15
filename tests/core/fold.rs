use std::sync::Arc;

use proptest::prelude::*;
use rprof::fold::charge::Fold;
use rprof::fold::merge::{Merge, merge};
use rprof::fold::profile::{Profile, ProfileMeta};
use rprof::fold::window::{Limits, ThreadLabels, Window};
use rprof::model::facts::main_thread;
use rprof::model::function::{Function, MAX_NAME_BYTES, OTHER, OVERFLOW};
use rprof::model::label::{thread_labels, thread_of};
use rprof::model::measure::{Column, MeasureId, MeasureSet};
use rprof::model::stack::elide;
use rprof::report::collapsed::collapsed;

use crate::support::{any_rows, build, function, meaning, profile, row};

proptest! {
    #[test]
    fn nothing_is_lost_whatever_the_limits(rows in any_rows(), max_nodes in 1..60_usize) {
        let limits = Limits { max_nodes, max_depth: 4 };
        let folded = build(&rows, limits).finish(ProfileMeta::default());
        let mut expected = vec![0_i64; MeasureSet::TIMES.iter().count()];
        for (_, _, values) in &rows {
            for (sum, value) in expected.iter_mut().zip(values) {
                *sum += value;
            }
        }
        prop_assert_eq!(folded.totals(), expected);
        // The root and <overflow> come on top of the limit.
        prop_assert!(folded.tree.len() <= max_nodes + 2);
    }

    #[test]
    fn merging_adds_up(left in any_rows(), right in any_rows()) {
        let (one, two) = (profile(&left), profile(&right));
        let merged = merge(&[&one, &two], Limits::default()).unwrap();
        let both: Vec<_> = left.into_iter().chain(right).collect();
        prop_assert_eq!(meaning(&merged), meaning(&profile(&both)));
    }

    #[test]
    fn an_elided_stack_fits_and_says_what_is_missing(depth in 0..200_000_usize, max in 8..2_000_usize) {
        match elide(depth, max) {
            None => prop_assert!(depth <= max),
            Some(cut) => {
                let kept = depth - cut.omitted;
                prop_assert!(kept <= max && kept >= max / 2 && cut.leaf <= kept);
                prop_assert!(cut.omitted > 0);
            }
        }
    }
}

#[test]
fn new_stacks_beyond_the_limit_overflow_visibly() {
    let rows: Vec<_> = (0..500)
        .map(|number| row(&format!("main;f{number}"), 1, [1, 10, 5]))
        .collect();
    let limits = Limits {
        max_nodes: 100,
        max_depth: 512,
    };
    let window = build(&rows, limits);
    assert!(window.overflowed() >= 400);
    let folded = window.finish(ProfileMeta::default());
    let text = collapsed(&folded, 0, true).unwrap();
    assert!(text.contains(&format!("t1;{OVERFLOW} ")), "{text}");
    assert!(
        !text.contains(&format!("main;{OVERFLOW}")),
        "an invented edge"
    );
}

#[test]
fn threads_beyond_the_limit_share_a_label() {
    let rows: Vec<_> = (0..10_100).map(|id| row("main", id, [1, 1, 1])).collect();
    let folded = build(&rows, Limits::default()).finish(ProfileMeta::default());
    assert!(folded.label_sets.len() <= 10_001);
    let other = folded
        .label_sets
        .iter()
        .position(|labels| thread_of(labels).1 == OTHER);
    assert!(other.is_some());
    assert_eq!(folded.totals()[0], 10_100);
}

/// An event of a thread may come in the look that knows its name first, before the thread's own account.
#[test]
fn what_was_told_under_a_name_before_the_thread_was_called_so_is_added_up() {
    let mut window = Window::new(Limits::default(), MeasureSet::TIMES);
    let thread = |name| ThreadLabels {
        id: 7,
        name,
        active: None,
        class: None,
        with_request: false,
    };
    let task = Some(Arc::from("job"));
    let node = Fold::pseudo(&mut window, "here");
    let unnamed = window.thread(&thread(""));
    for (name, amount) in [("", 5), ("worker", 3)] {
        let labels = window.thread(&thread(name));
        let of_task = window.with_task(labels, task.as_ref());
        window.add(node, of_task, &[(MeasureId::Wall, amount)]);
        window.add(node, labels, &[(MeasureId::Wall, 10 * amount)]);
    }
    let called = window.call_thread(unnamed, "worker");
    assert_eq!(called, window.thread(&thread("worker")));
    let of_task = window.with_task(called, task.as_ref());
    window.add(node, of_task, &[(MeasureId::Wall, 1)]);

    let profile = window.finish(ProfileMeta::default());
    let column = profile.column("wall").unwrap();
    let found: Vec<_> = profile
        .rows()
        .map(|(sample, values)| {
            let labels = &profile.label_sets[sample.labels.0 as usize];
            (
                labels.len(),
                thread_of(labels).1.into_owned(),
                values[column],
            )
        })
        .collect();
    let worker = |labels, wall| (labels, "worker".to_owned(), wall);
    assert_eq!(found, [worker(3, 9), worker(2, 80)]);
}

#[test]
fn generated_names_are_cut_at_a_character() {
    let cut = Function::new(&"é".repeat(5_000), "x", 1);
    assert!(cut.name.len() <= MAX_NAME_BYTES);
    assert!(cut.name.ends_with('…'));
}

/// A profile of one stack that measured these sample types, each with its value.
fn measured(types: &[(&str, &str, i64)], seconds: i64) -> Profile {
    let kinds: Vec<_> = types
        .iter()
        .map(|(name, unit, _)| Column::new(name, unit))
        .collect();
    let values: Vec<i64> = types.iter().map(|(_, _, value)| *value).collect();
    let default = Arc::from(kinds[0].name());
    let mut window = Window::with_columns(Limits::default(), kinds, default);
    let main = function("main");
    window.add_path([(&main, 1)].into_iter(), &thread_labels(1, "t"), &values);
    window.finish(ProfileMeta {
        duration_ns: seconds * 1_000_000_000,
        comments: vec!["rprof 0".to_owned(), main_thread(seconds.unsigned_abs())],
        ..ProfileMeta::default()
    })
}

fn names(profile: &Profile) -> Vec<&str> {
    profile.columns.iter().map(Column::name).collect()
}

const GIL: [(&str, &str, i64); 3] = [
    ("samples", "count", 1),
    ("wall", "nanoseconds", 10),
    ("cpu", "nanoseconds", 5),
];
const DIRECT: [(&str, &str, i64); 5] = [
    ("samples", "count", 2),
    ("wall", "nanoseconds", 20),
    ("cpu", "nanoseconds", 6),
    ("gil", "nanoseconds", 7),
    ("gil_wait", "nanoseconds", 8),
];

#[test]
fn different_sample_types_merge_as_their_union() {
    let (direct, gil) = (measured(&DIRECT, 60), measured(&GIL, 40));
    let heap = measured(&[("inuse_space", "bytes", 9), ("samples", "count", 3)], 1);
    let expected = [
        "rprof 0",
        "main thread: 1",
        "main thread: 40",
        "main thread: 60",
        "wall: not measured in 1 of 4 profiles, 1.000 s of 161.000 s",
        "cpu: not measured in 1 of 4 profiles, 1.000 s of 161.000 s",
        "gil: not measured in 2 of 4 profiles, 41.000 s of 161.000 s",
        "gil_wait: not measured in 2 of 4 profiles, 41.000 s of 161.000 s",
        "inuse_space: not measured in 3 of 4 profiles, 160.000 s of 161.000 s",
    ];
    for order in [
        [&direct, &gil, &heap, &direct],
        [&heap, &direct, &direct, &gil],
        [&gil, &direct, &heap, &direct],
    ] {
        let all = merge(&order, Limits::default()).unwrap();
        assert_eq!(
            names(&all),
            ["samples", "wall", "cpu", "gil", "gil_wait", "inuse_space"]
        );
        assert_eq!(all.totals(), [8, 50, 17, 14, 16, 9]);
        assert_eq!(all.meta.comments, expected);
        assert_eq!(all.default_sample_type, order[0].default_sample_type);
        // In steps, as somebody does who merges days into a week.
        let early = merge(&order[..2], Limits::default()).unwrap();
        let late = merge(&order[2..], Limits::default()).unwrap();
        let both = merge(&[&early, &late], Limits::default()).unwrap();
        assert_eq!(both.totals(), all.totals());
        assert_eq!(both.meta.comments, all.meta.comments);
    }
    // Nothing is missing where all measured the same.
    let same = merge(&[&direct, &direct], Limits::default()).unwrap();
    assert_eq!(same.meta.comments, ["rprof 0", "main thread: 60"]);
}

/// What is in use at the end of each window of a process, and what was allocated in it.
#[test]
fn of_a_level_the_last_window_of_each_process_counts() {
    let at = |seconds: i64, main: u64, alloc: i64, inuse: i64| {
        let mut window = measured(
            &[
                ("alloc_space", "bytes", alloc),
                ("inuse_space", "bytes", inuse),
            ],
            10,
        );
        window.meta.time_ns = seconds * 1_000_000_000;
        window.meta.comments = vec![main_thread(main)];
        window
    };
    let totals = |windows: &[Profile]| {
        let windows: Vec<&Profile> = windows.iter().collect();
        merge(&windows, Limits::default()).unwrap().totals()
    };
    let windows = [at(100, 1, 5, 70), at(110, 1, 6, 30), at(120, 1, 7, 50)];
    assert_eq!(totals(&windows), [18, 50]);
    // In whatever order, and in steps.
    let turned = [&windows[2], &windows[0], &windows[1]].map(Clone::clone);
    assert_eq!(totals(&turned), [18, 50]);
    let early = merge(&[&windows[0], &windows[1]], Limits::default()).unwrap();
    assert_eq!(totals(&[early, windows[2].clone()]), [18, 50]);
    // Another process has memory of its own, and so has one of equal number in another container.
    assert_eq!(totals(&[windows[2].clone(), at(120, 2, 1, 4)]), [8, 54]);
    let other = [at(103, 1, 1, 8), at(113, 1, 1, 4)];
    let both = [&windows[0], &other[0], &windows[1], &other[1], &windows[2]].map(Clone::clone);
    assert_eq!(totals(&both), [20, 54]);
    // A window that does not measure it changes nothing, and one without any of it all.
    let without = measured(&GIL, 10);
    assert_eq!(totals(&[windows[2].clone(), without]), [1, 10, 5, 7, 50]);
    assert_eq!(totals(&[windows[2].clone(), at(130, 1, 0, 0)]), [7, 0]);
    // Windows that are known to follow each other need no clock.
    let mut sequence = Merge::bounded(Limits::default());
    for window in &turned {
        sequence.add(window).unwrap();
    }
    assert_eq!(sequence.finish().unwrap().totals(), [18, 30]);
}

#[test]
fn one_name_of_two_units_does_not_merge() {
    let one = measured(&GIL, 1);
    let mut other = GIL;
    other[1].1 = "milliseconds";
    let message = merge(&[&one, &measured(&other, 1)], Limits::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("wall is in nanoseconds and in milliseconds"),
        "{message}"
    );
}

#[test]
fn equal_sample_types_of_one_file_stay_two() {
    let twice = [("a", "count", 1), ("a", "count", 10), ("b", "count", 100)];
    let (one, two) = (measured(&twice, 1), measured(&twice[..1], 1));
    for order in [[&one, &two], [&two, &one]] {
        let merged = merge(&order, Limits::default()).unwrap();
        assert_eq!(names(&merged), ["a", "a", "b"]);
        assert_eq!(merged.totals(), [2, 10, 100]);
    }
}

#[test]
fn sample_types_of_many_kinds_are_bounded() {
    let all: Vec<String> = (0..40).map(|number| format!("kind{number}")).collect();
    let files: Vec<Profile> = all
        .iter()
        .map(|name| measured(&[(name, "count", 1)], 1))
        .collect();
    let borrowed: Vec<_> = files.iter().collect();
    let message = merge(&borrowed, Limits::default()).unwrap_err().to_string();
    assert!(message.contains("more than 32"), "{message}");
}

#[test]
fn stacks_are_chosen_by_the_functions_in_them() {
    let rows = [
        row("main;serve;checkout;pay", 1, [1, 10, 5]),
        row("main;serve;checkout", 1, [1, 20, 5]),
        row("main;serve", 2, [1, 40, 5]),
        row("main;idle", 2, [1, 80, 5]),
    ];
    let whole = profile(&rows);
    let wall = whole.column("wall").unwrap();
    let named = |wanted: &str| -> Vec<bool> {
        let functions = &whole.symbols.functions;
        functions.iter().map(|f| &*f.name == wanted).collect()
    };
    let wall_of = |focus: Option<&str>, ignore: &str| {
        let focus = focus.map(&named);
        whole.only_stacks(focus.as_deref(), &named(ignore)).totals()[wall]
    };
    assert_eq!(wall_of(Some("checkout"), ""), 30);
    assert_eq!(wall_of(Some("checkout"), "pay"), 20);
    assert_eq!(wall_of(None, "serve"), 80);
    assert_eq!(wall_of(Some("pay"), "pay"), 0);
    assert_eq!(wall_of(None, ""), 150);
}

#[test]
fn merged_recordings_last_as_long_as_any_was_on() {
    let at = |time_ns, duration_ns, comment: &str| {
        build(&[row("a", 1, [1, 1, 1])], Limits::default()).finish(ProfileMeta {
            time_ns,
            duration_ns,
            comments: vec!["common".to_owned(), comment.to_owned()],
            ..ProfileMeta::default()
        })
    };
    // Two at once, one that begins inside, one within it, one an hour later, one of no known time.
    let all = [
        at(1_000, 100, "a"),
        at(1_000, 100, "b"),
        at(1_050, 100, "c"),
        at(1_060, 10, "d"),
        at(9_000, 5, "e"),
        at(0, 7, "f"),
    ];
    let mut merge = Merge::new(Limits::default());
    for one in all.iter().rev() {
        merge.add(one).unwrap();
    }
    let merged = merge.finish().unwrap();
    assert_eq!(merged.meta.time_ns, 1_000);
    assert_eq!(merged.meta.duration_ns, 150 + 5 + 7);
    assert_eq!(
        merged.meta.comments,
        ["common", "f", "e", "d", "c", "b", "a"]
    );
    assert!(Merge::new(Limits::default()).finish().is_err());
}

#[test]
fn merging_keeps_every_thread() {
    let files: Vec<_> = (0..60_u64)
        .map(|file| {
            let rows: Vec<_> = (0..300)
                .map(|thread| row("a", file * 1_000 + thread, [1, 1, 1]))
                .collect();
            profile(&rows)
        })
        .collect();
    let borrowed: Vec<_> = files.iter().collect();
    let merged = merge(&borrowed, Limits::default()).unwrap();
    assert_eq!(merged.label_sets.len(), 60 * 300);
}
