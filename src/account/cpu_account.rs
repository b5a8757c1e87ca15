//! The CPU time of one thread, and what is charged with it; the rules are in the room's README.
#![forbid(unsafe_code)]

use super::label_cpu::LabelCpu;
use super::ledgers::Shared;
use super::recent_spots::RecentSpots;
use super::sighting::{Sighting, Spot, charge_cpu};
use crate::fold::call_tree::NodeId;
use crate::fold::charge::Fold;
use crate::model::label::LabelSetId;
use crate::model::snapshot::{CpuSpan, SpanEnd, ThreadSample};

/// CPU time that waits for a thread to be seen computing, in ticks; more is charged at once.
const MAX_UNCHARGED_TICKS: u64 = 16;

/// How often a thread is seen computing in one stretch of CPU time before that is settled.
const MAX_SIGHTINGS: usize = 16;

/// A stretch of CPU time under one set of labels that goes on. At its end the thread may say that it
/// was under others meanwhile; then what was seen of it tells as much of those.
#[derive(Debug, Default)]
struct OpenSpan {
    /// The labels, as they are recorded.
    labels: Option<LabelSetId>,
    cpu_ns: u64,
    sightings: Vec<Sighting>,
}

/// What is known of a thread's CPU time.
#[derive(Debug)]
pub(super) struct CpuAccount {
    /// The thread's CPU clock in ns at the last tick that showed a change.
    clock_ns: Option<u64>,
    /// What its CPU clock showed, in ns, where its CPU time is accounted for up to.
    accounted_ns: Option<u64>,
    /// See [`ThreadSample::early_cpu_ns`].
    early_cpu_ns: u64,
    /// CPU time that no stack was seen spending yet, in ns, and whose labels are not known.
    uncharged_ns: u64,
    /// The part of that which was spent without labels, as the thread has told.
    bare_ns: u64,
    /// CPU time in ns, a part of what waits, that was spent where the thread was at the last tick if
    /// the sampler alone has pushed it aside and it goes on at once.
    doubtful_ns: u64,
    /// CPU time whose labels are known, and will be known better.
    span: OpenSpan,
    /// Whether the last tick fell into a stretch whose labels are known.
    is_labelled: bool,
    /// Where the thread was last seen computing in this window.
    computed_at: Option<NodeId>,
    /// The same of late, as far as labels are not known better.
    recent: RecentSpots,
}

impl CpuAccount {
    /// The account of a thread that is seen for the first time.
    pub(super) fn new(thread: &ThreadSample) -> Self {
        Self {
            clock_ns: thread.cpu_ns,
            accounted_ns: thread.cpu_ns,
            early_cpu_ns: thread.early_cpu_ns,
            uncharged_ns: 0,
            bare_ns: 0,
            doubtful_ns: 0,
            span: OpenSpan::default(),
            is_labelled: false,
            computed_at: None,
            recent: RecentSpots::default(),
        }
    }

    /// Whether the thread's clock shows what it showed.
    pub(super) fn is_still(&self, thread: &ThreadSample) -> bool {
        self.clock_ns == thread.cpu_ns
    }

    /// Where the thread was last seen computing in this window.
    pub(super) fn computed_at(&self) -> Option<NodeId> {
        self.computed_at
    }

    /// Where the thread, which is here now, was last seen computing, as far as labels are not known
    /// better; or else here.
    pub(super) fn last_spot(&self, here: Sighting) -> Option<Spot> {
        self.recent.last().unwrap_or(here.spot)
    }

    /// Forgets what belongs to the window before.
    pub(super) fn begin_window(&mut self) {
        self.doubtful_ns = 0;
        self.computed_at = None;
        self.recent = RecentSpots::default();
    }

    /// Takes in the clock of a thread that was at `last` until now. Returns what it has spent since
    /// then, in ns, but for what was found late, which is charged at once.
    pub(super) fn read_clock(
        &mut self,
        thread: &ThreadSample,
        last: Sighting,
        fold: &mut impl Fold,
    ) -> u64 {
        let unaccounted_ns = since(thread.cpu_ns, self.accounted_ns);
        let found_ns = thread.early_cpu_ns.saturating_sub(self.early_cpu_ns);
        let mut early_ns = unaccounted_ns.min(found_ns);
        // A thread that tells of its labels tells where this belongs.
        if last.spot.is_none() || thread.span.is_some() {
            early_ns = 0;
        }
        last.charge(early_ns, fold);
        let cpu_ns = since(thread.cpu_ns, self.clock_ns).saturating_sub(early_ns);
        self.uncharged_ns += unaccounted_ns - early_ns;
        self.early_cpu_ns = thread.early_cpu_ns;
        self.accounted_ns = self.accounted_ns.max(thread.cpu_ns);
        self.clock_ns = thread.cpu_ns;
        let doubtful = self.take_doubt(last);
        if cpu_ns > 0 && doubtful.weight_ns > 0 && !self.is_labelled {
            let paid_ns = self.pay(doubtful);
            doubtful.charge(paid_ns, fold);
            self.computed_at = doubtful.node();
        }
        cpu_ns
    }

    /// Notes whether this tick falls into a stretch whose labels are known.
    pub(super) fn mark_labelled(&mut self, thread: &ThreadSample) {
        self.is_labelled = thread.labels.is_some() && thread.span == Some(SpanEnd::Open);
    }

    /// Whether the last tick fell into a stretch whose labels are known.
    pub(super) fn is_labelled(&self) -> bool {
        self.is_labelled
    }

    /// How much CPU time waits for the thread, which is here now, to be seen computing, in ns.
    pub(super) fn waiting_ns(&self, here: Sighting, accounts: &LabelCpu) -> u64 {
        if self.is_labelled {
            let labelled_ns = here.spot.map_or(0, |_| accounts.waiting(here.under));
            self.span.cpu_ns + labelled_ns
        } else {
            self.uncharged_ns
        }
    }

    /// Whether so much CPU time waits that a tick is believed by which the thread did not stand where
    /// it stood by chance.
    pub(super) fn is_urgent(waiting_ns: u64, tick_ns: u64) -> bool {
        waiting_ns >= MAX_UNCHARGED_TICKS * tick_ns
    }

    /// The thread was seen computing. Returns the CPU time in ns that the spot is to be charged with
    /// besides its wall time.
    pub(super) fn see(
        &mut self,
        sighting: Sighting,
        accounts: &mut LabelCpu,
        fold: &mut impl Fold,
    ) -> u64 {
        self.computed_at = sighting.node();
        if self.is_labelled {
            self.keep(sighting, accounts, fold);
            return 0;
        }
        let paid_ns = self.pay(sighting);
        self.charge_gathered(MAX_UNCHARGED_TICKS * sighting.weight_ns, sighting, fold);
        paid_ns
    }

    /// The thread was born since the last tick and has spent so much, but for what it has told the labels
    /// of; `bare_ns` of it without labels. Returns what of it, in ns, was spent where the thread is.
    pub(super) fn first(&mut self, cpu_ns: u64, bare_ns: u64) -> u64 {
        if !self.is_labelled {
            return cpu_ns;
        }
        self.uncharged_ns += bare_ns;
        self.bare_ns += bare_ns;
        cpu_ns - bare_ns
    }

    /// Takes the CPU time, in ns, that was spent without labels by a thread that was seen under labels
    /// alone: where, nobody has seen.
    pub(super) fn take_unseen(&mut self) -> u64 {
        let bare_ns = std::mem::take(&mut self.bare_ns).min(self.uncharged_ns);
        if !self.is_labelled || self.recent.last().is_some() {
            return 0;
        }
        self.uncharged_ns -= bare_ns;
        bare_ns
    }

    /// The thread begins to be recorded where it computes.
    pub(super) fn see_first(&mut self, sighting: Sighting) {
        // What is spent without labels has nothing to do with where it is under them.
        if !self.is_labelled {
            self.recent.push(sighting.spot, 0);
        }
        self.computed_at = sighting.node();
    }

    /// The thread was found pushed aside: so much was spent here if it goes on at once.
    pub(super) fn doubt(&mut self, cpu_ns: u64) {
        self.doubtful_ns = cpu_ns;
    }

    /// The thread has not gone on.
    pub(super) fn forget_doubt(&mut self) {
        self.doubtful_ns = 0;
    }

    fn take_doubt(&mut self, last: Sighting) -> Sighting {
        Sighting {
            weight_ns: std::mem::take(&mut self.doubtful_ns),
            ..last
        }
    }

    /// Takes what a sighting is worth out of the CPU time whose labels are not known; returns it, in
    /// ns, for the spot to be charged with.
    fn pay(&mut self, sighting: Sighting) -> u64 {
        let cpu_ns = sighting.weight_ns.min(self.uncharged_ns);
        self.recent.push(sighting.spot, cpu_ns);
        self.uncharged_ns -= cpu_ns;
        cpu_ns
    }

    /// Charges the CPU time that no stack was seen spending yet, but for `kept_ns` of it, to where
    /// the thread was seen computing of late, or else to where it is.
    fn charge_gathered(&mut self, kept_ns: u64, here: Sighting, fold: &mut impl Fold) {
        self.doubtful_ns = 0;
        let mut left_ns = self.uncharged_ns.saturating_sub(kept_ns);
        if left_ns == 0 {
            return;
        }
        self.uncharged_ns -= left_ns;
        for (spot, part_ns) in self.recent.parts(left_ns) {
            charge_cpu(spot, part_ns, (here.at_ns, here.at_ns), fold);
            left_ns -= part_ns;
        }
        charge_cpu(
            self.last_spot(here),
            left_ns,
            (here.at_ns, here.at_ns),
            fold,
        );
    }

    /// Keeps a sighting in a stretch whose labels are known so far, until its end.
    fn keep(&mut self, sighting: Sighting, accounts: &mut LabelCpu, fold: &mut impl Fold) {
        self.span.sightings.push(sighting);
        // Of one that lasts so long, most was seen: its labels will not be known better.
        if self.span.sightings.len() >= MAX_SIGHTINGS {
            self.settle_span(accounts, fold);
        }
    }

    /// Takes in what the thread has told of its labels. `last` is where it was at the last tick, if
    /// that was in this window.
    pub(super) fn note(
        &mut self,
        span: &CpuSpan,
        last: Option<Sighting>,
        has_requests: bool,
        shared: &mut Shared,
        fold: &mut impl Fold,
    ) {
        let done_ns = self.accounted_ns.unwrap_or(u64::MAX);
        let cpu_ns = span.to_ns.saturating_sub(span.from_ns.max(done_ns));
        self.accounted_ns = self.accounted_ns.max(Some(span.to_ns));
        if let Some(last) = last
            && cpu_ns > 0
            && self.is_labelled
            && self.doubtful_ns > 0
        {
            // Before the stretch ends that the tick fell into.
            let doubtful = self.take_doubt(last);
            self.computed_at = doubtful.node();
            self.keep(doubtful, &mut shared.label_cpu, fold);
        }
        if span.end == SpanEnd::Mixed || span.labels.is_none() {
            self.mix_span(fold);
            self.uncharged_ns += cpu_ns;
            if span.end != SpanEnd::Mixed {
                self.bare_ns += cpu_ns;
            }
            return;
        }
        self.span.labels = shared.labels_of(span, has_requests, fold);
        self.span.cpu_ns += cpu_ns;
        if span.end == SpanEnd::Exact {
            self.settle_span(&mut shared.label_cpu, fold);
        }
    }

    /// The stretch so far was under its labels indeed.
    fn settle_span(&mut self, accounts: &mut LabelCpu, fold: &mut impl Fold) {
        let cpu_ns = std::mem::take(&mut self.span.cpu_ns);
        if let Some(labels) = self.span.labels {
            accounts.earn(labels, cpu_ns);
        }
        for sighting in self.span.sightings.drain(..) {
            accounts.pay(sighting, fold);
        }
    }

    /// The stretch so far was under other labels in part: it says as much as any other time whose
    /// labels are not known.
    fn mix_span(&mut self, fold: &mut impl Fold) {
        self.uncharged_ns += std::mem::take(&mut self.span.cpu_ns);
        let mut sightings = std::mem::take(&mut self.span.sightings);
        for sighting in sightings.drain(..) {
            let cpu_ns = self.pay(sighting);
            sighting.charge(cpu_ns, fold);
        }
        self.span.sightings = sightings;
    }

    /// Charges all that is open.
    pub(super) fn close(&mut self, here: Sighting, accounts: &mut LabelCpu, fold: &mut impl Fold) {
        self.settle_span(accounts, fold);
        self.charge_gathered(0, here, fold);
    }
}

/// How far a clock has gone, in ns.
pub(super) fn since(now_ns: Option<u64>, before_ns: Option<u64>) -> u64 {
    now_ns
        .zip(before_ns)
        .map_or(0, |(now, before)| now.saturating_sub(before))
}
