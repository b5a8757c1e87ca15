//! The `direct` engine: reads stacks without the GIL.
//!
//! A thread whose CPU clock stood still has the stack it had. Of every other thread the state and
//! the frames are copied by one call and walked afterwards; see [`crate::unwind::frames`].
#![forbid(unsafe_code)]

mod backoff;
mod followed;
mod greenlets;
mod joiner;
mod lock_holders;
mod lock_names;
mod locks;
mod names;
mod ready;
mod stacks;
mod started;
mod state;
mod suspended;
mod task_blame;
mod task_locks;
mod task_waits;
mod tasks;
mod thread_list;
mod turns;
mod update;
mod waits;

pub use names::{NameSource, ThreadName};

use self::backoff::GilTurn;
use self::greenlets::Chance;
use self::joiner::{RunningTask, TaskJoiner};
use self::locks::{Bounds, LockTrack, Locks};
use self::names::ThreadNames;
use self::ready::LoopTrack;
use self::stacks::{LastFound, StackReader};
use self::state::ThreadFiles;
use self::suspended::TaskDraws;
use self::thread_list::ThreadList;
use self::turns::{Moved, Since};
use self::update::note_early_cpu;
use self::waits::DescriptorWait;
use super::roster::Roster;
use super::{Engine, Missed, SnapshotStats};
use crate::clock::cpu::{monotonic_ns, thread_cpu_ns, thread_id};
use crate::clock::thread_state::{RunQueueWaits, ThreadActivity};
use crate::layout::Layout;
use crate::memory::own::Lasting;
use crate::memory::{ReadMemory, int32, read};
use crate::model::event::EventSample;
use crate::model::measure::{MeasureId, MeasureSet};
use crate::model::snapshot::Snapshot;
use crate::model::task::RequestTask;
use crate::unwind::code::CodeCache;
use crate::unwind::frames::{Hints, Target};
use crate::unwind::greenlets::KNOWN as KNOWN_GREENLETS;
use crate::unwind::labels::ContextSeen;
use crate::unwind::tasks::KNOWN as KNOWN_TASKS;
use crate::unwind::threads::ListedThread;

/// Opens the means to read memory; called on the thread that will use it.
pub type OpenMemory = Box<dyn Fn() -> Option<Box<dyn ReadMemory>> + Send>;

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
    /// Whether locks are where they are known to be.
    pub knows_locks: bool,
    /// A kernel id that a thread state has kept from before a fork, and what it is now.
    pub stale_id: Option<(u64, u64)>,
    /// Where the C library keeps the kernel's thread id relative to the ident, if the interpreter
    /// does not keep it (3.10).
    pub id_from_ident: Option<usize>,
}

impl Interpreter {
    /// The kernel's id of a listed thread; 0 if it cannot be known.
    fn thread_id(&self, memory: &mut dyn ReadMemory, thread: &ListedThread) -> u64 {
        let id = match self.id_from_ident {
            Some(offset) => read(memory, thread.ident.wrapping_add(offset), 4)
                .and_then(|bytes| u64::try_from(int32(bytes, 0)).ok())
                .unwrap_or(0),
            None => thread.native_id,
        };
        match self.stale_id {
            Some((stale, actual)) if stale == id => actual,
            _ => id,
        }
    }
}

/// What only this engine remembers of a thread.
#[derive(Debug, Default)]
struct DirectTrack {
    /// Address of its thread state.
    address: usize,
    /// Its interpreter's index in the thread list.
    interpreter: usize,
    hints: Hints,
    last_found: LastFound,
    running: RunningTask,
    of_loop: LoopTrack,
    context: ContextSeen,
    /// Whether that was so before and after the stack was read.
    is_context_known: bool,
    activity: Option<ThreadActivity>,
    run_queue: Option<RunQueueWaits>,
    /// When that was read last, in ns.
    run_queue_read_ns: u64,
    descriptor: Option<DescriptorWait>,
    locks: LockTrack,
    /// Until when its clock need not be read while nobody else takes the GIL, in ns.
    left_alone_until_ns: u64,
    /// Whether it was not read at the last look, or nothing was made of it.
    was_left_alone: bool,
    /// When it was read last in a look by turns, and what it showed, both in ns.
    glance: (u64, u64),
}

type DirectRoster = Roster<DirectTrack>;

/// Why a look ended early.
#[derive(Clone, Copy, Debug)]
enum Unable {
    Missed(Missed),
    /// The means to read memory has been taken away (by a limit on file sizes, for one): the next
    /// look opens another.
    MemoryLost,
}

impl From<Missed> for Unable {
    fn from(missed: Missed) -> Self {
        Self::Missed(missed)
    }
}

/// See the module's documentation.
pub struct DirectEngine {
    interpreter: Interpreter,
    open_memory: OpenMemory,
    /// Not there during a look, which has it.
    memory: Option<Box<dyn ReadMemory>>,
    roster: DirectRoster,
    list: ThreadList,
    names: ThreadNames,
    stacks: StackReader,
    files: ThreadFiles,
    locks: Locks,
    /// Whether the kernel tells for how long threads wait for a CPU.
    knows_cpu_waits: bool,
    looked_at_ns: u64,
    /// Whose turn with the GIL it was then, if that can be told.
    turn: Option<GilTurn>,
    /// The kernel's id of the thread whose turn that was; 0 if unknown. It may have several thread
    /// states, and changes between them without a turn (3.10, 3.11).
    runner_id: u64,
    /// A buffer for threads that have moved.
    moved: Vec<Moved>,
    chance: Chance,
    /// A buffer for greenlets that were drawn.
    drawn: Vec<usize>,
    /// What is known of the tasks that are drawn; if they are.
    draws: Option<TaskDraws>,
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
            roster: Roster::default(),
            list: ThreadList::default(),
            names: ThreadNames::new(names),
            stacks: StackReader::new(cache),
            files: ThreadFiles::default(),
            locks: Locks::default(),
            knows_cpu_waits: RunQueueWaits::open(thread_id())
                .is_some_and(|waits| waits.read().is_some()),
            looked_at_ns: 0,
            turn: None,
            runner_id: 0,
            moved: Vec::new(),
            chance: Chance::default(),
            drawn: Vec::new(),
            draws: None,
        }
    }

    /// The engine of the sampler, which takes in what threads say of their labels, and follows tasks;
    /// `minor` is CPython's version.
    #[must_use]
    pub fn of_sampler(mut self, minor: u32) -> Self {
        self.roster.follow_logs();
        self.stacks.joiner = Some(TaskJoiner::new(minor));
        self.draws = Some(TaskDraws::new(minor));
        self
    }

    /// One snapshot by a thread that keeps nothing open afterwards. The engine is then as new.
    ///
    /// # Errors
    /// As [`Engine::look`].
    pub fn look_once(&mut self) -> Result<Snapshot, Missed> {
        self.locks.bounds = Bounds::OF_ONE_LOOK;
        let looked = self.look();
        self.forget_ended_waits();
        self.close();
        let snapshot = std::mem::take(&mut self.roster).into_snapshot();
        self.list = ThreadList::default();
        self.names.start_over();
        self.stacks.cache.forget_all();
        self.looked_at_ns = 0;
        self.turn = None;
        looked.map(|_| snapshot)
    }

    /// A look by means of `memory`.
    fn look_by(&mut self, memory: &mut dyn ReadMemory) -> Result<SnapshotStats, Unable> {
        self.list.check(memory, &self.interpreter)?;
        let now_ns = monotonic_ns();
        self.roster.set_time(now_ns);
        let previous_ns = std::mem::replace(&mut self.looked_at_ns, now_ns);
        let turn = self.read_turn();
        if self.list.is_due(self.roster.look()) {
            let ours = self.names.source.thread_state();
            self.list
                .renew(memory, &self.interpreter, ours, &mut self.roster)?;
        }
        let mut stats = SnapshotStats::default();
        let since = self.note_turn(turn, &mut stats);
        self.stacks.forget_dead_code(&mut self.roster);
        match since {
            Since::Turns(turns) => self.look_by_turns(turns, memory, previous_ns, &mut stats),
            Since::OneRan(runner) => {
                self.look_at_all(Some(runner), memory, previous_ns, &mut stats)
            }
            Since::Unknown => self.look_at_all(None, memory, previous_ns, &mut stats),
        }
        self.look_for_started(memory, previous_ns, &mut stats);
        let of_tasks = self.draws.as_mut().map_or(0, TaskDraws::take_unasked);
        stats.unasked_locks = self.find_holders(memory) + of_tasks;
        self.names.update(&mut self.roster, stats.walked > 0);
        if self.read_turn() != self.turn {
            // Who had it during this look is not known by the next one.
            self.turn = None;
        }
        Ok(stats)
    }

    /// Brings all known threads up to date, and drops those that have gone.
    fn look_at_all(
        &mut self,
        lone_runner: Option<usize>,
        memory: &mut dyn ReadMemory,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) {
        let mut at = 0;
        while at < self.roster.len() {
            if self.look_at(at, memory, lone_runner, previous_ns, stats) {
                at += 1;
            } else {
                self.drop_gone(at);
            }
        }
    }

    fn drop_gone(&mut self, at: usize) {
        self.close_files_of(at);
        self.roster.remove(at);
        self.list.expire();
    }

    /// How to walk a thread of the roster.
    fn target(&self, at: usize) -> Option<Target> {
        let track = &self.roster.tracks()[at];
        let DirectTrack {
            address,
            interpreter,
            ..
        } = track.extra;
        self.list
            .target(address, interpreter, track.id, &self.interpreter)
    }

    /// Closes what is open in the table of descriptors of this thread, which ends: closed by
    /// another, the same numbers would be the application's.
    fn close(&mut self) {
        self.memory = None;
        self.close_files();
    }

    fn close_files(&mut self) {
        for at in 0..self.roster.len() {
            self.close_files_of(at);
        }
    }

    fn close_files_of(&mut self, at: usize) {
        let extra = &mut self.roster.tracks_mut()[at].extra;
        self.files.close(&mut extra.activity);
        self.files.close(&mut extra.run_queue);
    }
}

impl Engine for DirectEngine {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn measures(&self) -> MeasureSet {
        let mut measures = MeasureSet::WITH_GIL;
        if self.knows_cpu_waits {
            measures = measures.with(MeasureId::CpuWait);
        }
        if KNOWN_GREENLETS.get().is_some() || KNOWN_TASKS.get().is_some() {
            measures = measures.with(MeasureId::TaskWall);
        }
        if ready::is_told() {
            measures = measures.with(MeasureId::LoopBlame);
        }
        if self.interpreter.knows_locks {
            measures = measures
                .with(MeasureId::LockWait)
                .with(MeasureId::LockBlame);
        }
        measures
    }

    fn look(&mut self) -> Result<SnapshotStats, Missed> {
        self.roster.begin_look();
        let memory = self.memory.take().or_else(&self.open_memory);
        let mut memory = memory.ok_or(Missed::NotNow)?;
        let looked = match self.look_by(memory.as_mut()) {
            Ok(stats) => Ok(stats),
            Err(Unable::Missed(missed)) => Err(missed),
            Err(Unable::MemoryLost) => return Err(Missed::NotNow),
        };
        self.memory = Some(memory);
        looked
    }

    fn snapshot(&self) -> &Snapshot {
        self.roster.snapshot()
    }

    fn draw_tasks(
        &mut self,
        passed_ns: u64,
        requests: &[RequestTask],
        own_task: &dyn Fn(u64) -> usize,
        events: &mut Vec<EventSample>,
    ) {
        self.draw_greenlets(passed_ns, events);
        self.draw_asyncio(passed_ns, (requests, own_task), events);
    }

    fn read_clocks(&mut self) {
        let since_ns = monotonic_ns().saturating_sub(self.looked_at_ns);
        for (track, sample) in self.roster.pairs_mut() {
            if track.extra.was_left_alone {
                note_early_cpu(sample, thread_cpu_ns(track.thread_id), since_ns);
            }
        }
        self.roster.read_clocks();
    }

    fn look_at_locks(&mut self, wanted: bool) {
        self.set_locks(wanted);
    }

    fn end_backoff(&mut self) {
        self.turn = None;
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn forget(&mut self) {
        self.close_files();
        self.roster.forget();
        self.list = ThreadList::default();
        self.stacks.cache.forget_all();
        if let Some(joiner) = &mut self.stacks.joiner {
            joiner.forget();
        }
        if let Some(draws) = &mut self.draws {
            draws.forget();
        }
        self.turn = None;
    }

    fn park(&mut self) {
        self.close();
        self.names.source.park();
    }

    fn end(&mut self) {
        self.close();
        self.names.source.end();
    }

    fn bytes(&self) -> usize {
        let draws = self.draws.as_ref().map_or(0, TaskDraws::bytes);
        draws + self.roster.bytes() + self.stacks.bytes() + self.locks.bytes()
    }
}
