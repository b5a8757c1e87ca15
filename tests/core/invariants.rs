//! What holds for any bytes that are given to the reader; shared with the fuzzer.

use rprof::fold::merge::merge;
use rprof::fold::profile::Profile;
use rprof::fold::window::Limits;
use rprof::model::measure::Kind;
use rprof::pprof::decode::decode;
use rprof::pprof::encode::encode_message;
use rprof::report::Grouping;
use rprof::report::calls::calls;
use rprof::report::collapsed::collapsed;
use rprof::report::diff::diff;
use rprof::report::speedscope::speedscope;
use rprof::report::threads::thread_totals;
use rprof::report::top::top;
use rprof::report::tree::{TreeOptions, tree};

/// Reads `bytes`; whether they are a profile.
pub(crate) fn hold_for(bytes: &[u8]) -> bool {
    let read = match decode(bytes, "input") {
        Ok(read) => read,
        Err(error) => {
            let words = error.to_string();
            assert!(words.starts_with("input cannot be read as a profile: "));
            assert!(!words.contains('\n'), "{words}");
            return false;
        }
    };
    writing_settles(&read);
    merging_adds_up(&read);
    reports_agree(&read);
    true
}

/// What is written is read again, and then written the same.
fn writing_settles(read: &Profile) {
    let written = encode_message(read);
    let again = decode(&written, "output").expect("what we write we read");
    assert_eq!(again.totals(), read.totals());
    assert_eq!(again.columns, read.columns);
    assert_eq!(again.meta, read.meta);
    assert_eq!(encode_message(&again), written);
}

fn merging_adds_up(read: &Profile) {
    let limits = Limits {
        max_nodes: 1_000_000,
        ..Limits::default()
    };
    let twice = merge(&[read, read], limits).expect("of one kind");
    assert_eq!(twice.samples.len(), read.samples.len());
    let has_span = read.meta.time_ns > 0 && read.meta.duration_ns > 0;
    for ((_, one), (_, two)) in read.rows().zip(twice.rows()) {
        for (at, column) in read.columns.iter().enumerate() {
            // Of what there is at the end there is not twice as much, but in two processes.
            let expected = match column.kind() {
                Kind::Level if !has_span => one[at],
                _ => one[at].saturating_add(one[at]),
            };
            assert_eq!(two[at], expected);
        }
    }
}

/// Whatever is left of a report's sums is in the profile.
fn reports_agree(read: &Profile) {
    let limit = i64::MAX / 4;
    let count = i64::try_from(read.values.len().max(1)).expect("fits");
    // Sums that saturate depend on the order of adding.
    let is_exact = read.values.iter().all(|value| value.abs() < limit / count);
    for column in 0..read.columns.len() {
        let empty_stacks: i64 = read.self_values(column)[0];
        let total = read.totals()[column];
        let rows = top(read, column, Grouping::Function);
        let called = calls(read, column, Some(column));
        assert_eq!(called.is_err(), read.is_difference(column));
        if is_exact {
            let own: i64 = rows.iter().map(|row| row.self_value).sum();
            assert_eq!(own + empty_stacks, total);
            if let Ok(called) = called {
                let own: i64 = called.iter().map(|row| row.cost.own).sum();
                assert_eq!(own + empty_stacks, total);
            }
            let own: i64 = thread_totals(read).iter().map(|row| row.2[column]).sum();
            assert_eq!(own, total);
            let lines = collapsed(read, column, false).expect("of a bearable size");
            let values = lines.lines().map(|line| {
                let (_, value) = line.rsplit_once(' ').expect("a value");
                value.parse::<i64>().expect("a number")
            });
            assert_eq!(values.sum::<i64>(), total);
        }
        for row in diff((read, column), (read, column), Grouping::Line) {
            assert_eq!(row.before, row.after);
        }
        let options = TreeOptions {
            min_fraction: 0.0,
            color: true,
            ..TreeOptions::default()
        };
        assert!(tree(read, column, &options).ends_with('\n'));
    }
    let is_difference = (0..read.columns.len()).any(|column| read.is_difference(column));
    match speedscope(read) {
        Ok(json) => assert!(!is_difference && json.ends_with("]}\n")),
        Err(error) => assert!(is_difference, "{error}"),
    }
}
