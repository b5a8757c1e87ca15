//! The order in which a profile's parts are written.
//!
//! Deflate finds again what stands near: samples go by their stacks, root first, so that neighbours
//! have most of their frames in common, functions by file and line, and locations by function and
//! line, so that each is little more than the one before. A file of a Django service is a seventh
//! smaller by that than in the order in which things were seen (`benches/overhead.py --part size`).
#![forbid(unsafe_code)]

use std::cmp::Ordering;

use crate::fold::call_tree::NodeId;
use crate::fold::profile::Profile;
use crate::model::location::Location;

/// Bytes that ordering needs at the most for each node, for each sample, and for each function,
/// location or set of labels.
pub(super) const BYTES: [usize; 3] = [5 * size_of::<u32>() + 1, 16, 4 * size_of::<u32>()];

/// What is written of a profile, and in which order: numbers of rows, functions and locations.
pub(super) struct Order {
    /// Samples that have a value other than 0.
    pub(super) samples: Vec<u32>,
    /// Functions of these.
    pub(super) functions: Vec<u32>,
    /// Their locations.
    pub(super) locations: Vec<u32>,
}

impl Order {
    /// The order of `profile`; of equal profiles it is the same, whatever they were read from.
    #[must_use]
    pub(super) fn of(profile: &Profile) -> Self {
        let has_value = |values: &[i64]| values.iter().any(|value| *value != 0);
        let mut samples = positions(profile.rows().map(|(_, values)| has_value(values)));
        let tree = &profile.tree;
        let mut is_used = vec![false; tree.len()];
        for row in &samples {
            for node in tree.path(profile.samples[*row as usize].node) {
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
            let location = symbols.location(location);
            // What stands for an address is no function.
            if !symbols.origin_of(location).is_bare {
                has_function[location.function.0 as usize] = true;
            }
        }
        let mut functions = positions(has_function);
        sort(&mut functions, &mut |one, other| {
            let [one, other] = [one, other].map(|at| &symbols.functions[at]);
            let by_line = || one.first_line.cmp(&other.first_line);
            let by_file = one.file.cmp(&other.file).then_with(by_line);
            by_file
                .then_with(|| (&one.name, &one.system_name).cmp(&(&other.name, &other.system_name)))
        });
        let function_ranks = ranks(&functions, symbols.functions.len());
        let mut locations = positions(has_location);
        sort(&mut locations, &mut |one, other| {
            let [one, other] = [one, other].map(|at| symbols.locations[at]);
            let rank = |location: Location| function_ranks[location.function.0 as usize];
            let by_line = (rank(one), one.line).cmp(&(rank(other), other.line));
            by_line.then_with(|| symbols.origin_of(one).cmp(&symbols.origin_of(other)))
        });
        let location_ranks = ranks(&locations, symbols.locations.len());
        let node_ranks = node_ranks(profile, &is_used, &location_ranks);
        let mut label_sets = positions(profile.label_sets.iter().map(|_| true));
        sort(&mut label_sets, &mut |one, other| {
            profile.label_sets[one].cmp(&profile.label_sets[other])
        });
        let label_ranks = ranks(&label_sets, label_sets.len());
        sort(&mut samples, &mut |one, other| {
            let key = |row: usize| {
                let sample = profile.samples[row];
                let labels = label_ranks[sample.labels.0 as usize];
                (node_ranks[sample.node.index()], labels)
            };
            key(one).cmp(&key(other))
        });
        Self {
            samples,
            functions,
            locations,
        }
    }
}

/// Sorts positions; equal ones stay as they are. There is one copy of this, for a sort is large.
#[inline(never)]
fn sort(positions: &mut [u32], compare: &mut dyn FnMut(usize, usize) -> Ordering) {
    positions.sort_unstable_by(|one, other| {
        compare(*one as usize, *other as usize).then(one.cmp(other))
    });
}

/// Where it is true.
fn positions(table: impl IntoIterator<Item = bool>) -> Vec<u32> {
    let places = (0..).zip(table);
    places
        .filter(|(_, is_so)| *is_so)
        .map(|(at, _)| at)
        .collect()
}

/// By each of `length` positions, where it comes in `order`; 0 if it does not.
fn ranks(order: &[u32], length: usize) -> Vec<u32> {
    let mut ranks = vec![0; length];
    for (rank, at) in (0..).zip(order) {
        ranks[*at as usize] = rank;
    }
    ranks
}

/// By node: where it comes if each is followed by what it called, and those go by their locations.
fn node_ranks(profile: &Profile, is_used: &[bool], locations: &[u32]) -> Vec<u32> {
    let tree = &profile.tree;
    let mut called = positions(is_used.iter().copied());
    // By caller, and the last location first: the stack below gives them back from its end. The root
    // is not called, and nobody's location.
    called.retain(|node| *node != NodeId::ROOT.0);
    sort(&mut called, &mut |one, other| {
        let [one, other] = [one, other].map(|node| NodeId(node as u32));
        let rank = |node| locations[tree.location(node).0 as usize];
        tree.parent(one)
            .cmp(&tree.parent(other))
            .then(rank(other).cmp(&rank(one)))
    });
    // Where those called by each node begin in `called`.
    let mut begins = vec![0_u32; tree.len() + 1];
    for node in &called {
        begins[tree.parent(NodeId(*node)).index() + 1] += 1;
    }
    for at in 1..begins.len() {
        begins[at] += begins[at - 1];
    }
    let mut ranks = vec![0; tree.len()];
    let mut waiting = vec![NodeId::ROOT.0];
    let mut rank = 0;
    while let Some(node) = waiting.pop() {
        ranks[node as usize] = rank;
        rank += 1;
        let [begin, end] = [0, 1].map(|next| begins[node as usize + next] as usize);
        waiting.extend_from_slice(&called[begin..end]);
    }
    ranks
}
