//! Tasks of asyncio, suspended or running: some of all are drawn now and then, each of which stands for
//! several.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::DirectEngine;
use super::followed::FollowedRequests;
use super::greenlets::DRAWN;
use super::task_blame::{Search, Waiting};
use super::task_waits::FoundWait;
use crate::layout::tasks::{TaskLayout, TaskLists};
use crate::memory::blocks::BlockStore;
use crate::memory::{ReadMemory, reserve};
use crate::model::event::{BlamedTask, EventSample, TaskLock};
use crate::model::label::ActiveLabels;
use crate::model::measure::{Amounts, MeasureId};
use crate::model::stack::{Frame, Stack};
use crate::model::task::{RequestPart, RequestTask, TaskState};
use crate::unwind::joined::JoinedTask;
use crate::unwind::task_rings::TaskRings;
use crate::unwind::task_sets::DrawnTasks;
use crate::unwind::tasks::{KNOWN, TaskReader};

/// Loops of which it is remembered which thread runs them.
const MAX_LOOPS: usize = 4_096;
/// How soon it is looked again which thread runs which loop, in ns for each thread: to look at one takes
/// some microseconds.
const LOOPS_NS: u64 = 2_000_000;

/// What draws have to remember of each other.
#[derive(Debug, Default)]
pub(super) struct TaskDraws {
    minor: u32,
    pub(super) store: BlockStore,
    pub(super) requests: FollowedRequests,
    pub(super) rings: TaskRings,
    /// About how many tasks there are.
    pub(super) number: u64,
    /// How it was looked for the holders of their locks.
    pub(super) search: Search,
    /// The kernel's id of the thread that has run a loop (3.10-3.13).
    loops: FxHashMap<usize, u64>,
    loops_read_ns: u64,
}

impl TaskDraws {
    pub(super) fn new(minor: u32) -> Self {
        Self {
            minor,
            ..Self::default()
        }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::new(self.minor);
    }

    pub(super) fn bytes(&self) -> usize {
        self.store.held() + self.rings.bytes() + self.requests.bytes()
    }

    /// Of how many locks was not asked who holds them since this was asked last.
    pub(super) fn take_unasked(&mut self) -> u32 {
        std::mem::take(&mut self.search.unasked)
    }
}

/// A task as it was drawn.
pub(super) struct Drawn {
    pub(super) address: usize,
    pub(super) joined: JoinedTask,
    /// How much it is charged with, in ns.
    pub(super) amount: i64,
    /// Its frames, once they are named.
    pub(super) frames: Option<Vec<Frame>>,
    /// What it waits for that is no task.
    pub(super) wait: Option<FoundWait>,
}

impl Drawn {
    pub(super) fn new(address: usize, joined: JoinedTask, amount: i64) -> Self {
        Self {
            address,
            joined,
            amount,
            frames: None,
            wait: None,
        }
    }

    /// The event at this index, if the task waits there for a lock.
    pub(super) fn waiting(self, event: usize) -> Option<Waiting> {
        Some(Waiting {
            event,
            lock: self.wait?.lock?,
            read: self.joined.read,
        })
    }
}

impl DirectEngine {
    /// Tells what tasks have lived in the last `passed_ns`: some of them, each of which stands for several.
    pub(super) fn draw_asyncio(
        &mut self,
        passed_ns: u64,
        (requests, own_task): (&[RequestTask], &dyn Fn(u64) -> usize),
        events: &mut Vec<EventSample>,
    ) {
        let Some(known) = KNOWN.get().filter(|_| !reserve::is_short()) else {
            return;
        };
        let Some(mut draws) = self.draws.take() else {
            return;
        };
        if let Some(mut memory) = self.memory.take().or_else(&self.open_memory) {
            let mut waiting =
                self.follow_requests(memory.as_mut(), known, requests, &mut draws, events);
            let mut drawn = self.draw_of(memory.as_mut(), known, passed_ns, &mut draws);
            self.name_tasks(memory.as_mut(), &mut drawn);
            for drawn in drawn {
                let event = self.event_of_task(memory.as_mut(), known, &drawn, &mut draws);
                if let Some(event) = event {
                    let part = part_of(event.labels.as_deref(), drawn.address, own_task);
                    events.push(EventSample { part, ..event });
                    waiting.extend(drawn.waiting(events.len() - 1));
                }
            }
            if !waiting.is_empty() {
                let asked = (known, own_task);
                self.blame_tasks(memory.as_mut(), asked, &waiting, &mut draws, events);
            }
            self.memory = Some(memory);
        }
        self.draws = Some(draws);
    }

    fn draw_of(
        &mut self,
        memory: &mut dyn ReadMemory,
        known: &TaskLayout,
        passed_ns: u64,
        draws: &mut TaskDraws,
    ) -> Vec<Drawn> {
        let layout = &self.interpreter.layout;
        let mut reader = TaskReader::new(memory, &mut draws.store, layout, known);
        let chance = &mut self.chance;
        let mut random = || chance.next();
        let shares: Vec<DrawnTasks> = match &known.lists {
            TaskLists::Sets(sets) => {
                let sets = sets.iter();
                sets.map(|set| reader.draw_of_set(*set, DRAWN, &mut random))
                    .collect()
            }
            TaskLists::Threads { head, node } => {
                let tracks = self.roster.tracks().iter();
                let threads: Vec<usize> = tracks.map(|track| track.extra.address).collect();
                reader.follow(&mut draws.rings, &threads, *head, *node);
                vec![draws.rings.draw(DRAWN, &mut random)]
            }
        };
        draws.number = shares.iter().map(|share| share.all).sum();
        let mut found = Vec::new();
        for share in shares.iter().filter(|share| share.of > 0) {
            let stands_for = u128::from(passed_ns) * u128::from(share.all) / u128::from(share.of);
            let amount = i64::try_from(stands_for).unwrap_or(i64::MAX);
            let all = reader.joined_all(&share.tasks);
            for (address, joined) in share.tasks.iter().zip(all) {
                found.extend(joined.map(|joined| Drawn::new(*address, joined, amount)));
            }
        }
        found
    }

    /// Names the frames of tasks, and what they wait for.
    pub(super) fn name_tasks(&mut self, memory: &mut dyn ReadMemory, drawn: &mut [Drawn]) {
        for task in &mut *drawn {
            task.frames = self.frames_of(memory, &task.joined.frames);
        }
        self.find_waits(memory, drawn);
    }

    /// What is told of a task that was drawn, whose frames are named.
    pub(super) fn event_of_task(
        &mut self,
        memory: &mut dyn ReadMemory,
        known: &TaskLayout,
        drawn: &Drawn,
        draws: &mut TaskDraws,
    ) -> Option<EventSample> {
        let Drawn {
            address, joined, ..
        } = drawn;
        let thread_id = self.thread_of_task(memory, known, (*address, joined.its_loop), draws)?;
        let seen = match joined.state {
            TaskState::Runs => self.seen_running(*address),
            TaskState::New | TaskState::Waits => None,
        };
        let frames = match seen {
            Some(frames) => frames,
            None => drawn.frames.clone()?,
        };
        let labels = self.labels_of(memory, joined.context);
        let joiner = self.stacks.joiner.as_mut();
        Some(EventSample {
            thread_id,
            at_ns: self.roster.snapshot().at_ns,
            stack: Stack {
                frames,
                incomplete: false,
            },
            labels,
            task: joiner.and_then(|joiner| joiner.names.of(joined.name.as_deref())),
            part: None,
            is_followed: false,
            lock: drawn.wait.as_ref().map(|wait| TaskLock {
                name: wait.name.clone(),
                blamed: match wait.lock {
                    Some(_) => BlamedTask::AsFound,
                    None => BlamedTask::Nobody,
                },
            }),
            values: amounts(drawn.amount, drawn.wait.is_some()),
        })
    }

    /// Where a task was at the last look, if a thread ran it.
    fn seen_running(&self, task: usize) -> Option<Vec<Frame>> {
        let mut tracks = self.roster.tracks().iter();
        let at = tracks.position(|track| track.extra.running.task == task)?;
        let (running, sample) = (
            &self.roster.tracks()[at].extra.running,
            self.roster.sample(at),
        );
        let frames = sample.stack.frames.get(..running.frames)?;
        (!frames.is_empty()).then(|| frames.to_vec())
    }

    /// The kernel's id of the thread that a task belongs to, if that is there.
    fn thread_of_task(
        &self,
        memory: &mut dyn ReadMemory,
        known: &TaskLayout,
        (task, its_loop): (usize, usize),
        draws: &mut TaskDraws,
    ) -> Option<u64> {
        let tracks = self.roster.tracks();
        if let TaskLists::Threads { .. } = known.lists {
            let state = draws.rings.thread_of(task)?;
            let thread = tracks.iter().find(|track| track.extra.address == state)?;
            return Some(thread.thread_id);
        }
        let runs = |loops: &FxHashMap<usize, u64>| {
            let thread_id = loops.get(&its_loop).copied();
            thread_id.filter(|id| tracks.iter().any(|track| track.thread_id == *id))
        };
        let now_ns = self.roster.snapshot().at_ns;
        let pause_ns = LOOPS_NS * tracks.len() as u64;
        if runs(&draws.loops).is_none() && now_ns >= draws.loops_read_ns.saturating_add(pause_ns) {
            draws.loops_read_ns = now_ns;
            let place = known.loops.as_ref()?;
            if draws.loops.len() >= MAX_LOOPS {
                draws.loops.clear();
            }
            for track in tracks {
                let found = place.read(memory, draws.minor, track.extra.address);
                if let Some(found) = found {
                    draws.loops.insert(found, track.thread_id);
                }
            }
        }
        runs(&draws.loops)
    }
}

/// So much of a task's life, in ns; `waits`: in which it waits for a lock, or to be told something.
pub(super) fn amounts(ns: i64, waits: bool) -> Amounts {
    let lived = Amounts::of(MeasureId::TaskWall, ns);
    if waits {
        lived.and(MeasureId::LockWait, ns)
    } else {
        lived
    }
}

/// Which part the task at this address has in its request, if that is followed.
pub(super) fn part_of(
    labels: Option<&ActiveLabels>,
    task: usize,
    own_task: &dyn Fn(u64) -> usize,
) -> Option<RequestPart> {
    let request = labels.map_or(0, |labels| labels.request);
    match request {
        0 => None,
        _ => match own_task(request) {
            0 => None,
            own if own == task => Some(RequestPart::Own),
            _ => Some(RequestPart::Child),
        },
    }
}
