//! From a pprof file, of rprof or of any other profiler, to a profile.
//!
//! The input may be hostile: it is read twice as a stream, first for its tables, then for its
//! samples, which are folded one at a time, so that memory holds what the profile says and never
//! the message. Sizes are bounded before anything is allocated for them, and every index is
//! checked. What cannot be kept (addresses, mappings but the first) is dropped.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use prost::Message;

use super::fields::{Content, Fields, for_each_field, packed_numbers};
use super::foreign::{HEAD_BYTES, foreign};
use super::problem::Problem;
use super::proto;
use super::source::Source;
use crate::error::{Error, Result};
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::{Limits, Window};
use crate::model::function::Function;
use crate::model::label::{Label, LabelSet, LabelValue};
use crate::model::location::LocationId;
use crate::model::sample_type::{SampleType, present_name};

pub use super::source::MAX_MESSAGE_BYTES;

/// Frames of one sample.
const MAX_FRAMES: usize = 100_000;
/// Labels of one sample.
const MAX_LABELS: usize = 1_000;
/// Values of one sample.
const MAX_SAMPLE_TYPES: usize = 256;
/// Frames of all samples for each byte of the message. A location stands for as many frames as were
/// inlined there, so that samples that share one multiply it; real code inlines a few.
const MAX_FRAMES_PER_BYTE: u64 = 16;
/// Nodes of the call tree.
const MAX_NODES: usize = 8_000_000;
/// What a file of any size may weigh in memory.
const FREE_WEIGHT: usize = 8 << 20;
/// What it may weigh for each of its bytes beyond that, packed and plain: a function of a real
/// profile takes ten bytes in gzip, a few dozen without, and half a kilobyte in the tables here.
const MAX_WEIGHT_PER_PACKED_BYTE: usize = 100;
const MAX_WEIGHT_PER_PLAIN_BYTE: usize = 32;
/// What any profile may weigh.
const MAX_WEIGHT: usize = 1 << 30;

/// Reads a profile; `name` is what error messages call it.
///
/// # Errors
/// When the bytes are not a profile, or an unreasonably large one; the message names the file, the
/// fault and the remedy.
pub fn decode(bytes: &[u8], name: &str) -> Result<Profile> {
    read(bytes)
        .map_err(|problem| Error::value(format!("{name} cannot be read as a profile: {problem}")))
}

fn read(bytes: &[u8]) -> std::result::Result<Profile, Problem> {
    if bytes.is_empty() {
        return Err(Problem::Empty);
    }
    if bytes.len() as u64 > MAX_MESSAGE_BYTES {
        return Err(Problem::TooLarge);
    }
    let mut budget = Budget::new(bytes);
    let tables = Tables::read(bytes, &mut budget).map_err(|problem| {
        if !problem.is_of_structure() {
            return problem;
        }
        match head(bytes) {
            Ok(head) => foreign(&head).map_or(problem, Problem::Foreign),
            Err(error) => Problem::of_reading(error),
        }
    })?;
    read_samples(bytes, tables, budget)
}

/// The first bytes of the message.
fn head(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    Source::new(bytes)
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)?;
    Ok(head)
}

/// What may still be allocated, in bytes.
struct Budget {
    left: usize,
}

impl Budget {
    fn new(file: &[u8]) -> Self {
        let per_byte = match Source::new(file) {
            Source::Gzip { .. } => MAX_WEIGHT_PER_PACKED_BYTE,
            Source::Plain(_) => MAX_WEIGHT_PER_PLAIN_BYTE,
        };
        Self {
            left: FREE_WEIGHT
                .saturating_add(file.len().saturating_mul(per_byte))
                .min(MAX_WEIGHT),
        }
    }

    fn charge(&mut self, weight: usize) -> std::result::Result<(), Problem> {
        self.left = self
            .left
            .checked_sub(weight)
            .ok_or(Problem::TooMuch("entries"))?;
        Ok(())
    }
}

/// Everything but the samples, as the message has it.
#[derive(Default)]
struct Tables {
    message_bytes: u64,
    strings: Vec<Arc<str>>,
    sample_types: Vec<proto::ValueType>,
    default_sample_type: i64,
    functions: Vec<proto::Function>,
    locations: Vec<proto::Location>,
    mapping: Option<proto::Mapping>,
    comments: Vec<i64>,
    time_ns: i64,
    duration_ns: i64,
    period_ns: i64,
}

/// Numbers of the fields of `Profile`.
mod field {
    pub(super) const SAMPLE_TYPE: u32 = 1;
    pub(super) const SAMPLE: u32 = 2;
    pub(super) const MAPPING: u32 = 3;
    pub(super) const LOCATION: u32 = 4;
    pub(super) const FUNCTION: u32 = 5;
    pub(super) const STRING_TABLE: u32 = 6;
    pub(super) const TIME_NANOS: u32 = 9;
    pub(super) const DURATION_NANOS: u32 = 10;
    pub(super) const PERIOD: u32 = 12;
    pub(super) const COMMENT: u32 = 13;
    pub(super) const DEFAULT_SAMPLE_TYPE: u32 = 14;
}

impl Tables {
    fn read(bytes: &[u8], budget: &mut Budget) -> std::result::Result<Self, Problem> {
        let mut fields = Fields::new(Source::new(bytes));
        let mut tables = Self::default();
        while let Some((number, content)) = fields.next()? {
            match content {
                Content::Bytes(content) => tables.take_bytes(number, content, budget)?,
                Content::Number(value) => tables.take_number(number, value, budget)?,
                Content::Skipped => {}
            }
        }
        tables.message_bytes = fields.bytes_read();
        if tables.message_bytes == 0 {
            return Err(Problem::Empty);
        }
        if tables.sample_types.is_empty() {
            return Err(Problem::NoSampleTypes);
        }
        if tables.strings.first().is_some_and(|text| !text.is_empty()) {
            return Err(Problem::FirstText);
        }
        Ok(tables)
    }

    /// Charges are what an entry weighs here and in the finished profile.
    fn take_bytes(
        &mut self,
        number: u32,
        content: &[u8],
        budget: &mut Budget,
    ) -> std::result::Result<(), Problem> {
        match number {
            field::SAMPLE_TYPE => {
                if self.sample_types.len() == MAX_SAMPLE_TYPES {
                    return Err(Problem::TooMuch("sample types"));
                }
                self.sample_types.push(message(content)?);
            }
            field::MAPPING if self.mapping.is_none() => self.mapping = Some(message(content)?),
            field::LOCATION => {
                let mut lines = 0;
                for_each_field(content, |_, _| {
                    lines += 1;
                    Ok(())
                })?;
                budget.charge(128 + 64 * lines)?;
                self.locations.push(message(content)?);
            }
            field::FUNCTION => {
                budget.charge(256)?;
                self.functions.push(message(content)?);
            }
            field::STRING_TABLE => {
                let text = String::from_utf8_lossy(content);
                budget.charge(48 + text.len())?;
                self.strings.push(Arc::from(text.as_ref()));
            }
            field::COMMENT => {
                budget.charge(64 * packed_numbers(content))?;
                let mut rest = content;
                while !rest.is_empty() {
                    let number =
                        prost::encoding::decode_varint(&mut rest).map_err(Problem::Protobuf)?;
                    self.comments.push(number.cast_signed());
                }
            }
            field::SAMPLE | field::MAPPING => {}
            // A number where the schema has one may be nothing else.
            field::TIME_NANOS
            | field::DURATION_NANOS
            | field::PERIOD
            | field::DEFAULT_SAMPLE_TYPE => return Err(Problem::CutShort),
            _ => {}
        }
        Ok(())
    }

    fn take_number(
        &mut self,
        number: u32,
        value: u64,
        budget: &mut Budget,
    ) -> std::result::Result<(), Problem> {
        let value = value.cast_signed();
        match number {
            field::TIME_NANOS => self.time_ns = value,
            field::DURATION_NANOS => self.duration_ns = value,
            field::PERIOD => self.period_ns = value,
            field::DEFAULT_SAMPLE_TYPE => self.default_sample_type = value,
            field::COMMENT => {
                budget.charge(64)?;
                self.comments.push(value);
            }
            field::SAMPLE_TYPE
            | field::SAMPLE
            | field::MAPPING
            | field::LOCATION
            | field::FUNCTION
            | field::STRING_TABLE => return Err(Problem::CutShort),
            _ => {}
        }
        Ok(())
    }

    fn text(&self, index: i64) -> std::result::Result<Arc<str>, Problem> {
        usize::try_from(index)
            .ok()
            .and_then(|at| self.strings.get(at))
            .cloned()
            .ok_or(Problem::Text(index))
    }

    fn texts(&self, indices: &[i64]) -> std::result::Result<Vec<String>, Problem> {
        indices
            .iter()
            .map(|&index| self.text(index).map(|text| text.to_string()))
            .collect()
    }

    fn sample_types(&self) -> std::result::Result<Vec<SampleType>, Problem> {
        self.sample_types
            .iter()
            .map(|kind| {
                Ok(SampleType {
                    name: self.text(kind.r#type)?,
                    unit: self.text(kind.unit)?,
                })
            })
            .collect()
    }

    /// The tables are keyed by what the file says: their hasher must be one that it cannot foresee.
    fn functions(&self) -> std::result::Result<HashMap<u64, Function>, Problem> {
        let mut functions = HashMap::with_capacity(self.functions.len());
        for function in &self.functions {
            let name = match self.text(function.name)? {
                none if none.is_empty() => self.text(function.system_name)?,
                named => named,
            };
            let file = self.text(function.filename)?;
            let first_line = u32::try_from(function.start_line).unwrap_or(0);
            let read = Function::new(&name, &file, first_line);
            insert(&mut functions, "function", function.id, read)?;
        }
        Ok(functions)
    }
}

/// A foreign location as the frames it stands for, innermost first.
struct Places {
    frames: Vec<LocationId>,
    of_location: HashMap<u64, Range<usize>>,
}

impl Places {
    fn read(tables: &Tables, window: &mut Window) -> std::result::Result<Self, Problem> {
        let functions = tables.functions()?;
        let mut places = Self {
            frames: Vec::with_capacity(tables.locations.len()),
            of_location: HashMap::with_capacity(tables.locations.len()),
        };
        for location in &tables.locations {
            let begin = places.frames.len();
            for line in &location.line {
                let function = functions
                    .get(&line.function_id)
                    .ok_or(Problem::Id("function", line.function_id))?;
                let number = u32::try_from(line.line).unwrap_or(0);
                places.frames.push(window.location(function, number));
            }
            if location.line.is_empty() {
                // Not symbolised: the address is all the name there is.
                let name = format!("{:#x}", location.address);
                places
                    .frames
                    .push(window.location(&Function::pseudo(&name), 0));
            }
            let range = begin..places.frames.len();
            insert(&mut places.of_location, "location", location.id, range)?;
        }
        Ok(places)
    }

    fn frames(&self, id: u64) -> std::result::Result<&[LocationId], Problem> {
        self.of_location
            .get(&id)
            .map(|range| &self.frames[range.clone()])
            .ok_or(Problem::Id("location", id))
    }
}

fn read_samples(
    bytes: &[u8],
    mut tables: Tables,
    mut budget: Budget,
) -> std::result::Result<Profile, Problem> {
    let mut sample_types = tables.sample_types()?;
    let comments = tables.texts(&tables.comments)?;
    let is_ours = comments.iter().any(|comment| comment.starts_with("rprof "));
    let expected = sample_types.len();
    let mut named = tables.text(tables.default_sample_type)?;
    if is_ours {
        let names = sample_types.iter_mut().map(|kind| &mut kind.name);
        for name in names.chain([&mut named]) {
            *name = Arc::from(present_name(name));
        }
    }
    // The schema's default is the last one.
    let default_sample_type = sample_types
        .iter()
        .find(|kind| !named.is_empty() && kind.name == named)
        .or(sample_types.last())
        .map_or(named, |kind| kind.name.clone());
    let meta = ProfileMeta {
        time_ns: tables.time_ns,
        duration_ns: tables.duration_ns,
        period_ns: tables.period_ns,
        program: match &tables.mapping {
            Some(mapping) => tables.text(mapping.filename)?.to_string(),
            None => String::new(),
        },
        comments,
    };

    // Names and labels are already bounded by the budget.
    let limits = Limits {
        max_nodes: MAX_NODES,
        max_depth: MAX_FRAMES,
    };
    let mut window = Window::unbounded(limits, sample_types, default_sample_type);
    let places = Places::read(&tables, &mut window)?;
    // What these hold was charged with the tables.
    budget.left = budget.left.saturating_add(window.bytes());
    tables.functions = Vec::new();
    tables.locations = Vec::new();

    let mut frames_left = tables.message_bytes.saturating_mul(MAX_FRAMES_PER_BYTE);
    let mut fields = Fields::new(Source::new(bytes));
    let mut path = Vec::new();
    while let Some((number, content)) = fields.next()? {
        let (field::SAMPLE, Content::Bytes(content)) = (number, content) else {
            continue;
        };
        let sample = read_sample(content, expected)?;
        path.clear();
        for id in &sample.location_id {
            path.extend_from_slice(places.frames(*id)?);
            if path.len() > MAX_FRAMES {
                return Err(Problem::TooDeep(MAX_FRAMES));
            }
        }
        frames_left = frames_left
            .checked_sub(path.len() as u64)
            .ok_or(Problem::TooMuch("inlined frames"))?;
        let labels = read_labels(&sample.label, &tables)?;
        window.add_locations(path.iter().rev().copied(), &labels, &sample.value);
        if window.overflowed() > 0 || window.bytes() > budget.left {
            return Err(Problem::TooMuch("different stacks"));
        }
    }
    Ok(window.finish(meta))
}

/// Counts before it makes: two bytes may stand for an empty label of thirty-two.
fn read_sample(content: &[u8], expected: usize) -> std::result::Result<proto::Sample, Problem> {
    let (mut frames, mut values, mut labels) = (0, 0, 0);
    for_each_field(content, |number, packed| {
        let count = packed.map_or(1, packed_numbers);
        match number {
            1 => frames += count,
            2 => values += count,
            3 => labels += 1,
            _ => {}
        }
        Ok(())
    })?;
    if frames > MAX_FRAMES {
        return Err(Problem::TooDeep(MAX_FRAMES));
    }
    if values != expected {
        return Err(Problem::Values {
            found: values,
            expected,
        });
    }
    if labels > MAX_LABELS {
        return Err(Problem::TooMuch("labels"));
    }
    let sample: proto::Sample = message(content)?;
    if sample.value.len() == expected {
        Ok(sample)
    } else {
        Err(Problem::CutShort)
    }
}

fn message<M: Message + Default>(content: &[u8]) -> std::result::Result<M, Problem> {
    M::decode(content).map_err(Problem::Protobuf)
}

/// Adds an entry of the table of `what`, where no id may stand twice.
fn insert<T>(
    table: &mut HashMap<u64, T>,
    what: &'static str,
    id: u64,
    value: T,
) -> std::result::Result<(), Problem> {
    match table.entry(id) {
        Entry::Occupied(_) => Err(Problem::Duplicate(what, id)),
        Entry::Vacant(free) => {
            free.insert(value);
            Ok(())
        }
    }
}

/// Without labels of empty text, which cannot be written again: label sets that differ in nothing
/// else are one.
fn read_labels(labels: &[proto::Label], tables: &Tables) -> std::result::Result<LabelSet, Problem> {
    let mut set = LabelSet::with_capacity(labels.len());
    for label in labels {
        let value = if label.str == 0 {
            LabelValue::Number(label.num, tables.text(label.num_unit)?)
        } else {
            LabelValue::Text(tables.text(label.str)?)
        };
        let key = tables.text(label.key)?;
        if !matches!(&value, LabelValue::Text(text) if text.is_empty()) {
            set.push(Label { key, value });
        }
    }
    Ok(set)
}
