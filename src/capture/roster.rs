//! The threads an engine knows: what it shows of each, in its snapshot, and what it remembers of
//! each besides, in a track. Sample and track of a thread have the same index.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::clock::cpu::{monotonic_ns, thread_cpu_ns};
use crate::model::label::ActiveLabels;
use crate::model::lock::HeldLock;
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use crate::model::stack::{FunctionTable, Stack};
use crate::model::thread_names;
use crate::unwind::label_log::LogReader;

/// What an engine remembers of a thread besides its sample.
#[derive(Debug)]
pub struct Track<T> {
    /// What tells the thread from others while it lives.
    pub id: usize,
    /// See [`ThreadSample::thread_id`]: of most threads a look then touches nothing but the track.
    pub thread_id: u64,
    /// The thread's CPU clock when its stack was read.
    pub walked_at_cpu_ns: Option<u64>,
    /// The look that brought it up to date last.
    pub updated_in: u64,
    /// The look that found it alive last.
    pub seen_in: u64,
    /// The look that read its name last, or that found it where names come by themselves.
    pub named_in: u64,
    /// What only this engine remembers.
    pub extra: T,
    /// What the thread says of its labels.
    log: LogReader,
}

/// The threads and the snapshot of one engine.
#[derive(Debug)]
pub struct Roster<T> {
    tracks: Vec<Track<T>>,
    snapshot: Snapshot,
    look: u64,
    follows_logs: bool,
    indices: FxHashMap<usize, usize>,
    next_key: u64,
    next_version: u64,
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self {
            tracks: Vec::new(),
            snapshot: Snapshot::default(),
            look: 0,
            follows_logs: false,
            indices: FxHashMap::default(),
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

impl<T> Roster<T> {
    /// Takes in what threads say of their labels from now on. Each change is told to one reader
    /// only: this is for the engine of the sampler.
    pub fn follow_logs(&mut self) {
        self.follows_logs = true;
    }

    /// Begins a look: what spans there are, are those of this look.
    pub fn begin_look(&mut self) {
        self.look += 1;
        self.snapshot.spans.clear();
    }

    /// The number of the current look, from 1.
    #[must_use]
    pub fn look(&self) -> u64 {
        self.look
    }

    /// What is known of all threads.
    #[must_use]
    #[inline]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How many threads there are.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.tracks.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracks.is_empty()
    }

    /// What is remembered of each thread.
    #[must_use]
    #[inline]
    pub fn tracks(&self) -> &[Track<T>] {
        &self.tracks
    }

    /// The same, to be changed.
    #[inline]
    pub fn tracks_mut(&mut self) -> &mut [Track<T>] {
        &mut self.tracks
    }

    /// A thread's sample.
    #[must_use]
    #[inline]
    pub fn sample(&self, at: usize) -> &ThreadSample {
        &self.snapshot.threads[at]
    }

    /// The same, to be changed. For name and labels see [`Self::set_name`], [`Self::set_labels`].
    #[inline]
    pub fn sample_mut(&mut self, at: usize) -> &mut ThreadSample {
        &mut self.snapshot.threads[at]
    }

    /// Both of a thread.
    #[inline]
    pub fn pair_mut(&mut self, at: usize) -> (&mut Track<T>, &mut ThreadSample) {
        (&mut self.tracks[at], &mut self.snapshot.threads[at])
    }

    /// Both of every thread.
    pub fn pairs_mut(&mut self) -> impl Iterator<Item = (&mut Track<T>, &mut ThreadSample)> {
        self.tracks.iter_mut().zip(&mut self.snapshot.threads)
    }

    /// What the serials in the stacks mean.
    #[inline]
    pub fn functions_mut(&mut self) -> &mut FunctionTable {
        &mut self.snapshot.functions
    }

    /// Who holds the locks that threads wait for.
    pub fn held_mut(&mut self) -> &mut Vec<HeldLock> {
        &mut self.snapshot.held
    }

    /// Sets the time of the snapshot.
    #[inline]
    pub fn set_time(&mut self, at_ns: u64) {
        self.snapshot.at_ns = at_ns;
    }

    /// Notes that some thread's CPU clock has moved since the look before.
    #[inline]
    pub fn note_movement(&mut self) {
        self.snapshot.moved_ns = self.snapshot.at_ns;
    }

    /// Notes that it cannot be told of some thread why it waits.
    pub fn hide_waits(&mut self) {
        self.snapshot.hides_waits = true;
    }

    /// Notes that it cannot be told of some thread whether it waits for the GIL.
    pub fn hide_gil_waits(&mut self) {
        self.snapshot.hides_gil_waits = true;
    }

    /// Notes the labels under which a thread works.
    pub fn set_labels(&mut self, at: usize, labels: Option<Arc<ActiveLabels>>) {
        self.snapshot.set_labels(at, labels);
    }

    /// Names a thread.
    pub fn set_name(&mut self, at: usize, name: Arc<str>) {
        let sample = self.sample(at);
        if sample.name != name {
            thread_names::note(sample.thread_id, &name);
        }
        self.snapshot.set_name(at, name);
    }

    /// The index of the thread with this id.
    #[must_use]
    pub fn index_of(&self, id: usize) -> Option<usize> {
        self.indices.get(&id).copied()
    }

    /// Whether there is memory for another thread.
    pub fn has_room(&mut self) -> bool {
        self.tracks.try_reserve(1).is_ok()
            && self.indices.try_reserve(1).is_ok()
            && self.snapshot.threads.try_reserve(1).is_ok()
    }

    /// Adds a thread, and returns its index.
    pub fn add(&mut self, newcomer: Newcomer, extra: T) -> usize {
        let Newcomer { cpu_ns, now_ns, .. } = newcomer;
        // A thread that existed before the previous look has used less CPU time since than passed.
        let is_newborn = newcomer.previous_ns > 0
            && cpu_ns.is_some_and(|cpu| cpu <= now_ns.saturating_sub(newcomer.previous_ns));
        self.next_key += 1;
        self.snapshot.threads_version += 1;
        self.snapshot.threads.push(ThreadSample {
            key: ThreadKey(self.next_key),
            thread_id: newcomer.thread_id,
            name: Arc::from(""),
            cpu_ns,
            state: ThreadState::Unknown,
            on_cpu: true,
            gil: 0,
            labels: None,
            task: None,
            since_ns: now_ns,
            stack: Stack::default(),
            stack_version: 0,
            first_seen_ns: now_ns,
            cpu_from_ns: if is_newborn { 0 } else { cpu_ns.unwrap_or(0) },
            early_cpu_ns: 0,
            off: None,
            lock: None,
            cpu_wait_ns: None,
            ready: 0,
            span: None,
        });
        self.tracks.push(Track {
            id: newcomer.id,
            thread_id: newcomer.thread_id,
            walked_at_cpu_ns: None,
            updated_in: 0,
            seen_in: self.look,
            named_in: 0,
            log: LogReader::default(),
            extra,
        });
        let at = self.tracks.len() - 1;
        self.indices.insert(newcomer.id, at);
        at
    }

    /// Removes a thread; the last one gets its index.
    pub fn remove(&mut self, at: usize) {
        self.read_log(at, None, self.snapshot.threads[at].cpu_ns);
        let removed = self.tracks.swap_remove(at);
        self.snapshot.threads.swap_remove(at);
        self.snapshot.threads_version += 1;
        self.indices.remove(&removed.id);
        if let Some(moved) = self.tracks.get(at) {
            self.indices.insert(moved.id, at);
        }
    }

    /// Drops the threads that this look did not find.
    pub fn drop_ended(&mut self) {
        let mut at = 0;
        while at < self.tracks.len() {
            if self.tracks[at].seen_in == self.look {
                at += 1;
            } else {
                self.remove(at);
            }
        }
    }

    /// Forgets all threads and gives the memory back. What was found out about the process stays.
    pub fn forget(&mut self) {
        self.tracks = Vec::new();
        self.indices = FxHashMap::default();
        self.snapshot = Snapshot {
            at_ns: self.snapshot.at_ns,
            threads_version: self.snapshot.threads_version + 1,
            has_requests: self.snapshot.has_requests,
            hides_gil_waits: self.snapshot.hides_gil_waits,
            hides_waits: self.snapshot.hides_waits,
            ..Snapshot::default()
        };
    }

    /// What is known of all threads, for good.
    #[must_use]
    pub fn into_snapshot(self) -> Snapshot {
        self.snapshot
    }

    /// A number for a stack that has been read.
    pub fn version(&mut self) -> u64 {
        self.next_version += 1;
        self.next_version
    }

    /// Has every stack read again.
    pub fn forget_stacks(&mut self) {
        for track in &mut self.tracks {
            track.walked_at_cpu_ns = None;
            track.updated_in = 0;
        }
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tracks.capacity() * (size_of::<Track<T>>() + 24)
    }

    /// Takes in what the thread has said of its labels since the look before, when its CPU clock
    /// showed `before_ns`. `version` is how often its context was switched, if that is known.
    pub fn read_log(&mut self, at: usize, version: Option<u64>, before_ns: Option<u64>) {
        if !self.follows_logs {
            return;
        }
        let track = &mut self.tracks[at];
        let known = self.snapshot.spans.len();
        let Snapshot {
            at_ns,
            threads,
            spans,
            ..
        } = &mut self.snapshot;
        let sample = &mut threads[at];
        // Of a thread that is new, all that it has spent is told.
        let is_new = sample.first_seen_ns == *at_ns;
        let before_ns = if is_new {
            Some(sample.cpu_from_ns)
        } else {
            before_ns
        };
        let span = track.log.read(track.id, version, before_ns, sample, spans);
        sample.span = track.log.has_log().then_some(span);
        self.snapshot.find_requests(known);
    }

    /// Brings the CPU clocks of all threads up to date.
    pub fn read_clocks(&mut self) {
        self.snapshot.spans.clear();
        self.snapshot.at_ns = monotonic_ns();
        for at in 0..self.tracks.len() {
            let sample = &mut self.snapshot.threads[at];
            let before_ns = sample.cpu_ns;
            if let Some(clock) = thread_cpu_ns(sample.thread_id) {
                sample.cpu_ns = Some(clock);
            }
            if sample.cpu_ns != before_ns {
                self.read_log(at, None, before_ns);
            }
        }
    }
}
