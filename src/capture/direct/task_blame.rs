//! Which tasks hold the locks of asyncio that drawn tasks wait for.
//!
//! A lock of asyncio does not say who has it, so it is looked for among all tasks, some at a time and in an
//! order by chance, until one is found whose values tell; those that had one of the locks last come first.
//! That takes longer than a draw, so it is left out at some draws: those at which it is done stand for
//! all.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::DirectEngine;
use super::locks::Locks;
use super::suspended::{Drawn, TaskDraws, part_of};
use super::task_locks::{is_wait, not_held};
use crate::clock::cpu::monotonic_ns;
use crate::layout::Layout;
use crate::layout::tasks::{TaskLayout, TaskLists};
use crate::memory::ReadMemory;
use crate::memory::remembered::Remembered;
use crate::model::event::{BlamedTask, EventSample, HoldingTask};
use crate::model::stack::Stack;
use crate::model::task::TaskState;
use crate::unwind::code::FREED;
use crate::unwind::frames::RawFrame;
use crate::unwind::joined::JoinedTask;
use crate::unwind::standing::StandingTask;
use crate::unwind::task_sets::choose;
use crate::unwind::tasks::TaskReader;

/// Beside more tasks it is not looked for who holds locks.
const MAX_TASKS: u64 = 4_096;
/// Tasks that are looked at together.
const AT_ONCE: usize = 128;
/// How much longer than a search the time until the next one is: so they cost 0.25 % of a core at the
/// most, and beside some tens of tasks there is one at each draw.
const PAUSE: u64 = 400;
/// Tasks that are asked one by one in one search: those that run, or are in a `with` of a lock.
const MAX_ASKED: usize = 128;
/// Tasks that are remembered for having held a lock.
const MAX_LAST: usize = 64;

/// How it was looked for those who hold locks.
#[derive(Debug, Default)]
pub(super) struct Search {
    /// Not before this time again, in ns.
    from_ns: u64,
    /// Those who held locks last, each with that.
    last: Vec<(usize, usize)>,
    /// Of how many locks was not asked who holds them.
    pub(super) unasked: u32,
}

/// A task that waits for a lock.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The index of its event.
    pub(super) event: usize,
    /// The address of the lock.
    pub(super) lock: usize,
    /// What was read to know that.
    pub(super) read: Remembered,
}

/// What is to be known for a search.
type Asked<'asked> = (&'asked TaskLayout, &'asked dyn Fn(u64) -> usize);

/// Locks of which it is asked who holds them.
struct Wanted<'draw> {
    waiting: &'draw [Waiting],
    events: &'draw mut [EventSample],
    /// Those whose holders are not known yet.
    locks: Vec<usize>,
    /// How often a task was asked.
    asked: usize,
}

/// A task that was found to hold a lock.
struct Holder {
    lock: usize,
    told: HoldingTask,
    /// What was read of one that stands still.
    read: Option<Remembered>,
}

impl DirectEngine {
    /// Has the events of tasks that wait for locks tell who holds these.
    pub(super) fn blame_tasks(
        &mut self,
        memory: &mut dyn ReadMemory,
        asked: Asked<'_>,
        waiting: &[Waiting],
        draws: &mut TaskDraws,
        events: &mut [EventSample],
    ) {
        let began_ns = monotonic_ns();
        if began_ns < draws.search.from_ns {
            return;
        }
        for waiting in waiting {
            blame(&mut events[waiting.event], BlamedTask::Unknown);
        }
        let mut locks: Vec<usize> = waiting.iter().map(|waiting| waiting.lock).collect();
        locks.sort_unstable();
        locks.dedup();
        if draws.number > MAX_TASKS {
            draws.search.unasked += locks.len() as u32;
            return;
        }
        self.locks.holders.forget_dead(FREED.count());
        let mut last = std::mem::take(&mut draws.search.last);
        last.retain(|(_, lock)| locks.contains(lock));
        let mut wanted = Wanted {
            waiting,
            events,
            locks,
            asked: 0,
        };
        self.ask_tasks(memory, asked, last.into_iter(), &mut wanted, draws);
        if wanted.is_open() {
            let tasks = self.tasks_by_chance(memory, asked.0, draws);
            for some in tasks.chunks(AT_ONCE) {
                let layout = &self.interpreter.layout;
                let mut reader = TaskReader::new(memory, &mut draws.store, layout, asked.0);
                let standing = reader.standing(some);
                let those = self.who_may_hold(memory, &standing, &wanted.locks);
                self.ask_tasks(memory, asked, those.into_iter(), &mut wanted, draws);
                if !wanted.is_open() {
                    break;
                }
            }
        }
        let took_ns = monotonic_ns().saturating_sub(began_ns);
        draws.search.from_ns = began_ns.saturating_add(took_ns.saturating_mul(PAUSE));
    }

    /// Asks tasks, each for one lock, whether they hold it.
    fn ask_tasks(
        &mut self,
        memory: &mut dyn ReadMemory,
        asked: Asked<'_>,
        tasks: impl Iterator<Item = (usize, usize)>,
        wanted: &mut Wanted<'_>,
        draws: &mut TaskDraws,
    ) {
        for (task, lock) in tasks {
            let Some(thread) = wanted.thread_of(lock).filter(|_| wanted.is_open()) else {
                continue;
            };
            wanted.asked += 1;
            let holder = self.holder(memory, asked, (task, lock, thread), draws);
            if let Some(holder) = holder
                && wanted.blame_on(memory, &holder)
                && draws.search.last.len() < MAX_LAST
            {
                draws.search.last.push((task, lock));
            }
        }
    }

    /// All tasks, in an order by chance.
    fn tasks_by_chance(
        &mut self,
        memory: &mut dyn ReadMemory,
        known: &TaskLayout,
        draws: &mut TaskDraws,
    ) -> Vec<usize> {
        let layout = &self.interpreter.layout;
        let mut tasks = match known.lists {
            TaskLists::Sets(_) => {
                TaskReader::new(memory, &mut draws.store, layout, known)
                    .list(&[])
                    .tasks
            }
            TaskLists::Threads { .. } => draws.rings.tasks().collect(),
        };
        let wanted = tasks.len();
        let chance = &mut self.chance;
        choose(&mut tasks, wanted, &mut || chance.next());
        tasks
    }

    /// Those of these tasks that may hold one of `locks`, each with that: by their values, or because they
    /// run.
    fn who_may_hold(
        &mut self,
        memory: &mut dyn ReadMemory,
        standing: &[StandingTask],
        locks: &[usize],
    ) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let layout = &self.interpreter.layout;
        add_holding(memory, layout, &mut self.locks, standing, locks, &mut found);
        found.retain(|(task, lock)| {
            let mut standing = standing.iter();
            let its = standing.find(|standing| standing.task == *task);
            its.is_some_and(|its| !self.waits_inside(memory, &its.frames, *lock))
        });
        let running = standing.iter().filter(|task| task.frames.is_empty());
        for task in running {
            found.extend(locks.iter().map(|lock| (task.task, *lock)));
        }
        found
    }

    /// What is told of a task, if it holds a lock by now, and its thread is this one.
    fn holder(
        &mut self,
        memory: &mut dyn ReadMemory,
        (known, own_task): Asked<'_>,
        (task, lock, thread): (usize, usize, u64),
        draws: &mut TaskDraws,
    ) -> Option<Holder> {
        let layout = &self.interpreter.layout;
        let joined = TaskReader::new(memory, &mut draws.store, layout, known).joined(task)?;
        let (told, read) = match joined.state {
            TaskState::New => return None,
            TaskState::Runs => {
                let holding = (task, lock, thread);
                (self.running_holder(memory, &joined, holding)?, None)
            }
            TaskState::Waits => {
                let mut drawn = Drawn::new(task, joined, 0);
                drawn.frames = self.frames_of(memory, &drawn.joined.frames);
                let event = self.event_of_task(memory, known, &drawn, draws)?;
                let own = &drawn.joined.frames[..drawn.joined.own];
                let is_holder = event.thread_id == thread
                    && holds(memory, self.interpreter.layout, &mut self.locks, own, lock)
                    && !self.waits_inside(memory, own, lock);
                let told = HoldingTask {
                    stack: event.stack,
                    labels: event.labels,
                    task: event.task,
                    part: None,
                };
                (is_holder.then_some(told)?, Some(drawn.joined.read))
            }
        };
        let part = part_of(told.labels.as_deref(), task, own_task);
        Some(Holder {
            lock,
            told: HoldingTask { part, ..told },
            read,
        })
    }

    /// The same of one that runs: where its thread is now.
    fn running_holder(
        &mut self,
        memory: &mut dyn ReadMemory,
        joined: &JoinedTask,
        (task, lock, thread): (usize, usize, u64),
    ) -> Option<HoldingTask> {
        let root = joined.root()?;
        let mut tracks = self.roster.tracks().iter();
        let at = tracks.position(|track| track.thread_id == thread)?;
        if !self.read_again(at, memory) {
            return None;
        }
        let raw = &self.stacks.raw;
        let place = raw.iter().position(|frame| frame.address == root.address)?;
        let own = &raw[..=place];
        let is_holder = holds(memory, self.interpreter.layout, &mut self.locks, own, lock);
        let frames = self.stacks.frames_of_running(task).filter(|_| is_holder)?;
        let stack = Stack {
            frames: frames.to_vec(),
            incomplete: false,
        };
        let joiner = self.stacks.joiner.as_mut();
        let name = joiner.and_then(|joiner| joiner.names.of(joined.name.as_deref()));
        Some(HoldingTask {
            stack,
            labels: self.labels_of(memory, joined.context),
            task: name,
            part: None,
        })
    }

    /// Whether a task of these frames waits for this lock itself, or has given it back meanwhile.
    fn waits_inside(
        &mut self,
        memory: &mut dyn ReadMemory,
        frames: &[RawFrame],
        lock: usize,
    ) -> bool {
        let Some(leaf) = frames.first() else {
            return false;
        };
        let serial = self.stacks.cache.function(leaf.code);
        let function = serial.and_then(|serial| self.roster.snapshot().function(serial));
        if !function.is_some_and(|function| is_wait(&function.name)) {
            return false;
        }
        let types = &mut self.locks.types;
        not_held(memory, &self.interpreter.layout, types, leaf).contains(&lock)
    }
}

/// Adds the tasks that hold one of `locks` as their values tell, each with that. Most hold none, so all of
/// them are asked together, and then by halves.
fn add_holding(
    memory: &mut dyn ReadMemory,
    layout: &Layout,
    locks: &mut Locks,
    tasks: &[StandingTask],
    wanted: &[usize],
    found: &mut Vec<(usize, usize)>,
) {
    let raw: Vec<RawFrame> = tasks.iter().flat_map(|task| task.frames.clone()).collect();
    let (held, is_cut) = held_by(memory, layout, locks, &raw);
    let are_among = wanted.iter().filter(|lock| held.contains(lock));
    match tasks {
        [] => {}
        [task] => found.extend(are_among.map(|lock| (task.task, *lock))),
        _ if is_cut || are_among.count() > 0 => {
            let (some, others) = tasks.split_at(tasks.len() / 2);
            add_holding(memory, layout, locks, some, wanted, found);
            add_holding(memory, layout, locks, others, wanted, found);
        }
        _ => {}
    }
}

fn held_by(
    memory: &mut dyn ReadMemory,
    layout: &Layout,
    locks: &mut Locks,
    frames: &[RawFrame],
) -> (Vec<usize>, bool) {
    let mut held = Vec::new();
    let Locks { holders, types, .. } = locks;
    let is_cut = holders.held(memory, layout, types, frames, &mut held);
    (held, is_cut)
}

/// Whether a task of these frames holds this lock by now.
fn holds(
    memory: &mut dyn ReadMemory,
    layout: Layout,
    locks: &mut Locks,
    frames: &[RawFrame],
    lock: usize,
) -> bool {
    let (held, _) = held_by(memory, &layout, locks, frames);
    held.contains(&lock)
}

fn blame(event: &mut EventSample, on: BlamedTask) {
    if let Some(lock) = &mut event.lock {
        lock.blamed = on;
    }
}

impl Wanted<'_> {
    /// Whether a lock is left, and not too many were asked.
    fn is_open(&self) -> bool {
        !self.locks.is_empty() && self.asked < MAX_ASKED
    }

    /// The thread of those who wait for a lock, if its holder is not known yet.
    fn thread_of(&self, lock: usize) -> Option<u64> {
        let mut waiting = self.waiting.iter();
        let waiting = waiting.find(|waiting| waiting.lock == lock)?;
        let thread = self.events[waiting.event].thread_id;
        self.locks.contains(&lock).then_some(thread)
    }

    /// Blames the waits of those who still wait on this task, if it still holds the lock; whether it does.
    fn blame_on(&mut self, memory: &mut dyn ReadMemory, holder: &Holder) -> bool {
        let waiting = self.waiting.iter();
        let waiting: Vec<&Waiting> = waiting
            .filter(|waiting| waiting.lock == holder.lock)
            .collect();
        // All of it at once, as most stand still.
        let of_waiting = waiting.iter().map(|waiting| &waiting.read);
        let are_still = Remembered::of(of_waiting.chain(&holder.read)).is_still(memory);
        let mut still = waiting;
        if !are_still {
            still.retain(|waiting| waiting.read.is_still(memory));
            let of_holder = holder.read.as_ref();
            if of_holder.is_some_and(|read| !read.is_still(memory)) {
                return false;
            }
        }
        let told = Arc::new(holder.told.clone());
        for waiting in still {
            let told = BlamedTask::Task(told.clone());
            blame(&mut self.events[waiting.event], told);
        }
        self.locks.retain(|lock| *lock != holder.lock);
        true
    }
}
