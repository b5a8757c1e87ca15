//! The call tree as columns: node `n` is `(parent[n], location[n])`, parents before children.
//!
//! A whole stack is one integer, and a pass from the last node to the first adds every subtree up.

use rustc_hash::FxHashMap;

use crate::model::location::LocationId;

/// A node of a call tree; the root, which is no frame, is [`NodeId::ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u32);

impl NodeId {
    /// The empty stack, parent of every outermost frame.
    pub const ROOT: Self = Self(0);

    /// This node's row in the columns.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The columns of a call tree.
#[derive(Clone, Debug)]
pub struct CallTree {
    parents: Vec<NodeId>,
    locations: Vec<LocationId>,
}

impl Default for CallTree {
    fn default() -> Self {
        // The root's location is never read; it keeps the columns aligned.
        Self {
            parents: vec![NodeId::ROOT],
            locations: vec![LocationId(u32::MAX)],
        }
    }
}

impl CallTree {
    /// Number of nodes, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parents.len()
    }

    /// Whether there is no frame at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// The caller of `node`; the root is its own parent.
    #[must_use]
    pub fn parent(&self, node: NodeId) -> NodeId {
        self.parents[node.index()]
    }

    /// The location of `node`, which must not be the root.
    #[must_use]
    pub fn location(&self, node: NodeId) -> LocationId {
        self.locations[node.index()]
    }

    /// All frames' nodes, parents before children.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (1..u32::try_from(self.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// `node` and its callers, leaf first, without the root.
    pub fn path(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let mut next = node;
        std::iter::from_fn(move || {
            let current = next;
            next = self.parent(current);
            (current != NodeId::ROOT).then_some(current)
        })
    }
}

/// A call tree that still grows.
#[derive(Debug, Default)]
pub struct GrowingTree {
    tree: CallTree,
    children: FxHashMap<(NodeId, LocationId), NodeId>,
}

impl GrowingTree {
    /// The existing child of `parent` at `location`.
    #[must_use]
    pub fn existing_child(&self, parent: NodeId, location: LocationId) -> Option<NodeId> {
        self.children.get(&(parent, location)).copied()
    }

    /// The child of `parent` at `location`, made if it is not there.
    pub fn child(&mut self, parent: NodeId, location: LocationId) -> NodeId {
        let next = NodeId(u32::try_from(self.tree.len()).unwrap_or(u32::MAX));
        let node = *self.children.entry((parent, location)).or_insert(next);
        if node == next {
            self.tree.parents.push(parent);
            self.tree.locations.push(location);
        }
        node
    }

    /// Whether there is memory for so many more nodes.
    pub fn has_room(&mut self, nodes: usize) -> bool {
        let tree = &mut self.tree;
        tree.parents.try_reserve(nodes).is_ok()
            && tree.locations.try_reserve(nodes).is_ok()
            && self.children.try_reserve(nodes).is_ok()
    }

    /// Number of nodes, the root included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether there is no frame at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        // Columns of two u32, and a hash table row of three with its control byte and slack.
        self.tree.parents.capacity() * 8 + self.children.capacity() * 14
    }

    /// The finished columns.
    #[must_use]
    pub fn into_tree(self) -> CallTree {
        self.tree
    }
}
