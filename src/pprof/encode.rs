//! From a profile to gzip-compressed pprof. Equal profiles give equal bytes.
#![forbid(unsafe_code)]

use std::io::Write;
use std::sync::Arc;

use flate2::{Compression, GzBuilder};
use prost::Message;
use rustc_hash::FxHashMap;

use super::groups::{self, Groups};
use super::order::{BYTES, Order};
use super::proto;
use crate::error::{Error, Result};
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::memory::reserve::Provision;
use crate::model::function::Function;
use crate::model::label::{Label, LabelSet, LabelValue};
use crate::model::location::{LocationId, Mapping, Origin};
use crate::model::measure::Column;

/// zlib's own default: a third smaller than 1 at a cost that a writer once a minute can bear.
const LEVEL: u32 = 6;

/// Encodes and compresses.
///
/// # Errors
/// When there is no memory for it.
pub fn encode(profile: &Profile) -> Result<Vec<u8>> {
    // More may be needed than can be asked for piece by piece: all of it is set aside beforehand.
    let Some(_provision) = Provision::of(needed_bytes(profile)) else {
        return Err(Error::memory("encode a profile"));
    };
    let message = encode_message(profile);
    // No name and no time in the header: they would make equal profiles differ.
    let mut compressor = GzBuilder::new().mtime(0).write(
        Vec::with_capacity(message.len() / 4),
        Compression::new(LEVEL),
    );
    compressor
        .write_all(&message)
        .and_then(|()| compressor.finish())
        .map_err(|error| Error::os("cannot compress a profile", &error))
}

/// What encoding may need at the most, in bytes.
fn needed_bytes(profile: &Profile) -> usize {
    /// The compressor's state and what little things need.
    const BASE: usize = 2 << 20;
    /// Ids are collected in a vector that is doubled as it grows, and then written as up to ten bytes
    /// each; whatever is written is held once more, compressed.
    const COPIES: usize = 6;
    let depth: usize = profile
        .samples
        .iter()
        .map(|sample| profile.tree.path(sample.node).count())
        .sum();
    let labels = |set: &LabelSet| set.len() * size_of::<proto::Label>();
    let sets = profile
        .samples
        .iter()
        .map(|sample| labels(&profile.label_sets[sample.labels.0 as usize]));
    let labels: usize = sets.sum();
    let symbols = &profile.symbols;
    let names: usize = symbols.functions.iter().map(Function::string_bytes).sum();
    let mappings = symbols.mappings.iter();
    let files: usize = mappings
        .map(|mapping| size_of::<proto::Mapping>() + mapping.file.len() + mapping.build_id.len())
        .sum();
    let text = names + files;
    let samples = profile.samples.len() * size_of::<proto::Sample>();
    let locations = profile.symbols.locations.len() * size_of::<proto::Location>();
    let words = (depth + profile.values.len()) * size_of::<u64>();
    let tables = profile.symbols.functions.len()
        + profile.symbols.locations.len()
        + profile.label_sets.len();
    // Of groups of inlined frames, what they are known by, and their lines.
    let inlined = if groups::has_inlined(profile) {
        depth * (size_of::<u32>() + size_of::<proto::Line>() + size_of::<proto::Location>())
    } else {
        0
    };
    let ordered = [profile.tree.len(), profile.samples.len(), tables];
    let order: usize = ordered
        .iter()
        .zip(BYTES)
        .map(|(count, each)| count * each)
        .sum();
    BASE + order
        + COPIES * (profile.bytes() + words + labels + text + samples + locations + inlined)
}

/// Encodes without compressing.
#[must_use]
pub fn encode_message(profile: &Profile) -> Vec<u8> {
    let order = Order::of(profile);
    let mut encoder = Encoder::new(profile);
    encoder.symbols(&order);
    let samples = encoder.samples(&order);
    let message = encoder.finish(samples);
    message.encode_to_vec()
}

struct Encoder<'profile> {
    profile: &'profile Profile,
    strings: Vec<Vec<u8>>,
    string_ids: FxHashMap<Arc<str>, i64>,
    /// By the profile's location id: the id written, 0 if it is not.
    locations: Vec<u64>,
    /// Frames that share a location, with those that were inlined into them.
    groups: Groups,
    written_locations: Vec<proto::Location>,
    written_functions: Vec<proto::Function>,
}

impl<'profile> Encoder<'profile> {
    fn new(profile: &'profile Profile) -> Self {
        Self {
            profile,
            strings: vec![Vec::new()],
            string_ids: FxHashMap::default(),
            locations: vec![0; profile.symbols.locations.len()],
            groups: Groups::default(),
            written_locations: Vec::new(),
            written_functions: Vec::new(),
        }
    }

    fn string(&mut self, text: &Arc<str>) -> i64 {
        if text.is_empty() {
            return 0;
        }
        if let Some(&id) = self.string_ids.get(text) {
            return id;
        }
        let id = as_i64(self.strings.len());
        self.strings.push(text.as_bytes().to_vec());
        self.string_ids.insert(text.clone(), id);
        id
    }

    /// Writes the functions and locations.
    fn symbols(&mut self, order: &Order) {
        let symbols = &self.profile.symbols;
        let mut ids = vec![0; symbols.functions.len()];
        for (id, at) in (1..).zip(&order.functions) {
            let at = *at as usize;
            let function = &symbols.functions[at];
            let filename = self.string(&function.file);
            let name = self.string(&function.name);
            let system_name = match &function.system_name {
                Some(system_name) => self.string(system_name),
                None => 0,
            };
            self.written_functions.push(proto::Function {
                id,
                name,
                system_name,
                filename,
                start_line: i64::from(function.first_line),
            });
            ids[at] = id;
        }
        self.groups = Groups::of(self.profile, order);
        let alone = order.locations.iter().map(|at| LocationId(*at));
        let alone = alone.filter(|location| self.groups.has_alone(*location));
        for (id, location) in (1..).zip(alone) {
            self.locations[location.0 as usize] = id;
            let written = self.location(id, &[location], &ids);
            self.written_locations.push(written);
        }
        self.groups
            .number_from(self.written_locations.len() as u64 + 1);
        for (id, group) in self.groups.in_order() {
            let written = self.location(id, group, &ids);
            self.written_locations.push(written);
        }
    }

    /// The location of a frame and those that were inlined into it, innermost first.
    fn location(&self, id: u64, frames: &[LocationId], functions: &[u64]) -> proto::Location {
        let symbols = &self.profile.symbols;
        let outermost = frames.last().map(|frame| symbols.location(*frame));
        let origin = outermost.map_or_else(Origin::default, |frame| symbols.origin_of(frame));
        let line = |frame: &LocationId| {
            let frame = symbols.location(*frame);
            proto::Line {
                function_id: functions[frame.function.0 as usize],
                line: i64::from(frame.line),
                column: i64::from(symbols.origin_of(frame).column),
            }
        };
        let has_mapping = (origin.mapping.0 as usize) < symbols.mappings.len();
        proto::Location {
            id,
            mapping_id: if has_mapping {
                u64::from(origin.mapping.0) + 1
            } else {
                0
            },
            address: origin.address,
            line: if origin.is_bare {
                Vec::new()
            } else {
                frames.iter().map(line).collect()
            },
            is_folded: origin.is_folded,
        }
    }

    fn samples(&mut self, order: &Order) -> Vec<proto::Sample> {
        let profile = self.profile;
        let width = profile.columns.len();
        // Made when the first sample has them: labels of samples that are left out name nothing.
        let mut labels: Vec<Option<Vec<proto::Label>>> = vec![None; profile.label_sets.len()];
        order
            .samples
            .iter()
            .map(|row| {
                let row = *row as usize;
                let sample = profile.samples[row];
                let at = sample.labels.0 as usize;
                let set = &profile.label_sets[at];
                let label = labels[at]
                    .get_or_insert_with(|| {
                        set.iter().filter_map(|label| self.label(label)).collect()
                    })
                    .clone();
                proto::Sample {
                    location_id: self.path(sample.node),
                    value: profile.values[row * width..(row + 1) * width].to_vec(),
                    label,
                }
            })
            .collect()
    }

    fn path(&self, node: NodeId) -> Vec<u64> {
        let tree = &self.profile.tree;
        if self.groups.is_empty() {
            let written = |node| self.locations[tree.location(node).0 as usize];
            return tree.path(node).map(written).collect();
        }
        let symbols = &self.profile.symbols;
        let mut ids = Vec::new();
        groups::for_each(
            symbols,
            tree.path(node).map(|node| tree.location(node)),
            |group| {
                ids.push(match group {
                    [alone] => self.locations[alone.0 as usize],
                    group => self.groups.id_of(group),
                });
            },
        );
        ids
    }

    /// `None` for empty text, which the format cannot tell from the number 0.
    fn label(&mut self, label: &Label) -> Option<proto::Label> {
        let mut written = proto::Label::default();
        match &label.value {
            LabelValue::Text(text) if text.is_empty() => return None,
            LabelValue::Text(text) => written.str = self.string(text),
            LabelValue::Number(number, unit) => {
                written.num = *number;
                written.num_unit = self.string(unit);
            }
        }
        written.key = self.string(&label.key);
        Some(written)
    }

    fn value_type(&mut self, column: &Column) -> proto::ValueType {
        proto::ValueType {
            r#type: self.string(&Arc::from(column.name())),
            unit: self.string(&Arc::from(column.unit())),
        }
    }

    fn mapping(&mut self, id: u64, mapping: &Mapping) -> proto::Mapping {
        let [
            has_functions,
            has_filenames,
            has_line_numbers,
            has_inline_frames,
        ] = mapping.known;
        proto::Mapping {
            id,
            memory_start: mapping.start,
            memory_limit: mapping.limit,
            file_offset: mapping.offset,
            filename: self.string(&mapping.file),
            build_id: self.string(&mapping.build_id),
            has_functions,
            has_filenames,
            has_line_numbers,
            has_inline_frames,
        }
    }

    fn finish(mut self, sample: Vec<proto::Sample>) -> proto::Profile {
        let profile = self.profile;
        let columns = profile.columns.iter();
        let sample_type = columns.map(|column| self.value_type(column)).collect();
        let period_type = profile.meta.period_type.as_ref();
        let period_type = period_type.map(|column| self.value_type(column));
        let comment = profile
            .meta
            .comments
            .iter()
            .map(|comment| self.string(&Arc::from(comment.as_str())))
            .collect();
        let mappings = profile.symbols.mappings.iter();
        let mapping = (1..)
            .zip(mappings)
            .map(|(id, mapping)| self.mapping(id, mapping))
            .collect();
        let meta = &profile.meta;
        let [drop_frames, keep_frames, doc_url] =
            [&meta.drop_frames, &meta.keep_frames, &meta.doc_url]
                .map(|text| self.string(&Arc::from(text.as_str())));
        let default_sample_type = self.string(&profile.default_sample_type);
        proto::Profile {
            sample_type,
            sample,
            mapping,
            location: self.written_locations,
            function: self.written_functions,
            string_table: self.strings,
            drop_frames,
            keep_frames,
            doc_url,
            time_nanos: profile.meta.time_ns,
            duration_nanos: profile.meta.duration_ns,
            period_type,
            period: profile.meta.period_ns,
            comment,
            default_sample_type,
        }
    }
}

fn as_i64(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
