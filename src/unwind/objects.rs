//! What objects are, by the names of their types, and what they refer to. All of it is read while the
//! program runs: each address is looked at before it is believed.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use crate::layout::Layout;
use crate::layout::context::TYPE_NAME;
use crate::layout::locks::INT_DIGITS;
use crate::layout::tasks::{FIRST, HEAP_TYPE, LOWEST, TYPE, TYPE_BASE, TYPE_FLAGS};
use crate::memory::{Range, ReadMemory, int32, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// Types remembered before all are forgotten and looked at anew.
const MAX_TYPES: usize = 2_048;
/// Bases that are looked through.
const MAX_BASES: usize = 8;
/// Attributes that are looked through.
const MAX_VALUES: usize = 64;
/// No name of interest is longer.
const MAX_NAME: usize = 32;
const PAGE: usize = 4_096;
/// No address is higher in any process.
const HIGHEST: usize = 1 << 56;

/// What an object is to whoever looks for locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// `threading.Lock`.
    Lock,
    /// `threading.RLock`.
    RLock,
    /// `queue.SimpleQueue`.
    SimpleQueue,
    /// What the locks of `multiprocessing` are made of.
    SemLock,
    /// `threading.Condition`, or one of asyncio.
    Condition,
    /// `asyncio.Lock`, or another class of this name.
    AsyncLock,
    /// A function of C, bound to its object.
    Builtin,
    /// A bound method of Python.
    Method,
    /// A function of C of a type.
    MethodDescriptor,
    /// A function of Python.
    Function,
    /// `int`.
    Int,
    /// None of these.
    Other,
}

/// Types by the names that C code gives them; those of Python have no dot.
const NAMES: [(&[u8], ObjectKind); 12] = [
    (b"_thread.lock\0", ObjectKind::Lock),
    (b"_thread.RLock\0", ObjectKind::RLock),
    (b"_queue.SimpleQueue\0", ObjectKind::SimpleQueue),
    (b"_multiprocessing.SemLock\0", ObjectKind::SemLock),
    (b"Condition\0", ObjectKind::Condition),
    (b"Lock\0", ObjectKind::AsyncLock),
    (b"builtin_function_or_method\0", ObjectKind::Builtin),
    (b"builtin_method\0", ObjectKind::Builtin),
    (b"method\0", ObjectKind::Method),
    (b"method_descriptor\0", ObjectKind::MethodDescriptor),
    (b"function\0", ObjectKind::Function),
    (b"int\0", ObjectKind::Int),
];

/// Whether this may be the address of an object.
#[must_use]
pub fn may_be_object(address: usize) -> bool {
    (LOWEST..HIGHEST).contains(&address) && address.is_multiple_of(WORD)
}

/// What is known of types.
#[derive(Debug, Default)]
pub struct Types {
    kinds: FxHashMap<usize, ObjectKind>,
}

impl Types {
    /// What an object of the type at `address` is.
    pub fn kind(&mut self, memory: &mut (dyn ReadMemory + '_), address: usize) -> ObjectKind {
        if let Some(known) = self.kinds.get(&address) {
            return *known;
        }
        if self.kinds.len() >= MAX_TYPES {
            self.kinds.clear();
        }
        let found = look_at_type(memory, address).unwrap_or(ObjectKind::Other);
        if self.kinds.try_reserve(1).is_ok() {
            self.kinds.insert(address, found);
        }
        found
    }

    /// What the object at `address` is.
    pub fn of(&mut self, memory: &mut (dyn ReadMemory + '_), address: usize) -> ObjectKind {
        if !may_be_object(address) {
            return ObjectKind::Other;
        }
        match read_word(memory, address + TYPE) {
            Some(kind) => self.kind(memory, kind),
            None => ObjectKind::Other,
        }
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.kinds.capacity() * (size_of::<(usize, ObjectKind)>() + 1)
    }
}

fn look_at_type(memory: &mut (dyn ReadMemory + '_), address: usize) -> Option<ObjectKind> {
    let mut kind = address;
    for _ in 0..MAX_BASES {
        if !may_be_object(kind) {
            return None;
        }
        let name = read_word(memory, kind + TYPE_NAME)?;
        let text = c_string(memory, name)?;
        let mut names = NAMES.iter();
        if let Some((_, found)) = names.find(|(known, _)| text.starts_with(known)) {
            return Some(*found);
        }
        if read_word(memory, kind + TYPE_FLAGS)? & HEAP_TYPE == 0 {
            return None;
        }
        kind = read_word(memory, kind + TYPE_BASE)?;
    }
    None
}

/// The begin of a string of C, with its end if it is no longer than a name.
pub fn c_string(memory: &mut (dyn ReadMemory + '_), address: usize) -> Option<[u8; MAX_NAME]> {
    // It may end where memory does.
    let length = MAX_NAME.min(PAGE - address % PAGE);
    let bytes = read(memory, address, length)?;
    let mut text = [0; MAX_NAME];
    text[..length].copy_from_slice(bytes);
    Some(text)
}

/// Whether the method of C that is described at `method` has this name, which ends with a zero.
pub fn is_called(memory: &mut (dyn ReadMemory + '_), method: usize, name: &[u8]) -> bool {
    let said = read_word(memory, method).and_then(|said| c_string(memory, said));
    said.is_some_and(|said| said.starts_with(name))
}

/// Adds the values of the attributes of an instance of a class of Python, in the order in which they
/// were set; the first `count` of them where it does not say how many it has (before 3.13).
pub fn attributes(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    owner: usize,
    count: usize,
    values: &mut Vec<usize>,
) {
    let Some(place) = place_of_attributes(memory, layout, owner, count) else {
        return;
    };
    let Place { begin, step, count } = place;
    if !may_be_object(begin) || count == 0 {
        return;
    }
    if let Some(bytes) = read(memory, begin, (count - 1) * step + WORD) {
        values.extend((0..count).map(|at| word(bytes, at * step)));
    }
}

/// Where values are, and from each to the next.
#[derive(Clone, Copy, Debug)]
struct Place {
    begin: usize,
    step: usize,
    count: usize,
}

fn place_of_attributes(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    owner: usize,
    count: usize,
) -> Option<Place> {
    let row = |begin| Place {
        begin,
        step: WORD,
        count,
    };
    let dictionary = match layout.minor {
        10 => read_word(memory, owner.checked_add(FIRST)?)?,
        // Values, or else a dictionary.
        11 => match read_word(memory, owner.checked_sub(4 * WORD)?)? {
            0 => read_word(memory, owner.checked_sub(3 * WORD)?)?,
            values => return Some(row(values)),
        },
        // The lowest bit tells.
        12 => match read_word(memory, owner.checked_sub(3 * WORD)?)? {
            values if values & 1 == 1 => return Some(row(values.checked_add(1)?)),
            dictionary => dictionary,
        },
        // `PyDictValues` behind the object's head: capacity, size, whether it is part of the object,
        // whether it is in use.
        _ => {
            let head = read_word(memory, owner.checked_add(FIRST)?)?.to_ne_bytes();
            let count = usize::from(head[0]).min(MAX_VALUES);
            let is_used = head[2] == 1 && head[3] == 1;
            let begin = owner.checked_add(FIRST + WORD)?;
            return is_used.then_some(Place {
                begin,
                step: WORD,
                count,
            });
        }
    };
    place_in_dictionary(memory, layout, dictionary, count)
}

/// Values of a dictionary (`Include/internal/pycore_dict.h`, 3.10-3.12).
fn place_in_dictionary(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    dictionary: usize,
    count: usize,
) -> Option<Place> {
    /// `PyDictObject.ma_keys`, and `ma_values` where keys are shared.
    const KEYS: usize = 32;
    const VALUES: usize = 40;
    /// Before the indexes: `dk_size` (3.10), or its logarithm, that of the indexes' bytes, and the
    /// kind of the entries; the entries in use.
    const HEAD: usize = 32;
    const HEAD_3_10: usize = 40;
    const IN_USE: usize = 24;
    const IN_USE_3_10: usize = 32;
    const MOST: usize = 1 << 7;
    let bytes = read(memory, dictionary.checked_add(KEYS)?, 2 * WORD)?;
    let (keys, shared) = (word(bytes, 0), word(bytes, VALUES - KEYS));
    if shared != 0 {
        return Some(Place {
            begin: shared,
            step: WORD,
            count,
        });
    }
    let head = read(memory, keys, HEAD_3_10)?;
    let (in_use, entries, step) = if layout.minor == 10 {
        let size = Some(word(head, WORD)).filter(|size| *size <= MOST)?;
        (word(head, IN_USE_3_10), HEAD_3_10 + size, 3 * WORD)
    } else {
        let [_, indexes, kind, ..] = word(head, WORD).to_ne_bytes();
        let indexes = 1_usize
            .checked_shl(u32::from(indexes))
            .filter(|size| *size <= MOST)?;
        // Of strings alone, without their hashes.
        let step = if kind == 0 { 3 * WORD } else { 2 * WORD };
        (word(head, IN_USE), HEAD + indexes, step)
    };
    Some(Place {
        begin: keys.checked_add(entries + step - WORD)?,
        step,
        count: count.min(in_use),
    })
}

/// The number that the `int` at `address` is, if it has two digits, as addresses have.
pub fn long_int(
    memory: &mut (dyn ReadMemory + '_),
    types: &mut Types,
    layout: &Layout,
    address: usize,
) -> Option<usize> {
    if types.of(memory, address) != ObjectKind::Int {
        return None;
    }
    let bytes = read(memory, address + FIRST, INT_DIGITS - FIRST + WORD)?;
    let head = word(bytes, 0);
    // The number of digits (`ob_size`), shifted by three bits from 3.12 on (`lv_tag`).
    let digits = if layout.minor < 12 { head } else { head >> 3 };
    let digit = |at| usize::try_from(int32(bytes, INT_DIGITS - FIRST + at)).ok();
    (digits == 2 && (layout.minor < 12 || head & 3 == 0))
        .then(|| Some(digit(0)? | digit(4)? << 30))
        .flatten()
}

/// Copies `length` bytes from each of `addresses`; `take` is told of those that can be read.
pub fn for_each(
    memory: &mut (dyn ReadMemory + '_),
    addresses: &[usize],
    length: usize,
    mut take: impl FnMut(usize, &[u8]),
) {
    /// The kernel takes 1,024 ranges.
    const MOST: usize = 256;
    let mut from = 0;
    while from < addresses.len() {
        let to = addresses.len().min(from + MOST);
        let ranges: Vec<Range> = addresses[from..to]
            .iter()
            .map(|address| Range::new(*address, length))
            .collect();
        let whole = memory.read_batch(&ranges);
        let bytes = memory.bytes();
        for at in 0..whole {
            take(from + at, &bytes[at * length..(at + 1) * length]);
        }
        // One that cannot be read is left out.
        from += if whole == ranges.len() {
            whole
        } else {
            whole + 1
        };
    }
}
