//! Code objects: what is known of each, found by its address.
//!
//! CPython gives the address of a code object that died to the next one at once. The interpreter
//! therefore reports each death ([`FREED`]), and what was known of that address is forgotten
//! before it is looked up again.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rustc_hash::FxHashMap;

use super::frames::{NOT_BEGUN, Pseudo, RawFrame};
use super::linetable::LineTable;
use super::text::read_strings;
use crate::layout::{Instruction, Layout};
use crate::memory::{Range, ReadMemory, int32, read, reserve, word};
use crate::model::function::{Function, GATHER, MAX_FILE_BYTES, MAX_NAME_BYTES, SHIELD};
use crate::model::module_name::ImportRoots;
use crate::model::stack::{Frame, FunctionSerial, FunctionTable};

/// Code objects remembered before all are forgotten and learnt anew.
const MAX_ENTRIES: usize = 16_384;
/// Bytes of line tables remembered.
const MAX_TABLE_BYTES: usize = 16 << 20;
/// Line tables larger than this are not read: the function's first line has to do.
const MAX_LINETABLE: usize = 512 << 10;
/// Deaths between two ticks that are told one by one.
const RING: usize = 4_096;
/// `ob_type` of every object.
const TYPE_OFFSET: usize = size_of::<usize>();
/// Bytes of an instruction.
const UNIT: usize = 2;

/// Addresses of code objects that have died.
pub struct FreedCodes {
    count: AtomicU64,
    addresses: [AtomicUsize; RING],
}

/// Written by whatever thread frees a code object, read by the sampler.
pub static FREED: FreedCodes = FreedCodes {
    count: AtomicU64::new(0),
    addresses: [const { AtomicUsize::new(0) }; RING],
};

/// Objects are aligned to 8 bytes at least: the bits below tell one round of the ring from others.
const ROUNDS: u64 = 8;

impl FreedCodes {
    /// Reports a death; to be called before the memory is given back. Neither waits nor fails.
    pub fn push(&self, address: usize) {
        let number = self.count.fetch_add(1, Ordering::AcqRel);
        let (slot, round) = Self::slot(number);
        self.addresses[slot].store(address & !(ROUNDS as usize - 1) | round, Ordering::Release);
    }

    /// How many have died.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Hands those that died after the first `from` to `tell`; false if they are too many to
    /// tell, or one of them is just being reported.
    #[must_use]
    pub fn since(&self, from: u64, mut tell: impl FnMut(usize)) -> bool {
        let to = self.count();
        // Half of the ring is left for deaths that happen meanwhile.
        if to - from >= RING as u64 / 2 {
            return false;
        }
        (from..to).all(|number| {
            let (slot, round) = Self::slot(number);
            let entry = self.addresses[slot].load(Ordering::Acquire);
            tell(entry & !(ROUNDS as usize - 1));
            entry & (ROUNDS as usize - 1) == round
        })
    }

    fn slot(number: u64) -> (usize, usize) {
        // A slot that was never written to is of no round that comes soon.
        let round = (number / RING as u64 + 1) % ROUNDS;
        ((number % RING as u64) as usize, round as usize)
    }
}

#[derive(Debug)]
struct Entry {
    serial: FunctionSerial,
    first_line: u32,
    /// Address of the first instruction; 0 where frames count.
    instructions: usize,
    /// Bytes of instructions.
    length: usize,
    lines: LineTable,
    is_own: bool,
    is_hidden: bool,
}

/// Loops of gevent: a program that loads it anew again and again has many.
const MAX_HUBS: usize = 16;
/// Where gevent has its loop.
const HUB_FILE: &str = "gevent/hub.py";

/// The cache.
#[derive(Debug)]
pub struct CodeCache {
    entries: FxHashMap<usize, Entry>,
    table_bytes: usize,
    seen_freed: u64,
    /// Grows whenever something is forgotten.
    generation: u64,
    roots: ImportRoots,
    own_directory: String,
    /// Address of `PyCode_Type`.
    code_type: usize,
    /// The functions that gevent waits in for something to happen.
    hubs: Vec<FunctionSerial>,
}

/// A stack names a code object that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoCode;

impl CodeCache {
    /// An empty cache. `own_directory` is where rprof's Python files are.
    #[must_use]
    pub fn new(code_type: usize, roots: ImportRoots, own_directory: String) -> Self {
        Self {
            entries: FxHashMap::default(),
            table_bytes: 0,
            seen_freed: FREED.count(),
            generation: 1,
            roots,
            own_directory,
            code_type,
            hubs: Vec::new(),
        }
    }

    /// Forgets the code objects that have died, and everything if the cache is full. Returns
    /// whether everything was forgotten: stacks that name old serials must then be read anew.
    #[inline]
    pub fn forget(&mut self, functions: &mut FunctionTable) -> bool {
        let is_full = self.entries.len() >= MAX_ENTRIES || self.table_bytes >= MAX_TABLE_BYTES;
        (is_full || FREED.count() != self.seen_freed) && self.forget_dead(is_full, functions)
    }

    #[cold]
    fn forget_dead(&mut self, is_full: bool, functions: &mut FunctionTable) -> bool {
        self.generation += 1;
        let count = FREED.count();
        let (entries, table_bytes) = (&mut self.entries, &mut self.table_bytes);
        let are_known = !is_full
            && FREED.since(self.seen_freed, |address| {
                if let Some(entry) = entries.remove(&address) {
                    *table_bytes -= entry.lines.bytes();
                    functions.remove(&entry.serial);
                }
            });
        self.seen_freed = count;
        if !are_known {
            self.table_bytes = 0;
            self.entries.clear();
            functions.clear();
        }
        !are_known
    }

    /// Grows whenever something is forgotten: as long as it is the same, an instruction of a code object
    /// has the name that it had.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Forgets everything, and gives the memory back.
    pub fn forget_all(&mut self) {
        self.generation += 1;
        self.entries = FxHashMap::default();
        self.table_bytes = 0;
    }

    /// Whether one of the code objects of `frames` may have died since the last
    /// [`Self::forget`]; what was found of them is then not to be trusted.
    #[must_use]
    pub fn may_have_died(&self, frames: &[RawFrame]) -> bool {
        let mut has_died = false;
        let are_known = FREED.since(self.seen_freed, |address| {
            has_died |= frames.iter().any(|frame| frame.code == address);
        });
        has_died || !are_known
    }

    /// Names `raw`, leaf first. Frames of rprof itself at the leaf side are left out.
    ///
    /// # Errors
    /// When one of them has no code object.
    pub fn name(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        raw: &[RawFrame],
        functions: &mut FunctionTable,
        frames: &mut Vec<Frame>,
    ) -> Result<(), NoCode> {
        for frame in raw {
            if let Some(pseudo) = frame.as_pseudo() {
                frames.push(pseudo_frame(pseudo, functions));
                continue;
            }
            if !self.entries.contains_key(&frame.code) {
                // Nothing is learnt while there is no memory for it.
                if reserve::is_short() {
                    return Err(NoCode);
                }
                let entry = self
                    .learn(memory, layout, frame.code, functions)
                    .ok_or(NoCode)?;
                self.table_bytes += entry.lines.bytes();
                self.entries.insert(frame.code, entry);
            }
            let Some(entry) = self.entries.get(&frame.code) else {
                return Err(NoCode);
            };
            let line = entry.line(layout, frame.instruction).ok_or(NoCode)?;
            if !(entry.is_hidden || entry.is_own && frames.is_empty()) {
                frames.push(Frame {
                    function: entry.serial,
                    line,
                });
            }
        }
        Ok(())
    }

    /// Whether this is the function in which gevent waits for something to happen.
    #[must_use]
    #[inline]
    pub fn is_hub(&self, function: FunctionSerial) -> bool {
        self.hubs.contains(&function)
    }

    /// How many of these frames have a name; none of them is a leaf.
    #[must_use]
    pub fn count_named(&self, raw: &[RawFrame]) -> usize {
        let is_hidden = |frame: &&RawFrame| {
            let entry = self.entries.get(&frame.code);
            entry.is_some_and(|entry| entry.is_hidden)
        };
        raw.len() - raw.iter().filter(is_hidden).count()
    }

    /// The function of a code object that was named.
    #[must_use]
    pub fn function(&self, code: usize) -> Option<FunctionSerial> {
        self.entries.get(&code).map(|entry| entry.serial)
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.entries.capacity() * (size_of::<Entry>() + 16) + self.table_bytes
    }

    fn learn(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        address: usize,
        functions: &mut FunctionTable,
    ) -> Option<Entry> {
        let code = &layout.code;
        let bytes = read(memory, address, code.size)?;
        if word(bytes, TYPE_OFFSET) != self.code_type {
            return None;
        }
        let first_line = u32::try_from(int32(bytes, code.first_line)).unwrap_or(0);
        let (instructions, length) = match code.instructions {
            Some(at) => (address + at, word(bytes, code.length).checked_mul(UNIT)?),
            None => (0, usize::MAX),
        };
        let strings = [
            (word(bytes, code.filename), MAX_FILE_BYTES),
            (word(bytes, code.qualname), MAX_NAME_BYTES),
        ];
        let table = word(bytes, code.linetable);
        let [file, name] = read_strings(memory, &layout.text, strings)?;
        let lines = read_table(memory, layout, table, first_line)?;
        let function = Function::new(&self.roots.qualify(&file, &name), &file, first_line);
        let serial = FunctionSerial::fresh();
        functions.insert(serial, Arc::new(function));
        if file.ends_with(HUB_FILE) && matches!(&*name, "Hub.run" | "run") {
            self.hubs.truncate(MAX_HUBS - 1);
            self.hubs.push(serial);
        }
        Some(Entry {
            serial,
            first_line,
            instructions,
            length,
            lines,
            is_own: file.starts_with(self.own_directory.as_str()),
            // `_Py_InitCleanup` (3.13 and later): what an `__init__` returns to when the interpreter
            // makes an instance without C. No one wrote it, and no traceback shows it.
            is_hidden: first_line == 0 && &*name == "__init__" && &*file == "__init__",
        })
    }
}

/// A frame for what has none.
fn pseudo_frame(pseudo: Pseudo, functions: &mut FunctionTable) -> Frame {
    let (serial, name) = match pseudo {
        Pseudo::Gather => (FunctionSerial::GATHER, GATHER),
        Pseudo::Shield => (FunctionSerial::SHIELD, SHIELD),
    };
    functions
        .entry(serial)
        .or_insert_with(|| Arc::new(Function::pseudo(name)));
    Frame {
        function: serial,
        line: 0,
    }
}

fn read_table(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    address: usize,
    first_line: u32,
) -> Option<LineTable> {
    let length = word(
        read(memory, address, layout.bytes.data)?,
        layout.bytes.length,
    );
    if length > MAX_LINETABLE.min(memory.capacity()) {
        return Some(LineTable::default());
    }
    if length == 0 {
        return Some(LineTable::default());
    }
    memory
        .read_batch(&[Range::new(address + layout.bytes.data, length)])
        .eq(&1)
        .then(|| LineTable::decode(layout.lines, first_line, &memory.bytes()[..length]))
}

impl Entry {
    /// The line of an instruction; `None` if it does not belong to this code object.
    fn line(&self, layout: &Layout, instruction: usize) -> Option<u32> {
        let offset = match layout.frame.instruction {
            // `PyCode_Addr2Line` says so.
            Instruction::Index(_) if instruction == NOT_BEGUN => {
                return Some(self.first_line);
            }
            // f_lasti of 3.10 counts instructions.
            Instruction::Index(_) => instruction.checked_mul(UNIT)?,
            // A frame that was just made points before its first instruction (3.11, 3.12).
            Instruction::Pointer(_) if instruction.wrapping_add(UNIT) == self.instructions => {
                return Some(self.first_line);
            }
            Instruction::Pointer(_) => instruction.checked_sub(self.instructions)?,
        };
        if offset > self.length {
            return None;
        }
        if self.lines.bytes() == 0 {
            return Some(self.first_line);
        }
        Some(self.lines.line(u32::try_from(offset).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::{FreedCodes, RING};

    #[test]
    fn deaths_are_told_until_they_are_too_many() {
        let freed = Box::new(FreedCodes {
            count: AtomicU64::new(0),
            addresses: [const { AtomicUsize::new(0) }; RING],
        });
        let told = |from: u64| {
            let mut told = Vec::new();
            freed
                .since(from, |address| told.push(address))
                .then_some(told)
        };
        assert_eq!(told(0), Some(vec![]));
        // A death that has been counted and not been written down yet.
        freed.count.fetch_add(1, Ordering::AcqRel);
        assert_eq!(told(0), None);
        freed.count.store(0, Ordering::Release);
        for number in 1..=3 * RING {
            freed.push(number * 16);
        }
        let end = freed.count();
        assert_eq!(
            told(end - 2),
            Some(vec![(3 * RING - 1) * 16, 3 * RING * 16])
        );
        assert_eq!(told(end), Some(vec![]));
        assert_eq!(told(end - RING as u64), None);
    }
}
