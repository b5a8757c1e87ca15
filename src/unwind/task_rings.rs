//! The tasks in the rings in which asyncio keeps them (3.14 and later), by address, so that some can be
//! drawn by chance: a ring has no places.
//!
//! A new task stands at a ring's end. So the ring is followed from there back to tasks that are known;
//! now and then some steps more are made through the others, for an address may be known from a task that
//! has ended. Which have ended is looked up in turns. All of it costs as much as tasks come and go, not as
//! there are.
#![forbid(unsafe_code)]

use rustc_hash::{FxHashMap, FxHashSet};

use super::greenlet_table::below;
use super::task_lists::words;
use super::task_sets::{DrawnTasks, Random};
use super::tasks::TaskReader;
use crate::layout::tasks::{Kind, LOWEST, TYPE};
use crate::memory::{Range, ReadMemory, read, word};

/// Tasks that are known at a time; more are not told of.
pub const MAX_TASKS: usize = 200_000;
/// Steps along one ring at a time: all of its tasks, the first time.
const MAX_STEPS: usize = MAX_TASKS + 1;
/// So many known tasks in a row, each behind the one that it was behind, are where the new ones begin.
const ENOUGH: usize = 256;
/// Steps through the others at a time.
const MORE_STEPS: usize = 64;
/// Tasks in a row that are remembered, so that one of them is there to go on from.
const REMEMBERED: usize = 16;
/// Times that a walk goes on from a task that it has passed, because the next has gone.
const MAX_TURNS: usize = 1_000;
/// Tasks that are looked up at once whether they have ended.
const LOOKED_UP: usize = 64;
/// Times that some are looked up while many prove to have ended.
const MAX_LOOK_UPS: usize = 64;
/// States of threads that one copy is asked for.
const MAX_AT_ONCE: usize = 1_000;
/// Memory is given out in pages of this size, or a larger one.
const PAGE: usize = 4_096;
/// Pages kept during a walk.
const PAGES: usize = 16;

const WORD: usize = size_of::<usize>();

#[derive(Clone, Copy, Debug)]
struct Known {
    task: usize,
    /// State of the thread in whose ring it is.
    thread: usize,
    /// What it stood behind.
    behind: usize,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct TaskRings {
    /// By the state of each thread, where the steps through its ring have come to; the last are the newest.
    rings: FxHashMap<usize, Vec<usize>>,
    known: Vec<Known>,
    /// Where in `known` each task is.
    places: FxHashMap<usize, usize>,
    looked_up: usize,
}

impl TaskRings {
    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.known.capacity() * size_of::<Known>() + self.places.capacity() * 17
    }

    /// How many tasks are known; some may have ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no task is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The tasks that are known.
    pub fn tasks(&self) -> impl Iterator<Item = usize> {
        self.known.iter().map(|known| known.task)
    }

    /// State of the thread that a task belongs to.
    #[must_use]
    pub fn thread_of(&self, task: usize) -> Option<usize> {
        let place = self.places.get(&task)?;
        Some(self.known[*place].thread)
    }

    /// Draws `wanted` of the tasks, or all if they are not more.
    pub fn draw(&self, wanted: usize, random: &mut Random<'_>) -> DrawnTasks {
        let all = self.known.len();
        let mut chosen = FxHashSet::default();
        if all <= wanted {
            chosen.extend(0..all);
        } else {
            while chosen.len() < wanted {
                chosen.insert(below(random(), all));
            }
        }
        DrawnTasks {
            tasks: chosen.iter().map(|place| self.known[*place].task).collect(),
            all: all as u64,
            of: chosen.len() as u64,
        }
    }

    /// Notes a task that was met; whether it stood there before.
    fn meet(&mut self, met: Known) -> bool {
        if let Some(place) = self.places.get(&met.task) {
            let known = &mut self.known[*place];
            let is_same = (known.thread, known.behind) == (met.thread, met.behind);
            *known = met;
            return is_same;
        }
        if self.known.len() < MAX_TASKS
            && self.known.try_reserve(1).is_ok()
            && self.places.try_reserve(1).is_ok()
        {
            self.places.insert(met.task, self.known.len());
            self.known.push(met);
        }
        false
    }

    fn remove(&mut self, place: usize) {
        let gone = self.known.swap_remove(place);
        self.places.remove(&gone.task);
        if let Some(moved) = self.known.get(place) {
            self.places.insert(moved.task, place);
        }
    }

    /// Forgets threads that are no more, with their tasks.
    fn keep_threads(&mut self, threads: &[usize]) {
        let before = self.rings.len();
        self.rings.retain(|thread, _| threads.contains(thread));
        if self.rings.len() < before {
            for place in (0..self.known.len()).rev() {
                if !self.rings.contains_key(&self.known[place].thread) {
                    self.remove(place);
                }
            }
        }
    }
}

/// A ring: its head, and from a task to its link.
#[derive(Clone, Copy)]
struct Ring {
    thread: usize,
    head: usize,
    node: usize,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// At the ring's head.
    Whole,
    /// Where all is known, or after enough steps.
    Enough,
    /// The ring has changed under way.
    Torn,
}

impl TaskReader<'_> {
    /// Brings what is known of the rings up to date. `threads` are the states of all threads; a ring's head
    /// is at `head` of each, a link at `node` of a task.
    pub fn follow(&mut self, rings: &mut TaskRings, threads: &[usize], head: usize, node: usize) {
        rings.keep_threads(threads);
        let mut pages = Pages::default();
        for some in threads.chunks(MAX_AT_ONCE) {
            // The last link of each ring, which is its head where there is no task.
            let last = words(self.memory.memory.memory(), some, head + WORD);
            for (thread, last) in some.iter().zip(last) {
                let ring = Ring {
                    thread: *thread,
                    head: thread.wrapping_add(head),
                    node,
                };
                if last != ring.head && last >= LOWEST {
                    self.follow_ring(rings, &mut pages, ring, last);
                }
            }
        }
        self.forget_ended(rings, node);
    }

    fn follow_ring(&mut self, rings: &mut TaskRings, pages: &mut Pages, ring: Ring, last: usize) {
        let from = (last, ring.head);
        let mut passed = Vec::new();
        let Some(mut resume) = rings.rings.remove(&ring.thread) else {
            let end = self.walk(
                rings,
                pages,
                ring,
                from,
                (MAX_STEPS, usize::MAX),
                &mut passed,
            );
            if end != End::Torn {
                rings.rings.insert(ring.thread, Vec::new());
            }
            return;
        };
        let end = self.walk(rings, pages, ring, from, (MAX_STEPS, ENOUGH), &mut passed);
        if end == End::Enough {
            let limits = (MORE_STEPS, usize::MAX);
            let from = self.way_back(rings, ring, &mut resume).unwrap_or(from);
            let end = self.walk(rings, pages, ring, from, limits, &mut resume);
            if end == End::Whole {
                resume.clear();
            }
        }
        rings.rings.insert(ring.thread, resume);
    }

    /// From the last of those links that is in its ring still: the one before it, and it.
    fn way_back(
        &mut self,
        rings: &TaskRings,
        ring: Ring,
        passed: &mut Vec<usize>,
    ) -> Option<(usize, usize)> {
        while let Some(link) = passed.pop() {
            let task = link.wrapping_sub(ring.node);
            let links = self.links(task, ring.node);
            let is_there = links
                .as_ref()
                .is_some_and(|links| links.kind == Kind::Task && links.next >= LOWEST);
            if let Some(links) = links
                && is_there
                && rings.thread_of(task) == Some(ring.thread)
            {
                return Some((links.previous, link));
            }
        }
        None
    }

    /// Goes back along a ring from a link and the one after it, so many steps, or until so many in a row
    /// are known; what was passed last is added to `passed`.
    fn walk(
        &mut self,
        rings: &mut TaskRings,
        pages: &mut Pages,
        ring: Ring,
        from: (usize, usize),
        (steps, enough): (usize, usize),
        passed: &mut Vec<usize>,
    ) -> End {
        let (mut link, mut next) = from;
        let (mut same, mut turns) = (0, 0);
        for _ in 0..steps {
            if link == ring.head {
                return End::Whole;
            }
            let Some(found) = self.copied(pages, ring.node, link, next) else {
                // It has ended, or the one behind it has.
                turns += 1;
                match self.way_back(rings, ring, passed) {
                    Some(back) if turns <= MAX_TURNS => (link, next) = back,
                    _ => return End::Torn,
                }
                continue;
            };
            let met = Known {
                task: link - ring.node,
                thread: ring.thread,
                behind: found.previous,
            };
            same = if rings.meet(met) { same + 1 } else { 0 };
            if passed.len() == REMEMBERED {
                passed.remove(0);
            }
            passed.push(link);
            if same >= enough {
                return End::Enough;
            }
            (link, next) = (found.previous, link);
        }
        End::Enough
    }

    /// The task with this link, if the link leads on to `next`.
    fn copied(
        &mut self,
        pages: &mut Pages,
        node: usize,
        link: usize,
        next: usize,
    ) -> Option<Copied> {
        let task = link.checked_sub(node).filter(|task| *task >= LOWEST)?;
        // What was copied before may be old.
        [false, true].into_iter().find_map(|is_anew| {
            let memory = self.memory.memory.memory();
            let copied = pages.links(memory, task, node, is_anew)?;
            let is_right = copied.next == next && self.kind_of_type(copied.kind) == Kind::Task;
            is_right.then_some(copied)
        })
    }

    /// Looks up whether some tasks have ended, and more as long as many have.
    fn forget_ended(&mut self, rings: &mut TaskRings, node: usize) {
        for _ in 0..MAX_LOOK_UPS {
            let count = LOOKED_UP.min(rings.known.len());
            if count == 0 {
                return;
            }
            if rings.looked_up >= rings.known.len() {
                rings.looked_up = 0;
            }
            let end = (rings.looked_up + count).min(rings.known.len());
            let some = &rings.known[rings.looked_up..end];
            let tasks: Vec<usize> = some.iter().map(|known| known.task).collect();
            let memory = self.memory.memory.memory();
            let kinds = words(memory, &tasks, TYPE);
            let nexts = words(memory, &tasks, node);
            let mut ended = 0;
            for (at, (kind, next)) in kinds.into_iter().zip(nexts).enumerate().rev() {
                // One that has ended is in no ring.
                if next < LOWEST || self.kind_of_type(kind) != Kind::Task {
                    rings.remove(rings.looked_up + at);
                    ended += 1;
                }
            }
            rings.looked_up += tasks.len() - ended;
            if 4 * ended < tasks.len() {
                return;
            }
        }
    }
}

/// A task's type, and its links, as they were copied.
#[derive(Clone, Copy, Debug)]
struct Copied {
    kind: usize,
    next: usize,
    previous: usize,
}

/// Pages copied during a walk: tasks that were made after each other lie beside each other.
#[derive(Debug, Default)]
struct Pages([(usize, Vec<u8>); PAGES]);

impl Pages {
    fn links(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        task: usize,
        node: usize,
        is_anew: bool,
    ) -> Option<Copied> {
        let (from, length) = (task + TYPE, node + 2 * WORD - TYPE);
        let page = from & !(PAGE - 1);
        let copied = |bytes: &[u8]| Copied {
            kind: word(bytes, 0),
            next: word(bytes, node - TYPE),
            previous: word(bytes, node - TYPE + WORD),
        };
        if from + length > page + PAGE {
            return read(memory, from, length).map(copied);
        }
        let (begin, bytes) = &mut self.0[page / PAGE % PAGES];
        if *begin != page || is_anew {
            *begin = 0;
            if memory.read_batch(&[Range::new(page, PAGE)]) != 1 {
                return read(memory, from, length).map(copied);
            }
            bytes.clear();
            bytes.extend_from_slice(&memory.bytes()[..PAGE]);
            *begin = page;
        }
        Some(copied(&bytes[from - page..][..length]))
    }
}
