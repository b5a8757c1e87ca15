//! The threads an engine knows, in step with the snapshot it fills.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::clock::cpu::{monotonic_ns, thread_cpu_ns};
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use crate::model::stack::Stack;
use crate::unwind::label_log::LogReader;

/// What an engine remembers of a thread besides its sample; `Own` is what only this engine does.
#[derive(Debug)]
pub struct Track<Own> {
    /// What tells the thread from others while it lives.
    pub id: usize,
    /// See [`ThreadSample::thread_id`].
    pub thread_id: u64,
    /// The thread's CPU clock when its stack was read.
    pub walked_at_cpu_ns: Option<u64>,
    /// The snapshot that served it last.
    pub served_in: u64,
    /// The snapshot that saw it alive last.
    pub seen_in: u64,
    /// The snapshot that read its name last, or that found it where names come by themselves.
    pub named_in: u64,
    /// What the thread says of its labels.
    pub log: LogReader,
    /// What only this engine remembers.
    pub own: Own,
}

/// The tracks of all threads, each at the same place as its sample in the snapshot.
#[derive(Debug)]
pub struct Roster<Own> {
    /// In step with `Snapshot::threads`.
    pub tracks: Vec<Track<Own>>,
    /// The number of the current snapshot, from 1.
    pub snapshot: u64,
    /// Whether what threads say of their labels is taken in: by one engine, the sampler's.
    follows_logs: bool,
    places: FxHashMap<usize, usize>,
    next_key: u64,
    next_version: u64,
}

impl<Own> Default for Roster<Own> {
    fn default() -> Self {
        Self {
            tracks: Vec::new(),
            snapshot: 0,
            follows_logs: false,
            places: FxHashMap::default(),
            next_key: 0,
            next_version: 0,
        }
    }
}

/// A thread as it was found for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// See [`Track::id`].
    pub id: usize,
    /// The kernel's thread id.
    pub thread_id: u64,
    /// Its CPU clock in ns.
    pub cpu_ns: Option<u64>,
    /// The time in ns.
    pub now_ns: u64,
    /// The time in ns at which threads were looked for before; 0 if never.
    pub previous_ns: u64,
}

impl<Own> Roster<Own> {
    /// The roster of the sampler's engine, which takes in what threads say of their labels.
    #[must_use]
    pub fn following() -> Self {
        Self {
            follows_logs: true,
            ..Self::default()
        }
    }

    /// For an engine that looks once: the sampler is told, and only it.
    pub fn follow_nothing(&mut self) {
        self.follows_logs = false;
    }

    /// Where the thread of this id is.
    #[must_use]
    pub fn place(&self, id: usize) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// Whether there is memory for another thread.
    pub fn has_room(&mut self, snapshot: &mut Snapshot) -> bool {
        self.tracks.try_reserve(1).is_ok()
            && self.places.try_reserve(1).is_ok()
            && snapshot.threads.try_reserve(1).is_ok()
    }

    /// Adds a thread.
    pub fn add(&mut self, newcomer: Newcomer, own: Own, snapshot: &mut Snapshot) -> usize {
        let Newcomer { cpu_ns, now_ns, .. } = newcomer;
        // A thread that existed before the previous look has used less CPU time since than passed.
        let is_newborn = newcomer.previous_ns > 0
            && cpu_ns.is_some_and(|cpu| cpu <= now_ns.saturating_sub(newcomer.previous_ns));
        self.next_key += 1;
        snapshot.threads_version += 1;
        snapshot.threads.push(ThreadSample {
            key: ThreadKey(self.next_key),
            thread_id: newcomer.thread_id,
            name: Arc::from(""),
            cpu_ns,
            state: ThreadState::Unknown,
            on_cpu: true,
            labels: None,
            since_ns: now_ns,
            stack: Stack::default(),
            stack_version: 0,
            first_seen_ns: now_ns,
            cpu_from_ns: if is_newborn { 0 } else { cpu_ns.unwrap_or(0) },
            early_cpu_ns: 0,
            span: None,
        });
        self.tracks.push(Track {
            id: newcomer.id,
            thread_id: newcomer.thread_id,
            walked_at_cpu_ns: None,
            served_in: 0,
            seen_in: self.snapshot,
            named_in: 0,
            log: LogReader::default(),
            own,
        });
        let at = self.tracks.len() - 1;
        self.places.insert(newcomer.id, at);
        at
    }

    /// Removes a thread; the last one takes its place.
    pub fn remove(&mut self, at: usize, snapshot: &mut Snapshot) {
        self.read_log(at, None, snapshot.threads[at].cpu_ns, snapshot);
        let removed = self.tracks.swap_remove(at);
        snapshot.threads.swap_remove(at);
        snapshot.threads_version += 1;
        self.places.remove(&removed.id);
        if let Some(moved) = self.tracks.get(at) {
            self.places.insert(moved.id, at);
        }
    }

    /// Drops the threads that this snapshot did not find.
    pub fn drop_ended(&mut self, snapshot: &mut Snapshot) {
        let mut at = 0;
        while at < self.tracks.len() {
            if self.tracks[at].seen_in == self.snapshot {
                at += 1;
            } else {
                self.remove(at, snapshot);
            }
        }
    }

    /// Forgets all threads, as for a new snapshot, and gives the memory back.
    pub fn forget(&mut self) {
        self.tracks = Vec::new();
        self.places = FxHashMap::default();
    }

    /// A number for a stack that was read anew.
    pub fn version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version
    }

    /// Has every stack read anew.
    pub fn forget_stacks(&mut self) {
        for track in &mut self.tracks {
            track.walked_at_cpu_ns = None;
            track.served_in = 0;
        }
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tracks.capacity() * (size_of::<Track<Own>>() + 24)
    }

    /// Takes in what the thread has said of its labels since the look before, when its CPU clock
    /// showed `before_ns`. `version` is how often its context was switched, if that is known.
    pub fn read_log(
        &mut self,
        at: usize,
        version: Option<u64>,
        before_ns: Option<u64>,
        snapshot: &mut Snapshot,
    ) {
        if !self.follows_logs {
            return;
        }
        let track = &mut self.tracks[at];
        let known = snapshot.spans.len();
        let Snapshot { threads, spans, .. } = snapshot;
        let sample = &mut threads[at];
        // Of a thread that is new, all that it has spent is told.
        let is_new = sample.first_seen_ns == snapshot.at_ns;
        let before_ns = if is_new {
            Some(sample.cpu_from_ns)
        } else {
            before_ns
        };
        let span = track.log.read(track.id, version, before_ns, sample, spans);
        sample.span = track.log.has_log().then_some(span);
        snapshot.find_requests(known);
    }

    /// Brings the CPU clocks of all threads up to date.
    pub fn read_clocks(&mut self, snapshot: &mut Snapshot) {
        snapshot.at_ns = monotonic_ns();
        for at in 0..self.tracks.len() {
            let before_ns = snapshot.threads[at].cpu_ns;
            if let Some(clock) = thread_cpu_ns(snapshot.threads[at].thread_id) {
                snapshot.threads[at].cpu_ns = Some(clock);
            }
            if snapshot.threads[at].cpu_ns != before_ns {
                self.read_log(at, None, before_ns, snapshot);
            }
        }
    }
}
