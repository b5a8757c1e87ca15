//! The value of the context variable: labels, and what they were entered under.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::items::{Content, MAX_LABELS};
use crate::model::label::ActiveLabels;
use crate::unwind::label_log::RequestCpu;
use crate::unwind::labels::Shown;

/// Entries within each other; the labels of those beyond are not set.
const MAX_DEPTH: u32 = 200;

fn next_serial() -> usize {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed) as usize
}

/// A request under way, as its labels know it.
#[derive(Debug)]
pub(in crate::py) struct Running {
    /// Its number, never used again in this process; 0 if it is not watched.
    pub(in crate::py) number: u64,
    /// Its labels, and the captures that take it, one bit each.
    pub(in crate::py) shown: Mutex<(Arc<Content>, u64)>,
    /// The CPU time spent on it.
    pub(in crate::py) cpu: Arc<RequestCpu>,
}

/// What is put in force.
pub(in crate::py) enum Entered {
    /// An object of the application's.
    Labels(Py<Labels>),
    /// A request.
    Request(Arc<Running>),
}

impl Entered {
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Labels(one), Self::Labels(other)) => one.is(other),
            (Self::Request(one), Self::Request(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// The labels; of a request its number and captures as well.
    pub(super) fn content(&self) -> (Arc<Content>, Option<(u64, u64)>) {
        match self {
            Self::Labels(labels) => (labels.get().content(), None),
            Self::Request(running) => {
                let (content, captures) = running.shown.lock().clone();
                (content, Some((running.number, captures)))
            }
        }
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Labels(labels) => Self::Labels(labels.clone_ref(py)),
            Self::Request(running) => Self::Request(running.clone()),
        }
    }
}

/// Labels on the samples of whatever runs inside, in threads, tasks and executors alike.
///
/// A context manager and a decorator, to be entered as often and as nested as one likes; the inner
/// value of a key counts. Samples carry them in profiles, dumps show them.
///
/// >>> with rprof.labels(route="/checkout", tenant="acme"):
/// ...     handle()
///
/// `asyncio` tasks and `asyncio.to_thread` have the labels of where they are begun. A thread, or a
/// call of an executor, has them if its function is run by `contextvars.copy_context().run`.
///
/// Args:
///     labels: At most 32, with text or numbers for values; text beyond 200 characters is cut. Of
///         more than 1,000 combinations in one window the values become `<other>`.
///
/// Raises:
///     RprofTypeError: No label, or a value that is neither text nor number.
///     RprofValueError: A reserved or overlong name, or too many.
#[pyclass(name = "labels", module = "rprof", frozen)]
pub(crate) struct Labels {
    pub(super) shown: Shown,
    /// What `shown` points into, and the same for whoever holds it.
    content: Mutex<(Arc<Content>, Arc<ActiveLabels>)>,
    /// Where CPU time counts that is spent under these labels.
    pub(super) cpu: Option<Arc<RequestCpu>>,
    /// What was there when this was entered.
    pub(super) outer: Option<Py<Labels>>,
    /// How many objects are below this one.
    depth: u32,
    /// How often what was entered was entered again, right here.
    pub(super) again: AtomicU32,
    /// What was entered, if this was made for it.
    pub(super) entered: Option<Entered>,
}

impl Drop for Labels {
    fn drop(&mut self) {
        // Whoever reads this memory from now on finds no labels.
        self.shown.hide();
    }
}

impl Labels {
    /// Labels whose memory samplers know by `magic`.
    pub(super) fn make(
        magic: usize,
        content: Arc<Content>,
        request: Option<(u64, u64)>,
        outer: Option<Py<Labels>>,
        entered: Option<Entered>,
    ) -> Self {
        let shown = Shown::default();
        let active = show(&shown, &content, request.unwrap_or_default());
        shown.magic.store(magic, Ordering::Relaxed);
        let cpu = match (&entered, &outer) {
            (Some(Entered::Request(running)), _) => Some(running.cpu.clone()),
            (_, Some(outer)) => outer.get().cpu.clone(),
            _ => None,
        };
        Self {
            shown,
            depth: outer.as_ref().map_or(0, |outer| outer.get().depth + 1),
            content: Mutex::new((content, active)),
            cpu,
            again: AtomicU32::new(0),
            outer,
            entered,
        }
    }

    pub(super) fn show(&self, content: Arc<Content>, request: (u64, u64)) {
        let mut kept = self.content.lock();
        let active = show(&self.shown, &content, request);
        *kept = (content, active);
    }

    /// Where samplers look, in bytes from its begin.
    pub(in crate::py) const SHOWN: usize = offset_of!(Self, shown);

    /// Hands its bytes, request and captures to `take`, which neither waits nor comes back here; `None`
    /// while somebody changes them. For whoever is within an allocation, with the GIL or without.
    pub(in crate::py) fn try_said<T>(&self, take: impl FnOnce(&[u8], u64, u64) -> T) -> Option<T> {
        let kept = self.content.try_lock()?;
        let (content, active) = &*kept;
        Some(take(&content.bytes, active.request, active.captures))
    }

    pub(super) fn content(&self) -> Arc<Content> {
        self.content.lock().0.clone()
    }

    pub(super) fn active(&self) -> Arc<ActiveLabels> {
        self.content.lock().1.clone()
    }

    /// Whether entering this once more needs no further object: it was what was entered last, or
    /// there are too many already, of which somebody has forgotten to leave some.
    pub(super) fn takes(&self, entered: &Entered) -> bool {
        if self.entered.as_ref().is_some_and(|own| own.is(entered)) {
            self.again.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        self.depth >= MAX_DEPTH
    }

    /// The union of `outer` and what is entered, whose values count.
    pub(super) fn below(magic: usize, outer: Bound<'_, Labels>, entered: Entered) -> Self {
        let mut union = outer.get().content().items.clone();
        let (content, request) = entered.content();
        for (key, value) in &content.items {
            if let Some((_, known)) = union.iter_mut().find(|(known, _)| known == key) {
                known.clone_from(value);
            } else if union.len() < MAX_LABELS {
                union.push((key.clone(), value.clone()));
            }
        }
        union.sort_unstable();
        let shown = &outer.get().shown;
        let request = request.unwrap_or((
            shown.request.load(Ordering::Relaxed) as u64,
            shown.captures.load(Ordering::Relaxed) as u64,
        ));
        let content = Content::new(union);
        Self::make(
            magic,
            content,
            Some(request),
            Some(outer.unbind()),
            Some(entered),
        )
    }
}

/// Shows `content` to whoever reads this memory; returns the same for whoever holds it.
fn show(shown: &Shown, content: &Content, (request, captures): (u64, u64)) -> Arc<ActiveLabels> {
    let serial = next_serial();
    shown.show(serial, &content.bytes, request, captures);
    Arc::new(ActiveLabels {
        serial: serial as u64,
        request,
        captures,
        set: content.set.clone(),
    })
}
