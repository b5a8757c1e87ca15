//! From a pprof file, of rprof or of any other profiler, to a profile.
//!
//! The input may be hostile: it is read twice as a stream, first for its tables, then for its
//! samples, which are folded one at a time, so that memory holds what the profile says and never
//! the message. Sizes are bounded before anything is allocated for them, and every index is
//! checked.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use super::fields::{Content, Fields, for_each_field, packed_numbers};
use super::foreign::{HEAD_BYTES, foreign};
use super::problem::Problem;
use super::proto;
use super::source::Source;
use super::tables::{Budget, Tables, field, insert, message};
use crate::error::{Error, Result};
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::{Limits, Window};
use crate::model::function::Function;
use crate::model::hashing::{Keyed, KeyedMap};
use crate::model::label::{Label, LabelSet, LabelValue};
use crate::model::location::{LocationId, Mapping, MappingId, Origin};
use crate::model::measure::present_name;
use crate::model::window_facts;

pub use super::source::MAX_MESSAGE_BYTES;

/// Frames of one sample.
const MAX_FRAMES: usize = 100_000;
/// Labels of one sample.
const MAX_LABELS: usize = 1_000;
/// Frames of all samples for each byte of the message. A location stands for as many frames as were
/// inlined there, so that samples that share one multiply it; real code inlines a few.
const MAX_FRAMES_PER_BYTE: u64 = 16;
/// Nodes of the call tree.
const MAX_NODES: usize = 8_000_000;

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

/// A foreign location as the frames it stands for, innermost first.
struct Places {
    frames: Vec<LocationId>,
    of_location: KeyedMap<u64, Range<usize>>,
}

impl Places {
    fn read(tables: &Tables, window: &mut Window) -> std::result::Result<Self, Problem> {
        let functions = tables.functions()?;
        let (mappings, of_id) = tables.mappings()?;
        let mapping_ids: Vec<MappingId> = mappings
            .iter()
            .map(|mapping| window.mapping(mapping))
            .collect();
        let mut places = Self {
            frames: Vec::with_capacity(tables.locations.len()),
            of_location: KeyedMap::with_capacity_and_hasher(tables.locations.len(), Keyed),
        };
        for location in &tables.locations {
            let begin = places.frames.len();
            let mapping = of_id.get(&location.mapping_id);
            let origin = Origin {
                mapping: match mapping {
                    Some(at) => mapping_ids[*at],
                    None if mappings.is_empty() => MappingId::MAIN,
                    None => MappingId::NONE,
                },
                address: location.address,
                is_folded: location.is_folded,
                ..Origin::default()
            };
            for (at, line) in location.line.iter().enumerate() {
                let function = functions
                    .get(&line.function_id)
                    .ok_or(Problem::Id("function", line.function_id))?;
                let number = u32::try_from(line.line).unwrap_or(0);
                let origin = Origin {
                    column: u32::try_from(line.column).unwrap_or(0),
                    // The last line is that of the function into which the others were inlined.
                    is_inlined: at + 1 < location.line.len(),
                    ..origin
                };
                places
                    .frames
                    .push(window.location(function, number, origin));
            }
            if location.line.is_empty() {
                // Not symbolised: the address is all the name there is.
                let mapping = mapping.map(|at| &mappings[*at]);
                let name = Mapping::name_of(mapping, location.address);
                let origin = Origin {
                    is_bare: true,
                    ..origin
                };
                let frame = window.location(&Function::pseudo(&name), 0, origin);
                places.frames.push(frame);
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
    let comments = tables.texts(&tables.comments)?;
    let is_ours = window_facts::is_ours(&comments);
    let columns = tables.columns(is_ours)?;
    let expected = columns.len();
    let named = tables.text(tables.default_sample_type)?;
    let wanted = if is_ours {
        present_name(&named)
    } else {
        &named
    };
    // The schema's default is the last one.
    let default_sample_type = columns
        .iter()
        .find(|column| !wanted.is_empty() && column.name() == wanted)
        .or(columns.last())
        .map_or(named.clone(), |column| Arc::from(column.name()));
    let meta = ProfileMeta {
        time_ns: tables.time_ns,
        duration_ns: tables.duration_ns,
        period_ns: tables.period_ns,
        period_type: match &tables.period_type {
            Some(kind) => Some(tables.column(kind, is_ours)?),
            None => None,
        },
        program: match tables.mappings.first() {
            Some(mapping) => tables.text(mapping.filename)?.to_string(),
            None => String::new(),
        },
        comments,
        drop_frames: tables.text(tables.drop_frames)?.to_string(),
        keep_frames: tables.text(tables.keep_frames)?.to_string(),
        doc_url: tables.text(tables.doc_url)?.to_string(),
    };

    // Names and labels are already bounded by the budget.
    let limits = Limits {
        max_nodes: MAX_NODES,
        max_depth: MAX_FRAMES,
    };
    let mut window = Window::unbounded(limits, columns, default_sample_type);
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
