//! Who held the locks that others waited for.
//!
//! As with the GIL (`gil_blame.rs`): threads that wait are charged with `lock_wait`, tick by tick or
//! for many ticks at once, and weigh meanwhile on whoever holds what they wait for. When the window
//! ends, what it has of `lock_wait` for a lock is charged as `lock_blame` in proportion to the weights
//! of that lock, so for each lock the two sums are equal to the nanosecond. Tasks of asyncio that wait are
//! charged when they are drawn, and weigh at those draws at which it was looked for the holder.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::sighting::{Spot, as_value};
use super::{Subject, ThreadLedger};
use crate::fold::call_tree::NodeId;
use crate::fold::charge::{Charge, Fold};
use crate::model::function::{OTHER_PROCESS, UNKNOWN_HOLDER};
use crate::model::label::LabelSetId;
use crate::model::lock::{HeldLock, Holder, LockName, LockWait};
use crate::model::measure::{Amounts, MeasureId};

/// A thread that waits for what another one has.
#[derive(Clone, Debug)]
struct Waiter {
    lock: LockWait,
    /// The labels under which it waits.
    labels: LabelSetId,
}

/// Whom a wait weighs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Blamed {
    Stack(NodeId),
    OtherProcess,
    Unknown,
}

/// The waits for what goes by one name, in one window.
#[derive(Debug)]
struct Account {
    name: LockName,
    /// What was charged as `lock_wait`, in ns.
    waited_ns: u64,
    /// The labels of who waited first: of waits that weigh on nobody.
    labels: LabelSetId,
    /// In ns.
    weights: FxHashMap<(Blamed, LabelSetId), u64>,
}

/// The threads that wait for locks and those that hold them, in one window.
#[derive(Debug, Default)]
pub(super) struct LockBlame {
    /// Of a process with 1,000 threads few are in here.
    waiters: FxHashMap<Subject, Waiter>,
    /// Who holds what they wait for, as told by the last snapshot.
    held: Vec<HeldLock>,
    /// By the serial of the name.
    accounts: FxHashMap<u32, Account>,
    /// Wall time in ns up to which it is weighed.
    wall_ns: u64,
}

impl LockBlame {
    /// Takes in what a thread does now.
    #[inline]
    pub(super) fn see(&mut self, subject: Subject, ledger: &ThreadLedger) {
        match ledger.blamed_wait() {
            Some((lock, (_, labels))) if self.waiters.try_reserve(1).is_ok() => {
                let lock = lock.clone();
                self.waiters.insert(subject, Waiter { lock, labels });
            }
            _ => self.forget(subject),
        }
    }

    /// The thread waits for no lock any more.
    #[inline]
    pub(super) fn forget(&mut self, subject: Subject) {
        if !self.waiters.is_empty() {
            self.waiters.remove(&subject);
        }
    }

    /// Takes in who holds what now.
    #[inline]
    pub(super) fn learn(&mut self, held: &[HeldLock]) {
        if !(self.held.is_empty() && held.is_empty()) {
            self.held.clear();
            if self.held.try_reserve(held.len()).is_ok() {
                self.held.extend_from_slice(held);
            }
        }
    }

    /// Begins anew at this wall time: what was before belongs to nobody.
    pub(super) fn begin(&mut self, wall_ns: u64) {
        self.wall_ns = wall_ns;
    }

    /// Notes that so much was charged as a wait.
    pub(super) fn add(&mut self, name: &LockName, labels: LabelSetId, waited_ns: u64) {
        if let Some(account) = self.account(name, labels) {
            account.waited_ns += waited_ns;
        }
    }

    /// Notes that a task was charged with so much as a wait under these labels. `found`: where whoever
    /// holds the lock was found, and under which labels; nothing if nobody was looked for.
    pub(super) fn add_of_task(
        &mut self,
        name: &LockName,
        labels: LabelSetId,
        waited_ns: u64,
        found: Option<Option<Spot>>,
    ) {
        if let Some(account) = self.account(name, labels) {
            account.waited_ns += waited_ns;
            if let Some(found) = found
                && account.weights.try_reserve(1).is_ok()
            {
                let blamed = found.map_or((Blamed::Unknown, labels), |(node, labels)| {
                    (Blamed::Stack(node), labels)
                });
                *account.weights.entry(blamed).or_default() += waited_ns;
            }
        }
    }

    fn account(&mut self, name: &LockName, labels: LabelSetId) -> Option<&mut Account> {
        self.accounts.try_reserve(1).ok()?;
        Some(self.accounts.entry(name.serial).or_insert_with(|| Account {
            name: name.clone(),
            waited_ns: 0,
            labels,
            weights: FxHashMap::default(),
        }))
    }

    /// Has everybody who waits weigh on whoever holds what they wait for, until this wall time.
    #[inline]
    pub(super) fn weigh(&mut self, wall_ns: u64, threads: &FxHashMap<Subject, ThreadLedger>) {
        let passed_ns = wall_ns.saturating_sub(self.wall_ns);
        self.wall_ns = self.wall_ns.max(wall_ns);
        if passed_ns > 0 && !self.waiters.is_empty() {
            self.weigh_waiters(passed_ns, threads);
        }
    }

    #[inline(never)]
    fn weigh_waiters(&mut self, passed_ns: u64, threads: &FxHashMap<Subject, ThreadLedger>) {
        let waiters = std::mem::take(&mut self.waiters);
        for Waiter { lock, labels } in waiters.values() {
            let held = self.held.iter().find(|held| held.place == lock.place);
            let spot_of = |holder| -> Option<Spot> {
                let ledger = threads.get(&Subject::Thread(holder))?;
                ledger.spot()
            };
            let blamed = match held.map_or(Holder::Unknown, |held| held.holder) {
                Holder::Thread(holder) => spot_of(holder)
                    .map_or((Blamed::Unknown, *labels), |(node, labels)| {
                        (Blamed::Stack(node), labels)
                    }),
                Holder::OtherProcess => (Blamed::OtherProcess, *labels),
                Holder::Unknown => (Blamed::Unknown, *labels),
            };
            if let Some(account) = self.account(&lock.name, *labels)
                && account.weights.try_reserve(1).is_ok()
            {
                *account.weights.entry(blamed).or_default() += passed_ns;
            }
        }
        self.waiters = waiters;
    }

    /// Charges those who held locks with what the window has of waits for them. It ends: its stacks and
    /// labels mean nothing in the next one, in which all threads are looked at anew.
    pub(super) fn finish(&mut self, fold: &mut impl Fold) {
        self.waiters.clear();
        let mut accounts: Vec<Account> =
            self.accounts.drain().map(|(_, account)| account).collect();
        if !fold.measures().contains(MeasureId::LockBlame) {
            return;
        }
        // The order of a hash table is nobody's.
        accounts.sort_unstable_by_key(|account| account.name.serial);
        for account in accounts {
            account.charge(self.wall_ns, fold);
        }
    }

    /// An estimate of the memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let weights: usize = self
            .accounts
            .values()
            .map(|account| account.weights.capacity())
            .sum();
        self.waiters.capacity() * (size_of::<(Subject, Waiter)>() + 1)
            + self.accounts.capacity() * (size_of::<(u32, Account)>() + 1)
            + weights * (size_of::<((Blamed, LabelSetId), u64)>() + 1)
            + self.held.capacity() * size_of::<HeldLock>()
    }
}

impl Account {
    fn charge(mut self, wall_ns: u64, fold: &mut impl Fold) {
        if self.weights.is_empty() {
            self.weights.insert((Blamed::Unknown, self.labels), 1);
        }
        let mut weights: Vec<_> = self.weights.into_iter().collect();
        weights.sort_unstable();
        let whole: u128 = weights.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let (mut passed, mut given_ns) = (0, 0);
        for ((blamed, labels), weight) in weights {
            passed += u128::from(weight);
            // Of what should have been given by now, what was not given yet.
            let due_ns = u128::from(self.waited_ns) * passed / whole.max(1);
            let due_ns = u64::try_from(due_ns).unwrap_or(self.waited_ns);
            let part_ns = due_ns - given_ns;
            given_ns = due_ns;
            if part_ns == 0 {
                continue;
            }
            let node = match blamed {
                Blamed::Stack(node) => node,
                Blamed::OtherProcess => fold.pseudo(OTHER_PROCESS),
                Blamed::Unknown => fold.pseudo(UNKNOWN_HOLDER),
            };
            let labels = fold.with_lock(labels, Some(&self.name));
            fold.add(&Charge {
                node,
                labels,
                values: Amounts::of(MeasureId::LockBlame, as_value(part_ns)),
                from_ns: wall_ns,
                to_ns: wall_ns,
            });
        }
    }
}
