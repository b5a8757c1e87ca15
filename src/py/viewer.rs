//! What the report page is made of, compiled in: a program that was frozen, moved, or shut into a
//! directory of its own has no data files.
#![forbid(unsafe_code)]

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

macro_rules! assets {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/python/rprof/viewer/",
            $name
        )))),*]
    };
}

/// Name and text of each file.
const ASSETS: &[(&str, &str)] = assets![
    "app.js",
    "cells.js",
    "colors.js",
    "dom.js",
    "exact.js",
    "flame.js",
    "flame_view.js",
    "format.js",
    "memory_view.js",
    "names.js",
    "page.css",
    "page.html",
    "profile.js",
    "recording.js",
    "roots.js",
    "sandwich_view.js",
    "source_view.js",
    "state.js",
    "table_view.js",
    "threads_view.js",
    "tree.js",
    "waits_view.js",
    "wire.js",
];

/// The text of a file that the report page is made of.
#[pyfunction]
pub(crate) fn viewer_asset(name: &str) -> PyResult<&'static str> {
    let found = ASSETS.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, text)| *text)
        .ok_or_else(|| PyKeyError::new_err(name.to_owned()))
}
