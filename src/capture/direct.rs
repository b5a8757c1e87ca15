//! The `direct` engine: reads stacks without the GIL.
//!
//! A thread whose CPU clock stood still has the stack it had. Of every other thread the state and
//! the frames are copied by one call and walked afterwards; see [`crate::unwind::frames`].
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::rest::{GilTurn, rest_ns};
use super::roster::{Newcomer, Roster};
use super::{Engine, Missed, Taken};
use crate::clock::cpu::{is_main_thread, monotonic_ns, thread_cpu_ns};
use crate::clock::thread_state::{Activity, ThreadActivity};
use crate::layout::{GIL_BYTES, Layout};
use crate::memory::own::Lasting;
use crate::memory::{ReadMemory, int32, read};
use crate::model::function::{Function, GC};
use crate::model::label::MAIN_THREAD_NAME;
use crate::model::snapshot::{Frame, FunctionSerial, Snapshot, ThreadSample, ThreadState};
use crate::model::stack::Stack;
use crate::unwind::code::CodeCache;
use crate::unwind::frames::{Failure, Hints, RawFrame, Target, Walked, Walker};
use crate::unwind::labels::{ContextSeen, LabelPlace, LabelReader, MAX_LOOKS, PLACE};
use crate::unwind::threads::{Census, Change, Heads, ListedThread, enumerate};

/// Snapshots after which all threads are listed anew even if nothing seems to have changed: the
/// end of a thread in the middle of the list changes no head.
const CENSUS_INTERVAL: u64 = 64;
/// Files of `/proc` kept open; beyond, each is opened when it is needed.
const MAX_OPEN: usize = 256;
/// How soon names are asked for when some are missing. Doubled each time that does not help.
const NAME_INTERVAL_NS: u64 = 2_000_000;
/// How often names are asked for, in case of a new one, while threads compute. Seldom: whoever
/// waits for the GIL while a C program forks behind Python's back leaves a GIL that cannot be used
/// in the child.
const RENAME_INTERVAL_NS: u64 = 2_000_000_000;
/// Walks of one stack until its frames fit the code objects they name. A frame that is just being
/// made has a new code object and an old instruction; one that is left may have lost both.
const MAX_READS: usize = 4;
/// A place that no function has.
const GC_SERIAL: FunctionSerial = FunctionSerial(u64::MAX);

/// A thread as the application knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadName {
    /// `threading.get_ident()`.
    pub ident: usize,
    /// `threading.Thread.name`.
    pub name: Arc<str>,
}

/// Tells threads' names. Only the interpreter knows them, and it has to be waited for.
pub trait NameSource: Send {
    /// Asks for the names of all threads, without waiting.
    fn request(&mut self);

    /// The answer, once; `None` while there is none.
    fn collect(&mut self) -> Option<Vec<ThreadName>>;

    /// Address of the thread state by which it waits for the interpreter, which is not to be
    /// sampled; 0 if there is none.
    fn thread_state(&self) -> usize;

    /// Called on the sampler's thread before it ends.
    fn park(&mut self);

    /// Ends whatever waits for the interpreter, without waiting for that end.
    fn end(&mut self);
}

/// Opens the means to read memory; called on the thread that will use it.
pub type OpenMemory = fn() -> Option<Box<dyn ReadMemory>>;

/// What the engine is told about the interpreter.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter {
    /// Its layout.
    pub layout: Layout,
    /// Address of `_PyRuntime`.
    pub runtime: usize,
    /// Address of the GIL of the interpreter that was listed first: the main one, if there was no
    /// other.
    pub gil: usize,
    /// As much of `_PyRuntime` as is known to stay; the main interpreter is part of it in 3.11 and
    /// later.
    pub lasting: Lasting,
    /// A kernel id that a thread state has kept from before a fork, and what it is now.
    pub stale_id: Option<(u64, u64)>,
    /// Where the C library keeps the kernel's thread id relative to the ident, if the interpreter
    /// does not keep it (3.10).
    pub id_from_ident: Option<usize>,
}

/// What only this engine remembers of a thread.
#[derive(Debug, Default)]
pub struct Own {
    address: usize,
    interpreter: usize,
    hints: Hints,
    context: ContextSeen,
    /// Whether that was so before and after the stack was read.
    is_context_known: bool,
    activity: Option<ThreadActivity>,
    /// Until when its clock need not be read while nobody else takes the GIL, in ns.
    rests_until_ns: u64,
    /// Whether it was not read at the last look.
    has_rested: bool,
}

/// See the module's documentation.
pub struct DirectEngine {
    interpreter: Interpreter,
    open_memory: OpenMemory,
    memory: Option<Box<dyn ReadMemory>>,
    names: Box<dyn NameSource>,
    /// 0 before the first snapshot.
    asked_at_ns: u64,
    /// The snapshot that asked last: the answer says nothing of threads found later, which may
    /// have the ident of one that has ended.
    asked_in: u64,
    /// How many answers may be yet to come, at the most: some that were asked for never come.
    unanswered: u32,
    /// Whether a thread has no name yet, by [`Snapshot::threads_version`].
    unnamed: (u64, bool),
    name_interval_ns: u64,
    roster: Roster<Own>,
    census: Census,
    heads: Heads,
    needs_census: bool,
    last_census: u64,
    looked_at_ns: u64,
    /// Whose turn with the GIL it was then, if that can be told.
    turn: Option<GilTurn>,
    /// The kernel's id of the thread whose turn that was; 0 if unknown. It may have several thread
    /// states, and changes between them without a turn (3.10, 3.11).
    runner_id: u64,
    /// Threads that have not executed Python code yet.
    strangers: Vec<(ListedThread, Hints)>,
    walker: Walker,
    raw: Vec<RawFrame>,
    frames: Vec<Frame>,
    cache: CodeCache,
    labels: LabelReader,
    open_files: usize,
}

impl DirectEngine {
    /// An engine that has not looked at anything yet.
    #[must_use]
    pub fn new(
        interpreter: Interpreter,
        open_memory: OpenMemory,
        names: Box<dyn NameSource>,
        cache: CodeCache,
    ) -> Self {
        Self {
            interpreter,
            open_memory,
            memory: None,
            names,
            asked_at_ns: 0,
            asked_in: 1,
            unanswered: 1,
            unnamed: (0, false),
            name_interval_ns: NAME_INTERVAL_NS,
            roster: Roster::following(),
            census: Census::default(),
            heads: Heads::default(),
            needs_census: true,
            last_census: 0,
            looked_at_ns: 0,
            turn: None,
            runner_id: 0,
            strangers: Vec::new(),
            walker: Walker::default(),
            raw: Vec::new(),
            frames: Vec::new(),
            cache,
            labels: LabelReader::default(),
            open_files: 0,
        }
    }

    /// One snapshot by a thread that keeps nothing open afterwards.
    ///
    /// # Errors
    /// As [`Engine::snapshot`].
    pub fn look_once(&mut self, snapshot: &mut Snapshot) -> Result<Taken, Missed> {
        // The roster goes by the snapshot it filled; this one is new.
        self.forget_threads();
        self.asked_in = u64::MAX;
        self.unanswered = 1;
        let taken = self.snapshot(snapshot);
        self.close();
        taken
    }

    /// Begins as with a new snapshot. What that does not know, the cache must not know either.
    fn forget_threads(&mut self) {
        self.roster.forget();
        self.open_files = 0;
        self.strangers = Vec::new();
        self.needs_census = true;
        self.unnamed = (0, false);
        self.cache.forget_all();
    }

    /// The kernel's id of a listed thread; 0 if it cannot be known.
    fn thread_id(&mut self, thread: &ListedThread) -> u64 {
        let id = match (self.interpreter.id_from_ident, &mut self.memory) {
            (Some(offset), Some(memory)) => {
                read(memory.as_mut(), thread.ident.wrapping_add(offset), 4)
                    .and_then(|bytes| u64::try_from(int32(bytes, 0)).ok())
                    .unwrap_or(0)
            }
            _ => thread.native_id,
        };
        match self.interpreter.stale_id {
            Some((stale, actual)) if stale == id => actual,
            _ => id,
        }
    }

    /// Lists all threads and brings the roster up to date.
    fn take_census(&mut self, snapshot: &mut Snapshot) -> Result<(), Missed> {
        let Some(memory) = &mut self.memory else {
            return Err(Missed::NotNow);
        };
        let Interpreter {
            layout, runtime, ..
        } = &self.interpreter;
        if !enumerate(memory.as_mut(), layout, *runtime, &mut self.census) {
            // A list changed under way, or the means has been taken away: at once anew.
            self.needs_census = true;
            if self.census.threads.is_empty() {
                self.memory = None;
                return Err(Missed::NotNow);
            }
            return Ok(());
        }
        self.heads.remember(&self.census);
        self.needs_census = false;
        self.last_census = self.roster.snapshot;
        let mut threads = std::mem::take(&mut self.census.threads);
        let ours = self.names.thread_state();
        threads.retain(|thread| thread.address != ours);
        let mut strangers = std::mem::take(&mut self.strangers);
        for thread in &threads {
            let known = self.roster.place(thread.ident).filter(|at| {
                let own = &self.roster.tracks[*at].own;
                own.address == thread.address
            });
            let id = known.map_or(0, |_| self.thread_id(thread));
            match known {
                Some(at) if snapshot.threads[at].thread_id == id => {
                    let track = &mut self.roster.tracks[at];
                    track.seen_in = self.roster.snapshot;
                    track.own.interpreter = thread.interpreter;
                }
                _ => {
                    let is_known = |(known, _): &(ListedThread, Hints)| {
                        known.address == thread.address && known.ident == thread.ident
                    };
                    if !strangers.iter().any(is_known) {
                        strangers.push((*thread, Hints::default()));
                    }
                }
            }
        }
        strangers.retain(|(stranger, _)| threads.contains(stranger));
        self.strangers = strangers;
        let is_empty = threads.is_empty();
        self.census.threads = threads;
        self.roster.drop_ended(snapshot);
        if is_empty {
            // The last Python thread has ended without the interpreter being shut down: a child
            // forked from a thread ends when that thread does.
            return Err(Missed::Finalizing);
        }
        Ok(())
    }

    /// Looks at the threads that had no Python frame yet.
    fn greet(&mut self, snapshot: &mut Snapshot, previous_ns: u64, taken: &mut Taken) {
        if self.strangers.is_empty() {
            return;
        }
        let mut strangers = std::mem::take(&mut self.strangers);
        strangers.retain_mut(|(thread, hints)| {
            let Some(target) = self.target(thread.address, thread.interpreter, thread.ident) else {
                return true;
            };
            match self.read_stack(&target, hints, snapshot) {
                Ok(Some(_)) => {}
                // It has begun to run, or has ended: the next census has its ids.
                Err(Failure::Gone) => {
                    self.needs_census = true;
                    return true;
                }
                Ok(None) | Err(Failure::Torn) => return true,
            }
            let id = self.thread_id(thread);
            let cpu_ns = thread_cpu_ns(id);
            if cpu_ns.is_none() {
                // Its state outlived it: a fork that Python did not see.
                return true;
            }
            if !self.roster.has_room(snapshot) {
                return true;
            }
            let newcomer = Newcomer {
                id: thread.ident,
                thread_id: id,
                cpu_ns,
                now_ns: snapshot.at_ns,
                previous_ns,
            };
            let own = Own {
                address: thread.address,
                interpreter: thread.interpreter,
                hints: std::mem::take(hints),
                ..Own::default()
            };
            let at = self.roster.add(newcomer, own, snapshot);
            self.roster.tracks[at].named_in = self.roster.snapshot;
            self.name_interval_ns = NAME_INTERVAL_NS;
            self.serve(at, cpu_ns, snapshot, taken);
            false
        });
        // Threads seen meanwhile cannot have been added: nobody else lists.
        self.strangers = strangers;
    }

    fn target(&self, address: usize, interpreter: usize, ident: usize) -> Option<Target> {
        let home = self.census.interpreters.get(interpreter)?;
        Some(Target {
            address,
            interpreter: home.address,
            ident,
            gil: home.gil,
            lasting: self.interpreter.lasting,
        })
    }

    /// Reads a stack into `self.frames`; `Ok(None)` if the thread executes no Python code.
    fn read_stack(
        &mut self,
        target: &Target,
        hints: &mut Hints,
        snapshot: &mut Snapshot,
    ) -> Result<Option<Walked>, Failure> {
        let Some(memory) = &mut self.memory else {
            return Err(Failure::Torn);
        };
        let layout = &self.interpreter.layout;
        for _ in 0..MAX_READS {
            let walked = self
                .walker
                .walk(memory.as_mut(), layout, target, hints, &mut self.raw)?;
            if self.raw.is_empty() {
                return Ok(None);
            }
            self.frames.clear();
            let named = self.cache.name(
                memory.as_mut(),
                layout,
                &self.raw,
                &mut snapshot.functions,
                &mut self.frames,
            );
            if named.is_ok() && !self.cache.may_have_died(&self.raw) {
                return Ok(Some(walked));
            }
            if self.cache.forget(&mut snapshot.functions) {
                self.roster.forget_stacks();
            }
        }
        Err(Failure::Torn)
    }

    /// Reads a stack, and the labels under which it was: those before and after are the same.
    fn read_labelled(
        &mut self,
        at: usize,
        place: &LabelPlace,
        target: &Target,
        hints: &mut Hints,
        snapshot: &mut Snapshot,
    ) -> Result<Option<Walked>, Failure> {
        let mut walked = Err(Failure::Torn);
        let mut seen = self.roster.tracks[at].own.context;
        let mut labels = None;
        let mut is_known = false;
        for _ in 0..MAX_LOOKS {
            let Some(memory) = &mut self.memory else {
                return Err(Failure::Torn);
            };
            let before =
                LabelReader::context(memory.as_mut(), place, target.address, target.ident, seen);
            labels = before.and_then(|seen| self.labels.labels(memory.as_mut(), place, seen));
            walked = self.read_stack(target, hints, snapshot);
            let Some(memory) = &mut self.memory else {
                return Err(Failure::Torn);
            };
            seen = before.unwrap_or_default();
            let after =
                LabelReader::context(memory.as_mut(), place, target.address, target.ident, seen);
            is_known = before.is_some() && before == after;
            if is_known {
                break;
            }
            // It went on under others meanwhile; a stack must not be charged to these.
            labels = None;
        }
        let own = &mut self.roster.tracks[at].own;
        own.context = seen;
        own.is_context_known = is_known;
        // A thread without a frame keeps its last stack, and the labels of that.
        if !matches!(walked, Ok(None)) {
            snapshot.set_labels(at, labels);
        }
        walked
    }

    /// What a thread does that does not hold its GIL.
    fn state_without_gil(
        &mut self,
        at: usize,
        gil: usize,
        is_gil_held: bool,
        snapshot: &mut Snapshot,
    ) -> ThreadState {
        let sample = &snapshot.threads[at];
        let (activity, tells_futex) = ask(
            &mut self.roster.tracks[at].own.activity,
            &mut self.open_files,
            sample.thread_id,
        );
        let clock = sample.cpu_ns;
        let now = || thread_cpu_ns(sample.thread_id);
        // Of a thread that has ended the kernel tells nothing either.
        snapshot.hides_gil_waits |= !tells_futex && now().is_some();
        match activity {
            // Whoever is on a CPU has used more of it meanwhile.
            Some(Activity::Running) if now() == clock => ThreadState::Ready,
            Some(Activity::Running) => ThreadState::Running,
            Some(Activity::Blocked { futex }) if futex.wrapping_sub(gil) < GIL_BYTES => {
                ThreadState::WaitsForGil
            }
            // It was on a CPU when the look at it began, and has gone to wait since.
            Some(Activity::Blocked { futex: 0 } | Activity::BlockedElsewhere) if now() != clock => {
                ThreadState::Running
            }
            Some(Activity::Blocked { futex: 0 } | Activity::BlockedElsewhere) => {
                ThreadState::Blocked
            }
            // Nobody waits for a GIL that nobody has.
            Some(Activity::BlockedOnSomeFutex) if !is_gil_held => ThreadState::WaitsForLock,
            Some(Activity::BlockedOnSomeFutex) => ThreadState::Blocked,
            Some(Activity::Blocked { .. }) => ThreadState::WaitsForLock,
            None if now() == clock => ThreadState::Blocked,
            None => ThreadState::Running,
        }
    }

    /// Brings a thread up to date whose CPU clock has moved, and whose turn with the GIL it has not
    /// been since the last look: without the GIL it can have changed neither its stack nor its labels,
    /// and if it waited for the GIL it still does.
    fn serve_waiting(
        &mut self,
        at: usize,
        clock: Option<u64>,
        snapshot: &mut Snapshot,
        taken: &mut Taken,
    ) -> bool {
        let Some((before_ns, _)) = note_moved(at, clock, snapshot) else {
            return false;
        };
        let sample = &snapshot.threads[at];
        taken.incomplete += u32::from(sample.stack.incomplete);
        let is_waiting = sample.state == ThreadState::WaitsForGil;
        let track = &mut self.roster.tracks[at];
        track.walked_at_cpu_ns = clock;
        if PLACE.get().is_some() {
            let own = &track.own;
            let version = own.is_context_known.then(|| own.context.version());
            self.roster.read_log(at, version, before_ns, snapshot);
        }
        let track = &self.roster.tracks[at];
        if !is_waiting {
            let own = &track.own;
            let Some(target) = self.target(own.address, own.interpreter, track.id) else {
                return false;
            };
            let holder = target.look_at_gil(&self.interpreter.layout);
            let is_gil_held = holder.is_some_and(|(_, holder)| holder != 0);
            let state = self.state_without_gil(at, target.gil, is_gil_held, snapshot);
            snapshot.threads[at].state = state;
        }
        true
    }

    /// Brings one known thread up to date, whose CPU clock has moved; false if it has gone.
    fn serve(
        &mut self,
        at: usize,
        clock: Option<u64>,
        snapshot: &mut Snapshot,
        taken: &mut Taken,
    ) -> bool {
        let Some((before_ns, since_ns)) = note_moved(at, clock, snapshot) else {
            return false;
        };
        let track = &mut self.roster.tracks[at];
        let ident = track.id;
        let (address, home) = (track.own.address, track.own.interpreter);
        let mut hints = std::mem::take(&mut track.own.hints);
        let Some(target) = self.target(address, home, ident) else {
            return false;
        };
        let read = match PLACE.get() {
            None => self.read_stack(&target, &mut hints, snapshot),
            Some(place) => {
                let read = self.read_labelled(at, place, &target, &mut hints, snapshot);
                let own = &self.roster.tracks[at].own;
                let version = own.is_context_known.then(|| own.context.version());
                self.roster.read_log(at, version, before_ns, snapshot);
                read
            }
        };
        let track = &mut self.roster.tracks[at];
        track.own.hints = hints;
        let sample = &mut snapshot.threads[at];
        let walked = match read {
            Ok(Some(walked)) => walked,
            // Between its last frame and its end.
            Ok(None) => return true,
            Err(Failure::Gone) => return false,
            Err(Failure::Torn) => {
                track.walked_at_cpu_ns = None;
                taken.walked += 1;
                taken.incomplete += 1;
                sample.stack = Stack {
                    frames: Vec::new(),
                    incomplete: true,
                };
                sample.state = ThreadState::Running;
                sample.stack_version = self.roster.version();
                return true;
            }
        };
        track.walked_at_cpu_ns = clock;
        let state = if walked.holds_gil {
            let passed_ns = snapshot.at_ns - since_ns;
            sample.on_cpu = has_run_throughout(clock, before_ns, passed_ns)
                || thread_cpu_ns(sample.thread_id) != clock;
            ThreadState::HoldsGil
        } else {
            self.state_without_gil(at, target.gil, walked.is_gil_held, snapshot)
        };
        let sample = &mut snapshot.threads[at];
        sample.state = state;
        if walked.holds_gil && walked.is_collecting {
            let functions = &mut snapshot.functions;
            functions
                .entry(GC_SERIAL)
                .or_insert_with(|| Arc::new(Function::pseudo(GC)));
            let frame = Frame {
                function: GC_SERIAL,
                line: 0,
            };
            self.frames.insert(0, frame);
        }
        taken.walked += 1;
        taken.incomplete += u32::from(walked.is_cut);
        if sample.stack_version == 0
            || sample.stack.incomplete != walked.is_cut
            || sample.stack.frames != self.frames
        {
            std::mem::swap(&mut sample.stack.frames, &mut self.frames);
            sample.stack.incomplete = walked.is_cut;
            sample.stack_version = self.roster.version();
        }
        true
    }

    /// Closes what is open in the table of descriptors of this thread, which ends: closed by
    /// another, the same numbers would be the application's.
    fn close(&mut self) {
        self.memory = None;
        self.open_files = 0;
        for track in &mut self.roster.tracks {
            track.own.activity = None;
        }
    }

    /// Takes names that have arrived and asks for missing ones.
    fn update_names(&mut self, snapshot: &mut Snapshot, has_walked: bool) {
        if self.unanswered > 0
            && let Some(names) = self.names.collect()
        {
            self.unanswered -= 1;
            let names: FxHashMap<usize, Arc<str>> = names
                .into_iter()
                .map(|thread| (thread.ident, thread.name))
                .collect();
            for (at, track) in self.roster.tracks.iter().enumerate() {
                let sample = &snapshot.threads[at];
                match names.get(&track.id) {
                    _ if track.named_in > self.asked_in => {}
                    Some(name) => snapshot.set_name(at, name.clone()),
                    // gevent files it under the id of a greenlet.
                    None if sample.name.is_empty() && is_main_thread(sample.thread_id) => {
                        snapshot.set_name(at, Arc::from(MAIN_THREAD_NAME));
                    }
                    None => {}
                }
            }
        }
        if self.asked_at_ns == 0 {
            self.asked_at_ns = snapshot.at_ns;
        }
        let waited_ns = snapshot.at_ns.saturating_sub(self.asked_at_ns);
        if self.unnamed.0 != snapshot.threads_version {
            let is_unnamed = |thread: &ThreadSample| thread.name.is_empty();
            self.unnamed = (
                snapshot.threads_version,
                snapshot.threads.iter().any(is_unnamed),
            );
        }
        if has_walked && waited_ns >= RENAME_INTERVAL_NS
            || waited_ns >= self.name_interval_ns && self.unnamed.1
        {
            self.name_interval_ns = (2 * self.name_interval_ns).min(RENAME_INTERVAL_NS);
            self.asked_at_ns = snapshot.at_ns;
            self.asked_in = self.roster.snapshot;
            self.unanswered += 1;
            self.names.request();
        }
    }
}

/// Notes what a thread at rest has spent before the last look, `since_ns` ago: since then it can
/// have spent no more than has passed.
fn note_early_cpu(sample: &mut ThreadSample, clock: Option<u64>, since_ns: u64) {
    if let (Some(now), Some(before)) = (clock, sample.cpu_ns) {
        sample.early_cpu_ns += now.saturating_sub(before).saturating_sub(since_ns);
    }
}

/// Notes that a thread's CPU clock has moved; returns what it showed before, and since when. `None` if
/// there is no such thread any more.
#[inline]
fn note_moved(
    at: usize,
    clock: Option<u64>,
    snapshot: &mut Snapshot,
) -> Option<(Option<u64>, u64)> {
    let sample = &mut snapshot.threads[at];
    if clock.is_none() || clock < sample.cpu_ns {
        return None;
    }
    snapshot.moved_ns = snapshot.at_ns;
    let before_ns = std::mem::replace(&mut sample.cpu_ns, clock);
    Some((
        before_ns,
        std::mem::replace(&mut sample.since_ns, snapshot.at_ns),
    ))
}

/// Whether a thread has computed for all of the last `passed_ns`, but for what a look at it and an
/// interrupt take: then it does so now as well, and the kernel need not be asked.
fn has_run_throughout(clock: Option<u64>, before: Option<u64>, passed_ns: u64) -> bool {
    const ASIDE_PART: u64 = 64;
    const ASIDE_NS: u64 = 10_000;
    clock.zip(before).is_some_and(|(now, before)| {
        let cpu_ns = now.saturating_sub(before);
        cpu_ns + passed_ns / ASIDE_PART + ASIDE_NS >= passed_ns && passed_ns > 2 * ASIDE_NS
    })
}

/// What the kernel says of a thread, and whether it says which futex threads wait on.
fn ask(
    activity: &mut Option<ThreadActivity>,
    open_files: &mut usize,
    thread_id: u64,
) -> (Option<Activity>, bool) {
    if let Some(open) = activity {
        if open.can_be_kept() {
            return (open.read(), open.tells_futex());
        }
        *activity = None;
        *open_files -= 1;
    }
    let Some(open) = ThreadActivity::open(thread_id) else {
        return (None, false);
    };
    let answer = (open.read(), open.tells_futex());
    if *open_files < MAX_OPEN {
        *open_files += 1;
        *activity = Some(open);
    }
    answer
}

impl Engine for DirectEngine {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn knows_gil(&self) -> bool {
        true
    }

    fn snapshot(&mut self, snapshot: &mut Snapshot) -> Result<Taken, Missed> {
        if self.memory.is_none() {
            self.memory = (self.open_memory)();
        }
        let Some(memory) = &mut self.memory else {
            return Err(Missed::NotNow);
        };
        let mut taken = Taken::default();
        self.roster.snapshot += 1;
        let Interpreter {
            layout,
            runtime,
            lasting,
            gil,
            ..
        } = &self.interpreter;
        let gil = *gil;
        let heads = &mut self.heads;
        match heads.check(memory.as_mut(), layout, *runtime, *lasting, &self.census) {
            Change::Finalizing => return Err(Missed::Finalizing),
            Change::Unreadable => {
                // The means has been taken away (a limit on file sizes, for one): try the next.
                self.memory = None;
                return Err(Missed::NotNow);
            }
            Change::Changed => self.needs_census = true,
            Change::Same => {}
        }
        snapshot.at_ns = monotonic_ns();
        let previous_ns = std::mem::replace(&mut self.looked_at_ns, snapshot.at_ns);
        let turn = GilTurn::read(*lasting, &layout.gil, gil);
        if self.needs_census || self.roster.snapshot - self.last_census >= CENSUS_INTERVAL {
            self.take_census(snapshot)?;
        }
        let lone_runner = turn.filter(|_| turn == self.turn).map(|turn| turn.holder);
        if lone_runner.is_none() {
            // Not if it went to who reads names for this engine.
            taken.has_turned = turn.is_some_and(|turn| turn.holder != self.names.thread_state());
            self.turn = turn;
            let holder = turn.map(|turn| turn.holder);
            let mut tracks = self.roster.tracks.iter();
            let runner = tracks.find(|track| Some(track.own.address) == holder);
            self.runner_id = runner.map_or(0, |runner| runner.thread_id);
        }
        if self.cache.forget(&mut snapshot.functions) {
            self.roster.forget_stacks();
        }
        let mut at = 0;
        while at < self.roster.tracks.len() {
            let track = &mut self.roster.tracks[at];
            let had_no_turn = lone_runner.is_some_and(|runner| runner != track.own.address)
                && track.thread_id != self.runner_id
                && track.walked_at_cpu_ns.is_some();
            if had_no_turn && track.own.rests_until_ns > snapshot.at_ns {
                track.own.has_rested = true;
                at += 1;
                continue;
            }
            let clock = thread_cpu_ns(track.thread_id);
            let has_rested = std::mem::take(&mut track.own.has_rested);
            let sample = &mut snapshot.threads[at];
            let stood_still = clock.is_some() && clock == track.walked_at_cpu_ns;
            let home = self.census.interpreters.get(track.own.interpreter);
            let has_this_gil = home.is_some_and(|home| home.gil == gil);
            if stood_still {
                if has_this_gil {
                    let still_ns = snapshot.at_ns.saturating_sub(sample.since_ns);
                    track.own.rests_until_ns = snapshot.at_ns + rest_ns(still_ns);
                }
                at += 1;
                continue;
            }
            track.own.rests_until_ns = 0;
            if has_rested {
                note_early_cpu(sample, clock, snapshot.at_ns - previous_ns);
            }
            let is_there = if had_no_turn && has_this_gil {
                self.serve_waiting(at, clock, snapshot, &mut taken)
            } else {
                self.serve(at, clock, snapshot, &mut taken)
            };
            if is_there {
                at += 1;
            } else {
                let track = &mut self.roster.tracks[at];
                self.open_files -= usize::from(track.own.activity.take().is_some());
                self.roster.remove(at, snapshot);
                self.needs_census = true;
            }
        }
        self.greet(snapshot, previous_ns, &mut taken);
        self.update_names(snapshot, taken.walked > 0);
        Ok(taken)
    }

    fn read_clocks(&mut self, snapshot: &mut Snapshot) {
        let since_ns = monotonic_ns().saturating_sub(self.looked_at_ns);
        for (track, sample) in self.roster.tracks.iter().zip(&mut snapshot.threads) {
            if track.own.has_rested {
                note_early_cpu(sample, thread_cpu_ns(track.thread_id), since_ns);
            }
        }
        self.roster.read_clocks(snapshot);
    }

    fn end_rests(&mut self) {
        self.turn = None;
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn forget(&mut self, snapshot: &mut Snapshot) {
        *snapshot = Snapshot {
            at_ns: snapshot.at_ns,
            threads_version: snapshot.threads_version + 1,
            has_requests: snapshot.has_requests,
            hides_gil_waits: snapshot.hides_gil_waits,
            ..Snapshot::default()
        };
        self.forget_threads();
        self.turn = None;
    }

    fn park(&mut self) {
        self.close();
        self.names.park();
    }

    fn end(&mut self) {
        self.close();
        self.names.end();
    }

    fn bytes(&self) -> usize {
        self.cache.bytes() + self.roster.bytes() + self.labels.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::has_run_throughout;

    #[test]
    fn who_has_computed_all_the_time_needs_no_second_look() {
        const MS: u64 = 1_000_000;
        let after =
            |cpu_ns: u64, passed_ns| has_run_throughout(Some(MS + cpu_ns), Some(MS), passed_ns);
        assert!(after(10 * MS, 10 * MS));
        assert!(after(10 * MS - 150_000, 10 * MS));
        // It stood still for some of the time, which may be now.
        assert!(!after(9 * MS, 10 * MS));
        assert!(!after(0, 10 * MS));
        // Too little to tell.
        assert!(!after(15_000, 15_000));
        assert!(!has_run_throughout(None, Some(MS), MS));
        assert!(!has_run_throughout(Some(MS), None, MS));
    }
}
