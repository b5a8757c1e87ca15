//! From a pprof file, of rprof or of any other profiler, to a profile.
//!
//! The input may be hostile: sizes are bounded before anything is allocated for them, and every
//! index is checked. What cannot be kept (addresses, mappings but the first) is dropped.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io::Read;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::proto;
use crate::error::{Error, Result};
use crate::fold::profile::{Profile, ProfileMeta};
use crate::fold::window::{Limits, Window};
use crate::model::function::Function;
use crate::model::label::{Label, LabelSet, LabelValue};
use crate::model::sample_type::SampleType;

/// The largest message that is read, in bytes.
pub const MAX_MESSAGE_BYTES: u64 = 256 << 20;
/// How much more a file may unpack to than its own size, once past the first mebibyte.
const MAX_RATIO: u64 = 1_000;
/// Frames of one sample.
const MAX_FRAMES: usize = 100_000;
/// What the messages may weigh once they are structs: an empty sample grows from 2 bytes to 72.
const MAX_STRUCT_BYTES: usize = 1 << 30;
/// Frames of all samples for each byte of the message. A location stands for as many frames as were
/// inlined there, so that samples that share one multiply it; real code inlines a few.
const MAX_FRAMES_PER_BYTE: usize = 16;
/// Nodes of the call tree.
const MAX_NODES: usize = 8_000_000;

/// Why a file is no profile.
#[derive(Debug)]
enum Problem {
    Empty,
    Zstd,
    Gzip(std::io::Error),
    TooLarge,
    Protobuf(prost::DecodeError),
    CutShort,
    NoSampleTypes,
    Text(i64),
    Id(&'static str, u64),
    Duplicate(&'static str, u64),
    TooMuch(&'static str),
    Values { found: usize, expected: usize },
    TooDeep,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(out, "it is empty; was the program still writing it?"),
            Self::Zstd => write!(
                out,
                "it is compressed with zstd; unpack it with `zstd -d` first"
            ),
            Self::Gzip(error) => write!(
                out,
                "its gzip data is damaged or cut short ({error}); copy it again from where it was \
                 written"
            ),
            Self::TooLarge => write!(
                out,
                "it unpacks to more than {} MiB or {MAX_RATIO} times its size, which no profile \
                 does",
                MAX_MESSAGE_BYTES >> 20
            ),
            Self::Protobuf(error) => write!(
                out,
                "it does not contain a pprof message ({error}); give a file written by rprof or \
                 another profiler's pprof output"
            ),
            Self::CutShort => write!(
                out,
                "it does not contain a pprof message, or only a part of one; give a file written \
                 by rprof or another profiler's pprof output"
            ),
            Self::NoSampleTypes => write!(
                out,
                "it has no sample types, so it is no profile; give a file written by rprof or \
                 another profiler's pprof output"
            ),
            Self::Text(index) => write!(out, "it refers to text {index}, which it does not have"),
            Self::Id(what, id) => write!(out, "it refers to {what} {id}, which it does not have"),
            Self::Duplicate(what, id) => write!(out, "it has two of {what} {id}"),
            Self::TooMuch(what) => write!(
                out,
                "it has more {what} than a profile of its size can need; record a shorter time"
            ),
            Self::Values { found, expected } => write!(
                out,
                "a sample has {found} values where there are {expected} sample types"
            ),
            Self::TooDeep => write!(out, "a sample has more than {MAX_FRAMES} frames"),
        }
    }
}

/// Reads a profile; `name` is what error messages call it.
///
/// # Errors
/// When the bytes are not a profile, or an unreasonably large one; the message names the file, the
/// fault and the remedy.
pub fn decode(bytes: &[u8], name: &str) -> Result<Profile> {
    unpack(bytes)
        .and_then(|message| read_message(&message))
        .map_err(|problem| Error::value(format!("{name} cannot be read as a profile: {problem}")))
}

fn unpack(bytes: &[u8]) -> std::result::Result<Vec<u8>, Problem> {
    match bytes {
        [] => Err(Problem::Empty),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Err(Problem::Zstd),
        [0x1f, 0x8b, ..] => {
            let limit = (1_u64 << 20)
                .saturating_add((bytes.len() as u64).saturating_mul(MAX_RATIO))
                .min(MAX_MESSAGE_BYTES);
            let mut message = Vec::new();
            MultiGzDecoder::new(bytes)
                .take(limit + 1)
                .read_to_end(&mut message)
                .map_err(Problem::Gzip)?;
            if message.len() as u64 > limit {
                return Err(Problem::TooLarge);
            }
            if message.is_empty() {
                return Err(Problem::Empty);
            }
            Ok(message)
        }
        _ if bytes.len() as u64 > MAX_MESSAGE_BYTES => Err(Problem::TooLarge),
        _ => Ok(bytes.to_vec()),
    }
}

/// A foreign location as the frames it stands for, innermost first.
type Frames = Vec<(Arc<Function>, u32)>;

struct Strings {
    table: Vec<Arc<str>>,
}

impl Strings {
    fn get(&self, index: i64) -> std::result::Result<Arc<str>, Problem> {
        usize::try_from(index)
            .ok()
            .and_then(|at| self.table.get(at))
            .cloned()
            .ok_or(Problem::Text(index))
    }
}

fn read_message(bytes: &[u8]) -> std::result::Result<Profile, Problem> {
    weigh(bytes)?;
    let message = proto::Profile::decode(bytes).map_err(Problem::Protobuf)?;
    if message.sample_type.is_empty() {
        return Err(Problem::NoSampleTypes);
    }
    let strings = Strings {
        table: message
            .string_table
            .iter()
            .map(|text| Arc::from(String::from_utf8_lossy(text).as_ref()))
            .collect(),
    };
    let locations = read_locations(&message, &strings)?;
    let sample_types = message
        .sample_type
        .iter()
        .map(|kind| {
            Ok(SampleType {
                name: strings.get(kind.r#type)?,
                unit: strings.get(kind.unit)?,
            })
        })
        .collect::<std::result::Result<Vec<_>, Problem>>()?;
    let default_sample_type = match strings.get(message.default_sample_type)? {
        // The schema's default: the last sample type.
        none if none.is_empty() => sample_types
            .last()
            .map_or_else(|| Arc::from(""), |kind| kind.name.clone()),
        named => named,
    };
    let program = match message.mapping.first() {
        Some(mapping) => strings.get(mapping.filename)?.to_string(),
        None => String::new(),
    };
    let comments = message
        .comment
        .iter()
        .map(|&comment| strings.get(comment).map(|text| text.to_string()))
        .collect::<std::result::Result<Vec<_>, Problem>>()?;

    let expected = sample_types.len();
    let mut frames_left = bytes.len().saturating_mul(MAX_FRAMES_PER_BYTE);
    // Names and labels are already bounded by the size of the message.
    let limits = Limits {
        max_nodes: MAX_NODES,
        max_depth: MAX_FRAMES,
    };
    let mut window = Window::unbounded(limits, sample_types, default_sample_type);
    for sample in &message.sample {
        if sample.value.len() != expected {
            return Err(Problem::Values {
                found: sample.value.len(),
                expected,
            });
        }
        let mut path = Vec::with_capacity(sample.location_id.len());
        for id in &sample.location_id {
            let frames = locations.get(id).ok_or(Problem::Id("location", *id))?;
            path.extend(frames.iter().map(|(function, line)| (&**function, *line)));
            if path.len() > MAX_FRAMES {
                return Err(Problem::TooDeep);
            }
        }
        frames_left = frames_left
            .checked_sub(path.len())
            .ok_or(Problem::TooMuch("inlined frames"))?;
        let labels = read_labels(&sample.label, &strings)?;
        window.add_path(path.into_iter().rev(), &labels, &sample.value);
        if window.overflowed() > 0 {
            return Err(Problem::TooMuch("different stacks"));
        }
    }
    Ok(window.finish(ProfileMeta {
        time_ns: message.time_nanos,
        duration_ns: message.duration_nanos,
        period_ns: message.period,
        program,
        comments,
    }))
}

/// `Profile.sample`, `.location` and `.comment`: the fields with repeated fields or numbers inside.
const SAMPLE: u32 = 2;
const LOCATION: u32 = 4;
const COMMENT: u32 = 13;

/// Refuses a message whose structs would take many times the memory of its bytes, before they are
/// made.
fn weigh(message: &[u8]) -> std::result::Result<(), Problem> {
    let mut weight = 0_usize;
    let mut add = |more: usize| {
        weight = weight.saturating_add(more);
        if weight > MAX_STRUCT_BYTES {
            return Err(Problem::TooMuch("entries"));
        }
        Ok(())
    };
    for_each_field(message, |tag, content| {
        let content = content.unwrap_or_default();
        add(128 + content.len())?;
        match tag {
            SAMPLE | LOCATION => for_each_field(content, |_, packed| {
                add(32 + 8 * numbers(packed.unwrap_or_default()))
            }),
            COMMENT => add(8 * numbers(content)),
            _ => Ok(()),
        }
    })
}

/// How many packed numbers these bytes can be: each ends where the continuation bit is not set.
fn numbers(packed: &[u8]) -> usize {
    packed.iter().filter(|byte| **byte < 0x80).count()
}

/// Calls `visit` with each field's number and, where it has a length, its content.
fn for_each_field(
    mut rest: &[u8],
    mut visit: impl FnMut(u32, Option<&[u8]>) -> std::result::Result<(), Problem>,
) -> std::result::Result<(), Problem> {
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(Problem::Protobuf)?;
        if wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut rest).map_err(Problem::Protobuf)?;
            let content = usize::try_from(length)
                .ok()
                .and_then(|length| rest.split_at_checked(length));
            let Some((content, after)) = content else {
                return Err(Problem::CutShort);
            };
            rest = after;
            visit(tag, Some(content))?;
        } else {
            skip_field(wire_type, tag, &mut rest, DecodeContext::default())
                .map_err(Problem::Protobuf)?;
            visit(tag, None)?;
        }
    }
    Ok(())
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

/// The tables are keyed by what the file says: their hasher must be one that it cannot foresee.
fn read_locations(
    message: &proto::Profile,
    strings: &Strings,
) -> std::result::Result<HashMap<u64, Frames>, Problem> {
    let mut functions = HashMap::new();
    for function in &message.function {
        let name = match strings.get(function.name)? {
            none if none.is_empty() => strings.get(function.system_name)?,
            named => named,
        };
        let file = strings.get(function.filename)?;
        let first_line = u32::try_from(function.start_line).unwrap_or(0);
        let read = Arc::new(Function {
            name,
            file,
            first_line,
        });
        insert(&mut functions, "function", function.id, read)?;
    }
    let mut locations = HashMap::new();
    for location in &message.location {
        let mut frames = Frames::with_capacity(location.line.len());
        for line in &location.line {
            let function = functions
                .get(&line.function_id)
                .ok_or(Problem::Id("function", line.function_id))?;
            frames.push((function.clone(), u32::try_from(line.line).unwrap_or(0)));
        }
        if frames.is_empty() {
            // Not symbolised: the address is all the name there is.
            let name = format!("{:#x}", location.address);
            frames.push((Arc::new(Function::pseudo(&name)), 0));
        }
        insert(&mut locations, "location", location.id, frames)?;
    }
    Ok(locations)
}

fn read_labels(
    labels: &[proto::Label],
    strings: &Strings,
) -> std::result::Result<LabelSet, Problem> {
    labels
        .iter()
        .map(|label| {
            let value = if label.str == 0 {
                LabelValue::Number(label.num, strings.get(label.num_unit)?)
            } else {
                LabelValue::Text(strings.get(label.str)?)
            };
            Ok(Label {
                key: strings.get(label.key)?,
                value,
            })
        })
        .collect()
}
