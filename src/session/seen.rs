//! A thread as a recording last saw it, and what it has spent since.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::label_cpu::LabelCpu;
use crate::fold::call_tree::NodeId;
use crate::fold::window::Window;
use crate::model::label::LabelSetId;
use crate::model::sample_type;
use crate::model::snapshot::{ThreadSample, ThreadState};

/// In how many parts, at the most, CPU time that no stack was seen spending is placed.
const MAX_COMPUTING: usize = 16;

/// No stack's version and no labels' serial.
pub const NEVER: u64 = u64::MAX;

/// Where a thread was found, and under which labels; `None` if that is not recorded.
pub type Place = Option<(NodeId, LabelSetId)>;

/// Looks into one stretch of CPU time that wait for its end.
const MAX_OPEN_LOOKS: usize = 16;

/// A stretch of CPU time under one set of labels that goes on. At its end the thread may say that it
/// was under others meanwhile; then the looks into it tell as much of those.
#[derive(Debug, Default)]
pub struct OpenSpan {
    /// The labels, as they are recorded.
    labels: Option<LabelSetId>,
    cpu_ns: u64,
    looks: Vec<(Place, u64)>,
}

/// A thread as this recording last saw it.
#[derive(Debug)]
pub struct Seen {
    /// Wall time, in ns, up to which it has been credited.
    pub wall_ns: u64,
    /// Its CPU clock in ns when it was folded last.
    pub clock_ns: Option<u64>,
    /// What its CPU clock showed, in ns, up to where its CPU time is accounted for.
    pub cpu_ns: Option<u64>,
    /// See [`ThreadSample::early_cpu_ns`].
    pub early_cpu_ns: u64,
    /// See [`ThreadSample::stack_version`]; [`NEVER`] if the stack has to be found anew.
    pub stack_version: u64,
    /// Where it was.
    pub node: NodeId,
    /// What its samples are marked with.
    pub labels: LabelSetId,
    /// Where it was last seen computing in this window, as far as labels are not known better.
    pub computing: Computing,
    /// Where it was last seen computing in this window.
    pub computed_at: Option<NodeId>,
    /// CPU time that no stack was seen spending yet, in ns, and of which the labels are not known.
    pub unplaced_cpu_ns: u64,
    /// CPU time of which the labels are known, and will be better.
    pub open: OpenSpan,
    /// The thread's name.
    pub name: Arc<str>,
    /// The labels' serial, and whether threads have classes.
    pub marks: (u64, bool),
    /// CPU time, in ns and part of the above, that was spent at `node` if the thread was pushed
    /// aside by the sampler alone and goes on at once. Whom others push aside is left where it asks
    /// the kernel for something, for there the kernel finds that its turn is over.
    pub doubtful_cpu_ns: u64,
    /// Whether the look before fell into a stretch whose labels are known.
    pub was_known: bool,
    /// Where it was at the look before this one.
    pub before: NodeId,
    /// What it did.
    pub state: ThreadState,
    /// The window that `node` and `labels` belong to.
    pub window: u64,
    /// The observation that folded it last; it has not changed at the later ones.
    pub observation: u64,
}

impl Seen {
    /// A thread that this recording sees for the first time.
    pub fn new(thread: &ThreadSample, wall_ns: u64, observation: u64, window: u64) -> Self {
        Self {
            wall_ns,
            clock_ns: thread.cpu_ns,
            cpu_ns: thread.cpu_ns,
            early_cpu_ns: thread.early_cpu_ns,
            stack_version: NEVER,
            node: NodeId::ROOT,
            labels: LabelSetId(0),
            before: NodeId::ROOT,
            computing: Computing::default(),
            computed_at: None,
            unplaced_cpu_ns: 0,
            open: OpenSpan::default(),
            doubtful_cpu_ns: 0,
            was_known: false,
            name: Arc::from(""),
            marks: (NEVER, false),
            state: ThreadState::Unknown,
            window,
            observation,
        }
    }

    /// What the stretch that goes on has spent, in ns.
    pub fn open_cpu_ns(&self) -> u64 {
        self.open.cpu_ns
    }

    /// Where it was; nowhere if it was not recorded.
    pub fn place(&self) -> Place {
        (self.stack_version != NEVER).then_some((self.node, self.labels))
    }

    /// Gives the CPU time that no stack was seen spending yet, but for `kept_ns` of it, to where the
    /// thread was seen computing last, or else to `place`. In parts, as each of those places was
    /// paid: it is worth many samples, and one place for them all would be chance.
    pub fn place_cpu(&mut self, kept_ns: u64, place: Place, window: &mut Window, width: usize) {
        self.doubtful_cpu_ns = 0;
        let mut left = self.unplaced_cpu_ns.saturating_sub(kept_ns);
        self.unplaced_cpu_ns -= left;
        let mut add = |place, cpu_ns| {
            if let Some((node, labels)) = place
                && cpu_ns > 0
            {
                window.add(node, labels, &cpu_values(cpu_ns)[..width]);
            }
        };
        if left > 0 {
            for (place, part) in self.computing.parts(left) {
                add(place, part);
                left -= part;
            }
            add(self.computing.last().unwrap_or(place), left);
        }
    }

    /// Notes a look that has found it computing at `place`, `weight_ns` after the look before, in
    /// time of which the labels are not known; returns what it is paid, in ns. It is to be added to
    /// the place's other values.
    pub fn pay_look(&mut self, place: Place, weight_ns: u64) -> u64 {
        let cpu_ns = weight_ns.min(self.unplaced_cpu_ns);
        self.computing.push(place, cpu_ns);
        self.unplaced_cpu_ns -= cpu_ns;
        cpu_ns
    }

    /// Notes a look into a stretch whose labels are known so far.
    pub fn keep_look(
        &mut self,
        place: Place,
        weight_ns: u64,
        accounts: &mut LabelCpu,
        window: &mut Window,
        width: usize,
    ) {
        self.open.looks.push((place, weight_ns));
        // Of one that lasts so long, most was looked at: its labels will not be known better.
        if self.open.looks.len() >= MAX_OPEN_LOOKS {
            self.settle_span(accounts, window, width);
        }
    }

    /// The thread has gone on since it was found pushed aside in a stretch whose labels are known so
    /// far: it was computing there.
    pub fn resolve_doubt(&mut self, accounts: &mut LabelCpu, window: &mut Window, width: usize) {
        let weight_ns = std::mem::take(&mut self.doubtful_cpu_ns);
        if weight_ns > 0 {
            self.computed_at = Some(self.node);
            self.keep_look(self.place(), weight_ns, accounts, window, width);
        }
    }

    /// Adds to the stretch that goes on under these labels.
    pub fn extend_span(&mut self, labels: Option<LabelSetId>, cpu_ns: u64) {
        self.open.labels = labels;
        self.open.cpu_ns += cpu_ns;
    }

    /// The stretch so far was under its labels indeed.
    pub fn settle_span(&mut self, accounts: &mut LabelCpu, window: &mut Window, width: usize) {
        let cpu_ns = std::mem::take(&mut self.open.cpu_ns);
        if let Some(labels) = self.open.labels {
            accounts.earn(labels, cpu_ns);
        }
        for (place, weight_ns) in self.open.looks.drain(..) {
            accounts.pay(place, weight_ns, window, width);
        }
    }

    /// The stretch so far was under other labels in part: it says as much as any other time of
    /// which they are not known.
    pub fn mix_span(&mut self, window: &mut Window, width: usize) {
        self.unplaced_cpu_ns += std::mem::take(&mut self.open.cpu_ns);
        let mut looks = std::mem::take(&mut self.open.looks);
        for (place, weight_ns) in looks.drain(..) {
            let cpu_ns = self.pay_look(place, weight_ns);
            if let Some((node, labels)) = place
                && cpu_ns > 0
            {
                window.add(node, labels, &cpu_values(cpu_ns)[..width]);
            }
        }
        self.open.looks = looks;
    }

    /// Gives the CPU time that was found late since the last look to `node`; returns it, in ns.
    pub fn place_early_cpu(
        &mut self,
        thread: &ThreadSample,
        window: &mut Window,
        width: usize,
    ) -> u64 {
        let cpu_ns = match (thread.cpu_ns, self.cpu_ns) {
            (Some(now), Some(before)) if self.stack_version != NEVER => now.saturating_sub(before),
            _ => 0,
        };
        let early_cpu_ns = cpu_ns.min(thread.early_cpu_ns.saturating_sub(self.early_cpu_ns));
        // A thread that tells of its labels tells where this belongs.
        if early_cpu_ns == 0 || thread.span.is_some() {
            return 0;
        }
        let values = values(0, 0, early_cpu_ns, self.state);
        window.add(self.node, self.labels, &values[..width]);
        early_cpu_ns
    }

    /// Credits the ticks until `observation`, at `wall_ns`, at which nothing was seen to change.
    pub fn catch_up(&mut self, observation: u64, wall_ns: u64, window: &mut Window, width: usize) {
        let ticks = observation.saturating_sub(self.observation);
        if ticks == 0 {
            return;
        }
        let wall = wall_ns.saturating_sub(self.wall_ns);
        self.wall_ns = wall_ns;
        self.observation = observation;
        self.doubtful_cpu_ns = 0;
        if self.stack_version == NEVER {
            return;
        }
        let count = i64::try_from(ticks).unwrap_or(i64::MAX);
        let values = values(count, wall, 0, self.state);
        window.add(self.node, self.labels, &values[..width]);
        self.before = self.node;
    }
}

/// Where a thread was seen computing last, and the CPU time that each look was paid.
#[derive(Clone, Copy, Debug)]
pub struct Computing {
    looks: [(Place, u32); MAX_COMPUTING],
    /// How many looks there were.
    count: usize,
}

impl Default for Computing {
    fn default() -> Self {
        Self {
            looks: [(None, 0); MAX_COMPUTING],
            count: 0,
        }
    }
}

impl Computing {
    /// It was seen computing at `place` as well, and that was worth `cpu_ns`.
    pub fn push(&mut self, place: Place, cpu_ns: u64) {
        let weight = u32::try_from(cpu_ns).unwrap_or(u32::MAX);
        self.looks[self.count % MAX_COMPUTING] = (place, weight);
        self.count += 1;
    }

    /// The last of them, if there was any.
    pub fn last(&self) -> Option<Place> {
        let last = self.count.checked_sub(1)?;
        Some(self.looks[last % MAX_COMPUTING].0)
    }

    /// Divides `cpu_ns` among them; what cannot be divided is left.
    fn parts(&self, cpu_ns: u64) -> impl Iterator<Item = (Place, u64)> {
        let looks = &self.looks[..self.count.min(MAX_COMPUTING)];
        let paid_ns: u64 = looks.iter().map(|&(_, paid_ns)| u64::from(paid_ns)).sum();
        looks.iter().map(move |&(place, weight)| {
            let part = u128::from(cpu_ns) * u128::from(weight) / u128::from(paid_ns.max(1));
            (place, u64::try_from(part).unwrap_or(0))
        })
    }
}

fn as_value(nanoseconds: u64) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(i64::MAX)
}

/// One sample's values, in all columns.
pub fn values(
    count: i64,
    wall_ns: u64,
    cpu_ns: u64,
    state: ThreadState,
) -> [i64; sample_type::MAX_SAMPLED] {
    let mut values = [0; sample_type::MAX_SAMPLED];
    values[sample_type::SAMPLES] = count;
    values[sample_type::WALL] = as_value(wall_ns);
    values[sample_type::CPU] = as_value(cpu_ns);
    match state {
        ThreadState::HoldsGil => values[sample_type::GIL] = as_value(wall_ns),
        ThreadState::WaitsForGil => values[sample_type::GIL_WAIT] = as_value(wall_ns),
        _ => {}
    }
    values
}

/// The values of CPU time alone.
pub fn cpu_values(cpu_ns: u64) -> [i64; sample_type::MAX_SAMPLED] {
    values(0, 0, cpu_ns, ThreadState::Unknown)
}
