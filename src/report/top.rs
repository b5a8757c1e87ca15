//! The heaviest functions.
#![forbid(unsafe_code)]

use crate::fold::profile::Profile;
use crate::model::function::Function;

/// One function's share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The function.
    pub function: Function,
    /// Spent in the function itself.
    pub self_value: i64,
    /// Spent in it and in what it called; a recursive function counts once for each stack.
    pub total_value: i64,
}

/// All functions, heaviest own value first, then total, then by name.
#[must_use]
pub fn top(profile: &Profile, column: usize) -> Vec<Row> {
    let symbols = &profile.symbols;
    let by_node = profile.self_values(column);
    let mut own = vec![0_i64; symbols.functions.len()];
    let mut total = vec![0_i64; symbols.functions.len()];
    // The node whose stack a function was last counted for.
    let mut counted_for = vec![u32::MAX; symbols.functions.len()];
    for node in profile.tree.nodes() {
        let value = by_node[node.index()];
        if value == 0 {
            continue;
        }
        let leaf = symbols.location(profile.tree.location(node)).function.0 as usize;
        own[leaf] = own[leaf].saturating_add(value);
        for frame in profile.tree.path(node) {
            let function = symbols.location(profile.tree.location(frame)).function.0 as usize;
            if counted_for[function] != node.0 {
                counted_for[function] = node.0;
                total[function] = total[function].saturating_add(value);
            }
        }
    }
    let mut rows: Vec<Row> = symbols
        .functions
        .iter()
        .zip(own.iter().zip(&total))
        .filter(|(_, (own, total))| **own != 0 || **total != 0)
        .map(|(function, (own, total))| Row {
            function: function.clone(),
            self_value: *own,
            total_value: *total,
        })
        .collect();
    rows.sort_by(|left, right| {
        (right.self_value, right.total_value)
            .cmp(&(left.self_value, left.total_value))
            .then_with(|| left.function.cmp(&right.function))
    });
    rows
}
