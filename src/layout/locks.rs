//! Where CPython keeps locks, who holds them, and what of it stands in frames and code objects.
//!
//! Locks: `Modules/_threadmodule.c`, `Modules/_queuemodule.c`, `Modules/_multiprocessing/semaphore.c`.
//! What is here has stood still in 3.10-3.15 or is told by version; a start tries it out on locks of
//! its own before it is relied on.
#![forbid(unsafe_code)]

use super::Layout;

const WORD: usize = size_of::<usize>();
/// `lockobject.lock_lock`, `rlockobject.rlock_lock`, `semlockobject.handle`: a semaphore. From 3.14 on
/// (queues: 3.13) it is a `PyMutex`, or the byte on which a queue waits.
pub const PRIMITIVE: usize = 16;
/// `lockobject` as a whole where it is a semaphore (3.10-3.13: a pointer to it, weak references, a byte that is
/// 1 while it is locked), and in it, behind these, four bytes that CPython never uses.
pub const LOCK_BYTES_OF_SEMAPHORE: usize = 40;
/// See [`LOCK_BYTES_OF_SEMAPHORE`].
pub const SPARE_OF_SEMAPHORE: usize = 36;
/// `lockobject` where it is a `PyMutex`, one byte, and in it four bytes that CPython never uses.
pub const LOCK_BYTES_OF_MUTEX: usize = 24;
/// See [`LOCK_BYTES_OF_MUTEX`].
pub const SPARE_OF_MUTEX: usize = 20;
/// `rlockobject.rlock_owner`, the ident of a thread or 0. Also `semlockobject.last_tid`.
pub const OWNER: usize = 24;
/// `semlockobject.count`, an `int`: how often this process has it.
pub const SEMAPHORE_COUNT: usize = 32;
/// `semlockobject.maxvalue`, an `int`: 1 of a lock.
pub const SEMAPHORE_MOST: usize = 36;
/// `semlockobject.kind`, an `int`: 0 of a lock that its holder may take again.
pub const SEMAPHORE_KIND: usize = 40;
/// Bytes that hold all of these.
pub const SEMAPHORE_BYTES: usize = 44;
/// A thread that is parked waits on a semaphore behind the address of what it waits for
/// (`struct wait_entry`, `Python/parking_lot.c`, 3.13 and later).
pub const PARKED_BEFORE_FUTEX: usize = WORD;
/// Before that stands what the thread has told whoever wakes it (`struct wait_entry.park_arg`).
pub const TOLD_BEFORE_FUTEX: usize = 2 * WORD;
/// In what who waits for a `PyMutex` has told: an `int` that is 1 once it was given the lock
/// (`struct mutex_entry.handed_off`, `Python/lock.c`).
pub const HANDED_OFF: usize = 8;
/// `PyCFunctionObject.m_ml`; `PyMethodDef.ml_name` comes first.
pub const BUILTIN_METHOD: usize = 16;
/// `PyCFunctionObject.m_self` and `PyMethodObject.im_self`.
pub const BOUND_TO: usize = 24;
/// `PyMethodDescrObject.d_method` (`Include/cpython/descrobject.h`).
pub const DESCRIBED_METHOD: usize = 40;
/// `PyBytesObject.ob_sval`.
pub const BYTES_DATA: usize = 32;
/// `PyLongObject`: the head, and its digits of 30 bits.
pub const INT_DIGITS: usize = 24;
/// `PyFrameObject` of 3.10: `f_valuestack`, `f_iblock`, `f_blockstack`.
pub const VALUES_3_10: usize = 64;
/// See [`VALUES_3_10`].
pub const BLOCKS_3_10: usize = 104;
/// See [`VALUES_3_10`].
pub const BLOCK_STACK_3_10: usize = 112;
/// `PyTryBlock`: type, handler, and how many values stand below it.
pub const BLOCK_BYTES_3_10: usize = 12;
/// See [`BLOCK_BYTES_3_10`].
pub const BLOCK_LEVEL_3_10: usize = 8;
/// `CO_MAXBLOCKS`.
pub const MAX_BLOCKS_3_10: usize = 20;

/// Further fields of a code object, `PyCodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeParts {
    /// `co_names`.
    pub names: usize,
    /// `co_localsplusnames`; `co_varnames` in 3.10.
    pub variables: usize,
    /// `co_cellvars` and `co_freevars` (3.10).
    pub cells: Option<(usize, usize)>,
    /// `co_nlocalsplus`, an `int`; not in 3.10.
    pub variable_count: Option<usize>,
    /// `co_stacksize`, an `int`.
    pub stack_size: usize,
    /// `co_exceptiontable`; not in 3.10.
    pub exceptions: Option<usize>,
    /// `co_code` (3.10).
    pub bytes: Option<usize>,
    /// Bytes that hold all of them.
    pub size: usize,
}

impl CodeParts {
    /// Of this version.
    #[must_use]
    pub const fn of(layout: &Layout) -> Self {
        match layout.minor {
            10 => Self {
                names: 64,
                variables: 72,
                cells: Some((88, 80)),
                variable_count: None,
                stack_size: 32,
                exceptions: None,
                bytes: Some(48),
                size: 96,
            },
            11 => Self {
                names: 32,
                variables: 96,
                cells: None,
                variable_count: Some(76),
                stack_size: 68,
                exceptions: Some(40),
                bytes: None,
                size: 104,
            },
            _ => Self {
                names: 32,
                variables: 96,
                cells: None,
                variable_count: Some(72),
                stack_size: 64,
                exceptions: Some(40),
                bytes: None,
                size: 104,
            },
        }
    }
}

/// Where the variables of a frame begin, behind which its values stand: `localsplus`.
#[must_use]
pub const fn variables(layout: &Layout) -> usize {
    match layout.minor {
        10 => BLOCK_STACK_3_10 + MAX_BLOCKS_3_10 * BLOCK_BYTES_3_10,
        11 | 12 => 72,
        _ => layout.frame.size,
    }
}

/// `PyTupleObject.ob_item`, behind a hash from 3.14 on.
#[must_use]
pub const fn tuple_items(layout: &Layout) -> usize {
    if layout.minor < 14 { 24 } else { 32 }
}

/// Whether what `with` leaves on the stack is a function and what it is called with, and not a bound
/// method.
#[must_use]
pub const fn leaves_pairs(layout: &Layout) -> bool {
    layout.minor >= 14
}

/// Whether locks are semaphores; else they are one byte, and who waits is parked.
#[must_use]
pub const fn locks_are_semaphores(layout: &Layout) -> bool {
    layout.minor < 14
}

/// The bytes of a lock object, and where in it four bytes are that nobody uses: a start tries them out
/// before they are relied on.
#[must_use]
pub const fn lock_and_spare(layout: &Layout) -> (usize, usize) {
    if locks_are_semaphores(layout) {
        (LOCK_BYTES_OF_SEMAPHORE, SPARE_OF_SEMAPHORE)
    } else {
        (LOCK_BYTES_OF_MUTEX, SPARE_OF_MUTEX)
    }
}
