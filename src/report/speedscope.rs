//! speedscope's own file format, one profile for each thread and sample type.
//!
//! Source: `file-format-spec.ts` of <https://github.com/jlfwong/speedscope>, published as
//! <https://www.speedscope.app/file-format-schema.json>.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::Write;

use rustc_hash::FxHashMap;

use super::text::is_hidden;
use super::threads::thread_totals;
use super::walk::{Step, walk};
use super::{check_size, refuse_difference};
use crate::error::Result;
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::model::label::{thread_of, thread_title};
use crate::model::location::FunctionId;
use crate::model::measure::Column;

/// The profile as JSON.
///
/// Frames are functions with the line of their `def`. Stacks stand in the order of the call tree,
/// so that those which share callers are neighbours.
///
/// # Errors
/// When a value is below 0, which the format does not know, or the text would be larger than anybody
/// has use for.
pub fn speedscope(profile: &Profile) -> Result<String> {
    for (at, column) in profile.columns.iter().enumerate() {
        refuse_difference(profile, at, column.name(), "speedscope's format")?;
    }
    let mut writer = Writer {
        profile,
        frames: FxHashMap::default(),
        frame_list: Vec::new(),
    };
    let (profiles, active) = writer.profiles()?;
    let mut json =
        String::from("{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\"");
    json.push_str(",\"exporter\":");
    push_text(&mut json, concat!("rprof ", env!("CARGO_PKG_VERSION")));
    json.push_str(",\"name\":");
    push_text(&mut json, &profile.meta.program);
    let _ = write!(json, ",\"activeProfileIndex\":{active}");
    json.push_str(",\"shared\":{\"frames\":[");
    for (place, function) in writer.frame_list.iter().enumerate() {
        let function = &profile.symbols.functions[function.0 as usize];
        separate(&mut json, place);
        json.push_str("{\"name\":");
        push_text(&mut json, &function.name);
        if !function.file.is_empty() {
            json.push_str(",\"file\":");
            push_text(&mut json, &function.file);
        }
        if function.first_line > 0 {
            let _ = write!(json, ",\"line\":{}", function.first_line);
        }
        json.push('}');
    }
    json.push_str("]},\"profiles\":[");
    json.push_str(&profiles);
    json.push_str("]}\n");
    Ok(json)
}

struct Writer<'profile> {
    profile: &'profile Profile,
    frames: FxHashMap<FunctionId, usize>,
    frame_list: Vec<FunctionId>,
}

impl Writer<'_> {
    /// The profiles, and the place of the one to open on: the heaviest thread's default type.
    fn profiles(&mut self) -> Result<(String, usize)> {
        let profile = self.profile;
        let by_thread = samples_by_thread(profile);
        let default = profile.column(&profile.default_sample_type).unwrap_or(0);
        let mut json = String::new();
        let mut count = 0;
        let mut active = None;
        for (id, name, _) in thread_totals(profile) {
            let Some(rows) = by_thread.get(&(id, Cow::Borrowed(name.as_str()))) else {
                continue;
            };
            for (at, column) in profile.columns.iter().enumerate() {
                let weights: Vec<(NodeId, i64)> = rows
                    .iter()
                    .map(|(node, values)| (*node, values[at]))
                    .filter(|(_, value)| *value > 0)
                    .collect();
                if weights.is_empty() {
                    continue;
                }
                if at == default && active.is_none() {
                    active = Some(count);
                }
                separate(&mut json, count);
                let thread = match (name.as_str(), id) {
                    ("", 0) => String::new(),
                    (name, 0) => format!("{name}: "),
                    (name, id) if *name == *thread_title(id.unsigned_abs(), "") => {
                        format!("{name}: ")
                    }
                    (name, id) => format!("{name} ({id}): "),
                };
                self.push_profile(&mut json, &thread, column, &weights)?;
                count += 1;
            }
        }
        if count == 0 {
            // The viewer wants one profile at least.
            let column = Column::new(&profile.default_sample_type, "");
            self.push_profile(&mut json, "", &column, &[])?;
        }
        Ok((json, active.unwrap_or(0)))
    }

    fn push_profile(
        &mut self,
        json: &mut String,
        thread: &str,
        column: &Column,
        weights: &[(NodeId, i64)],
    ) -> Result<()> {
        json.push_str("{\"type\":\"sampled\",\"name\":");
        push_text(json, &format!("{thread}{}", column.name()));
        json.push_str(",\"unit\":");
        push_text(json, speedscope_unit(column.unit()));
        let total = weights
            .iter()
            .fold(0_i64, |sum, (_, value)| sum.saturating_add(*value));
        let _ = write!(json, ",\"startValue\":0,\"endValue\":{total},\"samples\":[");
        let mut stack = Vec::new();
        for (place, (node, _)) in weights.iter().enumerate() {
            stack.clear();
            stack.extend(self.profile.tree.path(*node));
            separate(json, place);
            json.push('[');
            for (depth, node) in stack.iter().rev().enumerate() {
                separate(json, depth);
                let _ = write!(json, "{}", self.frame(*node));
            }
            json.push(']');
            check_size(json.len(), "speedscope")?;
        }
        json.push_str("],\"weights\":[");
        for (place, (_, value)) in weights.iter().enumerate() {
            separate(json, place);
            let _ = write!(json, "{value}");
        }
        json.push_str("]}");
        Ok(())
    }

    fn frame(&mut self, node: NodeId) -> usize {
        let location = self.profile.tree.location(node);
        let function = self.profile.symbols.location(location).function;
        let next = self.frame_list.len();
        let frame = *self.frames.entry(function).or_insert(next);
        if frame == next {
            self.frame_list.push(function);
        }
        frame
    }
}

/// Each thread's samples in the order of the tree.
#[expect(clippy::type_complexity, reason = "one use")]
fn samples_by_thread(profile: &Profile) -> FxHashMap<(i64, Cow<'_, str>), Vec<(NodeId, &[i64])>> {
    let mut rank = vec![0_usize; profile.tree.len()];
    let entered = walk(&profile.tree).filter_map(|step| match step {
        Step::Enter(node) => Some(node),
        Step::Leave(_) => None,
    });
    for (place, node) in entered.enumerate() {
        rank[node.index()] = place + 1;
    }
    let mut by_thread: FxHashMap<_, Vec<_>> = FxHashMap::default();
    for (sample, values) in profile.rows() {
        let thread = thread_of(&profile.label_sets[sample.labels.0 as usize]);
        by_thread
            .entry(thread)
            .or_default()
            .push((sample.node, values));
    }
    for rows in by_thread.values_mut() {
        rows.sort_by_key(|(node, _)| rank[node.index()]);
    }
    by_thread
}

/// The format knows these units and no other.
fn speedscope_unit(unit: &str) -> &str {
    match unit {
        "nanoseconds" | "microseconds" | "milliseconds" | "seconds" | "bytes" => unit,
        _ => "none",
    }
}

fn separate(json: &mut String, place: usize) {
    if place > 0 {
        json.push(',');
    }
}

/// A JSON string. Besides what must be escaped, `<` is, which would end a script of a page that the
/// JSON is put into, and what is hidden, so that a terminal may show the file.
fn push_text(json: &mut String, text: &str) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            hidden if hidden == '<' || is_hidden(hidden) => {
                for unit in hidden.encode_utf16(&mut [0; 2]) {
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
            other => json.push(other),
        }
    }
    json.push('"');
}
