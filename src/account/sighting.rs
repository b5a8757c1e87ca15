//! A moment at which a thread was seen computing.
#![forbid(unsafe_code)]

use crate::fold::call_tree::NodeId;
use crate::fold::charge::{Charge, Fold};
use crate::model::label::LabelSetId;
use crate::model::measure::{Amounts, MeasureId};

/// A stack and the labels under which a thread had it.
pub(super) type Spot = (NodeId, LabelSetId);

/// A thread was seen computing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    /// Where; `None` if that is not recorded.
    pub(super) spot: Option<Spot>,
    /// The labels of the spot without the name of a task: those of which the thread's clock tells.
    pub(super) under: LabelSetId,
    /// For how much time it stands, in ns: that since the tick before.
    pub(super) weight_ns: u64,
    /// When, in ns of wall time.
    pub(super) at_ns: u64,
}

impl Sighting {
    /// The stack.
    pub(super) fn node(self) -> Option<NodeId> {
        self.spot.map(|(node, _)| node)
    }

    /// Charges the spot with so much CPU time.
    pub(super) fn charge(self, cpu_ns: u64, fold: &mut impl Fold) {
        let from_ns = self.at_ns.saturating_sub(self.weight_ns);
        charge_cpu(self.spot, cpu_ns, (from_ns, self.at_ns), fold);
    }
}

/// Charges a spot with CPU time that was spent at some moment of this time.
pub(super) fn charge_cpu(
    spot: Option<Spot>,
    cpu_ns: u64,
    (from_ns, to_ns): (u64, u64),
    fold: &mut impl Fold,
) {
    if let Some((node, labels)) = spot
        && cpu_ns > 0
    {
        fold.add(&Charge {
            node,
            labels,
            values: Amounts::of(MeasureId::Cpu, as_value(cpu_ns)),
            from_ns,
            to_ns,
        });
    }
}

/// Nanoseconds as a value of a sample.
pub(super) fn as_value(nanoseconds: u64) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(i64::MAX)
}
