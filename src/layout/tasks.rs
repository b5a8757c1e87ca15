//! Where asyncio keeps what: tasks, futures, and who is to be told of a future's end.
//!
//! CPython publishes none of it in 3.10-3.13 and a part in 3.14 and later. What moves between
//! versions is found in specimens: objects that `python/rprof/_tasks.py` makes and knows all about.
//! A field is where a specimen has the address of what it is known to refer to. What has stood still
//! in 3.10-3.15 is a constant here, and the specimens show whether it still does.
#![forbid(unsafe_code)]

use super::Layout;
use super::loops::{LoopPlace, Running};
use super::steps::StepLayout;
use crate::memory::{ReadMemory, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// `PyObject.ob_type`.
pub const TYPE: usize = WORD;
/// `PyVarObject.ob_size`.
pub const SIZE: usize = 2 * WORD;
/// `PyTypeObject.tp_basicsize`, `tp_flags`, `tp_base` (`Include/cpython/object.h`).
pub const TYPE_SIZE: usize = 32;
/// See [`TYPE_SIZE`].
pub const TYPE_FLAGS: usize = 168;
/// See [`TYPE_SIZE`].
pub const TYPE_BASE: usize = 256;
/// `Py_TPFLAGS_HEAPTYPE`: types made at run time, which may have any name.
pub const HEAP_TYPE: usize = 1 << 9;
/// `PySetObject.used`, `mask`, `table`; an entry is a key and its hash (`Include/cpython/setobject.h`).
pub const SET_USED: usize = 24;
/// See [`SET_USED`].
pub const SET_MASK: usize = 32;
/// See [`SET_USED`].
pub const SET_TABLE: usize = 40;
/// See [`SET_USED`].
pub const SET_ENTRY: usize = 2 * WORD;
/// `PyWeakReference.wr_object`, `PyCell.ob_ref`, `PyMethodObject.im_func`, `PyCFunctionObject.m_ml`,
/// `partialobject.fn`, and what each awaitable made of another begins with.
pub const FIRST: usize = 16;
/// `PyMethodObject.im_self`, `PyCFunctionObject.m_self`, `partialobject.args`, `PyListObject.ob_item`; and
/// the first item of a tuple, but see [`TaskLayout::items`].
pub const SECOND: usize = 24;
/// `dequeobject.leftblock` and `leftindex` (`Modules/_collectionsmodule.c`); a block has its items
/// behind a link.
pub const DEQUE_BLOCK: usize = 24;
/// See [`DEQUE_BLOCK`].
pub const DEQUE_INDEX: usize = 40;
/// See [`DEQUE_BLOCK`].
pub const BLOCK_ITEMS: usize = WORD;
/// From the first callback of a future to the list of the others.
pub const CALLBACKS: usize = 2 * WORD;
/// Attributes of an object that are looked through.
const MAX_SLOTS: usize = 32;
/// A thread state is not larger (3.14 and later).
const MAX_THREAD_BYTES: usize = 4_096;
/// No object of interest is larger.
const MAX_OBJECT_BYTES: usize = 1_024;
/// The first pages are never mapped.
pub const LOWEST: usize = 4_096;

/// What an object is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A coroutine; it only stops where it awaits.
    Coroutine,
    /// A generator or an asynchronous one; it may also stop at a `yield`.
    Generator,
    /// What is awaited on behalf of what it begins with.
    Wrapper,
    /// `asyncio.Task`, or made of it.
    Task,
    /// `asyncio.Future`, or made of it.
    Future,
    /// A function of Python.
    Function,
    /// A bound method of Python.
    Method,
    /// A function of C, bound to its module or object.
    Builtin,
    /// `functools.partial`.
    Partial,
    /// `asyncio.Queue`.
    Queue,
    /// `weakref.ref`.
    Weak,
    /// `set`.
    Set,
    /// `str`.
    Text,
    /// None of these.
    Other,
}

/// Where an attribute of an instance is: the instances of a class that were filled alike have it in
/// the same place.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    minor: u32,
    index: usize,
}

/// The tasks of a process.
#[derive(Clone, Debug)]
pub enum TaskLists {
    /// Sets of weak references and of tasks (3.10-3.13).
    Sets(Vec<usize>),
    /// A ring in each thread state, and the links in each task (3.14 and later).
    Threads {
        /// The ring's head, in a thread state.
        head: usize,
        /// The link, in a task.
        node: usize,
    },
}

/// How a task came to wait for another, where no frame of its own tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A frame tells, or it awaits the other itself.
    Frames,
    /// `asyncio.gather`.
    Gather,
    /// `asyncio.shield`.
    Shield,
}

impl Via {
    /// By the number that `python/rprof/_tasks.py` has for it.
    fn of(number: usize) -> Self {
        match number {
            1 => Self::Gather,
            2 => Self::Shield,
            _ => Self::Frames,
        }
    }
}

/// A function that asyncio has called back.
#[derive(Clone, Copy, Debug)]
pub struct Closure {
    /// Its code.
    pub code: usize,
    /// Which variable leads to the waiter.
    pub variable: usize,
    /// What made it.
    pub via: Via,
}

/// Everything known of this interpreter's asyncio.
#[derive(Clone, Debug)]
pub struct TaskLayout {
    kinds: Vec<(usize, Kind)>,
    /// The tasks.
    pub lists: TaskLists,
    /// `Task.get_coro()`.
    pub coroutine: usize,
    /// `Task.get_name()`.
    pub name: usize,
    /// The context that a task's steps run in.
    pub context: usize,
    /// A future's first callback; see [`CALLBACKS`].
    pub callback: usize,
    /// Who awaits a future, and a byte that says whether that is a set (3.14 and later).
    pub awaited_by: Option<(usize, usize)>,
    /// Coroutines and generators.
    pub step: StepLayout,
    /// `function.__code__` and `__closure__`.
    pub function: (usize, usize),
    /// The first item of a tuple.
    pub items: usize,
    /// Functions that asyncio has called back.
    pub closures: Vec<Closure>,
    /// Methods that asyncio has called back: which attribute of theirs leads to the waiter.
    pub methods: Vec<(usize, Slot)>,
    /// The function that `wait_for` has called back with a future (3.10, 3.11); 0 if none.
    pub release: usize,
    /// Where a queue keeps who waits for an item.
    pub getters: Option<Slot>,
    /// How the running task of a thread is found.
    pub running: Running,
    /// How the loop of a thread is found.
    pub loops: Option<LoopPlace>,
    /// The type of what a loop keeps its callbacks in, and that of dictionaries; 0 if unknown.
    pub deque: usize,
    /// See [`Self::deque`].
    pub dict: usize,
}

/// What is known of the specimens: names and addresses. A name that stands several times makes a list.
#[derive(Clone, Copy, Debug)]
pub struct Specimens<'facts>(pub &'facts [(String, usize)]);

impl Specimens<'_> {
    /// All addresses of this name.
    pub fn all<'own>(&'own self, name: &'own str) -> impl Iterator<Item = usize> + 'own {
        let is_it = move |fact: &&(String, usize)| fact.0 == name;
        self.0.iter().filter(is_it).map(|(_, address)| *address)
    }

    /// The address of this name.
    ///
    /// # Errors
    /// That there is none.
    pub fn get(&self, name: &str) -> Result<usize, String> {
        let found = self.all(name).next();
        found.ok_or_else(|| format!("there is no specimen {name}"))
    }
}

/// The offset in the object at `owner` of the last word that is `value`.
pub(super) fn offset(
    memory: &mut (dyn ReadMemory + '_),
    owner: usize,
    value: usize,
) -> Option<usize> {
    let kind = read_word(memory, owner + TYPE)?;
    let size = read_word(memory, kind.checked_add(TYPE_SIZE)?)?;
    // A coroutine is as long as its frame needs, which its type does not say.
    let bytes = read(memory, owner, size.clamp(2 * WORD, MAX_OBJECT_BYTES))?;
    let words = (FIRST..size.min(MAX_OBJECT_BYTES)).step_by(WORD);
    words
        .rev()
        .find(|at| word(bytes, *at) == value && value != 0)
}

impl TaskLayout {
    /// Finds everything in the specimens. `thread` is the calling thread's state.
    ///
    /// # Errors
    /// What was not found.
    pub fn learn(
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        minor: u32,
        thread: usize,
        specimens: Specimens<'_>,
    ) -> Result<Self, String> {
        let mut at = |owner: &str, value: &str| -> Result<usize, String> {
            offset(memory, specimens.get(owner)?, specimens.get(value)?)
                .ok_or_else(|| format!("{value} is not to be found in {owner}"))
        };
        let (coroutine, name) = (at("task", "coroutine")?, at("task", "name")?);
        let context = at("task", "context")?;
        let callback = at("future", "callback")?;
        let function = (at("callback", "code")?, at("callback", "closure")?);
        let step = StepLayout::learn(memory, layout, minor, specimens)?;
        let lists = learn_lists(memory, minor, thread, specimens)?;
        let awaited_by = match specimens.get("awaited") {
            Ok(awaited) => Some(learn_awaited_by(memory, awaited, specimens)?),
            Err(_) => None,
        };
        let slot = |memory: &mut (dyn ReadMemory + '_), owner: &str, value: &str| {
            Slot::learn(
                memory,
                minor,
                specimens.get(owner).ok()?,
                specimens.get(value).ok()?,
            )
        };
        let mut methods = Vec::new();
        for (function, owner, value) in [
            ("group method", "group", "task"),
            ("iterator method", "iterator", "queue"),
        ] {
            if let (Ok(function), Some(slot)) =
                (specimens.get(function), slot(memory, owner, value))
            {
                methods.push((function, slot));
            }
        }
        let kinds = [
            ("type coroutine", Kind::Coroutine),
            ("type generator", Kind::Generator),
            ("type asyncgen", Kind::Generator),
            ("type step", Kind::Wrapper),
            ("type task", Kind::Task),
            ("type future", Kind::Future),
            ("type function", Kind::Function),
            ("type method", Kind::Method),
            ("type builtin", Kind::Builtin),
            ("type partial", Kind::Partial),
            ("type queue", Kind::Queue),
            ("type weak", Kind::Weak),
            ("type set", Kind::Set),
            ("type str", Kind::Text),
        ];
        Ok(Self {
            kinds: kinds
                .iter()
                .filter_map(|(name, kind)| Some((specimens.get(name).ok()?, *kind)))
                .collect(),
            lists,
            coroutine,
            name,
            context,
            callback,
            awaited_by,
            step,
            function,
            items: learn_items(memory, specimens),
            closures: learn_closures(specimens),
            methods,
            release: specimens.get("release").unwrap_or(0),
            getters: slot(memory, "queue", "getters"),
            running: Running::learn(memory, minor, thread, specimens)?,
            loops: LoopPlace::learn(memory, minor, thread, specimens),
            deque: specimens.get("type deque").unwrap_or(0),
            dict: specimens.get("type dict").unwrap_or(0),
        })
    }

    /// What objects of the type at `address` are, if that is known without looking at it.
    #[must_use]
    pub fn known_kind(&self, address: usize) -> Option<Kind> {
        let mut known = self.kinds.iter();
        known
            .find(|(known, _)| *known == address)
            .map(|(_, kind)| *kind)
    }

    /// What an object's type says that it is.
    pub fn kind(&self, memory: &mut (dyn ReadMemory + '_), kind: usize) -> Kind {
        self.known_kind(kind)
            .or_else(|| self.kind_of_type(memory, kind))
            .unwrap_or(Kind::Other)
    }

    fn kind_of_type(&self, memory: &mut (dyn ReadMemory + '_), kind: usize) -> Option<Kind> {
        /// Awaitables that are made for no other purpose (`Objects/genobject.c`, `iterobject.c`).
        const WRAPPERS: [&[u8]; 4] = [
            b"async_generator_asend\0",
            b"async_generator_athrow\0",
            b"coroutine_wrapper\0",
            b"anext_awaitable\0",
        ];
        const LONGEST: usize = 24;
        const MAX_BASES: usize = 16;
        let flags = read_word(memory, kind.checked_add(TYPE_FLAGS)?)?;
        if flags & HEAP_TYPE == 0 {
            let name = read_word(memory, kind.checked_add(super::context::TYPE_NAME)?)?;
            // A name may end where memory does.
            let text = (1..=LONGEST)
                .rev()
                .find_map(|length| read(memory, name, length).map(<[u8]>::to_vec))?;
            let is_wrapper = WRAPPERS.iter().any(|wrapper| text.starts_with(wrapper));
            return is_wrapper.then_some(Kind::Wrapper);
        }
        let mut base = kind;
        for _ in 0..MAX_BASES {
            base = read_word(memory, base.checked_add(TYPE_BASE)?)?;
            if let Some(known @ (Kind::Task | Kind::Future | Kind::Queue)) = self.known_kind(base) {
                return Some(known);
            }
        }
        None
    }
}

impl Slot {
    fn learn(
        memory: &mut (dyn ReadMemory + '_),
        minor: u32,
        owner: usize,
        value: usize,
    ) -> Option<Self> {
        (0..MAX_SLOTS)
            .map(|index| Self { minor, index })
            .find(|slot| slot.read(memory, owner) == Some(value))
    }

    /// The attribute's value; `None` if the object keeps its attributes otherwise.
    pub fn read(&self, memory: &mut (dyn ReadMemory + '_), owner: usize) -> Option<usize> {
        let values = match self.minor {
            // A dictionary that shares its keys: `PyDictObject.ma_values`.
            10 => {
                let dictionary = read_word(memory, owner.checked_add(FIRST)?)?;
                read_word(memory, dictionary.checked_add(40)?)?
            }
            11 => read_word(memory, owner.checked_sub(4 * WORD)?)?,
            // Values are told from a dictionary by the lowest bit.
            12 => {
                let either = read_word(memory, owner.checked_sub(3 * WORD)?)?;
                (either & 1 == 1).then_some(either)?.checked_add(1)?
            }
            // `PyDictValues` behind the object's head, after 8 bytes of its own.
            _ => owner.checked_add(FIRST + WORD)?,
        };
        if values < LOWEST {
            return None;
        }
        let value = read_word(memory, values.checked_add(self.index * WORD)?)?;
        (value >= LOWEST).then_some(value)
    }
}

/// Where the items of a tuple begin: one keeps its hash before them in 3.14 and later.
fn learn_items(memory: &mut (dyn ReadMemory + '_), specimens: Specimens<'_>) -> usize {
    let (closure, cell) = (specimens.get("closure"), specimens.get("cell"));
    let mut begins = [SECOND, SECOND + WORD].into_iter();
    let is_first = |at: &usize| match (&closure, &cell) {
        (Ok(closure), Ok(cell)) => read_word(memory, closure + at) == Some(*cell),
        _ => true,
    };
    begins.find(is_first).unwrap_or(SECOND)
}

fn learn_closures(specimens: Specimens<'_>) -> Vec<Closure> {
    let codes = specimens.all("closure code");
    let variables = specimens.all("closure variable");
    let vias = specimens.all("closure via").chain(std::iter::repeat(0));
    let all = codes.zip(variables).zip(vias);
    all.map(|((code, variable), via)| Closure {
        code,
        variable,
        via: Via::of(via),
    })
    .collect()
}

fn learn_lists(
    memory: &mut (dyn ReadMemory + '_),
    minor: u32,
    thread: usize,
    specimens: Specimens<'_>,
) -> Result<TaskLists, String> {
    if minor < 14 {
        return Ok(TaskLists::Sets(specimens.all("set").collect()));
    }
    let task = specimens.get("task")?;
    let bytes = read(memory, task, MAX_OBJECT_BYTES.min(22 * WORD)).ok_or("no task can be read")?;
    // The newest is the last of its thread's ring.
    let node = (FIRST..bytes.len()).step_by(WORD).find_map(|at| {
        let head = word(bytes, at).checked_sub(thread)?;
        (head < MAX_THREAD_BYTES).then_some((at, head))
    });
    let (node, head) = node.ok_or("the list of tasks is not to be found")?;
    let last = read_word(memory, thread + head + WORD);
    if last != Some(task + node) {
        return Err("the list of tasks does not end with the newest".to_owned());
    }
    Ok(TaskLists::Threads { head, node })
}

/// `awaited` is awaited by the task; `shared` by the task and one more, and has a set for that.
fn learn_awaited_by(
    memory: &mut (dyn ReadMemory + '_),
    awaited: usize,
    specimens: Specimens<'_>,
) -> Result<(usize, usize), String> {
    let task = specimens.get("task")?;
    let at = offset(memory, awaited, task).ok_or("who awaits a future is not to be found")?;
    let shared = specimens.get("shared")?;
    let mut copy = |address| {
        let bytes = read(memory, address, at + 2 * WORD)?;
        Some(bytes[at + WORD..].to_vec())
    };
    let (one, several) = copy(awaited)
        .zip(copy(shared))
        .ok_or("a future cannot be read")?;
    let changed: Vec<usize> = (0..one.len())
        .filter(|byte| (one[*byte], several[*byte]) == (0, 1))
        .collect();
    match changed[..] {
        [byte] => Ok((at, at + WORD + byte)),
        _ => Err("a future does not tell whether several await it".to_owned()),
    }
}
