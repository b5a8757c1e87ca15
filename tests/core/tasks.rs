//! Tasks of asyncio out of memory that is made up for it, whole and damaged.
//!
//! The objects are as those of three CPythons: one with frames on the heap (3.10), one with frames in
//! coroutines (3.12), two that note who awaits whom (3.14, 3.15). What Python's own are like is shown by
//! `tests/integration/test_tasks.py`.

use proptest::prelude::*;
use proptest::sample::Index;
use rprof::layout::tasks::{Specimens, TaskLayout, TaskLists};
use rprof::layout::{FramePlace, Layout, v3_10, v3_12};
use rprof::memory::Range;
use rprof::memory::blocks::BlockStore;
use rprof::memory::image::Image;
use rprof::model::task::TaskState;
use rprof::unwind::frames::RawFrame;
use rprof::unwind::task_rings::TaskRings;
use rprof::unwind::tasks::{FoundTask, MAX_AWAITERS, TaskReader};

use crate::support::{Watched, codes};

const BASE: usize = 0x10_0000;
const MINORS: [u32; 4] = [10, 12, 14, 15];
/// Leads nowhere.
const WILD: usize = 0x5a5a_5a5a_5a5a_5a58;
/// What no look at any damaged memory comes near, for the few tasks that there are.
const MAX_READS: usize = 200_000;
const COROUTINE: usize = 136;
const NAME: usize = 144;
const CONTEXT: usize = 152;
const NODE: usize = 160;
const CALLBACK: usize = 24;
const AWAITED_BY: usize = 96;
const IS_SET: usize = 109;
const RING: usize = 880;
const FRAME: usize = 72;

/// Objects, laid out one after the other.
struct Heap {
    minor: u32,
    bytes: Vec<u8>,
    facts: Vec<(String, usize)>,
    tasks: Vec<usize>,
    types: Vec<(&'static str, usize)>,
    thread: usize,
    wakeup: usize,
    gather: usize,
}

impl Heap {
    fn new(minor: u32) -> Self {
        let mut heap = Self {
            minor,
            bytes: vec![0; 64],
            facts: Vec::new(),
            tasks: Vec::new(),
            types: Vec::new(),
            thread: 0,
            wakeup: 0,
            gather: 0,
        };
        for name in [
            "coroutine",
            "generator",
            "asyncgen",
            "step",
            "task",
            "future",
            "function",
            "method",
            "builtin",
            "partial",
            "queue",
            "weak",
            "set",
            "str",
            "cell",
            "tuple",
            "context",
            "code",
        ] {
            let text = heap.space(24);
            heap.bytes[text - BASE..][..name.len()].copy_from_slice(name.as_bytes());
            let kind = heap.space(280);
            heap.set(kind, 24, text);
            heap.set(kind, 32, 200);
            heap.types.push((name, kind));
            heap.tell(&format!("type {name}"), kind);
        }
        heap.thread = heap.space(1_024);
        let ring = heap.thread + RING;
        heap.set(heap.thread, RING, ring);
        heap.set(heap.thread, RING + 8, ring);
        let text = heap.space(16);
        heap.bytes[text - BASE..][..11].copy_from_slice(b"task_wakeup");
        heap.wakeup = heap.space(32);
        heap.set(heap.wakeup, 0, text);
        heap.gather = heap.object("code", 200);
        heap
    }

    fn tell(&mut self, name: &str, address: usize) {
        self.facts.push((name.to_owned(), address));
    }

    fn space(&mut self, length: usize) -> usize {
        let address = BASE + self.bytes.len();
        self.bytes.resize(self.bytes.len() + length + 16, 0);
        address
    }

    fn set(&mut self, object: usize, offset: usize, value: usize) {
        let at = object - BASE + offset;
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn get(&self, object: usize, offset: usize) -> usize {
        let at = object - BASE + offset;
        usize::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn object(&mut self, kind: &str, length: usize) -> usize {
        let kind = self.types.iter().find(|known| known.0 == kind).unwrap().1;
        let object = self.space(length);
        self.set(object, 0, 1);
        self.set(object, 8, kind);
        object
    }

    /// A coroutine or generator in this state, with `top` on its stack; and its code.
    fn step(&mut self, kind: &str, state: i8, top: usize) -> (usize, usize) {
        let code = self.object("code", 200);
        let step = self.object(kind, 216);
        let state = state as u8;
        if self.minor == 10 {
            let frame = self.object("code", 200);
            self.set(step, 16, frame);
            self.set(frame, 32, code);
            self.set(frame, 64, frame + 112);
            self.set(frame, 80, 1);
            self.set(frame, 96, 3);
            self.set(frame, 112, top);
            self.bytes[frame - BASE + 108] = state;
        } else {
            let frame = step + FRAME;
            let values = frame + if self.minor == 12 { 72 } else { 80 };
            self.set(frame, 0, code | usize::from(self.minor >= 14));
            self.set(frame, 56, code + 100);
            let depth = match self.minor {
                12 => 1,
                14 => values + 8,
                _ => values + 16,
            };
            self.set(frame, 64, depth);
            self.set(values, 0, top);
            self.bytes[frame - BASE - 5] = state;
        }
        (step, code)
    }

    fn states(&self) -> [i8; 4] {
        match self.minor {
            14 => [-3, -1, -2, 0],
            15 => [0, 2, 1, 4],
            _ => [-2, -1, -1, 0],
        }
    }

    /// A task whose coroutine awaits another that awaits `future`; returns task and code objects.
    fn task(&mut self, future: usize) -> (usize, [usize; 2]) {
        let [_, awaiting, ..] = self.states();
        let on_behalf = self.object("step", 24);
        self.set(on_behalf, 16, future);
        let (inner, inner_code) = self.step("coroutine", awaiting, on_behalf);
        let (outer, outer_code) = self.step("coroutine", awaiting, inner);
        (self.task_of(outer), [inner_code, outer_code])
    }

    fn task_of(&mut self, coroutine: usize) -> usize {
        let task = self.object("task", 200);
        let name = self.object("str", 64);
        let context = self.object("context", 64);
        self.set(task, COROUTINE, coroutine);
        self.set(task, NAME, name);
        self.set(task, CONTEXT, context);
        let (ring, node) = (self.thread + RING, task + NODE);
        let last = self.get(ring, 8);
        self.set(node, 0, ring);
        self.set(node, 8, last);
        self.set(last, 0, node);
        self.set(ring, 8, node);
        self.tasks.push(task);
        task
    }

    /// Calls `task` back when `future` has ended.
    fn wake(&mut self, future: usize, task: usize) {
        let callback = self.object("builtin", 48);
        self.set(callback, 16, self.wakeup);
        self.set(callback, 24, task);
        if self.minor >= 14 {
            self.set(future, AWAITED_BY, task);
        } else if self.get(future, CALLBACK) == 0 {
            self.set(future, CALLBACK, callback);
        } else {
            let pair = self.object("tuple", 48);
            self.set(pair, 24, callback);
            let items = self.space(16);
            self.set(items, 0, pair);
            let list = self.object("tuple", 48);
            self.set(list, 16, 1);
            self.set(list, 24, items);
            self.set(future, CALLBACK + 16, list);
        }
    }

    /// Has a function of `gather` called back when `child` has ended; `outer` is what is awaited.
    fn gather(&mut self, child: usize, outer: usize) {
        let callback = self.object("function", 200);
        let cells = self.object("tuple", 64);
        let cell = self.object("cell", 24);
        self.set(callback, 48, self.gather);
        self.set(callback, 56, cells);
        self.set(cells, 16, 2);
        self.set(cells, 32, cell);
        self.set(cell, 16, outer);
        self.set(child, CALLBACK, callback);
    }

    fn future(&mut self) -> usize {
        self.object("future", 200)
    }

    /// What `python/rprof/_tasks.py` tells; the task is the newest, as it is there.
    fn specimens(&mut self) {
        let [created, awaiting, yielding, executing] = self.states();
        let future = self.future();
        let on_behalf = self.object("step", 24);
        self.set(on_behalf, 16, future);
        let (coroutine, code) = self.step("coroutine", awaiting, on_behalf);
        let task = self.task_of(coroutine);
        let callback = self.object("function", 200);
        let (closure, own_code) = (self.object("tuple", 48), self.object("code", 200));
        self.set(callback, 48, own_code);
        self.set(callback, 56, closure);
        self.set(future, CALLBACK, callback);
        if self.minor >= 14 {
            let (awaited, shared) = (self.future(), self.future());
            self.set(awaited, AWAITED_BY, task);
            self.set(shared, AWAITED_BY, WILD);
            self.bytes[shared - BASE + IS_SET] = 1;
            self.tell("awaited", awaited);
            self.tell("shared", shared);
        }
        let frame = self.get(coroutine, 16);
        let states = [
            ("created", created),
            ("yielding", yielding),
            ("executing", executing),
        ];
        for (name, state) in states {
            let (step, _) = self.step("generator", state, 0);
            self.tell(name, step);
        }
        let of_task = [(NAME, "name"), (CONTEXT, "context")];
        for (offset, name) in of_task {
            self.tell(name, self.get(task, offset));
        }
        for (name, address) in [
            ("task", task),
            ("coroutine", coroutine),
            ("coroutine code", code),
            ("frame", frame),
            ("future", future),
            ("callback", callback),
            ("code", own_code),
            ("closure", closure),
            ("closure code", self.gather),
            ("closure variable", 1),
        ] {
            self.tell(name, address);
        }
        self.tasks.pop();
    }

    /// The set of all tasks, by weak references.
    fn set_of_tasks(&mut self) {
        let set = self.object("set", 200);
        let table = self.space(16 * 16);
        self.set(set, 24, self.tasks.len());
        self.set(set, 32, 15);
        self.set(set, 40, table);
        for (place, task) in self.tasks.clone().into_iter().enumerate() {
            let weak = self.object("weak", 64);
            self.set(weak, 16, task);
            self.set(table, place * 16, weak);
        }
        self.tell("set", set);
    }
}

/// Tasks that wait for each other, and what is known of it.
struct World {
    image: Image,
    layout: Layout,
    known: TaskLayout,
    threads: Vec<usize>,
    /// Each task, who waits for it, and the code objects it is in.
    truth: Vec<(usize, Vec<usize>, Vec<usize>)>,
    length: usize,
}

impl World {
    fn new(minor: u32) -> Self {
        let mut heap = Heap::new(minor);
        // The root gathers three; one of them waits for another task, which sleeps.
        let outer = heap.future();
        let (root, root_code) = heap.task(outer);
        heap.wake(outer, root);
        let mut truth = vec![(root, Vec::new(), root_code.to_vec())];
        for _ in 0..3 {
            let sleep = heap.future();
            let (child, code) = heap.task(sleep);
            heap.gather(child, outer);
            truth.push((child, vec![root], code.to_vec()));
        }
        let sleep = heap.future();
        let (inner, code) = heap.task(sleep);
        let (waiter, waiter_code) = heap.task(inner);
        heap.wake(inner, waiter);
        if minor < 14 {
            heap.wake(inner, root);
        }
        truth.push((
            inner,
            if minor >= 14 {
                vec![waiter]
            } else {
                vec![waiter, root]
            },
            code.to_vec(),
        ));
        truth.push((waiter, Vec::new(), waiter_code.to_vec()));
        heap.set_of_tasks();
        heap.specimens();
        let mut layout = if minor == 10 {
            v3_10::LAYOUT
        } else {
            v3_12::LAYOUT
        };
        if minor >= 14 {
            layout.frame.code_tags = 3;
            layout.thread.frame = FramePlace::Direct(72);
        }
        let length = heap.bytes.len();
        let mut image = Image::default();
        image.insert(BASE, heap.bytes);
        let specimens = Specimens(&heap.facts);
        let known = TaskLayout::learn(&mut image, &layout, minor, heap.thread, specimens);
        Self {
            image,
            layout,
            known: known.unwrap_or_else(|reason| panic!("3.{minor}: {reason}")),
            threads: vec![heap.thread],
            truth,
            length,
        }
    }

    /// What is found in this memory, and in how many reads.
    fn look(&self, image: Image) -> (Vec<(usize, FoundTask)>, usize) {
        let mut memory = Watched::new(image);
        let mut store = BlockStore::default();
        let mut reader = TaskReader::new(&mut memory, &mut store, &self.layout, &self.known);
        let listed = reader.list(&self.threads);
        let found = listed.tasks.iter();
        let found = found
            .filter_map(|task| Some((*task, reader.task(*task)?)))
            .collect();
        (found, memory.batches)
    }

    /// The tasks that are drawn of all, how many they stand for, and in how many reads.
    fn draw(&self, image: Image, rings: &mut TaskRings) -> (Vec<usize>, u64, usize) {
        let mut memory = Watched::new(image);
        let mut store = BlockStore::default();
        let mut reader = TaskReader::new(&mut memory, &mut store, &self.layout, &self.known);
        let mut turn = 0_u64;
        let mut random = || {
            turn += 1;
            turn.wrapping_mul(0x9E37_79B9_7F4A_7C15)
        };
        let drawn = match &self.known.lists {
            TaskLists::Sets(sets) => reader.draw_of_set(sets[0], 30, &mut random),
            TaskLists::Threads { head, node } => {
                reader.follow(rings, &self.threads, *head, *node);
                rings.draw(30, &mut random)
            }
        };
        let mut tasks = drawn.tasks;
        tasks.sort_unstable();
        (tasks, drawn.all, memory.batches)
    }

    /// Takes a task out of its ring, as one that has ended.
    fn end(&self, image: &mut Image, task: usize) {
        let mut word = |at: usize, value: Option<usize>| {
            let bytes = image.get_mut(Range::new(at, 8)).expect("the heap");
            let before = usize::from_le_bytes(bytes.try_into().unwrap());
            if let Some(value) = value {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            before
        };
        let (next, previous) = (word(task + NODE, Some(0)), word(task + NODE + 8, Some(0)));
        word(previous, Some(next));
        word(next + 8, Some(previous));
    }
}

#[test]
fn few_tasks_are_drawn_all() {
    for minor in MINORS {
        let world = World::new(minor);
        let mut rings = TaskRings::default();
        let (drawn, all, _) = world.draw(world.image.clone(), &mut rings);
        let mut truth: Vec<usize> = world.truth.iter().map(|known| known.0).collect();
        truth.sort_unstable();
        let found = drawn.iter().filter(|task| truth.contains(task));
        assert_eq!(found.count(), truth.len(), "3.{minor}");
        assert_eq!(all as usize, truth.len() + usize::from(minor >= 14));
    }
}

#[test]
fn tasks_of_a_ring_that_have_ended_are_not_drawn_again() {
    let world = World::new(14);
    let mut rings = TaskRings::default();
    let mut image = world.image.clone();
    let (before, ..) = world.draw(image.clone(), &mut rings);
    for (gone, (task, ..)) in world.truth.iter().enumerate() {
        world.end(&mut image, *task);
        let (drawn, all, _) = world.draw(image.clone(), &mut rings);
        assert!(!drawn.contains(task) && drawn.len() == before.len() - gone - 1);
        assert_eq!(all as usize, rings.len());
    }
    // A thread that is gone takes its tasks with it.
    let mut memory = Watched::new(image);
    let mut store = BlockStore::default();
    let mut reader = TaskReader::new(&mut memory, &mut store, &world.layout, &world.known);
    reader.follow(&mut rings, &[], RING, NODE);
    assert!(rings.is_empty());
}

fn waiters(task: &FoundTask) -> Vec<usize> {
    task.awaited_by.iter().map(|waiter| waiter.task).collect()
}

#[test]
fn tasks_are_found_with_who_waits_for_them() {
    for minor in MINORS {
        let world = World::new(minor);
        let (found, _) = world.look(world.image.clone());
        for (task, waiters, code) in &world.truth {
            let (_, found) = found.iter().find(|found| found.0 == *task).expect("a task");
            assert_eq!(self::waiters(found), *waiters, "3.{minor}");
            assert_eq!(codes(&found.frames), *code, "3.{minor}");
            assert_eq!(found.state, TaskState::Waits);
        }
        // In the ring there is the specimen as well.
        assert_eq!(found.len(), world.truth.len() + usize::from(minor >= 14));
    }
}

#[test]
fn many_tasks_stand_where_each_is_found() {
    for minor in MINORS {
        let world = World::new(minor);
        let (found, reads_of_each) = world.look(world.image.clone());
        let mut memory = Watched::new(world.image.clone());
        let mut store = BlockStore::default();
        let mut reader = TaskReader::new(&mut memory, &mut store, &world.layout, &world.known);
        let mut tasks: Vec<usize> = found.iter().map(|(task, _)| *task).collect();
        // Where there is none.
        tasks.extend([0, 8, usize::MAX - 7]);
        let standing = reader.standing(&tasks);
        let begun = found
            .iter()
            .filter(|(_, task)| task.state != TaskState::New);
        let expected: Vec<(usize, &[RawFrame])> =
            begun.map(|(task, found)| (*task, &*found.frames)).collect();
        let standing: Vec<(usize, &[RawFrame])> = standing
            .iter()
            .map(|found| (found.task, &*found.frames))
            .collect();
        assert_eq!(standing, expected, "3.{minor}");
        assert!(
            2 * memory.batches < reads_of_each,
            "3.{minor}: {}",
            memory.batches
        );
    }
}

/// Every word in turn leads nowhere, or is unmapped: what is still found is true.
#[test]
fn what_is_found_in_damaged_memory_is_true() {
    for minor in MINORS {
        let world = World::new(minor);
        for (number, at) in (0..world.length - 8).step_by(8).enumerate() {
            // Each version has another turn: every kind of word meets every kind of damage.
            let value = [Some(0), Some(WILD), None][(number + minor as usize) % 3];
            let mut image = world.image.clone();
            let range = Range::new(BASE + at, 8);
            match value {
                Some(value) => image
                    .get_mut(range)
                    .expect("the heap")
                    .copy_from_slice(&usize::to_le_bytes(value)),
                None => image.remove(range),
            }
            let (found, reads) = world.look(image);
            assert!(reads < MAX_READS, "{reads} reads");
            for (task, found) in found {
                let known = world.truth.iter().find(|known| known.0 == task);
                let Some((_, waiters, code)) = known else {
                    continue;
                };
                let found_waiters = self::waiters(&found);
                let are_true = found_waiters.iter().all(|one| waiters.contains(one));
                assert!(are_true, "3.{minor} {at:#x} {value:?}");
                // A stack ends early, or names the word that was put in place of a code.
                let are_true = codes(&found.frames)
                    .iter()
                    .all(|one| code.contains(one) || Some(*one) == value || *one == WILD & !3);
                assert!(are_true, "3.{minor} {at:#x} {value:?}");
            }
        }
    }
}

proptest! {
    /// Words that lead to other objects, and to themselves: no look is endless, and none fails.
    #[test]
    fn no_memory_holds_a_look_up(
        minor in prop::sample::select(&MINORS[..]),
        damage in prop::collection::vec((any::<Index>(), any::<Index>(), 0_u8..4), 1..200),
    ) {
        let world = World::new(minor);
        let mut image = world.image.clone();
        let words = world.length / 8;
        for (at, to, kind) in damage {
            let at = BASE + at.index(words) * 8;
            let value = match kind {
                0 => at,
                1 => world.truth[to.index(world.truth.len())].0,
                2 => to.index(1 << 20),
                _ => BASE + to.index(words) * 8,
            };
            let range = Range::new(at, 8);
            image.get_mut(range).expect("the heap").copy_from_slice(&value.to_le_bytes());
        }
        let mut rings = TaskRings::default();
        for _ in 0..2 {
            let (drawn, _, reads) = world.draw(image.clone(), &mut rings);
            prop_assert!(drawn.len() <= 30 && reads < MAX_READS);
        }
        let (found, reads) = world.look(image);
        prop_assert!(reads < MAX_READS * (1 + found.len()));
        for (_, found) in found {
            prop_assert!(found.awaited_by.len() <= MAX_AWAITERS);
        }
    }
}
