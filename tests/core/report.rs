use std::sync::Arc;

use proptest::prelude::*;
use rprof::fold::profile::Profile;
use rprof::model::facts::Unmeasured;
use rprof::model::function::Function;
use rprof::model::label::{Label, LabelValue, THREAD_NAME};
use rprof::report::Grouping;
use rprof::report::calls::{Cost, calls};
use rprof::report::collapsed::collapsed;
use rprof::report::diff::diff;
use rprof::report::divide::divide;
use rprof::report::speedscope::speedscope;
use rprof::report::threads::thread_totals;
use rprof::report::top::top;
use rprof::report::tree::{TreeOptions, tree};

use crate::support::{CPU, Row, SAMPLES, WALL, any_rows, function, profile, row};

#[test]
fn recursion_counts_once() {
    let folded = profile(&[
        row("main;f;f;f", 1, [1, 10, 4]),
        row("main;f;g", 1, [1, 10, 6]),
    ]);
    let rows: Vec<_> = top(&folded, CPU, Grouping::Function)
        .into_iter()
        .map(|row| {
            (
                row.function.name.to_string(),
                row.self_value,
                row.total_value,
            )
        })
        .collect();
    let expected = [("g", 6, 6), ("f", 4, 10), ("main", 0, 10)];
    assert_eq!(
        rows,
        expected.map(|(name, own, total)| (name.to_owned(), own, total))
    );
}

#[test]
fn threads_are_told_apart() {
    let folded = profile(&[
        row("a", 1, [1, 10, 1]),
        row("b", 2, [1, 30, 2]),
        row("c", 1, [1, 5, 3]),
    ]);
    assert_eq!(
        thread_totals(&folded),
        [
            (2, "t2".to_owned(), vec![1, 30, 2]),
            (1, "t1".to_owned(), vec![2, 15, 4]),
        ]
    );
}

#[test]
fn the_collapsed_format_keeps_its_separators() {
    let folded = profile(&[row("a", 1, [1, 7, 0])]);
    assert_eq!(collapsed(&folded, WALL, true).unwrap(), "t1;a 7\n");
    assert_eq!(collapsed(&folded, CPU, true).unwrap(), "");
}

#[test]
fn the_tree_reads_from_the_heaviest_down() {
    let folded = profile(&[
        row("main;heavy;leaf", 1, [1, 700_000_000, 0]),
        row("main;light", 1, [1, 290_000_000, 0]),
        row("main;trifle", 1, [1, 1_000_000, 0]),
        row("main", 1, [1, 9_000_000, 0]),
    ]);
    let options = TreeOptions {
        min_fraction: 0.05,
        ..TreeOptions::default()
    };
    let expected = "\
wall: 1.00 s in 60.00 s
100.0 %    1.00 s  main  main.py:3 [self 9.0 ms]
 70.0 %  700.0 ms  ├─ heavy  heavy.py:3
 70.0 %  700.0 ms  │  └─ leaf  leaf.py:3
 29.0 %  290.0 ms  ├─ light  light.py:3
  0.1 %    1.0 ms  └─ … 1 more branch, 0.1 %
";
    assert_eq!(tree(&folded, WALL, &options), expected);
    let shallow = TreeOptions {
        max_depth: 1,
        ..options
    };
    assert_eq!(
        tree(&folded, WALL, &shallow),
        "wall: 1.00 s in 60.00 s\n100.0 %    1.00 s  main  main.py:3 [self 9.0 ms]\n"
    );
}

#[test]
fn an_empty_profile_reports_nothing() {
    let folded = profile(&[]);
    assert!(top(&folded, CPU, Grouping::Function).is_empty());
    assert_eq!(
        tree(&folded, CPU, &TreeOptions::default()),
        "cpu: 0 s in 60.00 s\n"
    );
}

/// A stack of (name, file), outermost first.
fn in_files(stack: &[(&str, &str)], wall: i64) -> Row {
    let frames = stack
        .iter()
        .map(|(name, file)| (Function::new(name, file, 1), 2))
        .collect();
    (frames, (1, "t".to_owned()), [1, wall, 0])
}

const JSON: &str = "/usr/lib/python3.12/json/__init__.py";
const DECODER: &str = "/usr/lib/python3.12/json/decoder.py";

#[test]
fn library_frames_are_one_line() {
    let folded = profile(&[
        in_files(
            &[("app", "app.py"), ("loads", JSON), ("decode", DECODER)],
            500,
        ),
        in_files(
            &[
                ("app", "app.py"),
                ("loads", JSON),
                ("decode", DECODER),
                ("raw", DECODER),
            ],
            200,
        ),
        // The user's code again, called by the library in two places.
        in_files(
            &[
                ("app", "app.py"),
                ("loads", JSON),
                ("decode", DECODER),
                ("hook", "app.py"),
            ],
            160,
        ),
        in_files(
            &[("app", "app.py"), ("loads", JSON), ("hook", "app.py")],
            40,
        ),
        // A library function that calls itself is no further frame.
        in_files(&[("app", "app.py"), ("dumps", JSON), ("dumps", JSON)], 100),
    ]);
    let options = TreeOptions::default();
    let expected = "\
wall: 1 us in 60.00 s
100.0 %      1 us  app  app.py:1
 90.0 %    900 ns  ├─ loads  __init__.py:1 … 2 library frames [self 700 ns]
 20.0 %    200 ns  │  └─ hook  app.py:1
 10.0 %    100 ns  └─ dumps  __init__.py:1
";
    assert_eq!(tree(&folded, WALL, &options), expected);
    let all = TreeOptions {
        fold_library: false,
        ..options
    };
    let text = tree(&folded, WALL, &all);
    assert_eq!(text.lines().count(), 9, "{text}");
    assert!(!text.contains("library"), "{text}");
}

#[test]
fn a_profile_of_library_code_alone_is_shown_whole() {
    let folded = profile(&[in_files(
        &[
            ("run", "<frozen runpy>"),
            ("main", JSON),
            ("loads", DECODER),
        ],
        10,
    )]);
    let text = tree(&folded, WALL, &TreeOptions::default());
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn colour_adds_escapes_and_nothing_else() {
    let folded = profile(&[
        row("main;heavy", 1, [1, 80, 0]),
        row("main;light", 1, [1, 20, 0]),
    ]);
    let plain = TreeOptions::default();
    let color = TreeOptions {
        color: true,
        ..plain
    };
    let painted = tree(&folded, WALL, &color);
    assert!(painted.contains("\x1b[1;31m 80.0 %"), "{painted}");
    assert!(painted.contains("\x1b[33m 20.0 %"), "{painted}");
    let mut bare = painted.clone();
    for code in ["1;31", "33", "32", "2", "0"] {
        bare = bare.replace(&format!("\x1b[{code}m"), "");
    }
    assert_eq!(bare, tree(&folded, WALL, &plain));
}

#[test]
fn names_do_not_reach_the_terminal_as_they_are() {
    let evil = "a\x1b[2J\u{202e}b\nc;d";
    let folded = profile(&[in_files(&[(evil, "/x/\x1b]0;t\x07.py")], 5)]);
    for text in [
        tree(&folded, WALL, &TreeOptions::default()),
        collapsed(&folded, WALL, true).unwrap(),
        speedscope(&folded).unwrap(),
    ] {
        let text = text.replace('\n', "");
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
    let text = collapsed(&folded, WALL, false).unwrap();
    assert_eq!(text, "a\\u{1b}[2J\\u{202e}b\\u{a}c:d 5\n");
}

/// Two became less by 100 in all, one more by 60, and two more changes are out of sight.
fn difference() -> Profile {
    profile(&[
        row("main;serve;less", 1, [-8, -80, 0]),
        row("main;serve;more", 1, [6, 60, 0]),
        row("main;moved;from", 1, [-2, -20, 0]),
        row("main;moved;to", 2, [2, 20, 0]),
        row("main;little", 1, [-1, -1, 0]),
    ])
}

#[test]
fn what_became_less_is_as_heavy_as_what_became_more() {
    let folded = difference();
    assert_eq!(folded.totals()[WALL], -21);
    assert_eq!(folded.magnitudes()[WALL], 181);
    assert!(folded.is_difference(WALL) && !folded.is_difference(CPU));
    let rows = top(&folded, WALL, Grouping::Function);
    let own: Vec<_> = rows
        .iter()
        .map(|row| (&*row.function.name, row.self_value))
        .collect();
    // With their totals: main -21, serve -20; what `moved` called is 0 in sum, and so is no row.
    let expected = [
        ("less", -80),
        ("more", 60),
        ("from", -20),
        ("to", 20),
        ("little", -1),
        ("main", 0),
        ("serve", 0),
    ];
    assert_eq!(own, expected);
    assert_eq!(
        thread_totals(&folded)
            .iter()
            .map(|(id, _, totals)| (*id, totals[WALL]))
            .collect::<Vec<_>>(),
        [(1, -41), (2, 20)]
    );
}

#[test]
fn a_branch_whose_changes_cancel_out_is_shown() {
    let options = TreeOptions {
        min_fraction: 0.05,
        ..TreeOptions::default()
    };
    let expected = "\
wall: -21 ns in 60.00 s, a difference: shares are of 181 ns
-11.6 %    -21 ns  main  main.py:3
-11.0 %    -20 ns  ├─ serve  serve.py:3
-44.2 %    -80 ns  │  ├─ less  less.py:3
 33.1 %     60 ns  │  └─ more  more.py:3
  0.0 %       0 s  ├─ moved  moved.py:3
-11.0 %    -20 ns  │  ├─ from  from.py:3
 11.0 %     20 ns  │  └─ to  to.py:3
 -0.6 %     -1 ns  └─ … 1 more branch, -0.6 %
";
    assert_eq!(tree(&difference(), WALL, &options), expected);
}

#[test]
fn shares_are_of_what_came_before_where_the_file_has_it() {
    let mut folded = difference();
    let base = folded.label_sets[1].clone();
    folded.label_sets[1].push(Label {
        key: Arc::from("pprof::base"),
        value: LabelValue::Text(Arc::from("true")),
    });
    // The samples of thread 2 alone.
    assert_eq!(folded.magnitudes()[WALL], 20);
    folded.label_sets[1] = base;
    assert_eq!(folded.magnitudes()[WALL], 181);
}

#[test]
fn exports_keep_what_is_below_0_or_refuse_it() {
    let folded = difference();
    let text = collapsed(&folded, WALL, true).unwrap();
    assert!(text.contains("t1;main;serve;less -80\n"), "{text}");
    for message in [
        speedscope(&folded).unwrap_err().to_string(),
        calls(&folded, WALL, None).unwrap_err().to_string(),
        // The times are no difference, the counts are.
        calls(&folded, CPU, Some(SAMPLES)).unwrap_err().to_string(),
        divide(&folded, WALL, 0.9).unwrap_err().to_string(),
    ] {
        assert!(message.contains("below 0"), "{message}");
        assert!(message.contains("export the two profiles"), "{message}");
    }
    assert!(calls(&folded, CPU, None).is_ok());
}

#[test]
fn a_sample_type_measured_in_part_is_told() {
    let mut folded = difference();
    folded.meta.comments.push(
        Unmeasured {
            name: "cpu".to_owned(),
            profiles: 1,
            of_profiles: 2,
            ns: 30_000_000_000,
            of_ns: 60_000_000_000,
        }
        .to_string(),
    );
    let options = TreeOptions::default();
    assert_eq!(
        tree(&folded, CPU, &options),
        "cpu: 0 s in 60.00 s\ncpu: not measured in 1 of 2 profiles, 30.000 s of 60.000 s\n"
    );
    assert!(!tree(&folded, WALL, &options).contains("not measured"));
}

#[test]
fn a_thread_without_a_name_has_a_number() {
    let mut unnamed = row("a", 7, [1, 7, 0]);
    unnamed.1.1 = String::new();
    let folded = profile(&[unnamed]);
    assert_eq!(thread_totals(&folded)[0].1, "thread 7");
    assert_eq!(collapsed(&folded, WALL, true).unwrap(), "thread 7;a 7\n");
    assert!(speedscope(&folded).unwrap().contains("\"thread 7: wall\""));
    // As in a file of before, or of another profiler.
    let mut old = folded.clone();
    for labels in &mut old.label_sets {
        labels.retain(|label| &*label.key != THREAD_NAME);
    }
    assert_eq!(thread_totals(&old), thread_totals(&folded));
}

#[test]
fn threads_of_collapsed_stacks_may_be_left_out() {
    let folded = profile(&[row("a;b", 1, [1, 7, 0]), row("a;b", 2, [1, 5, 0])]);
    assert_eq!(
        collapsed(&folded, WALL, true).unwrap(),
        "t1;a;b 7\nt2;a;b 5\n"
    );
    assert_eq!(collapsed(&folded, WALL, false).unwrap(), "a;b 12\n");
}

#[test]
fn callers_share_a_function_between_them() {
    let folded = profile(&[
        row("main;f;g", 1, [1, 0, 10]),
        row("main;g;g", 1, [2, 0, 5]),
        row("main;f", 1, [4, 0, 1]),
    ]);
    let cost = |samples, own, total| Cost {
        samples,
        own,
        total,
    };
    let mut rows = calls(&folded, CPU, Some(SAMPLES)).unwrap();
    rows.sort_by(|left, right| left.function.cmp(&right.function));
    for row in &mut rows {
        row.callers.sort_by(|left, right| left.0.cmp(&right.0));
    }
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| (row.function, row.cost, row.callers))
        .collect();
    let [f, g, main] = ["f", "g", "main"].map(function);
    let expected = [
        (
            f.clone(),
            cost(5, 1, 11),
            vec![(main.clone(), cost(5, 1, 11))],
        ),
        (
            g.clone(),
            cost(3, 15, 15),
            vec![
                (f, cost(1, 10, 10)),
                (g, cost(2, 5, 5)),
                (main.clone(), cost(2, 0, 5)),
            ],
        ),
        (main, cost(7, 0, 16), Vec::new()),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn functions_are_matched_by_name_and_file_name() {
    let old = profile(&[
        in_files(
            &[("main", "/build/1/app.py"), ("gone", "/build/1/app.py")],
            30,
        ),
        in_files(&[("main", "/build/1/app.py")], 70),
    ]);
    let new = profile(&[
        in_files(
            &[("main", "/build/2/app.py"), ("new", "/build/2/app.py")],
            60,
        ),
        in_files(&[("main", "/build/2/other.py")], 1),
    ]);
    let mut rows: Vec<_> = diff((&old, WALL), (&new, WALL), Grouping::Function)
        .into_iter()
        .map(|row| {
            let place = format!("{} {}", row.function.name, row.function.file);
            (place, row.before, row.after)
        })
        .collect();
    rows.sort();
    let expected = [
        ("gone /build/1/app.py", (30, 30), (0, 0)),
        ("main /build/2/app.py", (70, 100), (0, 60)),
        ("main /build/2/other.py", (0, 0), (1, 1)),
        ("new /build/2/app.py", (0, 0), (60, 60)),
    ];
    assert_eq!(
        rows,
        expected.map(|(place, before, after)| (place.to_owned(), before, after))
    );
}

/// One stack of a hundred kilobytes of names, on each of six thousand threads.
#[test]
fn an_export_beyond_measure_is_refused() {
    let long = "x".repeat(1_000);
    let names: Vec<_> = (0..100)
        .map(|depth| (format!("{depth}{long}"), String::new()))
        .collect();
    let stack: Vec<_> = names
        .iter()
        .map(|(name, file)| (name.as_str(), file.as_str()))
        .collect();
    let rows: Vec<_> = (0..6_000)
        .map(|thread| {
            let (frames, _, values) = in_files(&stack, 1);
            (frames, (thread, format!("t{thread}")), values)
        })
        .collect();
    let message = collapsed(&profile(&rows), WALL, true)
        .unwrap_err()
        .to_string();
    assert!(message.contains("larger than 512 MiB"), "{message}");
}

/// By function: own value, and total with each stack counted once, the plain way.
fn plain_sums(folded: &Profile, column: usize) -> Vec<(Function, i64, i64)> {
    let mut sums = std::collections::BTreeMap::<Function, (i64, i64)>::new();
    for (sample, values) in folded.rows() {
        let stack: Vec<_> = folded
            .tree
            .path(sample.node)
            .map(|node| folded.symbols.function_of(folded.tree.location(node)))
            .collect();
        if let Some(leaf) = stack.first() {
            sums.entry((*leaf).clone()).or_default().0 += values[column];
        }
        let distinct: std::collections::BTreeSet<_> = stack.into_iter().collect();
        for function in distinct {
            sums.entry(function.clone()).or_default().1 += values[column];
        }
    }
    sums.into_iter()
        .map(|(function, (own, total))| (function, own, total))
        .filter(|(_, own, total)| (*own, *total) != (0, 0))
        .collect()
}

proptest! {
    #[test]
    fn sums_are_what_a_plain_count_gives(rows in any_rows()) {
        let folded = profile(&rows);
        let expected = plain_sums(&folded, CPU);
        let mut found: Vec<_> = top(&folded, CPU, Grouping::Function)
            .into_iter()
            .map(|row| (row.function, row.self_value, row.total_value))
            .collect();
        found.sort();
        prop_assert_eq!(&found, &expected);
        let mut called: Vec<_> = calls(&folded, CPU, None)
            .unwrap()
            .into_iter()
            .map(|row| (row.function, row.cost.own, row.cost.total))
            .collect();
        called.sort();
        prop_assert_eq!(&called, &expected);
    }
}
