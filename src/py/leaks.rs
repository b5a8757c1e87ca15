//! Leaks as Python sees them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::prelude::*;

use super::profile::Profile;
use super::profile_rows::Place;
use crate::fold::profile::Profile as Finished;
use crate::report::leaks::{Leak, Line, leaks};

/// The place; bytes and blocks in use; bytes it grows by in a second; seconds that were looked back;
/// the verdict; score; samples; bytes by stack, outermost frame first.
type Row = (
    Place,
    (i64, i64),
    (f64, f64),
    String,
    (f64, f64),
    Vec<(i64, Vec<Place>)>,
);

fn place(line: &Line) -> Place {
    let function = &line.function;
    (
        function.name.to_string(),
        function.file.to_string(),
        line.line,
    )
}

fn row(leak: &Leak) -> Row {
    let growth = &leak.growth;
    let stacks = leak.stacks.iter();
    (
        place(&leak.place),
        (leak.bytes, leak.blocks),
        (growth.bytes_per_second, growth.horizon_ms as f64 / 1e3),
        growth.words(),
        (growth.score, leak.samples),
        stacks
            .map(|(bytes, lines)| (*bytes, lines.iter().rev().map(place).collect()))
            .collect(),
    )
}

/// What is in use by place in heap profiles, one of each process, the likeliest leaks first.
#[pyfunction]
pub(crate) fn find_leaks(py: Python<'_>, profiles: Vec<PyRef<'_, Profile>>) -> PyResult<Vec<Row>> {
    let profiles: Vec<Arc<Finished>> = profiles.iter().map(|profile| profile.finished()).collect();
    let found = py.detach(|| {
        let profiles: Vec<&Finished> = profiles.iter().map(AsRef::as_ref).collect();
        leaks(&profiles)
    })?;
    Ok(found.iter().map(row).collect())
}
