//! What is watched besides requests, and the events of that: they wait here for somebody who may run
//! Python code.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::clock::cpu::monotonic_ns;

/// Events that wait to be told; more are dropped and counted.
const MAX_EVENTS: usize = 256;
/// Event loops watched at a time.
const MAX_HEARTBEATS: usize = 64;

/// Where a thread was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The kernel's id.
    pub thread_id: u64,
    /// Its name.
    pub thread: String,
    /// What it was doing, in words.
    pub doing: &'static str,
    /// Function, file and line, innermost first.
    pub frames: Vec<(String, String, u32)>,
}

/// Something that somebody should be told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Whoever waits for events is to look around.
    Wake,
    /// A request is slow and under way.
    Slow {
        /// Its number.
        number: u64,
        /// Its route.
        route: String,
        /// Time since its start in ns.
        elapsed_ns: u64,
        /// Which look this is, from 1.
        look: u32,
        /// Where its threads are; empty if it is on none at the moment.
        places: Vec<Place>,
        /// Where its tasks wait, as text; empty if none does.
        tasks: String,
        /// The innermost lines of these.
        waits_in: String,
        /// Whether it could be looked at.
        is_seen: bool,
    },
    /// An event loop has not turned for too long.
    Stall {
        /// Its number among all that were watched.
        number: u64,
        /// What it was called.
        name: String,
        /// So long, in ns.
        elapsed_ns: u64,
        /// What it is doing instead.
        place: Option<Place>,
    },
    /// It turns again.
    StallEnd {
        /// Its number among all that were watched.
        number: u64,
        /// What it was called.
        name: String,
        /// So long it did not, in ns.
        elapsed_ns: u64,
    },
    /// All threads wait for locks, or some of them for each other.
    Deadlock {
        /// For so long, in ns.
        elapsed_ns: u64,
        /// Whether all do.
        is_of_all: bool,
        /// Every thread's stack.
        text: String,
    },
    /// The process uses more CPU or memory than it did.
    Step {
        /// `cpu` (cores) or `rss` (bytes).
        kind: &'static str,
        /// What it was.
        from: f64,
        /// What it is.
        to: f64,
    },
}

/// An event loop that tells when it turns.
#[derive(Debug)]
pub struct Heartbeat {
    /// Its number among all that were watched.
    pub number: u64,
    pub(super) name: String,
    pub(super) thread_id: u64,
    pub(super) limit_ns: u64,
    pub(super) beat_ns: AtomicU64,
    pub(super) is_over: AtomicBool,
}

impl Heartbeat {
    /// The loop turns.
    pub fn beat(&self) {
        self.beat_ns.store(monotonic_ns(), Relaxed);
    }

    /// The loop is not watched any more.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }
}

/// What is watched besides requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// All threads wait for locks, or some of them for each other, for so long, in ns.
    pub deadlock_ns: Option<u64>,
    /// Cores in use for ten seconds.
    pub cpu_cores: Option<f64>,
    /// Bytes of memory more than the least of the last minute.
    pub rss_bytes: Option<u64>,
}

/// What is watched in one process, and the events of it.
#[derive(Debug)]
pub struct Watch {
    pub(super) heartbeats: Mutex<Vec<Arc<Heartbeat>>>,
    thresholds: Mutex<Thresholds>,
    sender: Sender<Event>,
    receiver: Receiver<Event>,
    /// Events that nobody took in time.
    pub dropped: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        let (sender, receiver) = bounded(MAX_EVENTS);
        Self {
            heartbeats: Mutex::default(),
            thresholds: Mutex::default(),
            sender,
            receiver,
            dropped: AtomicU64::new(0),
        }
    }
}

impl Watch {
    /// Watches an event loop that runs on this thread; `None` if there are too many.
    #[must_use]
    pub fn heartbeat(&self, name: String, thread_id: u64, limit_ns: u64) -> Option<Arc<Heartbeat>> {
        let mut heartbeats = self.heartbeats.lock();
        heartbeats.retain(|heartbeat| !heartbeat.is_over.load(Relaxed));
        if heartbeats.len() >= MAX_HEARTBEATS {
            return None;
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let heartbeat = Arc::new(Heartbeat {
            number: NEXT.fetch_add(1, Relaxed),
            name,
            thread_id,
            limit_ns,
            beat_ns: AtomicU64::new(monotonic_ns()),
            is_over: AtomicBool::new(false),
        });
        heartbeats.push(heartbeat.clone());
        Some(heartbeat)
    }

    /// Sets what else is watched.
    pub fn set_thresholds(&self, thresholds: Thresholds) {
        *self.thresholds.lock() = thresholds;
    }

    /// What else is watched.
    #[must_use]
    pub fn thresholds(&self) -> Thresholds {
        *self.thresholds.lock()
    }

    /// The next event; `None` after so long without one.
    #[must_use]
    pub fn next_event(&self, patience: Duration) -> Option<Event> {
        self.receiver.recv_timeout(patience).ok()
    }

    /// Hands an event over.
    pub fn tell(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}
