//! Locks, and whatever else threads wait for each other by.

use std::sync::Arc;

use super::snapshot::ThreadKey;

/// Key of the label that says which lock is waited for, or was held.
pub const LOCK: &str = "lock";

/// What a lock is called: by what it is, and by what stands in the line that waits for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockName {
    /// Tells the name from all others of this process.
    pub serial: u32,
    /// For example `Lock Pool._lock`.
    pub text: Arc<str>,
}

/// A thread waits for a lock, or to be told something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// Tells the lock from all others that are waited for at this moment.
    pub place: u64,
    /// What it is called.
    pub name: LockName,
    /// Whether somebody keeps it waiting: who holds the lock, or has not ended yet. Nobody does where
    /// a thread waits to be told something, as that there is work in a queue.
    pub is_blamed: bool,
    /// Whether it goes on after some time in any case.
    pub has_timeout: bool,
}

/// Who keeps others waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This thread.
    Thread(ThreadKey),
    /// A thread of another process.
    OtherProcess,
    /// That cannot be told.
    Unknown,
}

/// A lock that is waited for, and who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// See [`LockWait::place`].
    pub place: u64,
    /// Who holds it.
    pub holder: Holder,
}
