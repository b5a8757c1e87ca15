//! Who held the GIL while others waited for it.
//!
//! Threads that wait for the GIL are charged with `gil_wait`, tick by tick or for many ticks at once.
//! Meanwhile each of them weighs as much on whoever holds the GIL. When the window ends, what it has
//! of `gil_wait` is charged as `gil_blame` in proportion to these weights, so the two sums are equal
//! to the nanosecond.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::sighting::{Spot, as_value};
use super::{Subject, ThreadLedger};
use crate::fold::call_tree::NodeId;
use crate::fold::charge::{Charge, Fold};
use crate::model::function::UNKNOWN_HOLDER;
use crate::model::label::LabelSetId;
use crate::model::measure::{Amounts, MeasureId};
use crate::model::snapshot::{ThreadSample, ThreadState};

/// What a thread has to do with a GIL.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// It holds it, and is where it is told; `None` if that is not recorded.
    Holds(Option<Spot>),
    /// It waits for it, under these labels.
    Waits(LabelSetId),
}

/// The holders of GILs and those who wait for them, in one window.
#[derive(Debug, Default)]
pub(super) struct GilBlame {
    /// By thread, with the address of the GIL. Of a process with 1,000 threads few are in here.
    roles: FxHashMap<Subject, (u64, Role)>,
    /// What weighs on whom, in ns: on a stack, or on no known one under the labels of who waits.
    weights: FxHashMap<(Option<NodeId>, LabelSetId), u64>,
    /// Wall time in ns up to which it is weighed.
    wall_ns: u64,
}

impl GilBlame {
    /// Takes in what a thread does now.
    #[inline]
    pub(super) fn see(&mut self, subject: Subject, thread: &ThreadSample, ledger: &ThreadLedger) {
        let role = match (thread.state, ledger.spot()) {
            (ThreadState::HoldsGil, spot) => Role::Holds(spot),
            (ThreadState::WaitsForGil, Some((_, labels))) => Role::Waits(labels),
            _ => return self.forget(subject),
        };
        if self.roles.try_reserve(1).is_ok() {
            self.roles.insert(subject, (thread.gil, role));
        }
    }

    /// The thread has nothing to do with a GIL any more.
    pub(super) fn forget(&mut self, subject: Subject) {
        if !self.roles.is_empty() {
            self.roles.remove(&subject);
        }
    }

    /// Begins anew at this wall time: what was before belongs to nobody.
    pub(super) fn begin(&mut self, wall_ns: u64) {
        self.wall_ns = wall_ns;
    }

    /// Has everybody who waits weigh on whoever holds what they wait for, until this wall time.
    #[inline]
    pub(super) fn weigh(&mut self, wall_ns: u64) {
        let passed_ns = wall_ns.saturating_sub(self.wall_ns);
        self.wall_ns = self.wall_ns.max(wall_ns);
        // With one role there is nobody to wait for.
        if passed_ns > 0 && !self.roles.is_empty() {
            self.weigh_roles(passed_ns);
        }
    }

    #[inline(never)]
    fn weigh_roles(&mut self, passed_ns: u64) {
        let waiting = self.roles.values().filter_map(|(gil, role)| match role {
            Role::Waits(labels) => Some((*gil, *labels)),
            Role::Holds(_) => None,
        });
        // One GIL, but for sub-interpreters that have their own.
        let mut known: Option<(u64, Option<Spot>)> = None;
        for (gil, labels) in waiting {
            let holder = match known {
                Some((of, holder)) if of == gil => holder,
                _ => self.holder_of(gil),
            };
            known = Some((gil, holder));
            let blamed = holder.map_or((None, labels), |(node, labels)| (Some(node), labels));
            if self.weights.try_reserve(1).is_ok() {
                *self.weights.entry(blamed).or_default() += passed_ns;
            }
        }
    }

    /// Where the holder of a GIL is. Two threads seen with it were looked at before and after a
    /// switch: then it is not known who held it.
    fn holder_of(&self, gil: u64) -> Option<Spot> {
        let mut holders = self.roles.values().filter_map(|(of, role)| match role {
            Role::Holds(spot) if *of == gil => Some(*spot),
            _ => None,
        });
        let holder = holders.next()?;
        holders.next().is_none().then_some(holder)?
    }

    /// Charges those who held the GIL with what the window has of waits for it. It ends: its stacks and
    /// labels mean nothing in the next one, in which all threads are looked at anew.
    pub(super) fn finish(&mut self, fold: &mut impl Fold) {
        let mut weights: Vec<_> = self.weights.drain().collect();
        // The order of a hash table is nobody's.
        weights.sort_unstable();
        self.roles.clear();
        if !fold.measures().contains(MeasureId::GilBlame) {
            return;
        }
        let waited_ns = fold.total(MeasureId::GilWait);
        let whole: u128 = weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let (mut passed, mut given_ns) = (0, 0);
        for ((node, labels), weight) in weights {
            passed += u128::from(weight);
            // Of what should have been given by now, what was not given yet.
            let due_ns = u128::from(waited_ns) * passed / whole.max(1);
            let due_ns = u64::try_from(due_ns).unwrap_or(waited_ns);
            let part_ns = due_ns - given_ns;
            given_ns = due_ns;
            if part_ns == 0 {
                continue;
            }
            let node = node.unwrap_or_else(|| fold.pseudo(UNKNOWN_HOLDER));
            fold.add(&Charge {
                node,
                labels,
                values: Amounts::of(MeasureId::GilBlame, as_value(part_ns)),
                from_ns: self.wall_ns,
                to_ns: self.wall_ns,
            });
        }
    }

    /// An estimate of the memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.roles.capacity() * (size_of::<(Subject, (u64, Role))>() + 1)
            + self.weights.capacity() * (size_of::<((Option<NodeId>, LabelSetId), u64)>() + 1)
    }
}
