//! The heap as Python asks for it.
#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::gil::engine::EngineOptions;
use super::gil::names::Names;
use super::handed_in::process;
use super::memory::account::{Asking, account};
use super::memory::{self, HeapUse};
use super::profile::Profile;
use crate::clock::cpu::{monotonic_ns, unix_time_ns};
use crate::error::Error;
use crate::fold::profile::Profile as Finished;
use crate::heap::report::{self, Since};
use crate::model::module_name::ImportRoots;
use crate::session::facts;
use crate::sink::heap_beside::{self, HeapTelling};

/// What one recording wants to know of the heap.
pub(super) struct OwnHeap {
    telling: HeapTelling,
    since: Since,
    _use: HeapUse,
}

impl OwnHeap {
    /// From now on; `rate` is in bytes, 0 has it chosen. `requests_apart`: it is to tell of requests that
    /// are captured.
    ///
    /// # Errors
    /// When that is not possible here.
    pub(super) fn begin(
        py: Python<'_>,
        rate: f64,
        program: &str,
        options: EngineOptions,
        requests_apart: bool,
    ) -> Result<Self, Error> {
        let rate = Some(rate).filter(|rate| *rate > 0.0);
        let own = HeapUse::begin(py, rate, &options)?;
        let mut telling = telling(program, options);
        heap_beside::tell(telling.clone());
        telling.requests_apart = requests_apart;
        Ok(Self {
            telling,
            since: report::begin(monotonic_ns(), unix_time_ns()),
            _use: own,
        })
    }

    pub(super) fn telling(&self) -> HeapTelling {
        self.telling.clone()
    }

    /// What was allocated since its beginning, and what is in use.
    pub(super) fn profile(&self) -> Option<Arc<Finished>> {
        let (profile, next) = self.telling.profile(&self.since)?;
        report::end(&next);
        Some(Arc::new(profile))
    }
}

impl Drop for OwnHeap {
    fn drop(&mut self) {
        report::end(&self.since);
    }
}

fn telling(program: &str, options: EngineOptions) -> HeapTelling {
    HeapTelling {
        program: program.to_owned(),
        roots: ImportRoots::new(options.import_roots),
        own_directory: options.own_directory,
        requests_apart: false,
        is_true: memory::is_true_without_gil,
        collect: memory::collect,
        comments: facts::comments,
        account: || account(Asking::InPassing),
    }
}

/// What was allocated since samples are taken, and what is in use.
#[pyfunction]
pub(crate) fn heap_profile(py: Python<'_>, program: &str) -> PyResult<Profile> {
    // With the GIL, so that nobody need be asked.
    Names::note_all(py);
    memory::is_true(py);
    let telling = telling(program, process());
    let profile = py.detach(|| {
        let since = Since::beginning(&report::figures(), monotonic_ns(), unix_time_ns());
        let (profile, next) = telling.profile(&since)?;
        report::end(&next);
        Some(profile)
    });
    let profile = profile.ok_or_else(|| {
        Error::state("the heap is not being sampled; use rprof.start(memory=True) first")
    })?;
    Ok(Profile::new(Arc::new(profile)))
}

/// What one request allocated that began at `began_ns` of the monotonic clock, and whether that is all;
/// `None` if nothing of it was sampled.
#[pyfunction]
pub(crate) fn heap_of_request(
    py: Python<'_>,
    number: u64,
    began_ns: u64,
    program: &str,
) -> Option<(Profile, bool)> {
    let telling = telling(program, process());
    let (profile, is_whole) = py.detach(|| telling.of_request(number, began_ns))?;
    Some((Profile::new(Arc::new(profile)), is_whole))
}

/// How the heap is being sampled; `None` if it is not.
#[pyfunction]
pub(crate) fn heap_figures(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    let figures = py.detach(report::figures);
    if !figures.is_on {
        return Ok(None);
    }
    let told = PyDict::new(py);
    told.set_item("rate", figures.rate)?;
    told.set_item("samples", figures.samples)?;
    told.set_item("lost", figures.lost)?;
    told.set_item("live", figures.live)?;
    told.set_item("live_limit", figures.live_limit)?;
    told.set_item("overflow", figures.overflowed)?;
    told.set_item("own_cpu_seconds", figures.cost_ns as f64 / 1e9)?;
    told.set_item("own_bytes", figures.bytes)?;
    told.set_item("displaced", memory::displaced())?;
    Ok(Some(told))
}

/// Name and bytes of each part of the process's memory that is known, the whole first. `in_passing`: without
/// what takes long to find out.
#[pyfunction]
pub(crate) fn memory_account(py: Python<'_>, in_passing: bool) -> Vec<(&'static str, u64)> {
    let asking = match in_passing {
        true => Asking::InPassing,
        false => Asking::Expressly,
    };
    py.detach(|| account(asking).parts())
}
