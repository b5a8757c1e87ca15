//! The engine itself: which threads to look at, and for how long to hold the GIL.
#![allow(unsafe_code)]

use std::sync::Arc;

use pyo3::Python;
use pyo3::ffi::{self, PyInterpreterState, PyThreadState};
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::attach::Attachment;
use super::code_cache::CodeCache;
use super::memory::OwnedByGil;
use super::names::Names;
use super::symbols::Symbols;
use super::threads::IdOffsets;
use super::walk::walk;
use crate::capture::roster::{Newcomer, Roster};
use crate::capture::{Engine, Missed, SnapshotStats};
use crate::clock::cpu::{is_main_thread, monotonic_ns, thread_cpu_ns, thread_id};
use crate::error::Error;
use crate::model::function::Function;
use crate::model::label::MAIN_THREAD_NAME;
use crate::model::module_name::ImportRoots;
use crate::model::snapshot::Snapshot;
use crate::model::stack::Stack;
use crate::unwind::labels::{LabelReader, PLACE};

/// After this long with the GIL the rest of the threads waits for another turn.
const MAX_HOLD_NS: u64 = 400_000;
/// Turns of one snapshot; threads not reached by then keep the stack they had.
const MAX_HOLDS: u32 = 64;
/// While all known threads do nothing, new ones are looked for this often.
const MAX_UNSEEN_NS: u64 = 250_000_000;
/// A thread's name is read again after so many snapshots, in case it was renamed.
const NAME_REFRESH: u64 = 128;

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
    /// Ident and kernel id of the thread that made the engine, mostly the main one: before CPython 3.11
    /// only `threading` knows kernel ids, and need not be imported.
    maker: (usize, u64),
    names: Names,
    cache: CodeCache,
    /// By ident.
    roster: Roster<()>,
    listed: Vec<Listed>,
    labels: LabelReader,
    memory: OwnedByGil,
    /// On CPython up to 3.11 an allocation can run the garbage collector, and with it the
    /// application's finalizers, on this thread (`Modules/gcmodule.c`, `_PyObject_GC_Alloc`).
    allocation_collects: bool,
    attached_at_ns: u64,
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
        let offsets = IdOffsets::find(py, symbols.own_ident(), at_least(11))
            .ok_or_else(|| unsupported("its thread states have an unknown layout"))?;
        let attachment = Attachment::new(py, symbols, options.keep_thread_state);
        let walker = Walker {
            interpreter: attachment.interpreter(),
            names: Names::new(py),
            cache: CodeCache::new(
                py,
                symbols,
                ImportRoots::new(options.import_roots),
                options.own_directory,
                at_least(11),
            ),
            symbols,
            stale_id: offsets.stale_id(py),
            maker: (symbols.own_ident(), thread_id()),
            offsets,
            roster: Roster::default(),
            listed: Vec::new(),
            labels: LabelReader::default(),
            memory: OwnedByGil::default(),
            allocation_collects: !at_least(12),
            attached_at_ns: 0,
        };
        Ok(Self { attachment, walker })
    }

    /// The calling thread's stack, leaf first: functions and lines.
    pub(crate) fn own_stack(
        py: Python<'_>,
        options: &EngineOptions,
    ) -> PyResult<Vec<(Arc<Function>, u32)>> {
        let symbols = Symbols::find().map_err(|symbol| {
            PyErr::from(Error::state(format!(
                "the interpreter does not export {symbol}"
            )))
        })?;
        let mut cache = CodeCache::new(
            py,
            symbols,
            ImportRoots::new(options.import_roots.iter().cloned()),
            options.own_directory.clone(),
            py.version_info() >= (3, 11),
        );
        let mut functions = FxHashMap::default();
        let mut stack = Stack::default();
        // SAFETY: the GIL is held, as `py` proves, and the thread is the calling one.
        unsafe {
            let own = ffi::PyThreadState_Get();
            walk(own, &symbols, &mut cache, &mut functions, &mut stack);
            cache.release_all();
        }
        let named = stack
            .frames
            .iter()
            .filter_map(|frame| Some((functions.get(&frame.function)?.clone(), frame.line)));
        Ok(named.collect())
    }

    /// The engine of the sampler, which takes in what threads say of their labels.
    pub(crate) fn following_logs(mut self) -> Self {
        self.walker.roster.follow_logs();
        self
    }

    /// One snapshot taken by a thread that already has the GIL; that thread is part of it.
    pub(crate) fn snapshot_once(mut self, py: Python<'_>) -> Snapshot {
        self.walker.roster.begin_look();
        // SAFETY: the GIL is held, as `py` proves.
        unsafe {
            let own = std::ptr::null_mut();
            self.walker
                .hold(own, u64::MAX, &mut SnapshotStats::default());
            self.walker.cache.release_all();
        }
        self.walker.names.release(py);
        self.walker.roster.into_snapshot()
    }
}

impl Walker {
    /// Notes which threads have not run since their stack was read, so that it still holds.
    /// Returns whether all are such. Needs no GIL.
    fn note_idle(&mut self) -> bool {
        let look = self.roster.look();
        let mut all_idle = true;
        for (track, sample) in self.roster.pairs_mut() {
            let clock = thread_cpu_ns(sample.thread_id);
            if clock.is_some() && clock == track.walked_at_cpu_ns {
                track.updated_in = look;
            } else {
                all_idle = false;
            }
        }
        all_idle
    }

    /// One turn with the GIL; true when all threads were brought up to date.
    ///
    /// # Safety
    /// The GIL must be held; `own` is the sampler's thread state or null.
    unsafe fn hold(
        &mut self,
        own: *mut PyThreadState,
        max_hold_ns: u64,
        stats: &mut SnapshotStats,
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
            self.roster.functions_mut().clear();
            self.roster.forget_stacks();
        }
        let listed = std::mem::take(&mut self.listed);
        let mut complete = true;
        for thread in &listed {
            // SAFETY: as above; nothing has let go of the GIL since the enumeration.
            let worked = unsafe { self.update(thread, begun_ns, previous_ns, stats) };
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
        stats.hold_ns = stats.hold_ns.max(monotonic_ns() - begun_ns);
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
    unsafe fn update(
        &mut self,
        thread: &Listed,
        now_ns: u64,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) -> bool {
        let look = self.roster.look();
        let mut index = self.roster.index_of(thread.ident);
        if let Some(at) = index {
            let track = &mut self.roster.tracks_mut()[at];
            track.seen_in = look;
            if track.updated_in == look {
                return false;
            }
        }
        // SAFETY: the GIL is held.
        let (native, name) = unsafe { self.identify(thread, index) };
        let clock = thread_cpu_ns(native);
        if let Some(at) = index {
            let known = self.roster.sample(at);
            if known.thread_id != native || clock < known.cpu_ns {
                // The ids of an ended thread were given to another.
                self.roster.remove(at);
                index = None;
            }
        }
        let mut before_ns = clock;
        let mut stack = Stack::default();
        if let Some(at) = index {
            let (track, sample) = self.roster.pair_mut(at);
            before_ns = sample.cpu_ns.or(clock);
            sample.cpu_ns = clock;
            if clock.is_some() && clock == track.walked_at_cpu_ns {
                track.updated_in = look;
                return true;
            }
            sample.since_ns = now_ns;
            stack = std::mem::take(&mut sample.stack);
        }
        let functions = self.roster.functions_mut();
        // SAFETY: the GIL is held and the thread is alive.
        let has_frames = unsafe {
            walk(
                thread.state,
                &self.symbols,
                &mut self.cache,
                functions,
                &mut stack,
            )
        };
        let at = match index {
            // It is about to end; or it is the state of a thread that has not begun to run and has,
            // until then, the id of the one that began it (`new_threadstate`, `Python/pystate.c`,
            // 3.10 and 3.11), whose own state comes later in the list.
            Some(at) if !has_frames => {
                self.roster.sample_mut(at).stack = stack;
                return false;
            }
            Some(at) => at,
            None if !has_frames => return true,
            None => {
                let newcomer = Newcomer {
                    id: thread.ident,
                    thread_id: native,
                    cpu_ns: clock,
                    now_ns,
                    previous_ns,
                };
                self.roster.add(newcomer, ())
            }
        };
        // SAFETY: the GIL is held.
        unsafe { self.update_name(at, name) };
        self.update_labels(at, thread, before_ns);
        self.store(at, clock, stack, stats);
        true
    }

    /// Keeps the stack that a thread was found with when its CPU clock showed `clock`.
    #[inline]
    fn store(&mut self, at: usize, clock: Option<u64>, stack: Stack, stats: &mut SnapshotStats) {
        let (look, version) = (self.roster.look(), self.roster.version());
        let (track, sample) = self.roster.pair_mut(at);
        track.updated_in = look;
        track.walked_at_cpu_ns = clock;
        stats.walked += 1;
        stats.incomplete += u32::from(stack.incomplete);
        sample.stack = stack;
        sample.stack_version = version;
    }

    /// The kernel's id of a listed thread, which is at `index` of the roster if it is known, and its
    /// name if that had to be looked for.
    ///
    /// # Safety
    /// The GIL must be held.
    unsafe fn identify(
        &mut self,
        thread: &Listed,
        index: Option<usize>,
    ) -> (u64, Option<Arc<str>>) {
        if thread.native != 0 {
            return (thread.native, None);
        }
        // CPython 3.10 keeps the kernel's id only in the Thread object.
        if let Some(at) = index
            && !self.roster.sample(at).name.is_empty()
        {
            return (self.roster.sample(at).thread_id, None);
        }
        // SAFETY: as the caller vouches.
        let known = unsafe { self.names.of(thread.ident) };
        let (ident, id) = self.maker;
        let made_it = (ident == thread.ident).then_some(id);
        // A forked child's `Thread` objects have the ids that the parent's threads had
        // (`_after_fork`, `Lib/threading.py`): no threads of this process.
        let is_own = |id: &u64| thread_cpu_ns(*id).is_some();
        let told = known.native_id.filter(is_own);
        let id = told.or(made_it).unwrap_or(thread.ident as u64);
        (id, known.name)
    }

    /// Names a thread: by `name`, or as the interpreter does if it has no name yet, or for long the
    /// same.
    ///
    /// # Safety
    /// The GIL must be held.
    unsafe fn update_name(&mut self, at: usize, name: Option<Arc<str>>) {
        let mut name = name;
        let look = self.roster.look();
        let (track, sample) = self.roster.pair_mut(at);
        let wants_name = sample.name.is_empty() || look - track.named_in >= NAME_REFRESH;
        if name.is_none() && wants_name {
            track.named_in = look;
            // SAFETY: as the caller vouches.
            name = unsafe { self.names.of(track.id) }.name;
            if name.is_none() && is_main_thread(sample.thread_id) {
                // gevent files it under the id of a greenlet.
                name = Some(Arc::from(MAIN_THREAD_NAME));
            }
        }
        if let Some(name) = name {
            self.roster.set_name(at, name);
        }
    }

    /// Notes under which labels a thread works, and what it has said of them since its CPU clock
    /// showed `before_ns`.
    fn update_labels(&mut self, at: usize, thread: &Listed, before_ns: Option<u64>) {
        let Some(place) = PLACE.get() else {
            return;
        };
        let memory = &mut self.memory;
        let (state, ident) = (thread.state as usize, thread.ident);
        let seen = LabelReader::context(memory, place, state, ident, <_>::default());
        let found = seen.and_then(|seen| self.labels.labels(memory, place, seen));
        self.roster.set_labels(at, found);
        let version = seen.map(|seen| seen.version());
        self.roster.read_log(at, version, before_ns);
    }
}

impl Engine for GilEngine {
    fn name(&self) -> &'static str {
        "gil"
    }

    fn look(&mut self) -> Result<SnapshotStats, Missed> {
        let mut stats = SnapshotStats::default();
        let walker = &mut self.walker;
        let now_ns = monotonic_ns();
        walker.roster.begin_look();
        let all_idle = walker.note_idle();
        if all_idle && !walker.roster.is_empty() && now_ns - walker.attached_at_ns < MAX_UNSEEN_NS {
            walker.roster.set_time(now_ns);
            return Ok(stats);
        }
        for turn in 0..MAX_HOLDS {
            let attached = self.attachment.attach()?;
            if turn == 0 {
                walker.roster.set_time(monotonic_ns());
                walker.roster.note_movement();
            }
            // SAFETY: the GIL is held as long as `attached` lives.
            let complete = unsafe { walker.hold(attached.state(), MAX_HOLD_NS, &mut stats) };
            drop(attached);
            if walker.listed.is_empty() {
                // The last Python thread has ended without the interpreter being shut down: a
                // child forked from a thread ends when that thread does.
                return Err(Missed::Finalizing);
            }
            if complete {
                walker.roster.drop_ended();
                break;
            }
        }
        Ok(stats)
    }

    fn snapshot(&self) -> &Snapshot {
        self.walker.roster.snapshot()
    }

    fn read_clocks(&mut self) {
        self.walker.roster.read_clocks();
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn park(&mut self) {
        self.attachment.park();
    }

    fn bytes(&self) -> usize {
        self.walker.cache.bytes()
            + self.walker.roster.bytes()
            + self.walker.listed.capacity() * size_of::<Listed>()
    }
}
