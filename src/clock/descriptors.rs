//! Tables of file descriptors: a native thread of ours has one of its own, where that can be had.
#![allow(unsafe_code)]

use std::cell::Cell;

use super::filter;

thread_local! {
    /// Whether this thread's descriptors are its own.
    static IS_OWN: Cell<bool> = const { Cell::new(false) };
}

/// Whether nobody but the calling thread can close the descriptors that it opens.
#[must_use]
pub fn are_own() -> bool {
    IS_OWN.get()
}

/// Gives the calling thread a table of file descriptors of its own, with nothing of the
/// application's in it.
///
/// A program that closes all its descriptors, as a daemon does, and opens its own files would
/// otherwise make ours name one of them, and we would write into it. In turn, what we open is never
/// in the application's way: not in its tests for leaks, not in its children. Where the kernel
/// cannot do this (before Linux 5.9), and where it might kill the process for it, the table stays
/// shared: see [`are_own`].
#[cfg(target_os = "linux")]
pub fn isolate() {
    const CLOSE_RANGE_UNSHARE: libc::c_uint = 2;
    // Sets of calls that were drawn up before 2020 do not have this one.
    if filter::may_be_there() {
        return;
    }
    // SAFETY: the call closes descriptors of a table that it first makes private to this thread,
    // which has none open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            0 as libc::c_uint,
            libc::c_uint::MAX,
            CLOSE_RANGE_UNSHARE,
        )
    };
    if result == 0 {
        IS_OWN.set(true);
        // Whatever writes to the standard streams by number must not hit a file of ours.
        for _ in 0..3 {
            // SAFETY: opens a path that is a C string; the descriptor stays open for good.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        }
    }
}

/// The table stays shared on this system.
#[cfg(not(target_os = "linux"))]
pub fn isolate() {}
