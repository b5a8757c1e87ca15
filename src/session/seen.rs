//! A thread as a recording last saw it, and what it has spent since.
#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::fold::call_tree::NodeId;
use crate::fold::window::Window;
use crate::model::label::LabelSetId;
use crate::model::sample_type;
use crate::model::snapshot::{ThreadSample, ThreadState};

/// In how many parts, at the most, CPU time that no stack was seen spending is placed.
const MAX_COMPUTING: usize = 16;

/// No stack's version and no labels' serial.
pub const NEVER: u64 = u64::MAX;

/// A thread as this recording last saw it.
#[derive(Debug)]
pub struct Seen {
    /// Wall time, in ns, up to which it has been credited.
    pub wall_ns: u64,
    /// Its CPU clock in ns.
    pub cpu_ns: Option<u64>,
    /// See [`ThreadSample::early_cpu_ns`].
    pub early_cpu_ns: u64,
    /// See [`ThreadSample::stack_version`]; [`NEVER`] if the stack has to be found anew.
    pub stack_version: u64,
    /// Where it was.
    pub node: NodeId,
    /// What its samples are marked with.
    pub labels: LabelSetId,
    /// Where it was last seen computing in this window.
    pub computing: Computing,
    /// CPU time that no stack was seen spending yet, in ns.
    pub unplaced_cpu_ns: u64,
    /// The thread's name.
    pub name: Arc<str>,
    /// The labels' serial, and whether threads have classes.
    pub marks: (u64, bool),
    /// CPU time, in ns and part of the above, that was spent at `node` if the thread was pushed
    /// aside by the sampler alone and goes on at once. Whom others push aside is left where it asks
    /// the kernel for something, for there the kernel finds that its turn is over.
    pub doubtful_cpu_ns: u64,
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
    /// Gives the CPU time that no stack was seen spending yet, but for `kept_ns` of it, to where the
    /// thread was seen computing last, or else to `node`. In parts, as each of those places was
    /// paid: it is worth many samples, and one place for them all would be chance.
    pub fn place_cpu(&mut self, kept_ns: u64, node: NodeId, window: &mut Window, width: usize) {
        self.doubtful_cpu_ns = 0;
        let mut left = self.unplaced_cpu_ns.saturating_sub(kept_ns);
        self.unplaced_cpu_ns -= left;
        let mut add = |node, cpu_ns| {
            if cpu_ns > 0 {
                let mut values = [0; sample_type::MAX_SAMPLED];
                values[sample_type::CPU] = as_value(cpu_ns);
                window.add(node, self.labels, &values[..width]);
            }
        };
        if left > 0 {
            for (node, part) in self.computing.parts(left) {
                add(node, part);
                left -= part;
            }
            add(self.computing.last().unwrap_or(node), left);
        }
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
        if early_cpu_ns > 0 {
            let values = values(0, 0, early_cpu_ns, self.state);
            window.add(self.node, self.labels, &values[..width]);
        }
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

/// The nodes at which a thread was seen computing last, and the CPU time that each look was paid.
#[derive(Clone, Copy, Debug)]
pub struct Computing {
    looks: [(NodeId, u32); MAX_COMPUTING],
    /// How many looks there were.
    count: usize,
}

impl Default for Computing {
    fn default() -> Self {
        Self {
            looks: [(NodeId::ROOT, 0); MAX_COMPUTING],
            count: 0,
        }
    }
}

impl From<Option<NodeId>> for Computing {
    fn from(node: Option<NodeId>) -> Self {
        let mut computing = Self::default();
        if let Some(node) = node {
            computing.push(node, 0);
        }
        computing
    }
}

impl Computing {
    /// It was seen computing at `node` as well, and that was worth `cpu_ns`.
    pub fn push(&mut self, node: NodeId, cpu_ns: u64) {
        let weight = u32::try_from(cpu_ns).unwrap_or(u32::MAX);
        self.looks[self.count % MAX_COMPUTING] = (node, weight);
        self.count += 1;
    }

    /// The last of them.
    pub fn last(&self) -> Option<NodeId> {
        let last = self.count.checked_sub(1)?;
        Some(self.looks[last % MAX_COMPUTING].0)
    }

    /// Divides `cpu_ns` among them; what cannot be divided is left.
    fn parts(&self, cpu_ns: u64) -> impl Iterator<Item = (NodeId, u64)> {
        let looks = &self.looks[..self.count.min(MAX_COMPUTING)];
        let paid_ns: u64 = looks.iter().map(|&(_, paid_ns)| u64::from(paid_ns)).sum();
        looks.iter().map(move |&(node, weight)| {
            let part = u128::from(cpu_ns) * u128::from(weight) / u128::from(paid_ns.max(1));
            (node, u64::try_from(part).unwrap_or(0))
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
