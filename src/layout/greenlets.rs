//! Where greenlets keep their frames, found in specimens that `python/rprof/_greenlets.py` makes.
//!
//! A greenlet (`PyGreenlet`) refers to an object of C++ whose heads are the same in all versions:
//! what it has of the C stack, and behind that what it has taken from the thread state when it was
//! left, the context and the newest frame first (`StackState`, `PythonState` of greenlet 3). From 3.12
//! on it also leaves out the frames on the C stack when it is left, so that the others lead to each
//! other.
#![forbid(unsafe_code)]

use super::Layout;
use super::tasks::{FIRST, LOWEST, Specimens, TYPE};
use crate::memory::{ReadMemory, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// `PyGreenlet` is not larger.
pub const HEAD_BYTES: usize = 8 * WORD;
/// So much of the object of C++ is looked through.
const INSIDE_BYTES: usize = 64 * WORD;
/// From the newest frame back to the context, and to both ends of the C stack.
const CONTEXT_BEFORE: usize = WORD;
const STACK_STOP_BEFORE: usize = 5 * WORD;
const STACK_START_BEFORE: usize = 6 * WORD;
/// `PyFrameObject` is looked through so far for the frame that it stands for.
const FRAME_OBJECT_BYTES: usize = 8 * WORD;
/// So much of a dictionary's keys is looked through for a name.
pub const KEYS_BYTES: usize = 64 * WORD;
/// Of a dictionary with more places the keys are not looked through.
const MAX_INDICES: usize = 64;

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GreenletLayout {
    /// From a greenlet to the object of C++.
    pub inside: usize,
    /// From there to the newest frame, which is there only while the greenlet is suspended.
    pub frame: usize,
    /// From there to the first greenlet of the thread.
    pub main: usize,
    /// From there to the greenlet that goes on when this one ends.
    pub parent: usize,
    /// From the object of C++ of the first greenlet of a thread to what greenlet knows of the thread:
    /// that greenlet, and the one that runs (`ThreadState`).
    pub thread: usize,
    /// From there on, as much as has all of it.
    pub inside_bytes: usize,
    /// From a frame object to the frame (3.11 and later).
    pub frame_of_object: Option<usize>,
    /// From a greenlet to the dictionary of its attributes.
    pub attributes: usize,
    /// From a dictionary to its keys.
    pub keys: usize,
    /// The attribute's name that is a greenlet's name, and the type that this has.
    pub name_key: usize,
    /// See [`Self::name_key`].
    pub text_type: usize,
    /// How the keys of a dictionary are written.
    entries: Entries,
}

/// How the keys of a dictionary are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entries {
    /// As in 3.10.
    Old,
    /// As from 3.11 on.
    New,
}

impl Entries {
    /// Where the entries begin in a copy of the keys, how many there are, the bytes of each, and from an
    /// entry to its key, behind which its value stands (`Include/internal/pycore_dict.h`).
    fn of(self, keys: &[u8]) -> Option<(usize, usize, usize, usize)> {
        match self {
            // `dk_size` tells how many indices there are, each of one byte in all but large ones.
            Self::Old => {
                let size = word(keys, WORD);
                let small = size.is_power_of_two() && size <= MAX_INDICES;
                small.then(|| (5 * WORD + size, word(keys, 4 * WORD), 3 * WORD, WORD))
            }
            Self::New => {
                let (index_bytes, kind) = (*keys.get(9)?, *keys.get(10)?);
                let size = 1_usize.checked_shl(u32::from(index_bytes))?;
                let (length, key) = if kind == 0 {
                    (3 * WORD, WORD)
                } else {
                    (2 * WORD, 0)
                };
                let small = size <= MAX_INDICES;
                small.then(|| (4 * WORD + size, word(keys, 3 * WORD), length, key))
            }
        }
    }
}

/// What a greenlet is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GreenletState {
    /// It has not begun, or has ended.
    Idle,
    /// A thread runs it.
    Runs,
    /// It has been left and may go on.
    Suspended,
}

impl GreenletLayout {
    /// Finds everything in the specimens.
    ///
    /// # Errors
    /// What was not found.
    pub fn learn(
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        specimens: Specimens<'_>,
    ) -> Result<Self, String> {
        let greenlet = specimens.get("greenlet")?;
        let head = read(memory, greenlet, HEAD_BYTES).ok_or("a greenlet cannot be read")?;
        let head = head.to_vec();
        let newest = specimens.get("frame")?;
        let (inside, frame) = (FIRST..HEAD_BYTES)
            .step_by(WORD)
            .find_map(|at| {
                let bytes = read(memory, word(&head, at), INSIDE_BYTES)?;
                let inside = find(bytes, STACK_START_BEFORE + WORD, newest)?;
                Some((at, inside))
            })
            .ok_or("a greenlet's newest frame is not to be found")?;
        let bytes = read(memory, word(&head, inside), INSIDE_BYTES)
            .ok_or("a greenlet cannot be read")?
            .to_vec();
        let found = |name: &str| -> Result<usize, String> {
            find(&bytes, frame + WORD, specimens.get(name)?)
                .ok_or_else(|| format!("a greenlet's {name} is not to be found"))
        };
        let (main, parent) = (found("main")?, found("parent")?);
        let attributes = find(&head, FIRST, specimens.get("attributes")?)
            .ok_or("a greenlet's attributes are not to be found")?;
        let name_key = specimens.get("name key")?;
        let mut known = Self {
            inside,
            frame,
            main,
            parent,
            thread: 0,
            inside_bytes: main.max(parent) + WORD,
            frame_of_object: None,
            attributes,
            keys: 0,
            name_key,
            text_type: read_word(memory, name_key + TYPE).unwrap_or(0),
            entries: if layout.has_heap_frames() {
                Entries::Old
            } else {
                Entries::New
            },
        };
        known.thread = known.learn_thread(memory, specimens)?;
        known.keys = known.learn_keys(memory, specimens)?;
        if !layout.has_heap_frames() {
            let code = specimens.get("code")?;
            known.frame_of_object = Some(learn_frame(memory, layout, newest, code)?);
        }
        known.check(memory, specimens)?;
        Ok(known)
    }

    fn learn_thread(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        specimens: Specimens<'_>,
    ) -> Result<usize, String> {
        let (main, running) = (specimens.get("main")?, specimens.get("running")?);
        let inside = read_word(memory, main + self.inside).unwrap_or(0);
        let inside = read(memory, inside, INSIDE_BYTES).map_or_else(Vec::new, <[u8]>::to_vec);
        (self.frame..inside.len())
            .step_by(WORD)
            .find(|at| {
                let thread = word(&inside, *at);
                let is_possible = thread >= LOWEST && thread.is_multiple_of(WORD);
                let words = is_possible
                    .then(|| read(memory, thread, 2 * WORD))
                    .flatten();
                words.is_some_and(|words| word(words, 0) == main && word(words, WORD) == running)
            })
            .ok_or_else(|| "which greenlet a thread runs is not to be found".to_owned())
    }

    fn learn_keys(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        specimens: Specimens<'_>,
    ) -> Result<usize, String> {
        let attributes = specimens.get("attributes")?;
        let name = specimens.get("name")?;
        (FIRST..HEAD_BYTES)
            .step_by(WORD)
            .find(|at| {
                let keys = read_word(memory, attributes + at).unwrap_or(0);
                let keys = read_keys(memory, keys).unwrap_or_default();
                let value = self.name_among(&keys).map(|at| word(&keys, at));
                value == Some(name)
            })
            .ok_or_else(|| "a greenlet's name is not to be found".to_owned())
    }

    /// Up to what is needed of a greenlet.
    #[must_use]
    pub fn head_bytes(&self) -> usize {
        self.inside.max(self.attributes) + WORD
    }

    /// Where among the keys of a greenlet's attributes its name is told, behind the key; `None` if it has
    /// none, or more attributes than are looked through.
    #[must_use]
    pub fn name_among(&self, keys: &[u8]) -> Option<usize> {
        let (begin, count, length, key) = self.entries.of(keys)?;
        let mut entries = (0..count.min(MAX_INDICES)).map(|entry| begin + entry * length + key);
        let at = entries.find(|at| word(keys, *at) == self.name_key)?;
        // Dictionaries that share their keys have their values elsewhere.
        (word(keys, at + WORD) >= LOWEST).then_some(at + WORD)
    }

    /// Whether greenlets in every state look as they should.
    fn check(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        specimens: Specimens<'_>,
    ) -> Result<(), String> {
        let mut inside = |name: &str| -> Result<Vec<u8>, String> {
            let greenlet = specimens.get(name)?;
            let inside = read_word(memory, greenlet + self.inside).unwrap_or(0);
            let bytes = read(memory, inside, self.inside_bytes);
            Ok(bytes.ok_or("a greenlet cannot be read")?.to_vec())
        };
        let suspended = inside("greenlet")?;
        let is_right = self.state(&suspended) == GreenletState::Suspended
            && self.context(&suspended) == specimens.get("context")?
            && self.state(&inside("running")?) == GreenletState::Runs
            && self.state(&inside("new")?) == GreenletState::Idle
            && self.state(&inside("ended")?) == GreenletState::Idle
            && self.is_main(&inside("main")?)
            && !self.is_main(&suspended);
        if is_right {
            Ok(())
        } else {
            Err("a greenlet does not show what it does".to_owned())
        }
    }

    /// What a greenlet is doing, by a copy of the object of C++. One that runs is told from one that was left
    /// in code of C alone by [`Self::thread`].
    #[must_use]
    pub fn state(&self, inside: &[u8]) -> GreenletState {
        if word(inside, self.frame - STACK_START_BEFORE) == 0 {
            GreenletState::Idle
        } else if word(inside, self.frame) == 0 {
            GreenletState::Runs
        } else {
            GreenletState::Suspended
        }
    }

    /// The context that it will go on in.
    #[must_use]
    pub fn context(&self, inside: &[u8]) -> usize {
        word(inside, self.frame - CONTEXT_BEFORE)
    }

    /// Whether it is the first greenlet of a thread: its C stack has no end.
    #[must_use]
    pub fn is_main(&self, inside: &[u8]) -> bool {
        word(inside, self.frame - STACK_STOP_BEFORE) == usize::MAX
    }
}

/// The keys of a dictionary, as far as they are looked through.
fn read_keys(memory: &mut (dyn ReadMemory + '_), keys: usize) -> Option<Vec<u8>> {
    /// They are shorter where memory ends.
    const SHORTER: [usize; 3] = [KEYS_BYTES, 24 * WORD, 12 * WORD];
    if keys < LOWEST {
        return None;
    }
    let mut lengths = SHORTER.iter();
    lengths.find_map(|length| Some(read(memory, keys, *length)?.to_vec()))
}

/// The offset from `from` on of the first word that is `value`.
fn find(bytes: &[u8], from: usize, value: usize) -> Option<usize> {
    let mut words = (from..bytes.len()).step_by(WORD);
    words.find(|at| word(bytes, *at) == value && value != 0)
}

fn learn_frame(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    object: usize,
    code: usize,
) -> Result<usize, String> {
    (FIRST..FRAME_OBJECT_BYTES)
        .step_by(WORD)
        .find(|at| {
            let frame = read_word(memory, object + at).unwrap_or(0);
            let found = frame.checked_add(layout.frame.code);
            let found = found.and_then(|place| read_word(memory, place));
            frame >= LOWEST && found.is_some_and(|found| found & !layout.frame.code_tags == code)
        })
        .ok_or_else(|| "a frame object does not lead to its frame".to_owned())
}
