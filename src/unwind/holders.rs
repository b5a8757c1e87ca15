//! Locks that a thread holds, by the values on its stack: `with` leaves what releases the lock there.
//!
//! Only values below the depth are looked at that an exception at the current instruction would leave:
//! what stands above may be left over, or of a lock that is not taken yet.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::frames::RawFrame;
use super::objects::{ObjectKind, Types, attributes, for_each, is_called, may_be_object};
use crate::layout::locks::{
    BLOCK_BYTES_3_10, BLOCK_LEVEL_3_10, BLOCK_STACK_3_10, BLOCKS_3_10, BOUND_TO, BUILTIN_METHOD,
    BYTES_DATA, CodeParts, DESCRIBED_METHOD, MAX_BLOCKS_3_10, VALUES_3_10, leaves_pairs, variables,
};
use crate::layout::tasks::{SIZE, TYPE};
use crate::layout::{Instruction, Layout};
use crate::memory::{Range, ReadMemory, copy_each, int32, read, read_word, word};

const WORD: usize = size_of::<usize>();
/// What a lock's method for the end of `with` is called.
const EXIT: &[u8] = b"__exit__\0";
/// Bytes of an instruction.
const UNIT: usize = 2;
/// Code objects remembered before all are forgotten and looked at anew.
const MAX_CODES: usize = 2_048;
/// Bytes of a table of exceptions that are read.
const MAX_TABLE: usize = 32 << 10;
/// Values of a frame that are looked at: `with` and loops are not nested deeper (`CO_MAXBLOCKS`).
const MAX_DEPTH: usize = 64;
/// Addresses told of one thread.
const MAX_HELD: usize = 64;
/// Frames whose values are copied together: the kernel takes 1,024 ranges.
const FRAMES_AT_ONCE: usize = 256;
/// What parts the values of one frame from those of the next.
const NO_OBJECT: usize = 0;

/// Instructions from one to another, in bytes, and how many values stand below where an exception
/// among them is handled.
type Region = (u32, u32, u32);

/// What is known of a code object.
#[derive(Debug)]
struct Regions {
    /// Its variables.
    variables: usize,
    /// None if they are too many to be read.
    regions: Option<Box<[Region]>>,
}

/// Finds what threads hold.
#[derive(Debug, Default)]
pub struct HolderReader {
    codes: FxHashMap<usize, Regions>,
    /// Code objects that had died when these were looked at.
    died: u64,
    values: Vec<usize>,
    /// Whether a frame was left out, whose function is too large.
    has_skipped: bool,
}

impl HolderReader {
    /// Adds the addresses of the locks that the thread of these frames holds by `with`, and of
    /// whatever stands in the attributes of a `Condition` that it holds. Returns whether there is more.
    pub fn held(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        types: &mut Types,
        frames: &[RawFrame],
        held: &mut Vec<usize>,
    ) -> bool {
        self.has_skipped = false;
        for frames in frames.chunks(FRAMES_AT_ONCE) {
            self.values.clear();
            match layout.minor {
                10 => self.read_values_3_10(memory, frames),
                _ => self.read_values(memory, layout, frames),
            }
            if !self.values.is_empty() {
                self.look_at_values(memory, layout, types, held);
            }
            if held.len() > MAX_HELD {
                break;
            }
        }
        let is_cut = self.has_skipped || held.len() > MAX_HELD;
        held.truncate(MAX_HELD);
        is_cut
    }

    /// Forgets all code objects if some of them have died: so many had by now.
    pub fn forget_dead(&mut self, died: u64) {
        if std::mem::replace(&mut self.died, died) != died {
            self.codes.clear();
        }
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let regions = self.codes.values();
        let regions: usize = regions
            .map(|code| code.regions.as_ref().map_or(0, |regions| regions.len()))
            .sum();
        self.codes.capacity() * (size_of::<(usize, Regions)>() + 1) + regions * size_of::<Region>()
    }

    /// Reads the values of these frames that an exception would leave, with [`NO_OBJECT`] after those of
    /// each.
    fn read_values(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        frames: &[RawFrame],
    ) {
        let (Instruction::Pointer(instruction), Some(instructions)) =
            (layout.frame.instruction, layout.code.instructions)
        else {
            return;
        };
        // The frames once more, and their values: what stands there now is of this instruction.
        let mut ranges = Vec::new();
        let mut with_values = Vec::new();
        for frame in frames {
            if let Some((variables_count, depth)) = self.depth(memory, layout, frame)
                && depth > 0
            {
                let length = variables(layout) + (variables_count + depth) * WORD;
                ranges.push(Range::new(frame.address, length));
                with_values.push((frame.code, variables_count, depth));
            }
        }
        let Self { codes, values, .. } = self;
        let mut with_values = with_values.into_iter();
        copy_each(memory, &ranges, |bytes| {
            let (Some(bytes), Some((address, variables_count, depth))) =
                (bytes, with_values.next())
            else {
                return;
            };
            let is_same = word(bytes, layout.frame.code) & !layout.frame.code_tags == address;
            let offset = word(bytes, instruction).checked_sub(address + instructions);
            let now = || codes.get(&address)?.depth(offset?, layout.minor);
            let (true, Some(now)) = (is_same, now()) else {
                return;
            };
            let first = variables(layout) + variables_count * WORD;
            let mask = !layout.frame.code_tags;
            let words = (0..depth.min(now)).map(|value| word(bytes, first + value * WORD) & mask);
            values.extend(words.chain([NO_OBJECT]));
        });
    }

    /// How many variables a frame has, and how many values an exception would leave.
    fn depth(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        frame: &RawFrame,
    ) -> Option<(usize, usize)> {
        if self.codes.len() >= MAX_CODES {
            self.codes.clear();
        }
        if !self.codes.contains_key(&frame.code) {
            self.codes.try_reserve(1).ok()?;
            let code = learn(memory, CodeParts::of(layout), frame.code)?;
            self.codes.insert(frame.code, code);
        }
        let code = self.codes.get(&frame.code)?;
        self.has_skipped |= code.regions.is_none();
        let begin = frame.code + layout.code.instructions?;
        let offset = frame.instruction.checked_sub(begin)?;
        let depth = code.depth(offset, layout.minor)?.min(MAX_DEPTH);
        Some((code.variables, depth))
    }

    /// The same as [`Self::read_values`] of 3.10, whose frames have the blocks that they are in.
    fn read_values_3_10(&mut self, memory: &mut (dyn ReadMemory + '_), frames: &[RawFrame]) {
        const END: usize = BLOCK_STACK_3_10 + MAX_BLOCKS_3_10 * BLOCK_BYTES_3_10;
        let blocks: Vec<Range> = frames
            .iter()
            .map(|frame| Range::new(frame.address, END))
            .collect();
        let mut ranges = Vec::new();
        copy_each(memory, &blocks, |bytes| {
            ranges.extend(bytes.and_then(values_in_blocks));
        });
        copy_each(memory, &ranges, |bytes| {
            let bytes = bytes.unwrap_or_default();
            let words = bytes.chunks_exact(WORD).map(|bytes| word(bytes, 0));
            self.values.extend(words.chain([NO_OBJECT]));
        });
    }

    fn look_at_values(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        types: &mut Types,
        held: &mut Vec<usize>,
    ) {
        // The object, its type, its method or function, and what that is bound to.
        let mut objects = vec![None; self.values.len()];
        let is_object = |(_, value): &(usize, &usize)| may_be_object(**value);
        let (places, addresses): (Vec<usize>, Vec<usize>) = self
            .values
            .iter()
            .enumerate()
            .filter(is_object)
            .map(|(place, value)| (place, *value))
            .unzip();
        for_each(memory, &addresses, DESCRIBED_METHOD + WORD, |at, bytes| {
            let at_offset = |offset| word(bytes, offset);
            let parts = [TYPE, BUILTIN_METHOD, BOUND_TO, DESCRIBED_METHOD].map(at_offset);
            objects[places[at]] = Some(parts);
        });
        let mut before = None;
        for (address, object) in self.values.iter().zip(objects) {
            if held.len() > MAX_HELD {
                return;
            }
            let Some([kind, method, bound, described]) = object else {
                before = None;
                continue;
            };
            let kind = types.kind(memory, kind);
            if leaves_pairs(layout) {
                let is_held = match (before, kind) {
                    (Some((ObjectKind::MethodDescriptor, described)), ObjectKind::Lock) => {
                        is_called(memory, described, EXIT)
                    }
                    (
                        Some((ObjectKind::Function, _)),
                        ObjectKind::Condition | ObjectKind::AsyncLock,
                    ) => true,
                    _ => false,
                };
                if is_held {
                    hold(memory, layout, kind, *address, held);
                }
                before = Some((kind, described));
            } else {
                let owner = types.of(memory, bound);
                let is_held = match (kind, owner) {
                    (ObjectKind::Builtin, ObjectKind::Lock) => is_called(memory, method, EXIT),
                    (ObjectKind::Method, ObjectKind::Condition | ObjectKind::AsyncLock) => true,
                    _ => false,
                };
                if is_held {
                    hold(memory, layout, owner, bound, held);
                }
            }
        }
    }
}

/// Where the values of a frame of 3.10 stand that its innermost block leaves, if it is in one.
fn values_in_blocks(frame: &[u8]) -> Option<Range> {
    let blocks = usize::try_from(int32(frame, BLOCKS_3_10)).ok()?;
    let last = blocks
        .checked_sub(1)
        .filter(|last| *last < MAX_BLOCKS_3_10)?;
    let level = BLOCK_STACK_3_10 + last * BLOCK_BYTES_3_10 + BLOCK_LEVEL_3_10;
    let depth = usize::try_from(int32(frame, level)).ok()?.min(MAX_DEPTH);
    (depth > 0).then(|| Range::new(word(frame, VALUES_3_10), depth * WORD))
}

fn hold(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    kind: ObjectKind,
    object: usize,
    held: &mut Vec<usize>,
) {
    if kind == ObjectKind::Condition {
        // Its lock is the first of them.
        attributes(memory, layout, object, 1, held);
    } else {
        held.push(object);
    }
}

impl Regions {
    /// How many values stand below where an exception at this offset is handled.
    fn depth(&self, offset: usize, minor: u32) -> Option<usize> {
        let found = self.region(offset)?;
        let depth = |region: Option<Region>| region.map_or(0, |(_, _, depth)| depth as usize);
        // A coroutine of 3.12 that waits stands at its YIELD_VALUE, which has a region of its own with all
        // values that there are, as what `async with` waits for before the lock is taken.
        if minor == 12 && found.is_some_and(|(from, to, _)| to - from == UNIT as u32) {
            let after = self.region(offset + UNIT)?;
            return Some(depth(found).min(depth(after)));
        }
        Some(depth(found))
    }

    fn region(&self, offset: usize) -> Option<Option<Region>> {
        let offset = u32::try_from(offset).ok()?;
        let mut regions = self.regions.iter().flatten();
        let found = regions.find(|(from, to, _)| (*from..*to).contains(&offset));
        Some(found.copied())
    }
}

fn learn(memory: &mut (dyn ReadMemory + '_), parts: CodeParts, code: usize) -> Option<Regions> {
    let table = read_word(memory, code + parts.exceptions?)?;
    let count = read(memory, code + parts.variable_count?, 4)?;
    let variables = usize::try_from(int32(count, 0)).ok()?;
    let length = read_word(memory, table.checked_add(SIZE)?)?;
    let regions = if length > MAX_TABLE {
        None
    } else {
        Some(decode(read(memory, table + BYTES_DATA, length)?))
    };
    Some(Regions { variables, regions })
}

/// The entries of a table of exceptions (`InternalDocs/exception_handling.md`): start, length, handler,
/// depth and whether the instruction is kept, numbers of 6 bits a byte.
fn decode(bytes: &[u8]) -> Box<[Region]> {
    let mut bytes = bytes.iter();
    let mut number = || -> Option<u32> {
        let mut byte = *bytes.next()?;
        let mut number = u32::from(byte & 0x3f);
        while byte & 0x40 != 0 {
            byte = *bytes.next()?;
            number = number.checked_shl(6)? | u32::from(byte & 0x3f);
        }
        Some(number)
    };
    let mut regions = Vec::new();
    while let (Some(start), Some(length), Some(_), Some(depth)) =
        (number(), number(), number(), number())
    {
        let from = start.saturating_mul(UNIT as u32);
        let to = from.saturating_add(length.saturating_mul(UNIT as u32));
        regions.push((from, to, depth >> 1));
    }
    regions.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::{Regions, decode};

    #[test]
    fn a_table_of_exceptions_is_read() {
        // Two entries: 3 to 8 with 1 value, 100 to 170 with 2, whose numbers take two bytes.
        let bytes = [0x83, 5, 9, 0b11, 0xc1, 0x24, 0x41, 0x06, 0x43, 0x00, 0b100];
        assert_eq!(*decode(&bytes), [(6, 16, 1), (200, 340, 2)]);
        assert_eq!(*decode(&bytes[..6]), [(6, 16, 1)]);
        assert!(decode(&[]).is_empty());
    }
    #[test]
    fn a_coroutine_that_waits_has_what_it_has_afterwards() {
        // As `async with`: 4 to 18, the YIELD_VALUE at 18, and 20 to 26 before the lock is taken; 26 to 102,
        // another YIELD_VALUE, and 104 to 112 with it.
        let regions = [
            (4, 18, 0),
            (18, 20, 3),
            (20, 26, 0),
            (26, 102, 1),
            (102, 104, 3),
            (104, 112, 1),
        ];
        let code = Regions {
            variables: 1,
            regions: Some(Box::new(regions)),
        };
        let depths = |minor| [14, 18, 98, 102, 200].map(|offset| code.depth(offset, minor));
        assert_eq!(depths(12), [0, 0, 1, 1, 0].map(Some));
        assert_eq!(depths(13), [0, 3, 1, 3, 0].map(Some));
    }
}
