//! CPU time whose labels are known from the threads' own clocks, until its stacks are.
//!
//! Of a request that was never seen computing, the CPU time is known and the stack is not. It waits
//! under its labels: each time a thread is seen computing under them, that stack is charged out of
//! it, and what is left when the window ends is spread as those charges were. So the sum of each set
//! of labels is the clocks', and how it divides among stacks is the samples'.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{RequestFilter, Sighting, Subject};
use crate::fold::charge::Fold;
use crate::fold::window::ThreadLabels;
use crate::model::label::{LabelSet, LabelSetId};
use crate::model::measure::MeasureId;
use crate::model::snapshot::{CpuSpan, SpanEnd};

/// Sets of labels whose ids are remembered.
const MAX_REMEMBERED: usize = 10_000;

/// The labels of a subject: whose they are, the labels' address, the number of the request, whether
/// threads have classes.
type Under = (Subject, usize, u64, bool);

/// What waits in one window.
#[derive(Debug, Default)]
pub(super) struct LabelCpu {
    uncharged_ns: FxHashMap<LabelSetId, u64>,
    /// Ids of labels in the window; the labels are kept so that their addresses stay theirs.
    ids: FxHashMap<Under, (Arc<LabelSet>, LabelSetId)>,
    /// Requests that were seen at a tick.
    seen: FxHashSet<u64>,
}

impl LabelCpu {
    /// The id of a span's labels, which there must be; `None` if they are not recorded.
    ///
    /// `class` is the thread's under these labels. A recording that keeps what was lately
    /// (`is_flight`) tells only those requests apart that were seen at a tick: the others are too
    /// many, and too short to be asked for.
    pub(super) fn id_of(
        &mut self,
        span: &CpuSpan,
        filter: RequestFilter,
        is_flight: bool,
        class: Option<&'static str>,
        fold: &mut impl Fold,
    ) -> Option<LabelSetId> {
        let active = span.labels.as_deref();
        let labels = active.filter(|_| filter.accept(active))?;
        if span.end == SpanEnd::Open
            && filter.keep_apart
            && labels.request != 0
            && self.seen.try_reserve(1).is_ok()
        {
            self.seen.insert(labels.request);
        }
        let is_apart = filter.keep_apart && (!is_flight || self.seen.contains(&labels.request));
        let number = if is_apart { labels.request } else { 0 };
        let under = (
            Subject::Thread(span.key),
            Arc::as_ptr(&labels.set) as usize,
            number,
            class.is_some(),
        );
        if let Some((_, id)) = self.ids.get(&under) {
            return Some(*id);
        }
        let id = fold.thread(&ThreadLabels {
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
    pub(super) fn rename(&mut self, subject: Subject, old: &str, name: &str, fold: &mut impl Fold) {
        let ids = &mut self.ids;
        ids.retain(|under, (_, id)| {
            if under.0 == subject && old.is_empty() {
                let better = fold.call_thread(*id, name);
                if better != *id
                    && let Some(cpu_ns) = self.uncharged_ns.remove(id)
                {
                    *self.uncharged_ns.entry(better).or_default() += cpu_ns;
                }
                *id = better;
            }
            under.0 != subject || old.is_empty()
        });
    }

    /// A thread has spent so much under these labels.
    pub(super) fn earn(&mut self, labels: LabelSetId, cpu_ns: u64) {
        if cpu_ns > 0 && self.uncharged_ns.try_reserve(1).is_ok() {
            *self.uncharged_ns.entry(labels).or_default() += cpu_ns;
        }
    }

    /// How much waits under these labels, in ns.
    pub(super) fn waiting(&self, labels: LabelSetId) -> u64 {
        self.uncharged_ns.get(&labels).copied().unwrap_or(0)
    }

    /// Charges where a thread was seen computing with what waits under its labels, but with no more
    /// than the time that the sighting stands for.
    pub(super) fn pay(&mut self, sighting: Sighting, fold: &mut impl Fold) {
        if sighting.spot.is_none() {
            return;
        }
        if let Some(waiting_ns) = self.uncharged_ns.get_mut(&sighting.under) {
            let cpu_ns = sighting.weight_ns.min(*waiting_ns);
            *waiting_ns -= cpu_ns;
            sighting.charge(cpu_ns, fold);
        }
    }

    /// Gives what is left to the window, which ends.
    pub(super) fn finish(&mut self, fold: &mut impl Fold) {
        let left = self.uncharged_ns.drain().filter(|(_, cpu_ns)| *cpu_ns > 0);
        let mut left: Vec<_> = left.collect();
        left.sort_unstable();
        fold.spread(MeasureId::Cpu, &left);
        self.ids.clear();
        self.seen.clear();
    }

    /// An estimate of the memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.uncharged_ns.capacity() * 16 + self.ids.capacity() * 48 + self.seen.capacity() * 9
    }
}
