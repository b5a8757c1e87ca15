//! The collapsed format of Brendan Gregg's `flamegraph.pl`: one line for each stack,
//! `thread;root;...;leaf value` (<https://github.com/brendangregg/FlameGraph>).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::check_size;
use super::text::inert;
use crate::error::Result;
use crate::fold::profile::Profile;
use crate::model::label::thread_of;

/// All stacks with a value, in alphabetical order, below their threads or all threads together. A
/// difference has values below 0.
///
/// # Errors
/// When the text would be larger than anybody has use for.
pub fn collapsed(profile: &Profile, column: usize, by_thread: bool) -> Result<String> {
    let names: Vec<String> = profile
        .symbols
        .functions
        .iter()
        .map(|function| clean(&function.name))
        .collect();
    let mut bytes = 0;
    let mut lines: BTreeMap<String, i64> = BTreeMap::new();
    for (sample, values) in profile.rows() {
        if values[column] == 0 {
            continue;
        }
        let mut line = match thread_of(&profile.label_sets[sample.labels.0 as usize]) {
            _ if !by_thread => String::new(),
            (_, name) if name.is_empty() => String::new(),
            (_, name) => clean(&name),
        };
        let path: Vec<_> = profile.tree.path(sample.node).collect();
        for node in path.into_iter().rev() {
            if !line.is_empty() {
                line.push(';');
            }
            let location = profile.symbols.location(profile.tree.location(node));
            line.push_str(&names[location.function.0 as usize]);
        }
        if line.is_empty() {
            line = clean("");
        }
        bytes += line.len();
        check_size(bytes, "collapsed")?;
        let sum = lines.entry(line).or_default();
        *sum = sum.saturating_add(values[column]);
    }
    Ok(lines
        .into_iter()
        .map(|(line, value)| format!("{line} {value}\n"))
        .collect())
}

/// A name without the character that means something in the format.
fn clean(name: &str) -> String {
    inert(name).replace(';', ":")
}
