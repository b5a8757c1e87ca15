//! The callbacks that an event loop has ready: they wait until what runs now has ended.
//!
//! Loops of asyncio and of uvloop keep them in the only `deque` that they have. It is looked for among
//! what a loop refers to, be that in attributes or not, once for each loop: what led there is remembered
//! and compared at each look. A loop that has another `deque` has no queue that is known here.
#![forbid(unsafe_code)]

use super::task_lists::words;
use crate::layout::Layout;
use crate::layout::loops::each_entry;
use crate::layout::tasks::{FIRST, LOWEST, SIZE, TYPE, TYPE_SIZE, TaskLayout};
use crate::memory::remembered::{Remembered, Remembering};
use crate::memory::{Lent, ReadMemory, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// No loop is larger, nor has more attributes than are looked through.
const MAX_LOOP_BYTES: usize = 2_048;
const MAX_VALUES: usize = 64;
/// No program has memory from here on; to ask for some makes the kernel refuse all that is asked for with it.
const BEHIND_PROGRAMS: usize = 1 << if cfg!(target_arch = "x86_64") { 47 } else { 48 };
/// From an object back to its dictionary (3.12: or its values), and to its values (3.11).
const DICTIONARY_BEFORE: usize = 3 * WORD;
const VALUES_BEFORE: usize = 4 * WORD;
/// `PyDictObject.ma_keys` and `ma_values`.
const DICTIONARY_KEYS: usize = 32;
/// See [`DICTIONARY_KEYS`].
const DICTIONARY_VALUES: usize = 40;
/// More callbacks than this no loop has.
const MAX_READY: usize = 1 << 24;

/// The queue of the loop that a thread runs.
#[derive(Clone, Debug)]
pub struct ReadyQueue {
    /// What led to it.
    read: Remembered,
    queue: usize,
}

impl ReadyQueue {
    /// The queue of the loop that the thread with the state at `thread` runs; `None` if it runs none, or
    /// one of which that is not known.
    pub fn find(
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        known: &TaskLayout,
        thread: usize,
    ) -> Option<Self> {
        let mut memory = Remembering::new(Lent(memory));
        let its_loop = known.loops?.read(&mut memory, layout.minor, thread)?;
        Self::of(memory, layout, known, its_loop)
    }

    fn of(
        mut memory: Remembering<Lent<'_>>,
        layout: &Layout,
        known: &TaskLayout,
        its_loop: usize,
    ) -> Option<Self> {
        if its_loop < LOWEST || known.deque == 0 {
            return None;
        }
        let kind = read_word(&mut memory, its_loop.checked_add(TYPE)?)?;
        let mut places = Vec::new();
        let size = read_word(&mut memory.memory, kind.checked_add(TYPE_SIZE)?)?;
        add_words(
            &mut memory.memory,
            its_loop + FIRST,
            size.min(MAX_LOOP_BYTES).saturating_sub(FIRST),
            &mut places,
        );
        add_attributes(&mut memory, layout, known, (its_loop, size), &mut places);
        places.retain(|(_, value)| {
            value.is_multiple_of(WORD) && *value >= LOWEST && *value < BEHIND_PROGRAMS
        });
        let values: Vec<usize> = places.iter().map(|(_, value)| *value).collect();
        let kinds = words(&mut memory.memory, &values, TYPE);
        let mut found = places.into_iter().zip(kinds);
        let mut found = found.by_ref().filter(|(_, kind)| *kind == known.deque);
        let ((place, queue), _) = found.next()?;
        if found.any(|((_, other), _)| other != queue) {
            return None;
        }
        let is_so = read_word(&mut memory, place) == Some(queue)
            && read_word(&mut memory, queue + TYPE) == Some(known.deque);
        let read = memory.remembered().clone();
        is_so.then_some(Self { read, queue })
    }

    /// Whether `queue` is found to be that of the loop at `its_loop`, which does not run.
    pub fn is_of(
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        known: &TaskLayout,
        (its_loop, queue): (usize, usize),
    ) -> bool {
        let memory = Remembering::new(Lent(memory));
        let found = Self::of(memory, layout, known, its_loop);
        found.is_some_and(|found| found.queue == queue)
    }

    /// How many callbacks are in it; `None` if the thread does not run the loop any more.
    pub fn ready(&self, memory: &mut (dyn ReadMemory + '_)) -> Option<u32> {
        if !self.read.is_still(memory) {
            return None;
        }
        let ready = read_word(memory, self.queue.checked_add(SIZE)?)?;
        u32::try_from(ready).ok().filter(|_| ready < MAX_READY)
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.read.held()
    }
}

/// Adds the words of some memory, each with its place, as far as it can be read.
fn add_words(
    memory: &mut (dyn ReadMemory + '_),
    begin: usize,
    length: usize,
    places: &mut Vec<(usize, usize)>,
) {
    let mut length = length & !(WORD - 1);
    while length >= WORD {
        if let Some(bytes) = read(memory, begin, length) {
            let at = (0..length).step_by(WORD);
            places.extend(at.map(|at| (begin + at, word(bytes, at))));
            return;
        }
        length = (length / 2) & !(WORD - 1);
    }
}

/// Adds the values of an object's attributes; `size`: of the object without them. Behind them stands what
/// belongs to others, so they are counted first.
fn add_attributes(
    memory: &mut Remembering<Lent<'_>>,
    layout: &Layout,
    known: &TaskLayout,
    (object, size): (usize, usize),
    places: &mut Vec<(usize, usize)>,
) {
    let mut word_at = |place: usize| read_word(memory, place).unwrap_or(0);
    let (dictionary, values) = match layout.minor {
        10 => (word_at(object + FIRST), 0),
        11 => (
            word_at(object - DICTIONARY_BEFORE),
            word_at(object - VALUES_BEFORE),
        ),
        // Values are told from a dictionary by the lowest bit.
        12 => match word_at(object - DICTIONARY_BEFORE) {
            either if either & 1 == 1 => (0, either + 1),
            dictionary => (dictionary, 0),
        },
        // Behind the object, after a word of their own.
        _ => (word_at(object - DICTIONARY_BEFORE), object + size + WORD),
    };
    if values >= LOWEST && values.is_multiple_of(WORD) {
        // `PyDictValues`: how many there are stands in a byte before them (3.11, 3.12: in the second; 3.13
        // and later: how many there is room for, at the begin of the word).
        let before = if layout.minor < 13 { 2 } else { WORD };
        let count = read(&mut memory.memory, values - before, 1).map_or(0, |byte| byte[0]);
        let count = usize::from(count).min(MAX_VALUES);
        add_words(&mut memory.memory, values, count * WORD, places);
    }
    let is_dictionary = dictionary >= LOWEST
        && dictionary.is_multiple_of(WORD)
        && read_word(memory, dictionary + TYPE) == Some(known.dict);
    if !is_dictionary {
        return;
    }
    let shared = read_word(memory, dictionary + DICTIONARY_VALUES).unwrap_or(0);
    if shared != 0 {
        let used = read_word(&mut memory.memory, dictionary + FIRST).unwrap_or(0);
        let begin = shared + if layout.minor < 13 { 0 } else { WORD };
        let length = used.min(MAX_VALUES) * WORD;
        return add_words(&mut memory.memory, begin, length, places);
    }
    // Which of them it has now.
    if read_word(memory, dictionary + DICTIONARY_KEYS).is_some() {
        each_entry(
            &mut memory.memory,
            layout.minor,
            dictionary,
            |_, value, place| {
                places.push((place, value));
            },
        );
    }
}
