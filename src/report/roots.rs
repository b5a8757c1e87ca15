//! The same profile with a label at the root of each stack: tasks, routes, threads or locks side by side.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use crate::fold::profile::Profile;
use crate::fold::window::{Limits, Window};
use crate::model::function::Function;
use crate::model::label::{LabelSet, LabelValue, THREAD_NAME, thread_of};
use crate::model::location::{LocationId, MappingId, Origin};

/// Nodes of the new tree, each label having one of its own; what is beyond is `<overflow>`.
const MAX_NODES: usize = 8_000_000;

/// What stands at the root of the stacks of a label set; `None` if it does not have the label.
fn root_of<'labels>(labels: &'labels LabelSet, key: &str) -> Option<Cow<'labels, str>> {
    if key == THREAD_NAME {
        return Some(thread_of(labels).1);
    }
    let label = labels.iter().find(|label| *label.key == *key)?;
    Some(match &label.value {
        LabelValue::Text(text) => Cow::Borrowed(&**text),
        LabelValue::Number(number, _) => Cow::Owned(number.to_string()),
    })
}

/// The profile with the value of the label `key` as the outermost frame of each stack that has it, as
/// `go tool pprof -tagroot` does; the other stacks stay as they are.
#[must_use]
pub fn rooted(profile: &Profile, key: &str) -> Profile {
    let limits = Limits {
        max_nodes: MAX_NODES,
        ..Limits::default()
    };
    let (columns, default) = (profile.columns.clone(), profile.default_sample_type.clone());
    let mut window = Window::unbounded(limits, columns, default);
    let symbols = &profile.symbols;
    let mappings = symbols.mappings.iter();
    let mappings: Vec<MappingId> = mappings.map(|mapping| window.mapping(mapping)).collect();
    let locations: Vec<LocationId> = symbols
        .locations
        .iter()
        .map(|location| {
            let mut origin = symbols.origin_of(*location);
            if origin.mapping != MappingId::NONE {
                origin.mapping = mappings[origin.mapping.0 as usize];
            }
            let function = &symbols.functions[location.function.0 as usize];
            window.location(function, location.line, origin)
        })
        .collect();
    let sets = profile.label_sets.iter();
    let roots: Vec<Option<LocationId>> = sets
        .map(|labels| {
            let root = root_of(labels, key)?;
            Some(window.location(&Function::pseudo(&root), 0, Origin::default()))
        })
        .collect();
    let mut path = Vec::new();
    for (sample, values) in profile.rows() {
        let labels = sample.labels.0 as usize;
        path.clear();
        let nodes = profile.tree.path(sample.node);
        path.extend(nodes.map(|node| locations[profile.tree.location(node).0 as usize]));
        path.extend(roots[labels]);
        let root_first = path.iter().rev().copied();
        window.add_locations(root_first, &profile.label_sets[labels], values);
    }
    window.finish(profile.meta.clone())
}
