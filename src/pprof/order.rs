//! The order in which a profile's parts are written.
//!
//! Deflate finds again what stands near: samples go by their stacks, root first, so that neighbours
//! have most of their frames in common, functions by file and line, and locations by function and
//! line, so that each is little more than the one before. A file of a Django service is a seventh
//! smaller by that than in the order in which things were seen (`benches/overhead.py --part size`).
#![forbid(unsafe_code)]

use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::model::location::LocationId;

/// Bytes that ordering needs at the most for each node, for each sample, and for each function,
/// location or set of labels.
pub(super) const BYTES: [usize; 3] = [4 * size_of::<u32>() + 1, 16, 4 * size_of::<u32>()];

/// What is written of a profile, and in which order: numbers of rows, functions and locations.
pub(super) struct Order {
    /// Samples that have a value other than 0.
    pub(super) samples: Vec<usize>,
    /// Functions of these.
    pub(super) functions: Vec<usize>,
    /// Their locations.
    pub(super) locations: Vec<usize>,
}

impl Order {
    /// The order of `profile`; of equal profiles it is the same, whatever they were read from.
    #[must_use]
    pub(super) fn of(profile: &Profile) -> Self {
        let rows = profile.rows().enumerate();
        let mut samples: Vec<usize> = rows
            .filter(|(_, (_, values))| values.iter().any(|value| *value != 0))
            .map(|(row, _)| row)
            .collect();
        let tree = &profile.tree;
        let mut is_used = vec![false; tree.len()];
        for row in &samples {
            for node in tree.path(profile.samples[*row].node) {
                if std::mem::replace(&mut is_used[node.index()], true) {
                    break;
                }
            }
        }
        let symbols = &profile.symbols;
        let mut has_location = vec![false; symbols.locations.len()];
        let mut has_function = vec![false; symbols.functions.len()];
        for node in tree.nodes().filter(|node| is_used[node.index()]) {
            let location = tree.location(node);
            has_location[location.0 as usize] = true;
            has_function[symbols.location(location).function.0 as usize] = true;
        }
        let mut functions = positions(&has_function);
        functions.sort_by(|one, other| {
            let [one, other] = [one, other].map(|at| &symbols.functions[*at]);
            (&one.file, one.first_line, &one.name).cmp(&(
                &other.file,
                other.first_line,
                &other.name,
            ))
        });
        let function_ranks = ranks(&functions, symbols.functions.len());
        let mut locations = positions(&has_location);
        locations.sort_by_key(|at| {
            let location = symbols.locations[*at];
            (function_ranks[location.function.0 as usize], location.line)
        });
        let location_ranks = ranks(&locations, symbols.locations.len());
        let node_ranks = node_ranks(profile, &is_used, &location_ranks);
        let mut label_sets: Vec<usize> = (0..profile.label_sets.len()).collect();
        label_sets.sort_by_key(|at| &profile.label_sets[*at]);
        let label_ranks = ranks(&label_sets, label_sets.len());
        samples.sort_by_key(|row| {
            let sample = profile.samples[*row];
            let labels = label_ranks[sample.labels.0 as usize];
            (node_ranks[sample.node.index()], labels)
        });
        Self {
            samples,
            functions,
            locations,
        }
    }
}

/// Where it is true.
fn positions(table: &[bool]) -> Vec<usize> {
    let places = table.iter().enumerate();
    places
        .filter(|(_, is_so)| **is_so)
        .map(|(at, _)| at)
        .collect()
}

/// By each of `length` positions, where it comes in `order`; 0 if it does not.
fn ranks(order: &[usize], length: usize) -> Vec<u32> {
    let mut ranks = vec![0; length];
    for (rank, at) in (0..).zip(order) {
        ranks[*at] = rank;
    }
    ranks
}

/// By node: where it comes if each is followed by what it called, and those go by their locations.
fn node_ranks(profile: &Profile, is_used: &[bool], locations: &[u32]) -> Vec<u32> {
    let tree = &profile.tree;
    let rank_of = |location: LocationId| locations[location.0 as usize];
    let mut called: Vec<NodeId> = tree.nodes().filter(|node| is_used[node.index()]).collect();
    // By caller, and the last location first: the stack below gives them back from its end.
    called.sort_by_key(|node| {
        let location = rank_of(tree.location(*node));
        (tree.parent(*node), std::cmp::Reverse(location))
    });
    // Where those called by each node begin in `called`.
    let mut begins = vec![0_u32; tree.len() + 1];
    for node in &called {
        begins[tree.parent(*node).index() + 1] += 1;
    }
    for at in 1..begins.len() {
        begins[at] += begins[at - 1];
    }
    let mut ranks = vec![0; tree.len()];
    let mut waiting = vec![NodeId::ROOT];
    let mut rank = 0;
    while let Some(node) = waiting.pop() {
        ranks[node.index()] = rank;
        rank += 1;
        let [begin, end] = [0, 1].map(|next| begins[node.index() + next] as usize);
        waiting.extend_from_slice(&called[begin..end]);
    }
    ranks
}
