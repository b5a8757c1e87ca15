//! Who holds what a thread waits for, after all threads were looked at. As the lock says itself, or as
//! the threads' values tell; or who was given it and has not gone on yet, for want of a CPU or the GIL.
#![forbid(unsafe_code)]

use super::locks::{Held, Seen, Wanted};
use super::{DirectEngine, DirectRoster};
use crate::clock::cpu::{is_main_thread, thread_cpu_ns};
use crate::layout::Layout;
use crate::layout::locks::{
    HANDED_OFF, PARKED_BEFORE_FUTEX, PRIMITIVE, TOLD_BEFORE_FUTEX, locks_are_semaphores,
};
use crate::memory::{ReadMemory, int32, read, read_word};
use crate::model::lock::Holder;
use crate::model::snapshot::ThreadState;
use crate::unwind::lock_owners::OWNERS;
use crate::unwind::locks::{FoundLock, LockKind, Owner, is_locked, owner};
use crate::unwind::objects::{Types, attributes, long_int};

impl DirectEngine {
    /// Who holds it.
    pub(super) fn holder_of(&mut self, what: Wanted, memory: &mut dyn ReadMemory) -> Holder {
        let layout = &self.interpreter.layout;
        match what {
            Wanted::Lock(lock) => match owner(memory, layout, lock) {
                Owner::Ident(ident) => holder_by_ident(&self.roster, ident),
                Owner::OtherProcess => Holder::OtherProcess,
                Owner::Noted(word) => match holder_by_word(&self.roster, word) {
                    Holder::Unknown => holder_by_address(&self.roster, lock.object),
                    holder => holder,
                },
                Owner::Unsaid if lock.kind == LockKind::Lock => {
                    holder_by_address(&self.roster, lock.object)
                }
                Owner::Unsaid => Holder::Unknown,
            },
            Wanted::Future(object) => holder_by_address(&self.roster, object),
            Wanted::Thread(joined) => {
                let types = &mut self.locks.types;
                let read = || ident_of(memory, layout, types, joined.object, joined.lock);
                let ident = joined.ident.or_else(read);
                ident.map_or(Holder::Unknown, |ident| {
                    holder_by_ident(&self.roster, ident)
                })
            }
            Wanted::Nothing => Holder::Unknown,
        }
    }

    /// Whether what threads hold has to tell who holds this, for nothing else does.
    pub(super) fn asks_all(&self, what: Wanted, memory: &mut dyn ReadMemory) -> bool {
        let layout = &self.interpreter.layout;
        match what {
            Wanted::Lock(lock) if lock.kind == LockKind::Lock => {
                let noted = match owner(memory, layout, lock) {
                    Owner::Noted(word) => holder_by_word(&self.roster, word),
                    _ => Holder::Unknown,
                };
                noted == Holder::Unknown
            }
            _ => what.asks_all(),
        }
    }

    /// The one thread that waited for this lock, which is locked, and was given it, but has not gone on.
    /// One that has no CPU yet is among those that are seen to wait.
    pub(super) fn heir_of(&self, lock: FoundLock, memory: &mut dyn ReadMemory) -> Holder {
        let layout = &self.interpreter.layout;
        let can_be_told = matches!(lock.kind, LockKind::Lock | LockKind::RLock);
        if !can_be_told || !is_locked(memory, layout, lock) {
            return Holder::Unknown;
        }
        let mut heir = None;
        for (at, track) in self.roster.tracks().iter().enumerate() {
            let sample = self.roster.sample(at);
            let Some(seen) = &track.extra.locks.seen else {
                continue;
            };
            let stands_there = seen.wanted == Wanted::Lock(lock)
                && seen.version == sample.stack_version
                && track.extra.last_found.leaf() == Some(&seen.leaf);
            if !stands_there {
                continue;
            }
            let has_it = if locks_are_semaphores(layout) {
                // It needs the GIL only once it has the semaphore, or has given up, or is interrupted by
                // a signal, as the main thread may be.
                sample.lock.is_none()
                    && sample.state == ThreadState::WaitsForGil
                    && !seen.has_timeout
                    && !is_main_thread(sample.thread_id)
            } else {
                sample.state != ThreadState::HoldsGil && was_given(memory, seen, lock)
            };
            if has_it && heir.replace(sample.key).is_some() {
                return Holder::Unknown;
            }
        }
        heir.map_or(Holder::Unknown, Holder::Thread)
    }

    /// Forgets the waits of threads that have run since they were looked at, or were given what they waited
    /// for: who holds a lock was asked later, and may be whoever has waited for it.
    pub(super) fn forget_ended_waits(&mut self) {
        let mut memory = self.memory.take();
        let is_parked = !locks_are_semaphores(&self.interpreter.layout);
        for (track, sample) in self.roster.pairs_mut() {
            if sample.lock.is_none() {
                continue;
            }
            let is_given = match (&track.extra.locks.seen, memory.as_deref_mut()) {
                (Some(seen), Some(memory)) if is_parked => match seen.wanted {
                    Wanted::Lock(lock) => was_given(memory, seen, lock),
                    _ => false,
                },
                _ => false,
            };
            if is_given || thread_cpu_ns(track.thread_id) != sample.cpu_ns {
                sample.lock = None;
            }
        }
        self.memory = memory;
    }
}

/// Whether who released this lock has given it to the thread that waited so, instead of leaving it to
/// whoever comes first.
fn was_given(memory: &mut dyn ReadMemory, seen: &Seen, lock: FoundLock) -> bool {
    let given = || {
        let parked = read_word(memory, seen.futex.checked_sub(PARKED_BEFORE_FUTEX)?)?;
        let told = read_word(memory, seen.futex.checked_sub(TOLD_BEFORE_FUTEX)?)?;
        let given = int32(read(memory, told.checked_add(HANDED_OFF)?, 4)?, 0);
        Some(parked == lock.object + PRIMITIVE && given == 1)
    };
    let mut given = given;
    given() == Some(true)
}

/// The ident of the thread whose object is at `thread`. `lock` tells its end, before 3.13: in its
/// attributes that stands two behind the ident (`Thread.__init__`).
pub(super) fn ident_of(
    memory: &mut dyn ReadMemory,
    layout: &Layout,
    types: &mut Types,
    thread: usize,
    lock: usize,
) -> Option<usize> {
    const MOST: usize = 30;
    let mut values = Vec::new();
    attributes(memory, layout, thread, MOST, &mut values);
    if layout.minor < 13 {
        let at = values.iter().position(|value| *value == lock)?;
        let value = *values.get(at.checked_sub(2)?)?;
        return long_int(memory, types, layout, value);
    }
    let mut values = values.into_iter();
    values.find_map(|value| long_int(memory, types, layout, value))
}

fn holder_by_ident(roster: &DirectRoster, ident: usize) -> Holder {
    let at = roster.index_of(ident);
    at.map_or(Holder::Unknown, |at| Holder::Thread(roster.sample(at).key))
}

/// The one thread that this is noted of.
fn holder_by_word(roster: &DirectRoster, word: u32) -> Holder {
    let is_its = |id: usize, thread_id: u64| OWNERS.word(id, thread_id) == Some(word);
    let mut tracks = roster.tracks().iter();
    // One that two interpreters know is in the list twice.
    tracks
        .find(|track| is_its(track.id, track.thread_id))
        .map_or(Holder::Unknown, |track| holder_by_ident(roster, track.id))
}

/// The one thread that holds what is at `address`; none if two seem to, for one of them was looked at
/// before the other had it.
fn holder_by_address(roster: &DirectRoster, address: usize) -> Holder {
    let holds = |held: &Option<Held>| {
        let held = held.as_ref();
        held.is_some_and(|held| held.addresses.contains(&address))
    };
    let tracks = roster.tracks().iter().enumerate();
    let mut holding = tracks.filter(|(_, track)| holds(&track.extra.locks.held));
    match (holding.next(), holding.next()) {
        (Some((at, _)), None) => Holder::Thread(roster.sample(at).key),
        _ => Holder::Unknown,
    }
}
