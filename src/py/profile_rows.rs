//! Rows of reports as Python gets them: plain tuples.
#![forbid(unsafe_code)]

use crate::model::function::Function;
use crate::report::{calls, diff, top, waits};

/// Name, file, line.
pub(super) type Place = (String, String, u32);
/// Samples, self, total.
type Cost = (i64, i64, i64);
/// What is compared, (self, total) before, and after.
pub(super) type Compared = (Place, (i64, i64), (i64, i64));
/// A function with its cost, and that by caller.
pub(super) type Called = (Place, Cost, Vec<(Place, Cost)>);
/// The common stack, its value, and (function, value) of each call below it.
pub(super) type Divided = (Vec<Place>, i64, Vec<(String, i64)>);
/// Name, file, first line, self, total.
pub(super) type FunctionRow = (String, String, u32, i64, i64);
/// Function, file, line, value.
type Party = (String, String, u32, i64);
/// Reason, lock, measure, waited, culprits, waiters.
pub(super) type Waited = (
    &'static str,
    String,
    &'static str,
    i64,
    Vec<Party>,
    Vec<Party>,
);

fn place(function: &Function) -> Place {
    (
        function.name.to_string(),
        function.file.to_string(),
        function.first_line,
    )
}

pub(super) fn function_row(row: &top::Row) -> FunctionRow {
    let (name, file, _) = place(&row.function);
    (name, file, row.line, row.self_value, row.total_value)
}

pub(super) fn compared(row: &diff::DiffRow) -> Compared {
    let (name, file, _) = place(&row.function);
    ((name, file, row.line), row.before, row.after)
}

pub(super) fn called(row: &calls::Called) -> Called {
    let cost = |cost: calls::Cost| (cost.samples, cost.own, cost.total);
    let callers = row.callers.iter();
    let callers = callers.map(|(caller, spent)| (place(caller), cost(*spent)));
    (place(&row.function), cost(row.cost), callers.collect())
}

pub(super) fn waited(wait: &waits::Wait) -> Waited {
    let parties = |parties: &[waits::Party]| {
        let rows = parties.iter().map(|party| {
            let (function, file) = (party.function.to_string(), party.file.to_string());
            (function, file, party.line, party.value)
        });
        rows.collect()
    };
    let (culprits, waiters) = (parties(&wait.culprits), parties(&wait.waiters));
    let lock = wait.lock.to_string();
    (
        wait.reason,
        lock,
        wait.measure,
        wait.waited_ns,
        culprits,
        waiters,
    )
}
