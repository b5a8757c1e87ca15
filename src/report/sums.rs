//! Self and total values by function, by line, or by any other key of a location.
#![forbid(unsafe_code)]

use super::walk::{Step, walk};
use crate::fold::profile::Profile;

/// By key: spent there, and spent there and below.
pub(super) struct Sums {
    pub(super) own: Vec<i64>,
    pub(super) total: Vec<i64>,
}

/// Adds up one sample type; `keys` has a key below `count` for each location.
///
/// The total of a key that stands on a stack several times counts once for that stack.
pub(super) fn sums(profile: &Profile, column: usize, keys: &[u32], count: usize) -> Sums {
    let tree = &profile.tree;
    let own_of_node = profile.self_values(column);
    let total_of_node = profile.total_values(column);
    let key_of = |node| keys[tree.location(node).0 as usize] as usize;
    let mut sums = Sums {
        own: vec![0; count],
        total: vec![0; count],
    };
    let mut on_stack = vec![0_u32; count];
    for step in walk(tree) {
        match step {
            Step::Enter(node) => {
                let key = key_of(node);
                add(&mut sums.own[key], own_of_node[node.index()]);
                if on_stack[key] == 0 {
                    add(&mut sums.total[key], total_of_node[node.index()]);
                }
                on_stack[key] += 1;
            }
            Step::Leave(node) => on_stack[key_of(node)] -= 1,
        }
    }
    sums
}

pub(super) fn add(sum: &mut i64, value: i64) {
    *sum = sum.saturating_add(value);
}
