//! The session of this process, and what a fork does to it.
//!
//! A forked child has the parent's memory but none of its threads. Where the host runs Python's
//! at-fork hooks the threads are ended before the fork; where it does not (a C `fork`, uWSGI in
//! its default configuration) a flag set by `pthread_atfork` and a check of the process id tell
//! that what is in memory belongs to another process.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::manager::Session;

static CURRENT: AtomicPtr<Session> = AtomicPtr::new(std::ptr::null_mut());
static FORKED: AtomicBool = AtomicBool::new(false);
static REGISTER: Once = Once::new();

/// The session of this process. After a fork the child gets a new, empty one; the parent's is
/// forgotten as it stands, for its locks and threads belong to threads that are not here.
#[must_use]
pub fn session() -> &'static Session {
    REGISTER.call_once(register);
    let current = CURRENT.load(Ordering::Acquire);
    if !current.is_null() && !FORKED.load(Ordering::Acquire) {
        // SAFETY: a non-null CURRENT comes from Box::leak below and is never freed.
        let session = unsafe { &*current };
        if session.process_id() == std::process::id() {
            return session;
        }
    }
    replace(current)
}

/// Forgets the parent's session in a forked child.
pub fn forget_parent() {
    replace(CURRENT.load(Ordering::Acquire));
}

fn replace(old: *mut Session) -> &'static Session {
    let new: *mut Session = Box::leak(Box::new(Session::new()));
    let winner = match CURRENT.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            FORKED.store(false, Ordering::Release);
            new
        }
        // Another thread was faster; the empty session made here stays leaked.
        Err(other) => other,
    };
    // SAFETY: both pointers come from Box::leak and are never freed.
    unsafe { &*winner }
}

#[cfg(unix)]
fn register() {
    extern "C" fn in_child() {
        // Only a store: a child of a threaded process may do nothing that takes a lock.
        FORKED.store(true, Ordering::Release);
    }
    // SAFETY: the handler is an extern "C" function that lives as long as the process, because
    // CPython never unloads an extension module.
    unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    }
}

#[cfg(not(unix))]
fn register() {}
