//! What threads note of their labels: at which reading of its CPU clock a thread changed them.
//!
//! A sampler that looks every 10 ms sees few of the requests that take 3 ms, and cannot tell from a
//! thread's CPU clock which of them moved it. The thread can: it reads its own clock whenever its
//! labels change, and leaves the reading in a ring that the sampler empties at its next look.
//!
//! Labels also change when the interpreter switches contexts, as an event loop does between two
//! tasks. Each thread state counts its switches (`PyThreadState.context_ver`,
//! `Python/context.c`). A stretch at whose end the count is another than at its start was spent
//! under labels that nobody noted, in part at least; it is marked so. CPython 3.14 and later tell
//! of switches (`PyContext_AddWatcher`), so there every stretch is known.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::clock::cpu::own_cpu_ns;
use crate::model::label::ActiveLabels;
use crate::model::snapshot::{CpuSpan, SpanEnd, ThreadSample};

/// Changes that a ring holds; of more between two looks the time is not told apart.
const RING: usize = 128;
/// A count of context switches that is never reached.
const UNKNOWN_VERSION: u64 = u64::MAX;

/// CPU time of a request, by the clocks of the threads that worked on it.
#[derive(Debug, Default)]
pub struct RequestCpu {
    ns: AtomicU64,
    is_partial: AtomicBool,
}

impl RequestCpu {
    /// Adds a stretch in ns; `None`: one of which only a part was this request's.
    pub fn add(&self, spent_ns: Option<u64>) {
        match spent_ns {
            Some(spent_ns) => drop(self.ns.fetch_add(spent_ns, Ordering::Relaxed)),
            None => self.is_partial.store(true, Ordering::Relaxed),
        }
    }

    /// In ns; `None` if a part of it could not be told from others'.
    #[must_use]
    pub fn get(&self) -> Option<u64> {
        let ns = self.ns.load(Ordering::Relaxed);
        (!self.is_partial.load(Ordering::Relaxed)).then_some(ns)
    }
}

/// A thread's labels have changed.
#[derive(Clone, Debug)]
struct Change {
    /// Its CPU clock in ns.
    at_ns: u64,
    /// Whether it had the noted labels ever since the change before.
    is_exact: bool,
    /// What they are now.
    labels: Option<Arc<ActiveLabels>>,
}

/// The changes of one thread. It alone writes, the sampler alone reads.
#[derive(Debug)]
struct Log {
    /// A slot is locked by the writer or by the reader, never by both: the counters see to that.
    slots: Vec<Mutex<Option<Change>>>,
    written: AtomicUsize,
    read: AtomicUsize,
    /// The count of context switches up to which the labels are those of the last change here.
    version: AtomicU64,
}

impl Log {
    fn push(&self, change: Change) -> bool {
        let written = self.written.load(Ordering::Relaxed);
        if written.wrapping_sub(self.read.load(Ordering::Acquire)) >= RING {
            return false;
        }
        *self.slots[written % RING].lock() = Some(change);
        self.written
            .store(written.wrapping_add(1), Ordering::Release);
        true
    }

    /// Says of the last change that it was to these labels; whether the reader did not have it yet.
    fn correct(&self, labels: Option<&Arc<ActiveLabels>>) -> bool {
        let last = self.written.load(Ordering::Relaxed).wrapping_sub(1);
        let slot = self.slots[last % RING].try_lock();
        let Some(mut slot) = slot.filter(|slot| slot.is_some()) else {
            return false;
        };
        if let Some(change) = slot.as_mut() {
            change.labels = labels.cloned();
        }
        true
    }

    fn pop(&self) -> Option<Change> {
        let read = self.read.load(Ordering::Relaxed);
        if read == self.written.load(Ordering::Acquire) {
            return None;
        }
        // In a forked child the writer may be a thread that is not here.
        let change = self.slots[read % RING].try_lock()?.take();
        self.read.store(read.wrapping_add(1), Ordering::Release);
        change
    }
}

/// The logs of all threads that have any, by ident.
static LOGS: Mutex<Option<FxHashMap<usize, Arc<Log>>>> = Mutex::new(None);
/// Grows with every log that is added.
static ADDED: AtomicU32 = AtomicU32::new(0);
/// Grows in a forked child: what was noted before belongs to the parent.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Whether any recording wants to know.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// Says whether a recording runs; without one only requests read the clock.
pub fn set_wanted(is_wanted: bool) {
    IS_WANTED.store(is_wanted, Ordering::Relaxed);
}

/// Called in a forked child: its one thread begins a log of its own.
pub fn forget_parent() {
    FORKS.fetch_add(1, Ordering::Relaxed);
    // Nobody waits for a lock that a thread of the parent may hold for ever.
    if let Some(mut logs) = LOGS.try_lock() {
        *logs = None;
    }
}

/// What a thread knows of its own log.
#[derive(Debug)]
struct Own {
    log: Arc<Log>,
    ident: usize,
    forks: u32,
    /// Its CPU clock at the last change, in ns.
    since_ns: u64,
    /// The count of context switches up to which the labels are the ones noted last.
    version: u64,
    /// Whether the sampler was not told of the last change.
    is_lost: bool,
    /// The request that it works on.
    request: Option<Arc<RequestCpu>>,
    has_labels: bool,
}

impl Own {
    fn new(ident: usize) -> Option<Self> {
        let log = Arc::new(Log {
            slots: (0..RING).map(|_| Mutex::new(None)).collect(),
            written: AtomicUsize::new(0),
            read: AtomicUsize::new(0),
            version: AtomicU64::new(UNKNOWN_VERSION),
        });
        // Held for a moment; only a fork that nobody told us of leaves it locked for ever.
        let mut logs = LOGS.try_lock_for(std::time::Duration::from_millis(1))?;
        let logs = logs.get_or_insert_default();
        logs.insert(ident, log.clone());
        ADDED.fetch_add(1, Ordering::Release);
        Some(Self {
            log,
            ident,
            forks: FORKS.load(Ordering::Relaxed),
            since_ns: 0,
            version: UNKNOWN_VERSION,
            is_lost: true,
            request: None,
            has_labels: false,
        })
    }

    fn note(
        &mut self,
        version: u64,
        labels: Option<&Arc<ActiveLabels>>,
        request: Option<&Arc<RequestCpu>>,
    ) {
        let is_wanted = IS_WANTED.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.request, request.cloned());
        self.has_labels = labels.is_some();
        if !is_wanted && before.is_none() && request.is_none() {
            self.version = UNKNOWN_VERSION;
            self.is_lost = true;
            self.log.version.store(UNKNOWN_VERSION, Ordering::Release);
            return;
        }
        let now_ns = own_cpu_ns();
        let is_exact = std::mem::replace(&mut self.version, version) == version;
        let spent_ns = now_ns.saturating_sub(std::mem::replace(&mut self.since_ns, now_ns));
        if let Some(before) = before {
            before.add(is_exact.then_some(spent_ns));
        }
        let change = Change {
            at_ns: now_ns,
            is_exact: is_exact && !self.is_lost,
            labels: labels.cloned(),
        };
        // The sampler does not know of a change for which there was no room, so that what follows
        // is not told apart. The request's own sum does not depend on it.
        self.is_lost = !is_wanted || !self.log.push(change);
        let known = if self.is_lost {
            UNKNOWN_VERSION
        } else {
            version
        };
        self.log.version.store(known, Ordering::Release);
    }

    /// What was noted last has other labels: all since then counts for those, unless a look has come
    /// between. Saves a look at the clock, which is a call of the kernel. Of a change of which the
    /// sampler was not told there is nothing to correct.
    fn correct(
        &mut self,
        version: u64,
        labels: Option<&Arc<ActiveLabels>>,
        request: Option<&Arc<RequestCpu>>,
    ) {
        let is_same = match (&self.request, request) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            _ => false,
        };
        let is_known = is_same && self.version == version;
        if !(is_known && (self.is_lost || self.log.correct(labels))) {
            self.note(version, labels, request);
        }
    }

    /// Tells the sampler up to where it knows the labels.
    fn show_version(&self) {
        let known = if self.is_lost {
            UNKNOWN_VERSION
        } else {
            self.version
        };
        self.log.version.store(known, Ordering::Release);
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // The thread ends, under no labels.
        self.note(UNKNOWN_VERSION, None, None);
        if self.forks == FORKS.load(Ordering::Relaxed)
            && let Some(mut logs) = LOGS.try_lock_for(std::time::Duration::from_millis(1))
            && let Some(logs) = logs.as_mut()
            && logs
                .get(&self.ident)
                .is_some_and(|log| Arc::ptr_eq(log, &self.log))
        {
            logs.remove(&self.ident);
        }
    }
}

thread_local! {
    static OWN: RefCell<Option<Own>> = const { RefCell::new(None) };
}

/// Runs `action` with what the calling thread knows of its log; makes one if `is_new` says so.
fn with_own(ident: usize, is_new: bool, action: impl FnOnce(&mut Own)) {
    // While the thread ends there is none any more.
    let _ = OWN.try_with(|own| {
        let Ok(mut own) = own.try_borrow_mut() else {
            return;
        };
        if own
            .as_ref()
            .is_some_and(|own| own.forks != FORKS.load(Ordering::Relaxed))
        {
            *own = None;
        }
        if own.is_none() && is_new {
            *own = Own::new(ident);
        }
        if let Some(own) = own.as_mut() {
            action(own);
        }
    });
}

/// The calling thread, of this ident, works under these labels from now on. `version` is its count
/// of context switches, which setting labels does not change.
pub fn note_change(
    ident: usize,
    version: u64,
    labels: Option<&Arc<ActiveLabels>>,
    request: Option<&Arc<RequestCpu>>,
) {
    with_own(ident, true, |own| own.note(version, labels, request));
}

/// As [`note_change`], where a request that the thread works on has got to know its labels.
pub fn note_correction(
    ident: usize,
    version: u64,
    labels: Option<&Arc<ActiveLabels>>,
    request: Option<&Arc<RequestCpu>>,
) {
    with_own(ident, true, |own| own.correct(version, labels, request));
}

/// The interpreter has switched the calling thread to a context with these labels.
pub fn note_switch(
    ident: usize,
    version: u64,
    labels: Option<&Arc<ActiveLabels>>,
    request: Option<&Arc<RequestCpu>>,
) {
    with_own(ident, labels.is_some(), |own| {
        // It is told after it was counted.
        let is_next = own.version.checked_add(1) == Some(version);
        if is_next {
            own.version = version;
        }
        if is_next && labels.is_none() && !own.has_labels {
            own.show_version();
        } else {
            own.note(version, labels, request);
        }
    });
}

/// Follows the log of one thread on behalf of the sampler.
#[derive(Debug, Default)]
pub struct LogReader {
    log: Option<Arc<Log>>,
    /// [`ADDED`] when the log was last looked for.
    added: u32,
    /// The thread's CPU clock up to which spans were made, in ns.
    mark_ns: u64,
    /// The labels since the last change; `None` before the first.
    labels: Option<Option<Arc<ActiveLabels>>>,
    /// The count of context switches at the last look.
    version: u64,
}

impl LogReader {
    /// Turns what the thread has noted since the last call into spans of its CPU clock, up to the
    /// clock of `sample`. `version` is its count of context switches if that was read with the
    /// clock; `before_ns` what the clock showed at the look before.
    ///
    /// Returns what is known of the stretch that the look fell into.
    pub fn read(
        &mut self,
        ident: usize,
        version: Option<u64>,
        before_ns: Option<u64>,
        sample: &ThreadSample,
        spans: &mut Vec<CpuSpan>,
    ) -> SpanEnd {
        if self.log.is_none() {
            let added = ADDED.load(Ordering::Acquire);
            if added == self.added {
                return SpanEnd::Mixed;
            }
            let Some(logs) = LOGS.try_lock() else {
                return SpanEnd::Mixed;
            };
            self.added = added;
            self.log = logs.as_ref().and_then(|logs| logs.get(&ident)).cloned();
            self.mark_ns = before_ns.or(sample.cpu_ns).unwrap_or(0);
        }
        let Some(log) = self.log.clone() else {
            return SpanEnd::Mixed;
        };
        // Before the changes: one that comes meanwhile leaves the count as it was.
        let known = log.version.load(Ordering::Acquire);
        while let Some(change) = log.pop() {
            let end = match self.labels {
                Some(_) if change.is_exact => SpanEnd::Exact,
                _ => SpanEnd::Mixed,
            };
            self.span(sample, change.at_ns, end, spans);
            self.labels = Some(change.labels);
        }
        if let Some(version) = version {
            self.version = version;
        }
        let end = if self.labels.is_some() && known == self.version {
            SpanEnd::Open
        } else {
            SpanEnd::Mixed
        };
        self.span(sample, sample.cpu_ns.unwrap_or(0), end, spans);
        end
    }

    /// Whether the thread has a log.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.log.is_some()
    }

    fn span(&mut self, sample: &ThreadSample, to_ns: u64, end: SpanEnd, spans: &mut Vec<CpuSpan>) {
        let from_ns = self.mark_ns;
        self.mark_ns = from_ns.max(to_ns);
        if self.mark_ns > from_ns || end != SpanEnd::Open {
            spans.push(CpuSpan {
                key: sample.key,
                thread_id: sample.thread_id,
                name: sample.name.clone(),
                labels: self.labels.clone().flatten(),
                from_ns,
                to_ns: self.mark_ns,
                end,
            });
        }
    }
}

#[cfg(test)]
#[path = "label_log_tests.rs"]
mod tests;
