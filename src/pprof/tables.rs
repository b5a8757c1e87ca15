//! The tables of a pprof message: all of it but the samples.
#![forbid(unsafe_code)]

use std::collections::hash_map::Entry;
use std::sync::Arc;

use prost::Message;

use super::fields::{Content, Fields, for_each_field, packed_numbers};
use super::problem::Problem;
use super::proto;
use super::source::Source;
use crate::model::function::Function;
use crate::model::hashing::{Keyed, KeyedMap};
use crate::model::location::Mapping;
use crate::model::measure::{Column, present_name};

/// Values of one sample.
const MAX_SAMPLE_TYPES: usize = 256;
/// What a file of any size may weigh in memory.
const FREE_WEIGHT: usize = 8 << 20;
/// What it may weigh for each of its bytes beyond that, packed and plain: a function of a real
/// profile takes ten bytes in gzip, a few dozen without, and half a kilobyte in the tables here.
const MAX_WEIGHT_PER_PACKED_BYTE: usize = 100;
const MAX_WEIGHT_PER_PLAIN_BYTE: usize = 32;
/// What any profile may weigh.
const MAX_WEIGHT: usize = 1 << 30;

/// What may still be allocated, in bytes.
pub(super) struct Budget {
    pub(super) left: usize,
}

impl Budget {
    pub(super) fn new(file: &[u8]) -> Self {
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

    pub(super) fn charge(&mut self, weight: usize) -> std::result::Result<(), Problem> {
        self.left = self
            .left
            .checked_sub(weight)
            .ok_or(Problem::TooMuch("entries"))?;
        Ok(())
    }
}

/// Everything but the samples, as the message has it.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) message_bytes: u64,
    pub(super) strings: Vec<Arc<str>>,
    pub(super) sample_types: Vec<proto::ValueType>,
    pub(super) default_sample_type: i64,
    pub(super) period_type: Option<proto::ValueType>,
    pub(super) drop_frames: i64,
    pub(super) keep_frames: i64,
    pub(super) doc_url: i64,
    pub(super) functions: Vec<proto::Function>,
    pub(super) locations: Vec<proto::Location>,
    pub(super) mappings: Vec<proto::Mapping>,
    pub(super) comments: Vec<i64>,
    pub(super) time_ns: i64,
    pub(super) duration_ns: i64,
    pub(super) period_ns: i64,
}

/// Numbers of the fields of `Profile`.
pub(super) mod field {
    pub(in crate::pprof) const SAMPLE_TYPE: u32 = 1;
    pub(in crate::pprof) const SAMPLE: u32 = 2;
    pub(in crate::pprof) const MAPPING: u32 = 3;
    pub(in crate::pprof) const LOCATION: u32 = 4;
    pub(in crate::pprof) const FUNCTION: u32 = 5;
    pub(in crate::pprof) const STRING_TABLE: u32 = 6;
    pub(in crate::pprof) const DROP_FRAMES: u32 = 7;
    pub(in crate::pprof) const KEEP_FRAMES: u32 = 8;
    pub(in crate::pprof) const TIME_NANOS: u32 = 9;
    pub(in crate::pprof) const DURATION_NANOS: u32 = 10;
    pub(in crate::pprof) const PERIOD_TYPE: u32 = 11;
    pub(in crate::pprof) const PERIOD: u32 = 12;
    pub(in crate::pprof) const COMMENT: u32 = 13;
    pub(in crate::pprof) const DEFAULT_SAMPLE_TYPE: u32 = 14;
    pub(in crate::pprof) const DOC_URL: u32 = 15;
}

impl Tables {
    pub(super) fn read(bytes: &[u8], budget: &mut Budget) -> std::result::Result<Self, Problem> {
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
            field::MAPPING => {
                budget.charge(320)?;
                self.mappings.push(message(content)?);
            }
            field::PERIOD_TYPE => self.period_type = Some(message(content)?),
            field::LOCATION => {
                let mut lines = 0;
                for_each_field(content, |_, _| {
                    lines += 1;
                    Ok(())
                })?;
                budget.charge(192 + 160 * lines)?;
                self.locations.push(message(content)?);
            }
            field::FUNCTION => {
                budget.charge(320)?;
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
            field::SAMPLE => {}
            // A number where the schema has one may be nothing else.
            field::TIME_NANOS
            | field::DURATION_NANOS
            | field::PERIOD
            | field::DROP_FRAMES
            | field::KEEP_FRAMES
            | field::DOC_URL
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
            field::DROP_FRAMES => self.drop_frames = value,
            field::KEEP_FRAMES => self.keep_frames = value,
            field::DOC_URL => self.doc_url = value,
            field::COMMENT => {
                budget.charge(64)?;
                self.comments.push(value);
            }
            field::SAMPLE_TYPE
            | field::SAMPLE
            | field::MAPPING
            | field::PERIOD_TYPE
            | field::LOCATION
            | field::FUNCTION
            | field::STRING_TABLE => return Err(Problem::CutShort),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn text(&self, index: i64) -> std::result::Result<Arc<str>, Problem> {
        usize::try_from(index)
            .ok()
            .and_then(|at| self.strings.get(at))
            .cloned()
            .ok_or(Problem::Text(index))
    }

    pub(super) fn texts(&self, indices: &[i64]) -> std::result::Result<Vec<String>, Problem> {
        indices
            .iter()
            .map(|&index| self.text(index).map(|text| text.to_string()))
            .collect()
    }

    /// What the values are. Measures of ours may have had other names before.
    pub(super) fn columns(&self, is_ours: bool) -> std::result::Result<Vec<Column>, Problem> {
        let kinds = self.sample_types.iter();
        kinds.map(|kind| self.column(kind, is_ours)).collect()
    }

    pub(super) fn column(
        &self,
        kind: &proto::ValueType,
        is_ours: bool,
    ) -> std::result::Result<Column, Problem> {
        let name = self.text(kind.r#type)?;
        let name = if is_ours { present_name(&name) } else { &name };
        Ok(Column::new(name, &self.text(kind.unit)?))
    }

    /// All mappings, and which one each id stands for.
    pub(super) fn mappings(
        &self,
    ) -> std::result::Result<(Vec<Mapping>, KeyedMap<u64, usize>), Problem> {
        let mut mappings = Vec::with_capacity(self.mappings.len());
        let mut of_id = KeyedMap::with_capacity_and_hasher(self.mappings.len(), Keyed);
        for mapping in &self.mappings {
            insert(&mut of_id, "mapping", mapping.id, mappings.len())?;
            mappings.push(Mapping {
                start: mapping.memory_start,
                limit: mapping.memory_limit,
                offset: mapping.file_offset,
                file: self.text(mapping.filename)?,
                build_id: self.text(mapping.build_id)?,
                known: [
                    mapping.has_functions,
                    mapping.has_filenames,
                    mapping.has_line_numbers,
                    mapping.has_inline_frames,
                ],
            });
        }
        Ok((mappings, of_id))
    }

    /// The tables are keyed by what the file says: their hasher must be one that it cannot foresee.
    pub(super) fn functions(&self) -> std::result::Result<KeyedMap<u64, Function>, Problem> {
        let mut functions = KeyedMap::with_capacity_and_hasher(self.functions.len(), Keyed);
        for function in &self.functions {
            let system_name = self.text(function.system_name)?;
            let name = match self.text(function.name)? {
                none if none.is_empty() => system_name.clone(),
                named => named,
            };
            let file = self.text(function.filename)?;
            let first_line = u32::try_from(function.start_line).unwrap_or(0);
            let mut read = Function::new(&name, &file, first_line);
            if !system_name.is_empty() {
                read.system_name = Some(system_name);
            }
            insert(&mut functions, "function", function.id, read)?;
        }
        Ok(functions)
    }
}

pub(super) fn message<M: Message + Default>(content: &[u8]) -> std::result::Result<M, Problem> {
    M::decode(content).map_err(Problem::Protobuf)
}

/// Adds an entry of the table of `what`, where no id may stand twice.
pub(super) fn insert<T>(
    table: &mut KeyedMap<u64, T>,
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
