//! What stands in a line of code before a call: `self._lock` of `with self._lock:` and of
//! `self._lock.acquire(timeout=1)`.
//!
//! Read out of the instructions before the one that a frame stands at, as long as they do nothing but
//! load what is called.
#![forbid(unsafe_code)]

use super::frames::RawFrame;
use super::objects::{c_string, may_be_object};
use super::opcodes::{Opcodes, Step};
use super::text::read_strings;
use crate::layout::context::TYPE_NAME;
use crate::layout::locks::{BYTES_DATA, CodeParts, tuple_items, variables};
use crate::layout::tasks::{SIZE, TYPE};
use crate::layout::{Instruction, Layout};
use crate::memory::{ReadMemory, read, read_word};

const WORD: usize = size_of::<usize>();
/// Bytes of an instruction.
const UNIT: usize = 2;
/// Bytes of instructions that are looked through.
const MAX_CODE: usize = 64 << 10;
/// Attributes of attributes.
const MAX_ATTRIBUTES: usize = 6;
/// Characters of a name.
const MAX_NAME: usize = 60;
/// Characters of a module's and a class's name.
const MAX_QUALNAME: usize = 200;
/// What stands for something that is not loaded by a name.
const NAMELESS: &str = "(...)";
/// The instructions that enter a `with` from 3.14 on, before the call.
const ENTERS: [Step; 5] = [
    Step::Moves,
    Step::Special,
    Step::Moves,
    Step::Moves,
    Step::Special,
];

/// An instruction: what it does, its argument.
type Done = (Step, usize);

/// What an expression begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Variable(usize),
    Cell(usize),
    /// Of the module, or of the code itself: in a module that is the same.
    Name(usize),
    Nameless,
}

/// A base, and the attributes that lead from it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    base: Base,
    /// Numbers of names; the last one comes first.
    attributes: Vec<usize>,
}

/// What the instruction that a frame stands at is called on, in the words of its line. `function` is
/// what the function is called, with its module; attributes of `self` are those of its class.
pub fn called_on(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    frame: &RawFrame,
    function: &str,
) -> Option<String> {
    let steps = steps(memory, layout, frame)?;
    let chain = chain_before_call(&steps)?;
    let named = name(memory, layout, frame, function, &chain)?;
    (named != NAMELESS).then_some(named)
}

/// The instructions up to the one that the frame stands at.
fn steps(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    frame: &RawFrame,
) -> Option<Vec<Done>> {
    let parts = CodeParts::of(layout);
    let (begin, offset) = match layout.frame.instruction {
        Instruction::Index(_) => {
            let bytes = read_word(memory, frame.code.checked_add(parts.bytes?)?)?;
            (
                bytes.checked_add(BYTES_DATA)?,
                frame.instruction.checked_mul(UNIT)?,
            )
        }
        Instruction::Pointer(_) => {
            let begin = frame.code.checked_add(layout.code.instructions?)?;
            (begin, frame.instruction.checked_sub(begin)?)
        }
    };
    if offset > MAX_CODE {
        return None;
    }
    let code = read(memory, begin, offset + UNIT)?;
    decode(code, &Opcodes::of(layout.minor))
}

fn decode(code: &[u8], opcodes: &Opcodes) -> Option<Vec<Done>> {
    let mut steps = Vec::new();
    let (mut at, mut extended) = (0, 0);
    while let Some([opcode, argument]) = code.get(at..at + UNIT) {
        let step = opcodes.step(*opcode)?;
        let argument = extended << 8 | usize::from(*argument);
        if step == Step::Extends {
            extended = argument;
        } else {
            extended = 0;
            steps.push((step, argument));
        }
        at += UNIT * (1 + opcodes.caches(*opcode));
    }
    Some(steps)
}

/// What the last of these instructions calls, or enters.
fn chain_before_call(steps: &[Done]) -> Option<Chain> {
    let steps = before_await(steps);
    let (last, mut before) = steps.split_last()?;
    let (step, argument) = *last;
    match step {
        Step::Enter => return Some(chain(before)),
        Step::Call | Step::CallNamed => {}
        _ => return None,
    }
    // 3.11: a call in two instructions.
    if let Some(((Step::Call, same), rest)) = before.split_last().map(|(last, rest)| (*last, rest))
        && same == argument
        && step == Step::Call
    {
        before = rest;
    }
    if argument == 0
        && let Some(from) = before.len().checked_sub(ENTERS.len())
        && before[from..].iter().map(|(step, _)| *step).eq(ENTERS)
    {
        return Some(chain(&before[..from]));
    }
    let mut missing = argument + usize::from(step == Step::CallNamed);
    while missing > 0 {
        let ((step, _), rest) = before.split_last()?;
        before = rest;
        match step {
            Step::Variable | Step::Cell | Step::Global | Step::Name | Step::Constant => {
                missing -= 1;
            }
            Step::Variables => missing = missing.checked_sub(2)?,
            Step::Attribute | Step::Nothing => {}
            Step::Binary => missing += 1,
            _ => return None,
        }
    }
    let mut called = chain(before);
    // The method itself is no part of it.
    if !called.attributes.is_empty() {
        called.attributes.remove(0);
    }
    Some(called)
}

/// The instructions up to the call whose result is awaited, if the last ones do that.
fn before_await(steps: &[Done]) -> &[Done] {
    /// What stands between taking the result and where a coroutine waits for it, with both.
    const MOST: usize = 6;
    let calls = [Step::Call, Step::CallNamed, Step::Enter];
    let is_await = |(step, _): &Done| *step == Step::Await;
    match steps.last() {
        Some((step, _)) if !calls.contains(step) => {
            let mut last = steps.iter().rev().take(MOST);
            let back = last.position(is_await);
            back.map_or(steps, |back| &steps[..steps.len() - 1 - back])
        }
        _ => steps,
    }
}

/// What these instructions leave on top.
fn chain(mut steps: &[Done]) -> Chain {
    let mut attributes = Vec::new();
    let base = loop {
        let Some(((step, argument), rest)) = steps.split_last() else {
            break Base::Nameless;
        };
        steps = rest;
        match step {
            Step::Nothing => {}
            Step::Attribute | Step::Method if attributes.len() < MAX_ATTRIBUTES => {
                // The method bit of 3.12 and later is taken off where names are read.
                attributes.push(*argument << 1 | usize::from(*step == Step::Method));
            }
            Step::Variable => break Base::Variable(*argument),
            Step::Variables => break Base::Variable(*argument & 15),
            Step::Cell => break Base::Cell(*argument),
            Step::Global => break Base::Name(*argument << 1),
            Step::Name => break Base::Name(*argument << 1 | 1),
            _ => break Base::Nameless,
        }
    };
    Chain { base, attributes }
}

/// The index of a name. Below the lowest bit is the instruction's argument, of which some versions
/// use bits for something else; the lowest says that this one does not.
fn index(of: usize, is_shifted: bool) -> usize {
    let argument = of >> 1;
    if of & 1 == 0 && is_shifted {
        argument >> 1
    } else {
        argument
    }
}

fn name(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    frame: &RawFrame,
    function: &str,
    chain: &Chain,
) -> Option<String> {
    let code = Code {
        layout,
        parts: CodeParts::of(layout),
        address: frame.code,
    };
    let qualname = code.qualname(memory)?;
    let mut text = match chain.base {
        Base::Variable(variable) => {
            let said = code.variable(memory, variable)?;
            if variable == 0 && (said == "self" || said == "cls") {
                let class = class_of(&qualname)
                    .map(str::to_owned)
                    .or_else(|| code.class_of_first(memory, frame));
                class.unwrap_or(said)
            } else {
                said
            }
        }
        Base::Cell(cell) => code.cell(memory, cell)?,
        Base::Name(name) => {
            let said = code.name(memory, index(name, layout.minor >= 11))?;
            match function.strip_suffix(qualname.as_str()) {
                Some(module) => format!("{module}{said}"),
                None => said,
            }
        }
        Base::Nameless => NAMELESS.to_owned(),
    };
    for attribute in chain.attributes.iter().rev() {
        text.push('.');
        text.push_str(&code.name(memory, index(*attribute, layout.minor >= 12))?);
    }
    Some(text)
}

/// The class that a method of this name was defined in.
fn class_of(qualname: &str) -> Option<&str> {
    let (owner, _) = qualname.rsplit_once('.')?;
    let class = owner
        .rsplit_once("<locals>.")
        .map_or(owner, |(_, class)| class);
    (class != "<locals>" && !class.ends_with(".<locals>")).then_some(class)
}

struct Code<'layout> {
    layout: &'layout Layout,
    parts: CodeParts,
    address: usize,
}

impl Code<'_> {
    fn string(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        address: usize,
        limit: usize,
    ) -> Option<String> {
        let [text] = read_strings(memory, &self.layout.text, [(address, limit)])?;
        Some(text)
    }

    fn qualname(&self, memory: &mut (dyn ReadMemory + '_)) -> Option<String> {
        let place = read_word(memory, self.address + self.layout.code.qualname)?;
        self.string(memory, place, MAX_QUALNAME)
    }

    /// An item of the tuple of strings that is named at this offset; the tuple's length if it is none.
    fn item(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        offset: usize,
        index: usize,
    ) -> Option<Result<String, usize>> {
        let tuple = read_word(memory, self.address + offset)?;
        let length = read_word(memory, tuple.checked_add(SIZE)?)?;
        if index >= length {
            return Some(Err(length));
        }
        let item = read_word(memory, tuple + tuple_items(self.layout) + index * WORD)?;
        self.string(memory, item, MAX_NAME).map(Ok)
    }

    fn name(&self, memory: &mut (dyn ReadMemory + '_), index: usize) -> Option<String> {
        self.item(memory, self.parts.names, index)?.ok()
    }

    fn variable(&self, memory: &mut (dyn ReadMemory + '_), index: usize) -> Option<String> {
        self.item(memory, self.parts.variables, index)?.ok()
    }

    fn cell(&self, memory: &mut (dyn ReadMemory + '_), index: usize) -> Option<String> {
        let Some((cells, free)) = self.parts.cells else {
            return self.variable(memory, index);
        };
        match self.item(memory, cells, index)? {
            Ok(name) => Some(name),
            Err(length) => self.item(memory, free, index - length)?.ok(),
        }
    }

    /// The class of what the first variable is, where code objects do not tell theirs (3.10).
    fn class_of_first(
        &self,
        memory: &mut (dyn ReadMemory + '_),
        frame: &RawFrame,
    ) -> Option<String> {
        let first = read_word(memory, frame.address + variables(self.layout))?;
        let kind = may_be_object(first).then(|| read_word(memory, first + TYPE))??;
        let name = read_word(memory, kind.checked_add(TYPE_NAME)?)?;
        let text = c_string(memory, name)?;
        let end = text.iter().position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::{Base, Chain, chain_before_call, class_of};
    use crate::unwind::opcodes::Step::{
        Attribute, Await, Binary, Call, CallNamed, Constant, Enter, Global, Method, Moves, Nothing,
        Other, Special, Variable,
    };

    #[test]
    fn what_is_called_is_found_behind_its_arguments() {
        let lock = |base| {
            Some(Chain {
                base,
                attributes: vec![7 << 1],
            })
        };
        let load = [(Variable, 0), (Attribute, 7)];
        // with self._lock:
        let with = [load.to_vec(), vec![(Enter, 0)]].concat();
        assert_eq!(chain_before_call(&with), lock(Base::Variable(0)));
        let enters = [
            (Moves, 1),
            (Special, 1),
            (Moves, 2),
            (Moves, 3),
            (Special, 0),
        ];
        let with = [load.to_vec(), enters.to_vec(), vec![(Call, 0)]].concat();
        assert_eq!(chain_before_call(&with), lock(Base::Variable(0)));
        // async with self._lock:
        let waits = [
            (Await, 0),
            (Constant, 0),
            (Other, 0),
            (Other, 0),
            (Other, 0),
        ];
        let with = [load.to_vec(), vec![(Enter, 0)], waits.to_vec()].concat();
        assert_eq!(chain_before_call(&with), lock(Base::Variable(0)));
        // await self._lock.acquire(), and later x.acquire()
        let call = [load.to_vec(), vec![(Method, 8), (Call, 0)], waits.to_vec()].concat();
        assert_eq!(chain_before_call(&call), lock(Base::Variable(0)));
        let later = [call, vec![(Variable, 3), (Method, 8), (Call, 0)]].concat();
        let other = Chain {
            base: Base::Variable(3),
            attributes: vec![],
        };
        assert_eq!(chain_before_call(&later), Some(other));
        // self._lock.acquire(True, 2 - x.y)
        let arguments = [
            (Constant, 1),
            (Constant, 2),
            (Global, 9),
            (Attribute, 5),
            (Binary, 0),
        ];
        let call = [
            load.to_vec(),
            vec![(Method, 8)],
            arguments.to_vec(),
            vec![(Call, 2), (Call, 2)],
        ]
        .concat();
        assert_eq!(chain_before_call(&call), lock(Base::Variable(0)));
        // LOCKS.acquire(timeout=2)
        let call = [
            (Global, 4),
            (Method, 8),
            (Nothing, 0),
            (Constant, 1),
            (Constant, 2),
            (CallNamed, 1),
        ];
        let lone = Chain {
            base: Base::Name(8),
            attributes: vec![],
        };
        assert_eq!(chain_before_call(&call), Some(lone));
        // An argument that is found otherwise hides what is called.
        let call = [(Global, 4), (Method, 8), (Other, 0), (Call, 1)];
        assert_eq!(chain_before_call(&call), None);
        assert_eq!(chain_before_call(&[(Other, 0)]), None);
    }

    #[test]
    fn the_class_is_part_of_the_name() {
        assert_eq!(class_of("Pool.use"), Some("Pool"));
        assert_eq!(class_of("Outer.Inner.use"), Some("Outer.Inner"));
        assert_eq!(class_of("make.<locals>.Pool.use"), Some("Pool"));
        assert_eq!(class_of("make.<locals>.use"), None);
        assert_eq!(class_of("use"), None);
    }
}
