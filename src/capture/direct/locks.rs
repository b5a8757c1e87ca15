//! Locks of Python that threads wait for, and who holds them.
//!
//! Which lock it is, is found out once for each wait. Who holds it is asked at each look as long as
//! somebody waits; while nobody does, none of this costs anything.
#![forbid(unsafe_code)]

use super::DirectEngine;
use super::lock_holders::ident_of;
use super::lock_names::{LockNames, Purpose, Told, tell};
use super::stacks::Subject;
use super::task_locks::not_held;
use super::task_waits::WaitNames;
use crate::clock::thread_state::Activity;
use crate::layout::Layout;
use crate::layout::locks::variables;
use crate::memory::{ReadMemory, read_word};
use crate::model::lock::{HeldLock, Holder, LockWait};
use crate::model::snapshot::ThreadState;
use crate::unwind::code::FREED;
use crate::unwind::expression::called_on;
use crate::unwind::frames::RawFrame;
use crate::unwind::holders::HolderReader;
use crate::unwind::locks::{FoundLock, LockKind, find, is_still};
use crate::unwind::objects::{Types, attributes, may_be_object};

/// How much is looked at for the holders of locks in one look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Threads that are walked again.
    walks: usize,
    /// Locks that are waited for, of which is asked who holds them.
    locks: usize,
}

impl Bounds {
    /// Where there is no next look.
    pub(super) const OF_ONE_LOOK: Self = Self {
        walks: 4_096,
        locks: 4_096,
    };
}

impl Default for Bounds {
    /// Where there is a look at each tick.
    fn default() -> Self {
        Self {
            walks: 128,
            locks: 64,
        }
    }
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Lock(FoundLock),
    /// The end of a thread.
    Thread(JoinedThread),
    /// The future at this address.
    Future(usize),
    /// News.
    Nothing,
}

/// A thread whose end is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct JoinedThread {
    /// Its `threading.Thread`.
    pub(super) object: usize,
    /// The lock by which its end is told, before 3.13; or 0.
    pub(super) lock: usize,
    /// Its ident, which stays the same, if it could be read.
    pub(super) ident: Option<usize>,
}

impl Wanted {
    /// Whether what threads hold tells who holds it, and not the thing itself.
    pub(super) fn asks_all(&self) -> bool {
        match self {
            Self::Future(_) => true,
            Self::Lock(lock) => lock.kind == LockKind::Lock,
            Self::Thread(..) | Self::Nothing => false,
        }
    }
}

/// What a thread holds.
#[derive(Debug)]
pub(super) struct Held {
    /// Where that is.
    pub(super) addresses: Vec<usize>,
    /// Whether it is more than that.
    is_cut: bool,
}

/// A wait as it was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) futex: usize,
    /// Of the stack.
    pub(super) version: u64,
    /// The frame that waits.
    pub(super) leaf: RawFrame,
    pub(super) wanted: Wanted,
    pub(super) has_timeout: bool,
}

/// What is remembered of a thread for its locks.
#[derive(Debug, Default)]
pub(super) struct LockTrack {
    /// The wait that was found last.
    pub(super) seen: Option<Seen>,
    /// What it holds, since its stack was read last.
    pub(super) held: Option<Held>,
}

/// What the engine knows of locks.
#[derive(Debug, Default)]
pub(super) struct Locks {
    /// Whether anybody wants to know.
    pub(super) is_on: bool,
    /// Whether somebody waited for a lock at the last look.
    is_contended: bool,
    /// Whether what threads hold tells of one of these who holds it.
    asks_all: bool,
    pub(super) bounds: Bounds,
    pub(super) types: Types,
    pub(super) holders: HolderReader,
    pub(super) names: LockNames,
    pub(super) wait_names: WaitNames,
    /// A buffer.
    wanted: Vec<(u64, Wanted)>,
}

impl Locks {
    pub(super) fn bytes(&self) -> usize {
        self.types.bytes() + self.holders.bytes() + self.names.bytes() + self.wait_names.bytes()
    }
}

impl DirectEngine {
    /// Has snapshots tell which locks threads wait for, where that can be told.
    #[must_use]
    pub fn with_locks(mut self) -> Self {
        self.set_locks(true);
        self
    }

    pub(super) fn set_locks(&mut self, wanted: bool) {
        let is_on = wanted && self.interpreter.knows_locks;
        if is_on && !self.locks.is_on {
            // Threads that stand still are looked at as well.
            self.roster.forget_stacks();
        }
        self.locks.is_on = is_on;
    }

    /// Finds out what a thread whose stack was read waits for and holds. `is_remembered`: its frames are
    /// not in the reader any more.
    pub(super) fn note_walk(
        &mut self,
        at: usize,
        activity: Option<Activity>,
        is_remembered: bool,
        memory: &mut dyn ReadMemory,
    ) {
        if is_remembered {
            self.stacks.swap_raw(at, &mut self.roster);
        }
        self.roster.tracks_mut()[at].extra.locks.held = None;
        if self.locks.asks_all {
            self.find_held(at, memory);
        }
        self.update_lock(at, activity, true, memory);
        if is_remembered {
            self.stacks.swap_raw(at, &mut self.roster);
        }
    }

    /// Finds out which lock a thread waits for, if it waits for one, after its state and its stack.
    /// `is_read`: the reader has its stack.
    #[inline]
    pub(super) fn update_lock(
        &mut self,
        at: usize,
        activity: Option<Activity>,
        is_read: bool,
        memory: &mut dyn ReadMemory,
    ) {
        let sample = self.roster.sample_mut(at);
        let (futex, has_timeout) = match activity {
            Some(Activity::Blocked(call))
                if sample.state == ThreadState::WaitsForLock && self.locks.is_on =>
            {
                (call.futex(), call.has_timeout())
            }
            _ => (0, false),
        };
        if futex == 0 {
            sample.lock = None;
            return;
        }
        let mut lock = self.lock_of(at, futex, is_read, memory);
        let seen = &mut self.roster.tracks_mut()[at].extra.locks.seen;
        if let (Some(lock), Some(seen)) = (&mut lock, seen) {
            lock.has_timeout = has_timeout;
            seen.has_timeout = has_timeout;
        }
        self.locks.is_contended |= lock.as_ref().is_some_and(|lock| lock.is_blamed);
        self.roster.sample_mut(at).lock = lock;
    }

    #[inline(never)]
    fn lock_of(
        &mut self,
        at: usize,
        futex: usize,
        is_read: bool,
        memory: &mut dyn ReadMemory,
    ) -> Option<LockWait> {
        let layout = self.interpreter.layout;
        let (track, sample) = self.roster.pair_mut(at);
        if let Some(Seen {
            futex: known,
            version,
            wanted,
            ..
        }) = track.extra.locks.seen
            && version == sample.stack_version
            && sample.lock.is_some()
        {
            let types = &mut self.locks.types;
            let is_same = match wanted {
                Wanted::Lock(lock) => is_still(memory, &layout, types, lock, futex),
                Wanted::Nothing => true,
                Wanted::Thread(..) | Wanted::Future(_) => known == futex,
            };
            if is_same {
                return sample.lock.take();
            }
        }
        track.extra.locks.seen = None;
        let version = sample.stack_version;
        if !is_read && !self.read_again(at, memory) {
            return None;
        }
        let told = self.tell();
        let (wanted, kind) = self.find_wanted(told, futex, memory)?;
        let place = match wanted {
            Wanted::Lock(lock) => lock.object,
            Wanted::Thread(JoinedThread { object, .. }) | Wanted::Future(object) => object,
            Wanted::Nothing => 0,
        };
        let is_news = match wanted {
            Wanted::Nothing => true,
            Wanted::Lock(lock) => {
                matches!(
                    lock.kind,
                    LockKind::SimpleQueue | LockKind::ProcessSemaphore
                )
            }
            _ => false,
        };
        let name = self.name_wait(told.depth, kind, memory)?;
        self.roster.tracks_mut()[at].extra.locks.seen = Some(Seen {
            futex,
            version,
            leaf: *self.stacks.raw.first()?,
            wanted,
            has_timeout: false,
        });
        Some(LockWait {
            place: place as u64,
            name,
            is_blamed: !is_news,
            has_timeout: false,
        })
    }

    /// Reads a thread's stack once more, for its frames; whether that was possible.
    pub(super) fn read_again(&mut self, at: usize, memory: &mut dyn ReadMemory) -> bool {
        let Some(target) = self.target(at) else {
            return false;
        };
        let mut hints = std::mem::take(&mut self.roster.tracks_mut()[at].extra.hints);
        let mut subject = Subject {
            memory,
            layout: &self.interpreter.layout,
            target,
        };
        let read = self
            .stacks
            .read(&mut subject, Some(at), &mut hints, &mut self.roster);
        self.roster.tracks_mut()[at].extra.hints = hints;
        matches!(read, Ok(Some(_)))
    }

    fn function_name(&self, depth: usize) -> Option<&str> {
        let frame = self.stacks.raw.get(depth)?;
        let serial = self.stacks.cache.function(frame.code)?;
        let function = self.roster.snapshot().function(serial)?;
        Some(&function.name)
    }

    /// What the functions tell of the wait of the thread that was read last.
    fn tell(&self) -> Told {
        tell(|depth| self.function_name(depth))
    }

    fn find_wanted(
        &mut self,
        told: Told,
        futex: usize,
        memory: &mut dyn ReadMemory,
    ) -> Option<(Wanted, &'static str)> {
        let layout = self.interpreter.layout;
        let leaf = *self.stacks.raw.first()?;
        let first_of = |depth: usize, memory: &mut dyn ReadMemory| {
            first_variable(memory, &layout, self.stacks.raw.get(depth)?)
        };
        Some(match told.purpose {
            Purpose::News => (Wanted::Nothing, told.kind),
            Purpose::Future(depth) => (Wanted::Future(first_of(depth, memory)?), told.kind),
            Purpose::Thread => {
                let thread = first_of(0, memory);
                let types = &mut self.locks.types;
                let lock = find(memory, &layout, types, &leaf, futex).map_or(0, |lock| lock.object);
                let wanted = thread.map_or(Wanted::Nothing, |object| {
                    let ident = ident_of(memory, &layout, types, object, lock);
                    Wanted::Thread(JoinedThread {
                        object,
                        lock,
                        ident,
                    })
                });
                (wanted, told.kind)
            }
            Purpose::Lock => {
                let types = &mut self.locks.types;
                let lock = find(memory, &layout, types, &leaf, futex)?;
                (Wanted::Lock(lock), lock.kind.name())
            }
        })
    }

    /// What the wait of the thread that was read last is called, which begins at this depth.
    fn name_wait(
        &mut self,
        depth: usize,
        kind: &'static str,
        memory: &mut dyn ReadMemory,
    ) -> Option<crate::model::lock::LockName> {
        let layout = self.interpreter.layout;
        let known = self.stacks.raw.get(depth).copied().and_then(|frame| {
            let serial = self.stacks.cache.function(frame.code)?;
            Some((frame, serial))
        });
        let Some((frame, serial)) = known else {
            return Some(self.locks.names.name(kind));
        };
        let place = (serial, frame.instruction);
        if let Some(known) = self.locks.names.at(place.0, place.1, kind) {
            return Some(known.clone());
        }
        let function = self.roster.snapshot().function(serial)?.clone();
        let text = match called_on(memory, &layout, &frame, &function.name) {
            Some(expression) => format!("{kind} {expression}"),
            None => format!("{kind} in {}", function.name),
        };
        let name = self.locks.names.name(&text);
        self.locks.names.remember(place, kind, &name);
        Some(name)
    }

    /// Finds out who holds what is waited for, at the end of a look. Returns of how many locks that was
    /// not asked.
    pub(super) fn find_holders(&mut self, memory: &mut dyn ReadMemory) -> u32 {
        if !self.locks.is_contended {
            return 0;
        }
        let mut wanted = std::mem::take(&mut self.locks.wanted);
        wanted.clear();
        let mut unasked = 0;
        for at in 0..self.roster.len() {
            let lock = self.roster.sample(at).lock.as_ref();
            let seen = self.roster.tracks()[at].extra.locks.seen;
            if let (Some(lock), Some(Seen { wanted: what, .. })) =
                (lock.filter(|lock| lock.is_blamed), seen)
                && !wanted.iter().any(|(place, _)| *place == lock.place)
            {
                if wanted.len() < self.locks.bounds.locks {
                    wanted.push((lock.place, what));
                } else {
                    unasked += 1;
                }
            }
        }
        self.locks.is_contended = !wanted.is_empty();
        self.locks.asks_all = wanted.iter().any(|(_, what)| self.asks_all(*what, memory));
        let is_all_known = !self.locks.asks_all || self.find_all_held(memory);
        let mut held = std::mem::take(self.roster.held_mut());
        held.clear();
        for (place, what) in &wanted {
            let holder = match (self.holder_of(*what, memory), what) {
                (Holder::Unknown, Wanted::Lock(lock)) => self.heir_of(*lock, memory),
                (holder, _) => holder,
            };
            if holder == Holder::Unknown && !is_all_known && what.asks_all() {
                unasked += 1;
            }
            held.push(HeldLock {
                place: *place,
                holder,
            });
        }
        *self.roster.held_mut() = held;
        self.locks.wanted = wanted;
        unasked
    }

    /// Finds out what every thread holds of which that is not known yet. False if that was too much.
    fn find_all_held(&mut self, memory: &mut dyn ReadMemory) -> bool {
        let mut walks = 0;
        let mut is_whole = true;
        for at in 0..self.roster.len() {
            if let Some(held) = &self.roster.tracks()[at].extra.locks.held {
                is_whole &= !held.is_cut;
                continue;
            }
            walks += 1;
            if walks > self.locks.bounds.walks {
                return false;
            }
            if self.read_again(at, memory) {
                is_whole &= !self.find_held(at, memory);
            }
        }
        is_whole
    }

    /// Finds out what the thread holds that was read last; whether it is more than is told.
    fn find_held(&mut self, at: usize, memory: &mut dyn ReadMemory) -> bool {
        let mut held = Vec::new();
        let layout = self.interpreter.layout;
        let locks = &mut self.locks;
        locks.holders.forget_dead(FREED.count());
        let raw = &self.stacks.raw;
        let is_cut = locks
            .holders
            .held(memory, &layout, &mut locks.types, raw, &mut held);
        for depth in 0..raw.len() {
            let runs_work = |name: &str| {
                let rest = name.strip_prefix("concurrent.futures.thread.");
                rest.is_some_and(|rest| rest.rsplit('.').next() == Some("run"))
            };
            if self.function_name(depth).is_some_and(runs_work)
                && let Some(item) = first_variable(memory, &layout, &self.stacks.raw[depth])
            {
                // Its future is the first of them.
                attributes(memory, &layout, item, 1, &mut held);
            }
        }
        // Who waits for news of a condition has given its lock back for so long. 3.10 knows no classes.
        let waits = ["threading.Condition.wait", "threading.wait"];
        if self
            .function_name(0)
            .is_some_and(|name| waits.contains(&name))
            && let Some(leaf) = self.stacks.raw.first()
        {
            let others = not_held(memory, &layout, &mut self.locks.types, leaf);
            held.retain(|lock| !others.contains(lock));
        }
        self.roster.tracks_mut()[at].extra.locks.held = Some(Held {
            addresses: held,
            is_cut,
        });
        is_cut
    }
}

/// The first variable of a frame, which is the object that a method belongs to.
pub(super) fn first_variable(
    memory: &mut dyn ReadMemory,
    layout: &Layout,
    frame: &RawFrame,
) -> Option<usize> {
    let first = read_word(memory, frame.address.checked_add(variables(layout))?)?;
    let object = first & !layout.frame.code_tags;
    may_be_object(object).then_some(object)
}
