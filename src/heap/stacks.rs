//! The stacks of samples, each once: a tree of lines, in tables of fixed size.
//!
//! A stack that was seen before is known by the hash of its code objects and instructions. Code objects
//! die, and another one may get the address: a death changes the hashes of its like.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use super::index::Index;
use super::law::mix;
use super::said::Said;
use super::texts::{Text, Texts};

/// A frame as the interpreter has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapFrame {
    /// Address of the code object.
    pub code: usize,
    /// As the interpreter notes the instruction.
    pub instruction: usize,
}

/// Frames of one stack that are looked at; the root side of a deeper one is left out.
pub const MAX_FRAMES: usize = 4_096;

/// A code object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Code {
    /// Its qualified name.
    pub name: Text,
    /// Its file.
    pub file: Text,
    /// The line of its `def`.
    pub first_line: u32,
}

/// Knows where the calling thread is. Asked within an allocation, with the tables locked: it neither
/// allocates nor waits.
pub trait Look {
    /// Fills in the frames of the calling thread, leaf first; false if the root side is missing.
    fn walk(&self, frames: &mut Vec<HeapFrame>) -> bool;

    /// What there is to know of a code object; `None` if it is none, or there is no room for its name.
    fn learn(&self, code: usize, texts: &mut Texts) -> Option<Code>;

    /// The line of an instruction of a code object; 0 if it has none.
    fn line(&self, code: usize, instruction: usize) -> u32;

    /// Hands to `take` what the application says the calling thread is doing, if it says anything.
    fn said<T>(&self, _take: impl FnOnce(&Said<'_>) -> T) -> Option<T> {
        None
    }
}

/// Where a stack ends, in [`Stacks`].
pub type Node = u32;
/// No Python code.
pub const ROOT: Node = 0;
/// Stacks beyond the limits.
pub const OVERFLOW_NODE: Node = 1;
/// Below it hang stacks whose root side is missing.
const INCOMPLETE_NODE: Node = 2;

/// Number of a line of a code object.
type LineNumber = u32;
const OVERFLOW_LINE: LineNumber = 0;
const INCOMPLETE_LINE: LineNumber = 1;

/// What a line of a stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of a code object.
    Line(Code, u32),
    /// Stacks beyond the limits.
    Overflow,
    /// What has called the rest is not known.
    Incomplete,
}

/// How many code objects have died whose addresses are alike.
static DEATHS: [AtomicU32; 4_096] = [const { AtomicU32::new(0) }; 4_096];

fn deaths(code: usize) -> &'static AtomicU32 {
    &DEATHS[code >> 4 & (DEATHS.len() - 1)]
}

/// The code object that is being taken apart just now, if any: it has names no more.
static DYING: AtomicUsize = AtomicUsize::new(0);

/// Notes that a code object dies; to be called before it is taken apart. What this returns is for
/// [`end_death`].
#[must_use]
pub fn note_death(code: usize) -> usize {
    deaths(code).fetch_add(1, Relaxed);
    DYING.swap(code, Relaxed)
}

/// Notes that it is no more.
pub fn end_death(before: usize) {
    DYING.store(before, Relaxed);
}

/// Whether a code object is being taken apart.
#[must_use]
pub fn is_dying(code: usize) -> bool {
    DYING.load(Relaxed) == code
}

/// A number for the code object that is at this address now.
fn identity(code: usize) -> u64 {
    mix(code as u64 ^ u64::from(deaths(code).load(Relaxed)) << 48)
}

/// The tables.
#[derive(Debug)]
pub struct Stacks {
    /// The frames that are looked at just now.
    frames: Vec<HeapFrame>,
    /// Parent and line.
    nodes: Vec<[u32; 2]>,
    by_step: Index,
    by_stack: Index,
    /// Number of a code object, and line.
    lines: Vec<[u32; 2]>,
    by_line: Index,
    by_instruction: Index,
    codes: Vec<Code>,
    by_code: Index,
    texts: Texts,
    overflowed: u64,
}

/// How much fits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackLimits {
    /// Nodes of the tree, and stacks.
    pub nodes: usize,
    /// Lines.
    pub lines: usize,
    /// Code objects.
    pub codes: usize,
    /// Bytes of their names.
    pub text_bytes: usize,
}

impl Stacks {
    /// None, with room for none.
    pub(super) const fn none() -> Self {
        Self {
            frames: Vec::new(),
            nodes: Vec::new(),
            by_step: Index::none(),
            by_stack: Index::none(),
            lines: Vec::new(),
            by_line: Index::none(),
            by_instruction: Index::none(),
            codes: Vec::new(),
            by_code: Index::none(),
            texts: Texts::none(),
            overflowed: 0,
        }
    }

    /// Empty tables.
    #[must_use]
    pub fn new(limits: &StackLimits) -> Self {
        let mut stacks = Self {
            frames: Vec::with_capacity(MAX_FRAMES),
            nodes: Vec::with_capacity(limits.nodes),
            by_step: Index::new(limits.nodes),
            by_stack: Index::new(limits.nodes / 2),
            lines: Vec::with_capacity(limits.lines),
            by_line: Index::new(limits.lines),
            by_instruction: Index::new(limits.lines),
            codes: Vec::with_capacity(limits.codes),
            by_code: Index::new(limits.codes),
            texts: Texts::new(limits.text_bytes),
            overflowed: 0,
        };
        // Their numbers are known; no code object has the number 0.
        stacks.codes.push(Code::default());
        stacks.lines.extend([[0, 0], [0, 0]]);
        stacks.nodes.push([ROOT, OVERFLOW_LINE]);
        stacks.nodes.push([ROOT, OVERFLOW_LINE]);
        stacks.nodes.push([ROOT, INCOMPLETE_LINE]);
        stacks
    }

    /// Where the calling thread is.
    pub fn node_of(&mut self, look: &impl Look) -> Node {
        self.frames.clear();
        let is_whole = look.walk(&mut self.frames);
        if self.frames.is_empty() && is_whole {
            return ROOT;
        }
        let mut hash = u64::from(is_whole);
        for frame in &self.frames {
            hash = mix(hash ^ identity(frame.code)).wrapping_add(frame.instruction as u64);
        }
        let hash = mix(hash) | 1;
        if let Some(node) = self.by_stack.get(hash) {
            return node;
        }
        self.new_stack(hash, is_whole, look)
    }

    #[cold]
    fn new_stack(&mut self, hash: u64, is_whole: bool, look: &impl Look) -> Node {
        let mut node = if is_whole { ROOT } else { INCOMPLETE_NODE };
        for at in (0..self.frames.len()).rev() {
            let frame = self.frames[at];
            let Some(line) = self.line_of(frame, look) else {
                self.overflowed += 1;
                return OVERFLOW_NODE;
            };
            if line == OVERFLOW_LINE {
                // What is no code object is no frame of anybody's.
                continue;
            }
            let Some(next) = self.step(node, line) else {
                self.overflowed += 1;
                return OVERFLOW_NODE;
            };
            node = next;
        }
        // Where there is no room it is found by its lines the next time.
        self.by_stack.put(hash, node);
        node
    }

    fn step(&mut self, parent: Node, line: LineNumber) -> Option<Node> {
        let key = u64::from(parent) << 32 | u64::from(line);
        if let Some(node) = self.by_step.get(key) {
            return Some(node);
        }
        let node = self.nodes.len();
        if node == self.nodes.capacity() || !self.by_step.put(key, node as u32) {
            return None;
        }
        self.nodes.push([parent, line]);
        Some(node as u32)
    }

    /// The line of a frame; that of no line if it is none, and `None` if there is no room.
    fn line_of(&mut self, frame: HeapFrame, look: &impl Look) -> Option<LineNumber> {
        let code_key = identity(frame.code) | 1;
        let key = mix(code_key.wrapping_add(frame.instruction as u64)) | 1;
        if let Some(line) = self.by_instruction.get(key) {
            return Some(line);
        }
        let code = match self.by_code.get(code_key) {
            Some(code) => code,
            None => {
                let room = self.codes.capacity() - self.codes.len();
                let Some(code) = look.learn(frame.code, &mut self.texts) else {
                    return (!self.texts.is_full()).then_some(OVERFLOW_LINE);
                };
                if room == 0 || !self.by_code.put(code_key, self.codes.len() as u32) {
                    return None;
                }
                self.codes.push(code);
                self.codes.len() as u32 - 1
            }
        };
        let line = look.line(frame.code, frame.instruction);
        let number = self.number_of(code, line)?;
        self.by_instruction.put(key, number);
        Some(number)
    }

    fn number_of(&mut self, code: u32, line: u32) -> Option<LineNumber> {
        let key = u64::from(code) << 32 | u64::from(line);
        if let Some(number) = self.by_line.get(key) {
            return Some(number);
        }
        let number = self.lines.len();
        if number == self.lines.capacity() || !self.by_line.put(key, number as u32) {
            return None;
        }
        self.lines.push([code, line]);
        Some(number as u32)
    }

    /// How many stacks found no room.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Whether a new table of the same size would be of use.
    #[must_use]
    pub fn is_nearly_full(&self) -> bool {
        let is_nearly = |used: usize, size: usize| used * 4 >= size * 3;
        is_nearly(self.nodes.len(), self.nodes.capacity())
            || is_nearly(self.lines.len(), self.lines.capacity())
            || is_nearly(self.codes.len(), self.codes.capacity())
            || self.texts.is_nearly_full()
    }

    /// What a reader needs.
    #[must_use]
    pub fn copy(&self) -> StackTree {
        StackTree {
            nodes: self.nodes.clone(),
            lines: self.lines.clone(),
            codes: self.codes.clone(),
            texts: self.texts.copy(),
        }
    }

    /// Takes over the stack that ends at `node` of the tables that `adoption` is of.
    pub(super) fn adopt(&mut self, adoption: &mut Adoption<'_>, node: Node) -> Node {
        let mut path = Vec::new();
        let mut at = node;
        let mut here = loop {
            if at <= INCOMPLETE_NODE {
                break at;
            }
            if let Some(known) = adoption.nodes[at as usize] {
                break known;
            }
            path.push(at);
            at = adoption.of.nodes[at as usize][0];
        };
        for step in path.into_iter().rev() {
            if here != OVERFLOW_NODE {
                let line = adoption.of.nodes[step as usize][1];
                let next = self
                    .adopt_line(adoption, line)
                    .and_then(|line| self.step(here, line));
                here = next.unwrap_or(OVERFLOW_NODE);
            }
            adoption.nodes[step as usize] = Some(here);
        }
        here
    }

    fn adopt_line(&mut self, adoption: &mut Adoption<'_>, line: LineNumber) -> Option<LineNumber> {
        let [code, line] = adoption.of.lines[line as usize];
        let number = match adoption.codes[code as usize] {
            Some(number) => number,
            None if self.codes.len() == self.codes.capacity() => return None,
            None => {
                let old = adoption.of.codes[code as usize];
                self.codes.push(Code {
                    name: self.texts.adopt(&adoption.of.texts, old.name)?,
                    file: self.texts.adopt(&adoption.of.texts, old.file)?,
                    first_line: old.first_line,
                });
                self.codes.len() as u32 - 1
            }
        };
        adoption.codes[code as usize] = Some(number);
        self.number_of(number, line)
    }

    /// Knows the code objects that were taken over when they are met again.
    pub(super) fn end_adoption(&mut self, adoption: &Adoption<'_>) {
        for (key, code) in adoption.of.by_code.iter() {
            if let Some(number) = adoption.codes[code as usize] {
                self.by_code.put(key, number);
            }
        }
    }

    /// Bytes held, when all of it is used.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let indices = [
            &self.by_step,
            &self.by_stack,
            &self.by_line,
            &self.by_instruction,
            &self.by_code,
        ];
        indices.iter().map(|index| index.bytes()).sum::<usize>()
            + self.frames.capacity() * size_of::<HeapFrame>()
            + (self.nodes.capacity() + self.lines.capacity()) * size_of::<[u32; 2]>()
            + self.codes.capacity() * size_of::<Code>()
            + self.texts.capacity()
    }
}

/// What was taken over of other tables.
#[derive(Debug)]
pub(super) struct Adoption<'stacks> {
    of: &'stacks Stacks,
    nodes: Vec<Option<Node>>,
    codes: Vec<Option<u32>>,
}

impl<'stacks> Adoption<'stacks> {
    /// Nothing yet.
    pub(super) fn new(of: &'stacks Stacks) -> Self {
        Self {
            of,
            nodes: vec![None; of.nodes.len()],
            codes: vec![None; of.codes.len()],
        }
    }
}

/// A copy of the tree, to be read by whoever has time.
#[derive(Clone, Debug)]
pub struct StackTree {
    nodes: Vec<[u32; 2]>,
    lines: Vec<[u32; 2]>,
    codes: Vec<Code>,
    texts: Texts,
}

impl StackTree {
    /// The lines of the stack that ends at `node`, leaf first.
    pub fn path(&self, node: Node) -> impl Iterator<Item = Place> {
        let mut at = node;
        std::iter::from_fn(move || {
            if at == ROOT {
                return None;
            }
            let [parent, line] = self.nodes[at as usize];
            at = parent;
            Some(match line {
                OVERFLOW_LINE => Place::Overflow,
                INCOMPLETE_LINE => Place::Incomplete,
                line => {
                    let [code, line] = self.lines[line as usize];
                    Place::Line(self.codes[code as usize], line)
                }
            })
        })
    }

    /// How many nodes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A name.
    #[must_use]
    pub fn text(&self, text: Text) -> String {
        self.texts.read(text)
    }
}
