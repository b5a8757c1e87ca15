//! Locks of Python that threads wait for: which one, and of what kind.
//!
//! The kernel says on which address a thread waits. Which object that belongs to is found among the
//! values of the frame that waits, or by the address itself (`crate::layout::locks`).
#![forbid(unsafe_code)]

use super::frames::RawFrame;
use super::lock_owners::OWNERS;
use super::objects::{ObjectKind, Types, for_each, may_be_object};
use crate::layout::Layout;
use crate::layout::locks::{
    BOUND_TO, CodeParts, OWNER, PARKED_BEFORE_FUTEX, PRIMITIVE, SEMAPHORE_BYTES, SEMAPHORE_COUNT,
    SEMAPHORE_KIND, SEMAPHORE_MOST, VALUES_3_10, lock_and_spare, locks_are_semaphores, variables,
};
use crate::layout::tasks::TYPE;
use crate::memory::{ReadMemory, int32, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// Variables and values of a frame that are looked through, the last of them: among these is what is called.
const MAX_VALUES: usize = 256;
/// `PyMutex`: the bit that says that it is locked.
const IS_LOCKED: u8 = 1;

/// A lock that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundLock {
    /// Its address.
    pub object: usize,
    /// What it is.
    pub kind: LockKind,
}

/// What a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// `threading.Lock`.
    Lock,
    /// `threading.RLock`.
    RLock,
    /// `queue.SimpleQueue`.
    SimpleQueue,
    /// `multiprocessing.Lock`.
    ProcessLock,
    /// `multiprocessing.RLock`.
    ProcessRLock,
    /// Another semaphore of `multiprocessing`.
    ProcessSemaphore,
}

impl LockKind {
    /// What names of such locks begin with.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lock => "Lock",
            Self::RLock => "RLock",
            Self::SimpleQueue => "SimpleQueue",
            Self::ProcessLock => "multiprocessing.Lock",
            Self::ProcessRLock => "multiprocessing.RLock",
            Self::ProcessSemaphore => "multiprocessing.Semaphore",
        }
    }
}

/// What a thread of this process that has a lock is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This is its ident.
    Ident(usize),
    /// This is noted in the lock of it, see [`super::lock_owners`].
    Noted(u32),
    /// It is one of another process.
    OtherProcess,
    /// The lock does not say.
    Unsaid,
}

/// The lock that the thread of these frames waits for on the futex at `futex`.
pub fn find(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    types: &mut Types,
    leaf: &RawFrame,
    futex: usize,
) -> Option<FoundLock> {
    if layout.minor >= 13
        && let Some(found) = find_parked(memory, layout, types, futex)
    {
        return Some(found);
    }
    find_among_values(memory, layout, types, leaf, futex)
}

/// What the wait on `futex` is for, if it is where those wait that are parked.
fn find_parked(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    types: &mut Types,
    futex: usize,
) -> Option<FoundLock> {
    let parked = read_word(memory, futex.checked_sub(PARKED_BEFORE_FUTEX)?)?;
    let object = parked.checked_sub(PRIMITIVE)?;
    let kind = match types.of(memory, object) {
        ObjectKind::SimpleQueue => LockKind::SimpleQueue,
        ObjectKind::Lock if !locks_are_semaphores(layout) => LockKind::Lock,
        ObjectKind::RLock if !locks_are_semaphores(layout) => LockKind::RLock,
        _ => return None,
    };
    Some(FoundLock { object, kind })
}

/// The variables and values of a frame, and how many variables there are.
fn values(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    frame: &RawFrame,
) -> Option<Vec<usize>> {
    let parts = CodeParts::of(layout);
    let begin = frame.address.checked_add(variables(layout))?;
    let code = read(memory, frame.code, parts.size)?;
    let stack_size = usize::try_from(int32(code, parts.stack_size)).ok()?;
    let count = match parts.variable_count {
        Some(at) => usize::try_from(int32(code, at)).ok()?,
        None => read_word(memory, frame.address + VALUES_3_10)?.checked_sub(begin)? / WORD,
    };
    let all = count.checked_add(stack_size)?;
    let count = all.min(MAX_VALUES);
    let begin = begin.checked_add((all - count).checked_mul(WORD)?)?;
    let bytes = read(memory, begin, count * WORD)?;
    let mask = !layout.frame.code_tags;
    let words = (0..count).map(|at| word(bytes, at * WORD) & mask);
    Some(words.filter(|value| may_be_object(*value)).collect())
}

fn find_among_values(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    types: &mut Types,
    leaf: &RawFrame,
    futex: usize,
) -> Option<FoundLock> {
    let mut values = values(memory, layout, leaf)?;
    values.sort_unstable();
    values.dedup();
    // The values themselves, and what bound methods among them are bound to.
    for _ in 0..2 {
        let mut found = Vec::new();
        let mut bound = Vec::new();
        for_each(memory, &values, BOUND_TO + WORD, |at, bytes| {
            let kind = word(bytes, TYPE);
            if word(bytes, PRIMITIVE) == futex {
                found.push((values[at], kind));
            } else if may_be_object(word(bytes, BOUND_TO)) {
                bound.push((kind, word(bytes, BOUND_TO)));
            }
        });
        for (object, kind) in found {
            let kind = match types.kind(memory, kind) {
                ObjectKind::Lock => LockKind::Lock,
                ObjectKind::RLock => LockKind::RLock,
                ObjectKind::SimpleQueue => LockKind::SimpleQueue,
                ObjectKind::SemLock => semaphore_kind(memory, object)?,
                _ => continue,
            };
            return Some(FoundLock { object, kind });
        }
        bound.retain(|(kind, _)| types.kind(memory, *kind) == ObjectKind::Builtin);
        values = bound.into_iter().map(|(_, object)| object).collect();
    }
    None
}

fn semaphore_kind(memory: &mut (dyn ReadMemory + '_), object: usize) -> Option<LockKind> {
    let bytes = read(memory, object, SEMAPHORE_BYTES)?;
    Some(
        match (int32(bytes, SEMAPHORE_KIND), int32(bytes, SEMAPHORE_MOST)) {
            (0, _) => LockKind::ProcessRLock,
            (_, 1) => LockKind::ProcessLock,
            _ => LockKind::ProcessSemaphore,
        },
    )
}

/// Whether the thread still waits on `futex` for this lock, as far as the lock is still one.
pub fn is_still(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    types: &mut Types,
    lock: FoundLock,
    futex: usize,
) -> bool {
    let is_parked = match lock.kind {
        LockKind::SimpleQueue => layout.minor >= 13,
        LockKind::Lock | LockKind::RLock => !locks_are_semaphores(layout),
        _ => false,
    };
    if is_parked {
        return find_parked(memory, layout, types, futex) == Some(lock);
    }
    read_word(memory, lock.object + PRIMITIVE) == Some(futex)
        && types.of(memory, lock.object) != ObjectKind::Other
}

/// Who has a lock, as far as it says so itself.
pub fn owner(memory: &mut (dyn ReadMemory + '_), layout: &Layout, lock: FoundLock) -> Owner {
    let said = || -> Option<Owner> {
        Some(match lock.kind {
            LockKind::Lock if OWNERS.is_on() => {
                let spare = lock_and_spare(layout).1;
                match int32(read(memory, lock.object + spare, 4)?, 0).cast_unsigned() {
                    0 => Owner::Unsaid,
                    noted if is_locked(memory, layout, lock) => Owner::Noted(noted),
                    _ => Owner::Unsaid,
                }
            }
            LockKind::RLock => match read_word(memory, lock.object + OWNER)? {
                0 => Owner::Unsaid,
                ident => Owner::Ident(ident),
            },
            LockKind::ProcessLock | LockKind::ProcessRLock => {
                let bytes = read(memory, lock.object, SEMAPHORE_BYTES)?;
                if int32(bytes, SEMAPHORE_COUNT) > 0 {
                    Owner::Ident(word(bytes, OWNER))
                } else {
                    Owner::OtherProcess
                }
            }
            _ => Owner::Unsaid,
        })
    };
    let mut said = said;
    said().unwrap_or(Owner::Unsaid)
}

/// Whether a `Lock` is locked at this moment.
pub fn is_locked(memory: &mut (dyn ReadMemory + '_), layout: &Layout, lock: FoundLock) -> bool {
    let Some(primitive) = read_word(memory, lock.object + PRIMITIVE) else {
        return false;
    };
    if locks_are_semaphores(layout) {
        // The number of those who may still come in.
        read(memory, primitive, 4).is_some_and(|bytes| int32(bytes, 0) == 0)
    } else {
        primitive.to_ne_bytes()[0] & IS_LOCKED != 0
    }
}
