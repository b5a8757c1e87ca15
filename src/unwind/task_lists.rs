//! All tasks of asyncio: the sets and rings in which it keeps them.
#![forbid(unsafe_code)]

use rustc_hash::FxHashSet;

use super::tasks::TaskReader;
use crate::layout::tasks::{
    FIRST, Kind, LOWEST, SET_ENTRY, SET_MASK, SET_TABLE, SET_USED, TYPE, TaskLists,
};
use crate::memory::{Range, ReadMemory, read, read_word, word};

/// Tasks listed at a time; beyond, they are counted at the most.
pub const MAX_LISTED: usize = 100_000;
/// Times that a list is begun anew because it changed under way.
const MAX_LISTINGS: usize = 4;
/// Bytes of a set copied at a time.
const SET_BYTES: usize = 64 << 10;
/// No set is larger.
const MAX_SET: usize = 1 << 26;
/// Addresses that one copy is asked for.
const MAX_AT_ONCE: usize = 1_000;

const WORD: usize = size_of::<usize>();

/// Addresses of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The tasks, at most [`MAX_LISTED`].
    pub tasks: Vec<usize>,
    /// How many there are, as far as can be told; a task that has ended may count.
    pub total: usize,
}

/// A set as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetHead {
    pub(super) used: usize,
    pub(super) mask: usize,
    pub(super) table: usize,
}

impl SetHead {
    pub(super) fn read(memory: &mut (dyn ReadMemory + '_), set: usize) -> Option<Self> {
        let bytes = read(memory, set, SET_TABLE + WORD)?;
        let (used, mask) = (word(bytes, SET_USED), word(bytes, SET_MASK));
        let is_set = mask < MAX_SET && (mask + 1).is_power_of_two() && used <= mask;
        is_set.then_some(Self {
            used,
            mask,
            table: word(bytes, SET_TABLE),
        })
    }
}

/// Adds the keys of a set, at most `limit`; returns how many it has.
pub(super) fn keys(
    memory: &mut (dyn ReadMemory + '_),
    set: usize,
    limit: usize,
    keys: &mut Vec<usize>,
) -> usize {
    let begin = keys.len();
    let mut used = 0;
    for _ in 0..MAX_LISTINGS {
        keys.truncate(begin);
        let Some(now) = SetHead::read(memory, set) else {
            return 0;
        };
        used = now.used;
        let bytes = (now.mask + 1) * SET_ENTRY;
        let mut is_whole = true;
        for from in (0..bytes).step_by(SET_BYTES) {
            let length = SET_BYTES.min(bytes - from);
            let Some(entries) = read(memory, now.table.wrapping_add(from), length) else {
                is_whole = false;
                break;
            };
            let found = entries.chunks_exact(SET_ENTRY).map(|entry| word(entry, 0));
            keys.extend(found.filter(|key| *key >= LOWEST));
            if keys.len() - begin >= limit {
                keys.truncate(begin + limit);
                break;
            }
        }
        let after = SetHead::read(memory, set);
        if is_whole && after.is_some_and(|after| (after.mask, after.table) == (now.mask, now.table))
        {
            return used;
        }
    }
    // It grew and grew: each of its keys was still looked at.
    used
}

/// The word at `offset` of each of `objects`; 0 where it cannot be read.
pub fn words(memory: &mut (dyn ReadMemory + '_), objects: &[usize], offset: usize) -> Vec<usize> {
    let mut found = Vec::with_capacity(objects.len());
    while found.len() < objects.len() {
        let rest = &objects[found.len()..];
        let ranges: Vec<Range> = rest
            .iter()
            .take(MAX_AT_ONCE)
            .map(|object| Range::new(object.wrapping_add(offset), WORD))
            .collect();
        let whole = memory.read_batch(&ranges);
        let bytes = memory.bytes();
        found.extend((0..whole).map(|at| word(bytes, at * WORD)));
        if whole < ranges.len() {
            found.push(0);
        }
    }
    found
}

impl TaskReader<'_> {
    /// All tasks; `threads` are the states of all threads.
    pub fn list(&mut self, threads: &[usize]) -> Listed {
        let mut listed = Listed::default();
        match &self.known.lists {
            TaskLists::Sets(sets) => {
                for set in sets {
                    if self.kind_now(*set) == Kind::Set {
                        let mut found = Vec::new();
                        let memory = self.memory.memory.memory();
                        listed.total += keys(memory, *set, MAX_LISTED, &mut found);
                        self.add_tasks_of(&found, &mut listed.tasks);
                    }
                }
            }
            TaskLists::Threads { head, node } => {
                let (head, node) = (*head, *node);
                for thread in threads {
                    if let Some(ring) = thread.checked_add(head) {
                        self.ring(ring, node, &mut listed);
                    }
                }
                listed.total = listed.tasks.len();
            }
        }
        let mut known = FxHashSet::default();
        listed.tasks.retain(|task| known.insert(*task));
        listed.tasks.truncate(MAX_LISTED);
        listed.total = listed.total.max(listed.tasks.len());
        listed
    }

    /// Adds the tasks among the keys of a set, or those that they refer to weakly.
    pub(super) fn add_tasks_of(&mut self, keys: &[usize], tasks: &mut Vec<usize>) {
        let types = words(self.memory.memory.memory(), keys, TYPE);
        let (mut weak, mut found) = (Vec::new(), Vec::new());
        for (key, kind) in keys.iter().zip(types) {
            match self.kind_of_type(kind) {
                Kind::Weak => weak.push(*key),
                Kind::Task => found.push(*key),
                _ => {}
            }
        }
        let referents = words(self.memory.memory.memory(), &weak, FIRST);
        let types = words(self.memory.memory.memory(), &referents, TYPE);
        for (task, kind) in referents.into_iter().zip(types) {
            if self.kind_of_type(kind) == Kind::Task {
                found.push(task);
            }
        }
        tasks.append(&mut found);
    }

    /// What the object at `address` is at this moment.
    pub(super) fn kind_now(&mut self, address: usize) -> Kind {
        match read_word(self.memory.memory.memory(), address.wrapping_add(TYPE)) {
            Some(kind) => self.kind_of_type(kind),
            None => Kind::Other,
        }
    }

    /// Adds the tasks of a ring of links, as far as each link leads back to the one before.
    fn ring(&mut self, head: usize, node: usize, listed: &mut Listed) {
        let begin = listed.tasks.len();
        for _ in 0..MAX_LISTINGS {
            listed.tasks.truncate(begin);
            let mut previous = head;
            let mut next = read_word(self.memory.memory.memory(), head);
            loop {
                match next {
                    Some(link) if link == head => return,
                    Some(link) if link >= LOWEST + node && listed.tasks.len() < MAX_LISTED => {
                        let task = link - node;
                        let Some(links) = self.links(task, node) else {
                            break;
                        };
                        if links.previous != previous || links.kind != Kind::Task {
                            break;
                        }
                        listed.tasks.push(task);
                        (previous, next) = (link, Some(links.next));
                    }
                    Some(_) if listed.tasks.len() >= MAX_LISTED => return,
                    _ => break,
                }
            }
        }
    }

    /// What the object at `task` is, and its links to others in a ring.
    pub(super) fn links(&mut self, task: usize, node: usize) -> Option<Links> {
        let length = node.checked_sub(TYPE)? + 2 * WORD;
        let memory = self.memory.memory.memory();
        let bytes = read(memory, task.checked_add(TYPE)?, length)?;
        let (kind, next) = (word(bytes, 0), word(bytes, node - TYPE));
        let previous = word(bytes, node - TYPE + WORD);
        Some(Links {
            kind: self.kind_of_type(kind),
            next,
            previous,
        })
    }
}

/// A task's links in its ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) kind: Kind,
    pub(super) next: usize,
    pub(super) previous: usize,
}
