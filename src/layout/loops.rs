//! Where asyncio keeps which task runs, and which loop a thread runs.
//!
//! Found in specimens, as the rest of [`super::tasks`].
#![forbid(unsafe_code)]

use super::tasks::{FIRST, LOWEST, Specimens};
use crate::memory::{ReadMemory, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// `PyDictObject.ma_used` and `ma_keys` (`Include/cpython/dictobject.h`).
const USED: usize = 16;
const KEYS: usize = 32;
/// Entries of a dictionary that are looked at.
const MAX_ENTRIES: usize = 1_024;
/// A thread state is not larger.
const MAX_THREAD_BYTES: usize = 4_096;

/// How the running task of a thread is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It cannot be.
    Unknown,
    /// A dictionary at this address has it for each loop (3.10-3.13).
    Table(usize),
    /// It stands at this offset of the thread state (3.14 and later).
    Thread(usize),
}

impl Running {
    /// `python/rprof/_tasks.py` has had a task run, as far as asyncio knows.
    pub(super) fn learn(
        memory: &mut (dyn ReadMemory + '_),
        minor: u32,
        thread: usize,
        specimens: Specimens<'_>,
    ) -> Result<Self, String> {
        let Ok(task) = specimens.get("running") else {
            return Ok(Self::Unknown);
        };
        if minor < 14 {
            let table = specimens.get("current tasks")?;
            let mut pairs = Vec::new();
            read_dict(memory, minor, table, &mut pairs);
            return match pairs.iter().any(|(_, value)| *value == task) {
                true => Ok(Self::Table(table)),
                false => Err("the running task is not in its table".to_owned()),
            };
        }
        let bytes = thread_state(memory, thread).ok_or("the thread's state cannot be read")?;
        let mut found = (0..bytes.len()).step_by(WORD);
        match found.find(|at| word(&bytes, *at) == task) {
            Some(at) => Ok(Self::Thread(at)),
            None => Err("the running task is not to be found".to_owned()),
        }
    }
}

/// How the loop of a thread is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopPlace {
    /// A dictionary has it that is at this offset of the thread state (3.10-3.12).
    Dictionary {
        /// `PyThreadState.dict`.
        dict: usize,
        /// The key of the loop in it.
        key: usize,
        /// Whether it is inside of another object there (3.10, 3.11).
        is_held: bool,
    },
    /// It stands at this offset of the thread state (3.13 and later).
    State(usize),
}

impl LoopPlace {
    /// The calling thread runs a loop, as far as asyncio knows.
    pub(super) fn learn(
        memory: &mut (dyn ReadMemory + '_),
        minor: u32,
        thread: usize,
        specimens: Specimens<'_>,
    ) -> Option<Self> {
        let its_loop = specimens.get("loop").ok()?;
        let bytes = thread_state(memory, thread)?;
        let mut words = (0..bytes.len()).step_by(WORD);
        if minor >= 13 {
            let at = words.find(|at| word(&bytes, *at) == its_loop);
            return at.map(Self::State);
        }
        let dict = specimens.get("thread dict").ok()?;
        let key = specimens.get("loop key").ok()?;
        let dict = words.find(|at| word(&bytes, *at) == dict)?;
        [false, true]
            .map(|is_held| Self::Dictionary { dict, key, is_held })
            .into_iter()
            .find(|place| place.read(memory, minor, thread) == Some(its_loop))
    }

    /// The loop that a thread runs, if there is one.
    pub fn read(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        minor: u32,
        thread: usize,
    ) -> Option<usize> {
        let (dict, key, is_held) = match *self {
            Self::State(at) => {
                let found = read_word(memory, thread.checked_add(at)?)?;
                return (found >= LOWEST).then_some(found);
            }
            Self::Dictionary { dict, key, is_held } => (dict, key, is_held),
        };
        let dict = read_word(memory, thread.checked_add(dict)?)?;
        let mut pairs = Vec::new();
        read_dict(memory, minor, dict, &mut pairs);
        let (_, value) = pairs.into_iter().find(|(found, _)| *found == key)?;
        if is_held {
            return read_word(memory, value.checked_add(FIRST)?);
        }
        Some(value)
    }
}

/// As much of a thread's state as can be read: it may end where memory does.
fn thread_state(memory: &mut (dyn ReadMemory + '_), thread: usize) -> Option<Vec<u8>> {
    let mut parts = (1..=MAX_THREAD_BYTES / 512).rev();
    parts.find_map(|part| read(memory, thread, part * 512).map(<[u8]>::to_vec))
}

/// Adds the keys and values of a dictionary; none if it changes meanwhile.
pub fn read_dict(
    memory: &mut (dyn ReadMemory + '_),
    minor: u32,
    dict: usize,
    pairs: &mut Vec<(usize, usize)>,
) {
    each_entry(memory, minor, dict, |key, value, _| {
        pairs.push((key, value))
    });
}

/// Tells the key and value of each entry of a dictionary, and where the value stands; of none if it changes
/// meanwhile.
pub fn each_entry(
    memory: &mut (dyn ReadMemory + '_),
    minor: u32,
    dict: usize,
    mut tell: impl FnMut(usize, usize, usize),
) {
    if dict < LOWEST || !dict.is_multiple_of(WORD) {
        return;
    }
    let Some(head) = read(memory, dict, KEYS + WORD) else {
        return;
    };
    let (used, keys) = (word(head, USED), word(head, KEYS));
    if used == 0 || used > MAX_ENTRIES || keys < LOWEST {
        return;
    }
    // `struct _dictkeysobject` (`Include/internal/pycore_dict.h`; `Objects/dict-common.h` in 3.10).
    const COUNT_3_10: usize = 32;
    const COUNT: usize = 24;
    let Some(head) = read(memory, keys, COUNT_3_10 + WORD) else {
        return;
    };
    let (entries, size, count) = if minor == 10 {
        let slots = word(head, WORD);
        if slots > 2 * MAX_ENTRIES {
            return;
        }
        let index = if slots <= 0xff { 1 } else { 2 };
        (
            COUNT_3_10 + WORD + slots * index,
            3 * WORD,
            word(head, COUNT_3_10),
        )
    } else {
        let (index_bytes, kind) = (head[WORD + 1], head[WORD + 2]);
        if index_bytes > 14 || kind > 1 {
            return;
        }
        // Keys that are all text have no hash beside them.
        let size = if kind == 0 { 3 * WORD } else { 2 * WORD };
        (COUNT + WORD + (1 << index_bytes), size, word(head, COUNT))
    };
    if count > 2 * MAX_ENTRIES {
        return;
    }
    let Some(bytes) = read(memory, keys.wrapping_add(entries), count * size) else {
        return;
    };
    for (number, entry) in bytes.chunks_exact(size).enumerate() {
        let (key, value) = (word(entry, size - 2 * WORD), word(entry, size - WORD));
        if key >= LOWEST && value >= LOWEST {
            tell(
                key,
                value,
                keys.wrapping_add(entries + (number + 1) * size - WORD),
            );
        }
    }
}
