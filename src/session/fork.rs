//! The session of this process, and what a fork does to it.
//!
//! A forked child has the parent's memory but none of its threads. Where the host runs Python's
//! at-fork hooks the threads are ended before the fork; where it does not (a C `fork`, uWSGI in
//! its default configuration) a flag set by `pthread_atfork` and a page that the kernel empties in
//! the child tell that what is in memory belongs to another process; where there is no such page,
//! the process id does in its place.
#![allow(unsafe_code)]

use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use super::Session;
use crate::account::steps::STEPS;
use crate::unwind::lock_owners::OWNERS;
use crate::unwind::{greenlet_table, label_log};

static CURRENT: AtomicPtr<Session> = AtomicPtr::new(std::ptr::null_mut());
static FORKED: AtomicBool = AtomicBool::new(false);
static REGISTER: Once = Once::new();
/// Not 0 in the process that `CURRENT` belongs to; null without `MADV_WIPEONFORK` (before Linux 4.14).
/// Requests ask twice or more, and a system call costs more than all else about that.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// The session of this process. After a fork the child gets a new, empty one; the parent's is
/// forgotten as it stands, for its locks and threads belong to threads that are not here.
#[must_use]
pub fn session() -> &'static Session {
    REGISTER.call_once(register);
    let current = CURRENT.load(Ordering::Acquire);
    if !current.is_null() {
        // SAFETY: a non-null CURRENT comes from Box::leak below and is never freed.
        let session = unsafe { &*current };
        if is_own(session) {
            return session;
        }
    }
    replace(current)
}

/// The session of this process, unless there is none or it is unknown whose it is. For a signal's
/// handler: takes no lock, makes nothing, and is not misled by a child that shares this memory (`vfork`).
#[must_use]
pub fn known_session() -> Option<&'static Session> {
    let current = CURRENT.load(Ordering::Acquire);
    if current.is_null() || FORKED.load(Ordering::Acquire) {
        return None;
    }
    // SAFETY: as in `session`.
    let session = unsafe { &*current };
    (session.process_id() == std::process::id()).then_some(session)
}

fn is_own(session: &Session) -> bool {
    if FORKED.load(Ordering::Acquire) {
        return false;
    }
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: a non-null MARK is the begin of a page that is never unmapped.
    let is_marked = !mark.is_null() && unsafe { &*mark }.load(Ordering::Acquire) != 0;
    // Without a mark it may have been made just now, by another thread.
    is_marked || session.process_id() == std::process::id()
}

/// Forgets the parent's session in a forked child.
pub fn forget_parent() {
    replace(CURRENT.load(Ordering::Acquire));
}

fn replace(old: *mut Session) -> &'static Session {
    if !old.is_null() {
        label_log::forget_parent();
        greenlet_table::forget_parent();
        STEPS.start_over();
        OWNERS.end();
    }
    let new: *mut Session = Box::leak(Box::new(Session::new()));
    let winner = match CURRENT.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            if !old.is_null() {
                // SAFETY: a session is never freed, and both come from Box::leak.
                unsafe { (*new).inherit_from(&*old) };
            }
            FORKED.store(false, Ordering::Release);
            let mark = MARK.load(Ordering::Acquire);
            if !mark.is_null() {
                // SAFETY: as in `is_own`.
                unsafe { &*mark }.store(1, Ordering::Release);
            }
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
    MARK.store(wiped_page(), Ordering::Release);
}

/// A page of zeros that is one of zeros again in a forked child; null if there is no such thing.
#[cfg(target_os = "linux")]
fn wiped_page() -> *mut AtomicU32 {
    let size = size_of::<AtomicU32>();
    // SAFETY: a new private mapping, which the kernel rounds up to a page; nobody else has it.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return std::ptr::null_mut();
        }
        // An emulator may permit whatever it does not know (qemu-user).
        let is_believable = libc::madvise(page, size, -1) != 0;
        if !is_believable || libc::madvise(page, size, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(page, size);
            return std::ptr::null_mut();
        }
        page.cast()
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn wiped_page() -> *mut AtomicU32 {
    std::ptr::null_mut()
}

#[cfg(not(unix))]
fn register() {}
