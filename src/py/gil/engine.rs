//! The engine itself: which threads to look at, and for how long to hold the GIL.
#![allow(unsafe_code)]

use std::sync::Arc;

use pyo3::Python;
use pyo3::ffi::{self, PyInterpreterState, PyThreadState};
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::attach::Attachment;
use super::code_cache::CodeCache;
use super::names::Names;
use super::symbols::Symbols;
use super::threads::IdOffsets;
use super::walk::walk;
use crate::capture::{Engine, Missed, Taken};
use crate::clock::cpu::{monotonic_ns, thread_cpu_ns};
use crate::error::Error;
use crate::model::module_name::ImportRoots;
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample};
use crate::model::stack::Stack;

/// After this long with the GIL the rest of the threads waits for another turn.
const MAX_HOLD_NS: u64 = 400_000;
/// Turns of one snapshot; threads not reached by then keep the stack they had.
const MAX_HOLDS: u32 = 64;
/// While all known threads do nothing, new ones are looked for this often.
const MAX_UNSEEN_NS: u64 = 250_000_000;
/// A thread's name is read again after so many snapshots, in case it was renamed.
const NAME_REFRESH: u64 = 128;

/// What the engine remembers of a thread besides its sample.
#[derive(Clone, Copy, Debug)]
struct Track {
    ident: usize,
    /// The thread's CPU clock when its stack was read.
    walked_at_cpu_ns: Option<u64>,
    /// The snapshot that served it last.
    served_in: u64,
    /// The snapshot that saw it alive last.
    seen_in: u64,
    /// The snapshot that read its name last.
    named_in: u64,
}

/// A thread of the interpreter as enumerated.
#[derive(Clone, Copy, Debug)]
struct Listed {
    state: *mut PyThreadState,
    ident: usize,
    native: u64,
}

/// What the engine is told about the application.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    /// Absolute directories of `sys.path`.
    pub(crate) import_roots: Vec<String>,
    /// Directory of rprof's Python files.
    pub(crate) own_directory: String,
    /// Whether the sampler's thread state is made now and kept; see [`super::attach`].
    pub(crate) keep_thread_state: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct GilEngine {
    attachment: Attachment,
    walker: Walker,
}

/// The part of the engine that works while the GIL is held.
#[derive(Debug)]
struct Walker {
    symbols: Symbols,
    interpreter: *mut PyInterpreterState,
    offsets: IdOffsets,
    /// A kernel id that a thread state has kept from before a fork, and what it is now.
    stale_id: Option<(u64, u64)>,
    names: Names,
    cache: CodeCache,
    /// In step with the snapshot's threads.
    tracks: Vec<Track>,
    /// From a thread's ident to its place in `tracks`.
    places: FxHashMap<usize, usize>,
    listed: Vec<Listed>,
    /// On CPython up to 3.11 an allocation can run the garbage collector, and with it the
    /// application's finalizers, on this thread (`Modules/gcmodule.c`, `_PyObject_GC_Alloc`).
    allocation_collects: bool,
    snapshots: u64,
    attached_at_ns: u64,
    next_key: u64,
    next_version: u64,
}

// SAFETY: the interpreter lives as long as the process, and the thread states in `listed` are used
// only within one hold of the GIL; everything else is Send by itself.
unsafe impl Send for Walker {}

impl GilEngine {
    /// # Errors
    /// When this interpreter does not offer what the engine needs; the message names it.
    pub(crate) fn new(py: Python<'_>, options: EngineOptions) -> PyResult<Self> {
        let unsupported = |what: &str| {
            PyErr::from(Error::state(format!(
                "the gil engine cannot run on this interpreter: {what}"
            )))
        };
        let version = py.version_info();
        let at_least = |minor| (version.major, version.minor) >= (3, minor);
        let symbols = Symbols::find()
            .map_err(|symbol| unsupported(&format!("it does not export {symbol}")))?;
        let threading = py.import("threading")?;
        let offsets = IdOffsets::find(py, symbols.own_ident(), at_least(11))
            .ok_or_else(|| unsupported("its thread states have an unknown layout"))?;
        let attachment = Attachment::new(py, symbols, options.keep_thread_state);
        let walker = Walker {
            interpreter: attachment.interpreter(),
            names: Names::new(&threading.getattr("_active")?),
            cache: CodeCache::new(
                py,
                symbols,
                ImportRoots::new(options.import_roots),
                options.own_directory,
                at_least(11),
            ),
            symbols,
            stale_id: offsets.stale_id(py),
            offsets,
            tracks: Vec::new(),
            places: FxHashMap::default(),
            listed: Vec::new(),
            allocation_collects: !at_least(12),
            snapshots: 0,
            attached_at_ns: 0,
            next_key: 0,
            next_version: 0,
        };
        Ok(Self { attachment, walker })
    }

    /// One snapshot taken by a thread that already has the GIL; that thread is part of it.
    pub(crate) fn snapshot_once(mut self, _py: Python<'_>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.walker.snapshots = 1;
        // SAFETY: the GIL is held, as `_py` proves.
        unsafe {
            let own = std::ptr::null_mut();
            self.walker
                .hold(&mut snapshot, own, u64::MAX, &mut Taken::default());
            self.walker.cache.release_all();
            self.walker.names.release();
        }
        snapshot
    }
}

impl Walker {
    /// Notes which threads have not run since their stack was read, so that it still holds.
    /// Returns whether all are such. Needs no GIL.
    fn note_idle(&mut self, snapshot: &Snapshot) -> bool {
        let current = self.snapshots;
        let mut all_idle = true;
        for (track, thread) in self.tracks.iter_mut().zip(&snapshot.threads) {
            let clock = thread_cpu_ns(thread.thread_id);
            if clock.is_some() && clock == track.walked_at_cpu_ns {
                track.served_in = current;
            } else {
                all_idle = false;
            }
        }
        all_idle
    }

    /// One turn with the GIL; true when all threads were served.
    ///
    /// # Safety
    /// The GIL must be held; `own` is the sampler's thread state or null.
    unsafe fn hold(
        &mut self,
        snapshot: &mut Snapshot,
        own: *mut PyThreadState,
        max_hold_ns: u64,
        taken: &mut Taken,
    ) -> bool {
        let begun_ns = monotonic_ns();
        let previous_ns = std::mem::replace(&mut self.attached_at_ns, begun_ns);
        // SAFETY: the caller vouches for the GIL; the collector is switched on again below.
        let collecting = self.allocation_collects && unsafe { ffi::PyGC_Disable() } != 0;
        // SAFETY: as above.
        unsafe {
            self.enumerate(own);
            self.cache.release_some();
        }
        if self.cache.forget_if_full() {
            snapshot.functions.clear();
            for track in &mut self.tracks {
                track.walked_at_cpu_ns = None;
                track.served_in = 0;
            }
        }
        let listed = std::mem::take(&mut self.listed);
        let mut complete = true;
        for thread in &listed {
            // SAFETY: as above; nothing has let go of the GIL since the enumeration.
            let worked = unsafe { self.serve(thread, snapshot, begun_ns, previous_ns, taken) };
            if worked && monotonic_ns() - begun_ns > max_hold_ns {
                complete = false;
                break;
            }
        }
        self.listed = listed;
        if collecting {
            // SAFETY: as above.
            unsafe { ffi::PyGC_Enable() };
        }
        taken.hold_ns = taken.hold_ns.max(monotonic_ns() - begun_ns);
        complete
    }

    /// Lists the interpreter's threads.
    ///
    /// # Safety
    /// The GIL must be held.
    unsafe fn enumerate(&mut self, own: *mut PyThreadState) {
        self.listed.clear();
        // SAFETY: the GIL is held, so no thread of this interpreter can delete its state; one that
        // is being added is linked before it becomes the head (`Python/pystate.c`).
        let mut state = unsafe { (self.symbols.thread_head)(self.interpreter) };
        while !state.is_null() {
            if state != own {
                // SAFETY: as above.
                let (ident, said) = unsafe { self.offsets.read(state) };
                let native = match self.stale_id {
                    Some((stale, actual)) if stale == said => actual,
                    _ => said,
                };
                // A thread that has not begun to run has no id yet.
                if ident != 0 {
                    self.listed.push(Listed {
                        state,
                        ident,
                        native,
                    });
                }
            }
            // SAFETY: as above.
            state = unsafe { (self.symbols.thread_next)(state) };
        }
    }

    /// Brings one thread's sample up to date; false if there was nothing to do.
    ///
    /// # Safety
    /// The GIL must be held and `thread` be listed in this hold.
    unsafe fn serve(
        &mut self,
        thread: &Listed,
        snapshot: &mut Snapshot,
        now_ns: u64,
        previous_ns: u64,
        taken: &mut Taken,
    ) -> bool {
        let mut index = self.places.get(&thread.ident).copied();
        if let Some(at) = index {
            self.tracks[at].seen_in = self.snapshots;
            if self.tracks[at].served_in == self.snapshots {
                return false;
            }
        }
        let mut native = thread.native;
        let mut name = None;
        if native == 0 {
            // CPython 3.10 keeps the kernel's id only in the Thread object.
            match index {
                Some(at) if !snapshot.threads[at].name.is_empty() => {
                    native = snapshot.threads[at].thread_id;
                }
                _ => {
                    // SAFETY: the GIL is held.
                    let known = unsafe { self.names.of(thread.ident) };
                    native = known.native_id.unwrap_or(thread.ident as u64);
                    name = known.name;
                }
            }
        }
        let clock = thread_cpu_ns(native);
        if let Some(at) = index {
            let known = &snapshot.threads[at];
            if known.thread_id != native || clock < known.cpu_ns {
                // The ids of an ended thread were given to another.
                self.remove(at, snapshot);
                index = None;
            }
        }
        let mut stack = match index {
            Some(at) => {
                snapshot.threads[at].cpu_ns = clock;
                if clock.is_some() && clock == self.tracks[at].walked_at_cpu_ns {
                    self.tracks[at].served_in = self.snapshots;
                    return true;
                }
                std::mem::take(&mut snapshot.threads[at].stack)
            }
            None => Stack::default(),
        };
        // SAFETY: the GIL is held and the thread is alive.
        let has_frames = unsafe {
            walk(
                thread.state,
                &self.symbols,
                &mut self.cache,
                &mut snapshot.functions,
                &mut stack,
            )
        };
        let at = match index {
            Some(at) => at,
            None if !has_frames => return true,
            None => self.add(thread.ident, native, clock, now_ns, previous_ns, snapshot),
        };
        let wants_name = snapshot.threads[at].name.is_empty()
            || self.snapshots - self.tracks[at].named_in >= NAME_REFRESH;
        if name.is_none() && wants_name {
            self.tracks[at].named_in = self.snapshots;
            // SAFETY: the GIL is held.
            name = unsafe { self.names.of(thread.ident) }.name;
            if name.is_none() && native == u64::from(std::process::id()) {
                // gevent files it under the id of a greenlet.
                name = Some(Arc::from("MainThread"));
            }
        }
        let sample = &mut snapshot.threads[at];
        if let Some(name) = name
            && sample.name != name
        {
            sample.name = name;
        }
        sample.stack = stack;
        self.tracks[at].served_in = self.snapshots;
        if has_frames {
            self.tracks[at].walked_at_cpu_ns = clock;
            self.next_version += 1;
            sample.stack_version = self.next_version;
            taken.walked += 1;
            taken.incomplete += u32::from(sample.stack.incomplete);
        }
        true
    }

    fn add(
        &mut self,
        ident: usize,
        native: u64,
        clock: Option<u64>,
        now_ns: u64,
        previous_ns: u64,
        snapshot: &mut Snapshot,
    ) -> usize {
        // A thread that existed before the previous look has used less CPU time since than passed.
        let is_newborn = previous_ns > 0
            && clock.is_some_and(|clock| clock <= now_ns.saturating_sub(previous_ns));
        self.next_key += 1;
        snapshot.threads.push(ThreadSample {
            key: ThreadKey(self.next_key),
            thread_id: native,
            name: Arc::from(""),
            cpu_ns: clock,
            stack: Stack::default(),
            stack_version: 0,
            first_seen_ns: now_ns,
            cpu_from_ns: if is_newborn { 0 } else { clock.unwrap_or(0) },
        });
        self.tracks.push(Track {
            ident,
            walked_at_cpu_ns: None,
            served_in: 0,
            seen_in: self.snapshots,
            named_in: 0,
        });
        let at = self.tracks.len() - 1;
        self.places.insert(ident, at);
        at
    }

    fn remove(&mut self, at: usize, snapshot: &mut Snapshot) {
        let removed = self.tracks.swap_remove(at);
        snapshot.threads.swap_remove(at);
        self.places.remove(&removed.ident);
        if let Some(moved) = self.tracks.get(at) {
            self.places.insert(moved.ident, at);
        }
    }

    /// Drops the threads that this snapshot did not find.
    fn drop_ended(&mut self, snapshot: &mut Snapshot) {
        let mut at = 0;
        while at < self.tracks.len() {
            if self.tracks[at].seen_in == self.snapshots {
                at += 1;
            } else {
                self.remove(at, snapshot);
            }
        }
    }
}

impl Engine for GilEngine {
    fn name(&self) -> &'static str {
        "gil"
    }

    fn snapshot(&mut self, snapshot: &mut Snapshot) -> Result<Taken, Missed> {
        let mut taken = Taken::default();
        let walker = &mut self.walker;
        let now_ns = monotonic_ns();
        walker.snapshots += 1;
        let all_idle = walker.note_idle(snapshot);
        if all_idle && !walker.tracks.is_empty() && now_ns - walker.attached_at_ns < MAX_UNSEEN_NS {
            snapshot.at_ns = now_ns;
            return Ok(taken);
        }
        for turn in 0..MAX_HOLDS {
            let attached = self.attachment.attach()?;
            if turn == 0 {
                snapshot.at_ns = monotonic_ns();
            }
            // SAFETY: the GIL is held as long as `attached` lives.
            let complete =
                unsafe { walker.hold(snapshot, attached.state(), MAX_HOLD_NS, &mut taken) };
            drop(attached);
            if walker.listed.is_empty() {
                // The last Python thread has ended without the interpreter being shut down: a
                // child forked from a thread ends when that thread does.
                return Err(Missed::Finalizing);
            }
            if complete {
                walker.drop_ended(snapshot);
                break;
            }
        }
        Ok(taken)
    }

    fn read_clocks(&mut self, snapshot: &mut Snapshot) {
        snapshot.at_ns = monotonic_ns();
        for thread in &mut snapshot.threads {
            if let Some(clock) = thread_cpu_ns(thread.thread_id) {
                thread.cpu_ns = Some(clock);
            }
        }
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn park(&mut self) {
        self.attachment.park();
    }

    fn bytes(&self) -> usize {
        self.walker.cache.bytes()
            + self.walker.tracks.capacity() * (size_of::<Track>() + 24)
            + self.walker.listed.capacity() * size_of::<Listed>()
    }
}
