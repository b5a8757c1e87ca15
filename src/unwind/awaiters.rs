//! Who waits for a task of asyncio: out of what a future calls back, and of what it notes (3.14).
#![forbid(unsafe_code)]

use super::task_lists::keys;
use super::tasks::{MAX_AWAITERS, TaskReader};
use crate::layout::tasks::{
    BLOCK_ITEMS, CALLBACKS, DEQUE_BLOCK, DEQUE_INDEX, FIRST, Kind, LOWEST, SECOND, SIZE, Via,
};
use crate::memory::{read, read_word};

/// Futures between a task and one that waits for it: a `shield` of a `gather` has two.
const MAX_NESTING: usize = 8;
/// Callbacks looked at of one future.
const MAX_CALLBACKS: usize = 64;
/// What one reading of a task may look at.
const MAX_LOOKS: usize = 2_048;
/// By this name a task is woken (`TaskWakeupDef` of `Modules/_asynciomodule.c`).
const WAKEUP: &[u8] = b"task_wakeup\0";

const WORD: usize = size_of::<usize>();

/// A task that waits for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaiter {
    /// Its address.
    pub task: usize,
    /// What stands between the two where no frame tells, that next to the awaited first.
    pub via: Vec<Via>,
}

/// A way from a future to those that wait for it.
#[derive(Clone, Copy)]
struct Way<'way> {
    via: Via,
    before: Option<&'way Way<'way>>,
    nesting: usize,
}

impl Way<'_> {
    fn told(&self) -> Vec<Via> {
        let mut told = self.before.map_or_else(Vec::new, Way::told);
        told.extend(Some(self.via).filter(|via| *via != Via::Frames));
        told
    }
}

impl TaskReader<'_> {
    /// The tasks that wait for a task.
    pub(super) fn awaiters_of(&mut self, task: usize) -> Vec<Awaiter> {
        let mut found = Vec::new();
        let way = Way {
            via: Via::Frames,
            before: None,
            nesting: 0,
        };
        self.awaiters(task, &way, &mut found);
        found.retain(|waiter| waiter.task != task);
        found
    }

    /// Adds the tasks that wait for a future.
    fn awaiters(&mut self, future: usize, way: &Way<'_>, found: &mut Vec<Awaiter>) {
        if way.nesting > MAX_NESTING {
            return;
        }
        let first = self.word(future, self.known.callback);
        self.callback(first, way, found);
        let list = self.word(future, self.known.callback + CALLBACKS);
        if list >= LOWEST {
            let (length, items) = (self.word(list, SIZE), self.word(list, SECOND));
            for at in 0..length.min(MAX_CALLBACKS) {
                // Each with the context that it is called in.
                let pair = self.word(items, at * WORD);
                let callback = self.word(pair, self.known.items);
                self.callback(callback, way, found);
            }
        }
        // Callbacks tell more of the way; this tells of some that have none.
        let Some((at, is_set)) = self.known.awaited_by else {
            return;
        };
        let waiter = self.word(future, at);
        let is_set = read(&mut self.memory, future.wrapping_add(is_set), 1) == Some(&[1]);
        let mut waiters = vec![waiter];
        if is_set {
            waiters.clear();
            if self.kind(waiter) == Kind::Set {
                keys(&mut self.memory, waiter, MAX_AWAITERS, &mut waiters);
            }
        }
        for waiter in waiters {
            self.waiter(waiter, way, found);
        }
    }

    /// The word at `offset` of an object; 0 if there is none, or if enough was looked at.
    fn word(&mut self, object: usize, offset: usize) -> usize {
        self.looks += 1;
        if object < LOWEST || !object.is_multiple_of(WORD) || self.looks > MAX_LOOKS {
            return 0;
        }
        read_word(&mut self.memory, object.wrapping_add(offset)).unwrap_or(0)
    }

    /// Adds the tasks that go on by a callback of a future.
    fn callback(&mut self, callback: usize, way: &Way<'_>, found: &mut Vec<Awaiter>) {
        let mut via = Via::Frames;
        let waiter = match self.kind(callback) {
            Kind::Builtin => {
                let definition = self.word(callback, FIRST);
                let name = self.word(definition, 0);
                if read(&mut self.memory, name, WAKEUP.len()) != Some(WAKEUP) {
                    return;
                }
                self.word(callback, SECOND)
            }
            Kind::Function => {
                let (code, closure) = self.known.function;
                let code = self.word(callback, code);
                let mut closures = self.known.closures.iter();
                let Some(known) = closures.find(|known| known.code == code) else {
                    return;
                };
                via = known.via;
                let cells = self.word(callback, closure);
                if self.word(cells, SIZE) <= known.variable {
                    return;
                }
                let cell = self.word(cells, self.known.items + known.variable * WORD);
                self.word(cell, FIRST)
            }
            Kind::Method => {
                let function = self.word(callback, FIRST);
                let mut methods = self.known.methods.iter();
                let Some((_, slot)) = methods.find(|(known, _)| *known == function) else {
                    return;
                };
                let owner = self.word(callback, SECOND);
                slot.read(&mut self.memory, owner).unwrap_or(0)
            }
            Kind::Partial if self.known.release != 0 => {
                if self.word(callback, FIRST) != self.known.release {
                    return;
                }
                let arguments = self.word(callback, SECOND);
                if self.word(arguments, SIZE) == 0 {
                    return;
                }
                self.word(arguments, self.known.items)
            }
            _ => return,
        };
        let way = Way {
            via,
            before: Some(way),
            nesting: way.nesting,
        };
        self.waiter(waiter, &way, found);
    }

    /// Adds the tasks that something belongs to which waits.
    fn waiter(&mut self, waiter: usize, way: &Way<'_>, found: &mut Vec<Awaiter>) {
        let further = Way {
            nesting: way.nesting + 1,
            ..*way
        };
        match self.kind(waiter) {
            Kind::Task
                if found.len() < MAX_AWAITERS && found.iter().all(|known| known.task != waiter) =>
            {
                found.push(Awaiter {
                    task: waiter,
                    via: way.told(),
                });
            }
            Kind::Future => self.awaiters(waiter, &further, found),
            Kind::Queue => {
                let Some(getters) = self.known.getters else {
                    return;
                };
                let getters = getters.read(&mut self.memory, waiter).unwrap_or(0);
                let index = self.word(getters, DEQUE_INDEX);
                if self.word(getters, SIZE) == 0 || index >= MAX_CALLBACKS {
                    return;
                }
                let block = self.word(getters, DEQUE_BLOCK);
                let getter = self.word(block, BLOCK_ITEMS + index * WORD);
                if self.kind(getter) == Kind::Future {
                    self.awaiters(getter, &further, found);
                }
            }
            _ => {}
        }
    }
}
