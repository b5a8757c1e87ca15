//! Locks on files, which end with whoever holds them.
//!
//! By `fcntl`, which every interpreter calls: `flock` may be forbidden where a filter of system calls
//! is in force (`docs/reference/system-calls.md`).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

/// What became of a wish for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lock {
    /// It is held for as long as the file is open.
    Held,
    /// Another holds one that excludes it.
    Refused,
    /// There are no locks here.
    Impossible,
}

/// Locks a file that is open for writing against [`share`], without waiting.
pub(super) fn exclude(file: BorrowedFd<'_>) -> Lock {
    lock(file, libc::F_WRLCK)
}

/// Locks a file that is open for reading, if nobody excludes that, without waiting.
pub(super) fn share(file: BorrowedFd<'_>) -> Lock {
    lock(file, libc::F_RDLCK)
}

#[cfg(target_os = "linux")]
fn lock(file: BorrowedFd<'_>, kind: libc::c_int) -> Lock {
    // SAFETY: a zeroed flock is valid, and means the whole file.
    let mut wish = unsafe { std::mem::zeroed::<libc::flock>() };
    wish.l_type = kind as libc::c_short;
    wish.l_whence = libc::SEEK_SET as libc::c_short;
    // An "open file description lock" goes with the file opened here, whatever the application does
    // with others of its own (`fcntl(2)`, Linux 3.15).
    // SAFETY: the descriptor is open, and the kernel reads `wish`.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wish) };
    if answer == 0 {
        return Lock::Held;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Lock::Refused,
        _ => Lock::Impossible,
    }
}

#[cfg(not(target_os = "linux"))]
fn lock(file: BorrowedFd<'_>, kind: libc::c_int) -> Lock {
    let operation = if kind == libc::F_WRLCK {
        libc::LOCK_EX
    } else {
        libc::LOCK_SH
    };
    // SAFETY: the descriptor is open.
    let answer = unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) };
    match std::io::Error::last_os_error().kind() {
        _ if answer == 0 => Lock::Held,
        std::io::ErrorKind::WouldBlock => Lock::Refused,
        _ => Lock::Impossible,
    }
}
