//! The labels of requests.
#![forbid(unsafe_code)]

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustc_hash::FxHashMap;

use crate::model::label::ROUTE;
use crate::py::labels::{self, Content};

/// Routes whose labels are kept ready, and the bytes of the longest.
const MAX_READY: usize = 1_024;
const MAX_READY_BYTES: usize = 1_024;

fn route_key() -> Arc<str> {
    static KEY: OnceLock<Arc<str>> = OnceLock::new();
    KEY.get_or_init(|| Arc::from(ROUTE)).clone()
}

/// The label `route`, and these.
pub(super) fn with_labels(route: &str, labels: &Bound<'_, PyDict>) -> PyResult<Arc<Content>> {
    let mut items = vec![(route_key(), labels::value(route))];
    items.extend(labels::items(Some(labels))?);
    items.sort_unstable();
    items.dedup_by(|one, other| one.0 == other.0);
    Ok(Content::new(items))
}

/// The label `route` alone, which many requests share.
pub(super) fn of_route(route: &str) -> Arc<Content> {
    static READY: Mutex<Option<FxHashMap<Box<str>, Arc<Content>>>> = Mutex::new(None);
    let make = || Content::new(vec![(route_key(), labels::value(route))]);
    // Whoever has it, in another process perhaps, is not waited for.
    let Some(mut ready) = READY.try_lock() else {
        return make();
    };
    let ready = ready.get_or_insert_default();
    if let Some(known) = ready.get(route) {
        return known.clone();
    }
    let made = make();
    if route.len() <= MAX_READY_BYTES {
        if ready.len() >= MAX_READY {
            ready.clear();
        }
        ready.insert(Box::from(route), made.clone());
    }
    made
}
