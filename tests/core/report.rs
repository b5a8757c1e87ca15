use rprof::model::sample_type::{CPU, WALL};
use rprof::report::Grouping;
use rprof::report::collapsed::collapsed;
use rprof::report::threads::thread_totals;
use rprof::report::top::top;
use rprof::report::tree::{TreeOptions, tree};

use crate::support::{profile, row};

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
    assert_eq!(collapsed(&folded, WALL, true), "t1;a 7\n");
    assert_eq!(collapsed(&folded, CPU, true), "");
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
  0.1 %    1.0 ms  └─ … 1 more below 5 %
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
        "cpu: 0 ns in 60.00 s\n"
    );
}
