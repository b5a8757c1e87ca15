use proptest::prelude::*;
use rprof::fold::merge::{Merge, merge};
use rprof::fold::profile::ProfileMeta;
use rprof::fold::window::Limits;
use rprof::model::function::{Function, MAX_NAME_BYTES, OTHER, OVERFLOW};
use rprof::model::label::thread_of;
use rprof::model::stack::elide;
use rprof::report::collapsed::collapsed;

use crate::support::{any_rows, build, meaning, profile, row, sampled_columns};

proptest! {
    #[test]
    fn nothing_is_lost_whatever_the_limits(rows in any_rows(), max_nodes in 1..60_usize) {
        let limits = Limits { max_nodes, max_depth: 4 };
        let folded = build(&rows, limits).finish(ProfileMeta::default());
        let mut expected = vec![0_i64; sampled_columns()];
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

#[test]
fn generated_names_are_cut_at_a_character() {
    let cut = Function::new(&"é".repeat(5_000), "x", 1);
    assert!(cut.name.len() <= MAX_NAME_BYTES);
    assert!(cut.name.ends_with('…'));
}

#[test]
fn profiles_of_different_kinds_do_not_merge() {
    let one = profile(&[row("a", 1, [1, 1, 1])]);
    let mut two = one.clone();
    two.sample_types.pop();
    let message = merge(&[&one, &two], Limits::default())
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("samples/count, wall/nanoseconds"),
        "{message}"
    );
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
