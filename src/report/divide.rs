//! The limit between hot and cold: how far down all samples agree, and what they do from there.
//!
//! Above the limit is what every sample passes through, which is where the request came from; right
//! below it the time begins to be spent. See "Products.LongRequestLogger", which showed the idea.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::sync::Arc;

use super::refuse_difference;
use crate::error::Result;
use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;

/// Calls listed below the limit.
const MAX_BELOW: usize = 10;

/// A frame of what all have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommonFrame {
    /// The function.
    pub function: Arc<str>,
    /// Its file.
    pub file: Arc<str>,
    /// The line that it was at.
    pub line: u32,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Divide {
    /// The common frames, outermost first; the last one is the limit.
    pub common: Vec<CommonFrame>,
    /// What hangs on the limit.
    pub value: i64,
    /// What follows below it, by value; the limit itself is the empty name.
    pub below: Vec<(Arc<str>, i64)>,
}

/// Follows the stack from the root as long as at least this part of all (0 to 1) goes on in one
/// call.
///
/// # Errors
/// When a value is below 0: of a difference there is no such limit.
pub fn divide(profile: &Profile, column: usize, part: f64) -> Result<Divide> {
    let kind = profile.columns[column].name();
    refuse_difference(profile, column, kind, "a limit between hot and cold")?;
    let totals = profile.total_values(column);
    let mut children: Vec<Vec<NodeId>> = vec![Vec::new(); profile.tree.len()];
    for node in profile.tree.nodes() {
        children[profile.tree.parent(node).index()].push(node);
    }
    let whole = totals.first().copied().unwrap_or(0);
    let mut found = Divide {
        value: whole,
        ..Divide::default()
    };
    let mut node = NodeId::ROOT;
    while let Some(&largest) = children[node.index()]
        .iter()
        .max_by_key(|child| totals[child.index()])
    {
        let value = totals[largest.index()];
        if value <= 0 || (value as f64) < part * whole as f64 {
            break;
        }
        let place = profile.tree.location(largest);
        let function = profile.symbols.function_of(place);
        found.common.push(CommonFrame {
            function: function.name.clone(),
            file: function.file.clone(),
            line: profile.symbols.location(place).line,
        });
        found.value = value;
        node = largest;
    }
    let mut below: Vec<(Arc<str>, i64)> = Vec::new();
    let mut rest = found.value;
    for child in &children[node.index()] {
        let name = &profile
            .symbols
            .function_of(profile.tree.location(*child))
            .name;
        let value = totals[child.index()];
        rest = rest.saturating_sub(value);
        match below.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum = sum.saturating_add(value),
            None => below.push((name.clone(), value)),
        }
    }
    below.push((Arc::from(""), rest));
    below.retain(|(_, value)| *value > 0);
    below.sort_by_key(|(_, value)| Reverse(*value));
    below.truncate(MAX_BELOW);
    found.below = below;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::divide;
    use crate::fold::profile::ProfileMeta;
    use crate::fold::window::{Limits, Window};
    use crate::model::function::Function;
    use crate::model::label::thread_labels;
    use crate::model::measure::{MeasureId, MeasureSet};

    #[test]
    fn the_limit_is_where_the_stacks_part() -> crate::error::Result<()> {
        let mut window = Window::new(Limits::default(), MeasureSet::of(&[MeasureId::Wall]));
        for (path, wall) in [
            (&["main", "serve", "view", "query"][..], 60),
            (&["main", "serve", "view", "render"], 35),
            (&["main", "serve", "view"], 3),
            (&["main", "idle"], 2),
        ] {
            let functions: Vec<Function> = path
                .iter()
                .map(|name| Function {
                    name: Arc::from(*name),
                    ..Function::pseudo("app.py")
                })
                .collect();
            let frames = functions.iter().map(|function| (function, 1));
            window.add_path(frames, &thread_labels(1, "x"), &[wall]);
        }
        let profile = window.finish(ProfileMeta::default());
        let found = divide(&profile, 0, 0.9)?;
        let common: Vec<&str> = found.common.iter().map(|frame| &*frame.function).collect();
        assert_eq!(common, ["main", "serve", "view"]);
        assert_eq!(found.value, 98);
        let below: Vec<(&str, i64)> = found.below.iter().map(|(n, v)| (&**n, *v)).collect();
        assert_eq!(below, [("query", 60), ("render", 35), ("", 3)]);
        let strict = divide(&profile, 0, 0.99).map(|found| found.common.len());
        assert!(matches!(strict, Ok(1)));
        Ok(())
    }
}
