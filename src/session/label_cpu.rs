//! CPU time whose labels are known from the threads' own clocks, until its stacks are.
//!
//! Of a request that no look has found, its CPU time is known and its stack is not. It waits under
//! its labels: each look that finds a thread computing under them is paid out of it, and what is
//! left when the window ends is spread as those looks were paid. So the sum of each set of labels is
//! the clocks', and how it divides among stacks is the samples'.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::config::Requests;
use super::seen::{Place, cpu_values};
use crate::fold::window::{ThreadLabels, Window};
use crate::model::label::{LabelSet, LabelSetId};
use crate::model::sample_type;
use crate::model::snapshot::{CpuSpan, SpanEnd, ThreadKey};

/// Sets of labels whose ids are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// The labels of a thread: its key, the labels' address, the number of the request, whether threads
/// have classes.
type Under = (ThreadKey, usize, u64, bool);

/// What waits in one window.
#[derive(Debug, Default)]
pub struct LabelCpu {
    unplaced_ns: FxHashMap<LabelSetId, u64>,
    /// Ids of labels in the window; the labels are kept so that their addresses stay theirs.
    ids: FxHashMap<Under, (Arc<LabelSet>, LabelSetId)>,
    /// Requests that a look has found.
    found: FxHashSet<u64>,
}

impl LabelCpu {
    /// The id of a span's labels, which there must be; `None` if they are not recorded.
    ///
    /// `class_of` says what the thread's class is under these labels. A recording that keeps what
    /// was lately (`is_flight`) tells only those requests apart that a look has found: the others
    /// are too many, and too short to be asked for.
    pub fn id_of(
        &mut self,
        span: &CpuSpan,
        requests: Requests,
        is_flight: bool,
        class: Option<&'static str>,
        window: &mut Window,
    ) -> Option<LabelSetId> {
        let active = span.labels.as_deref();
        let labels = active.filter(|_| requests.accept(active))?;
        if span.end == SpanEnd::Open
            && requests.keep_apart
            && labels.request != 0
            && self.found.try_reserve(1).is_ok()
        {
            self.found.insert(labels.request);
        }
        let is_apart = requests.keep_apart && (!is_flight || self.found.contains(&labels.request));
        let number = if is_apart { labels.request } else { 0 };
        let under = (
            span.key,
            Arc::as_ptr(&labels.set) as usize,
            number,
            class.is_some(),
        );
        if let Some((_, id)) = self.ids.get(&under) {
            return Some(*id);
        }
        let id = window.thread(&ThreadLabels {
            id: span.thread_id,
            name: &span.name,
            active,
            class,
            with_request: is_apart,
        });
        if self.ids.len() >= MAX_REMEMBERED {
            self.ids.clear();
        }
        if self.ids.try_reserve(1).is_ok() {
            self.ids.insert(under, (labels.set.clone(), id));
        }
        Some(id)
    }

    /// A thread is called `name` from now on. If it had no name before, what it has spent until now
    /// gets that name as well.
    pub fn rename(&mut self, key: ThreadKey, old: &str, name: &str, window: &mut Window) {
        let ids = &mut self.ids;
        ids.retain(|under, (_, id)| {
            if under.0 == key && old.is_empty() {
                let better = window.call_thread(*id, name);
                if better != *id
                    && let Some(cpu_ns) = self.unplaced_ns.remove(id)
                {
                    *self.unplaced_ns.entry(better).or_default() += cpu_ns;
                }
                *id = better;
            }
            under.0 != key || old.is_empty()
        });
    }

    /// A thread has spent so much under these labels.
    pub fn earn(&mut self, labels: LabelSetId, cpu_ns: u64) {
        if cpu_ns > 0 && self.unplaced_ns.try_reserve(1).is_ok() {
            *self.unplaced_ns.entry(labels).or_default() += cpu_ns;
        }
    }

    /// How much waits under these labels, in ns.
    #[must_use]
    pub fn waiting(&self, labels: LabelSetId) -> u64 {
        self.unplaced_ns.get(&labels).copied().unwrap_or(0)
    }

    /// Pays a look that has found a thread computing at `place`; no more than `weight_ns`, which is
    /// the time since the look before.
    pub fn pay(&mut self, place: Place, weight_ns: u64, window: &mut Window, width: usize) {
        let Some((node, labels)) = place else {
            return;
        };
        if let Some(waiting) = self.unplaced_ns.get_mut(&labels) {
            let cpu_ns = weight_ns.min(*waiting);
            *waiting -= cpu_ns;
            if cpu_ns > 0 {
                window.add(node, labels, &cpu_values(cpu_ns)[..width]);
            }
        }
    }

    /// Gives what is left to the window, which ends.
    pub fn finish(&mut self, window: &mut Window) {
        let left = self.unplaced_ns.drain().filter(|(_, cpu_ns)| *cpu_ns > 0);
        let mut left: Vec<_> = left.collect();
        left.sort_unstable();
        window.spread(sample_type::CPU, &left);
        self.ids.clear();
        self.found.clear();
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.unplaced_ns.capacity() * 16 + self.ids.capacity() * 48 + self.found.capacity() * 9
    }
}
