//! What is measured, and how its values are written.
#![forbid(unsafe_code)]

use pyo3::prelude::*;

use crate::model::measure::{Kind, MEASURES};
use crate::report;

/// Every measure: name, unit, whether windows add up (else the last one counts), and its meaning.
#[pyfunction]
pub(crate) fn measures() -> Vec<(&'static str, &'static str, bool, &'static str)> {
    let rows = MEASURES.iter();
    rows.map(|row| {
        let is_flow = row.kind == Kind::Flow;
        (row.name, row.unit.name(), is_flow, row.meaning)
    })
    .collect()
}

/// A value with its unit, short.
#[pyfunction]
pub(crate) fn format_value(value: i128, unit: &str) -> String {
    report::format_wide(value, unit)
}
