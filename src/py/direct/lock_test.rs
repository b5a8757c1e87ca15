//! Whether locks are where they are known to be: tried out on locks of our own.
#![forbid(unsafe_code)]

use pyo3::prelude::*;

use crate::layout::Layout;
use crate::memory::ReadMemory;
use crate::unwind::locks::{FoundLock, LockKind, Owner, is_locked, owner};
use crate::unwind::objects::{ObjectKind, Types};

/// Whether all is as it is known to be.
pub(super) fn run(py: Python<'_>, memory: &mut dyn ReadMemory, layout: &Layout) -> bool {
    try_locks(py, memory, layout).unwrap_or(false)
}

fn try_locks(py: Python<'_>, memory: &mut dyn ReadMemory, layout: &Layout) -> PyResult<bool> {
    // Loaded already: the interpreter itself needs it.
    let threads = py.import("_thread")?;
    let mut types = Types::default();
    let lock = threads.call_method0("allocate_lock")?;
    let found = FoundLock {
        object: lock.as_ptr() as usize,
        kind: LockKind::Lock,
    };
    let mut is_right = types.of(memory, found.object) == ObjectKind::Lock;
    is_right &= !is_locked(memory, layout, found);
    lock.call_method0("acquire")?;
    is_right &= is_locked(memory, layout, found);
    lock.call_method0("release")?;
    is_right &= !is_locked(memory, layout, found);
    let lock = threads.call_method0("RLock")?;
    let found = FoundLock {
        object: lock.as_ptr() as usize,
        kind: LockKind::RLock,
    };
    is_right &= types.of(memory, found.object) == ObjectKind::RLock;
    is_right &= owner(memory, layout, found) == Owner::Unsaid;
    lock.call_method0("acquire")?;
    let ident = threads.call_method0("get_ident")?.extract()?;
    is_right &= owner(memory, layout, found) == Owner::Ident(ident);
    lock.call_method0("release")?;
    Ok(is_right && owner(memory, layout, found) == Owner::Unsaid)
}
