//! A call tree depth first, without recursion: a tree may be deeper than a native stack.
#![forbid(unsafe_code)]

use crate::fold::call_tree::{CallTree, NodeId};

/// One step of the way through the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// To a node, after its caller and before what it calls.
    Enter(NodeId),
    /// Back from a node, after all it calls.
    Leave(NodeId),
}

/// Every node but the root twice, in the order in which the nodes were made.
pub(super) fn walk(tree: &CallTree) -> impl Iterator<Item = Step> + '_ {
    // The root is nobody's child, so that its id stands for "none".
    let none = NodeId::ROOT;
    let mut first_child = vec![none; tree.len()];
    let mut next_sibling = vec![none; tree.len()];
    for node in tree.nodes().rev() {
        let first = &mut first_child[tree.parent(node).index()];
        next_sibling[node.index()] = *first;
        *first = node;
    }
    let mut next = match first_child[NodeId::ROOT.index()] {
        NodeId::ROOT => None,
        child => Some(Step::Enter(child)),
    };
    std::iter::from_fn(move || {
        let step = next?;
        next = match step {
            Step::Enter(node) => match first_child[node.index()] {
                NodeId::ROOT => Some(Step::Leave(node)),
                child => Some(Step::Enter(child)),
            },
            Step::Leave(node) => match (next_sibling[node.index()], tree.parent(node)) {
                (NodeId::ROOT, NodeId::ROOT) => None,
                (NodeId::ROOT, parent) => Some(Step::Leave(parent)),
                (sibling, _) => Some(Step::Enter(sibling)),
            },
        };
        Some(step)
    })
}
