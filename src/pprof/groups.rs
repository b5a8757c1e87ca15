//! Frames that share a location: a function and those that the compiler inlined into it.
#![forbid(unsafe_code)]

use super::order::Order;
use crate::fold::profile::Profile;
use crate::model::hashing::KeyedMap;
use crate::model::location::{LocationId, Symbols};

/// The groups of more than one frame that a profile has, with the ids of their locations.
#[derive(Default)]
pub(super) struct Groups {
    /// By the frames, innermost first; those of a file may be chosen to collide.
    ids: KeyedMap<Vec<LocationId>, u64>,
    /// By location: whether it stands for itself somewhere. Empty where all do.
    alone: Vec<bool>,
    first_id: u64,
}

/// Whether any frame of the profile was inlined.
pub(super) fn has_inlined(profile: &Profile) -> bool {
    profile
        .symbols
        .origins
        .iter()
        .any(|origin| origin.is_inlined)
}

/// Calls `visit` with the frames of each location of a stack, which is given innermost first.
pub(super) fn for_each(
    symbols: &Symbols,
    stack: impl Iterator<Item = LocationId>,
    mut visit: impl FnMut(&[LocationId]),
) {
    let mut group = Vec::new();
    for frame in stack {
        group.push(frame);
        if !symbols.origin_of(symbols.location(frame)).is_inlined {
            visit(&group);
            group.clear();
        }
    }
    // What they were inlined into may have been left out, where there was no room for it.
    if !group.is_empty() {
        visit(&group);
    }
}

impl Groups {
    /// The groups of the samples that are written, numbered as these come.
    pub(super) fn of(profile: &Profile, order: &Order) -> Self {
        let mut groups = Self::default();
        if !has_inlined(profile) {
            return groups;
        }
        let (symbols, tree) = (&profile.symbols, &profile.tree);
        groups.alone = vec![false; symbols.locations.len()];
        for row in &order.samples {
            let path = tree.path(profile.samples[*row as usize].node);
            let stack = path.map(|node| tree.location(node));
            for_each(symbols, stack, |group| match group {
                [alone] => groups.alone[alone.0 as usize] = true,
                group if groups.ids.contains_key(group) => {}
                group => {
                    let next = groups.ids.len() as u64;
                    groups.ids.insert(group.to_vec(), next);
                }
            });
        }
        groups
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether a frame has a location of its own.
    pub(super) fn has_alone(&self, frame: LocationId) -> bool {
        self.alone.get(frame.0 as usize).copied().unwrap_or(true)
    }

    /// Begins with this id.
    pub(super) fn number_from(&mut self, first_id: u64) {
        self.first_id = first_id;
    }

    /// Id and frames of each group, by id.
    pub(super) fn in_order(&self) -> impl Iterator<Item = (u64, &[LocationId])> {
        let mut all: Vec<_> = self.ids.iter().collect();
        all.sort_unstable_by_key(|(_, id)| **id);
        let ids = self.first_id..;
        ids.zip(all.into_iter().map(|(frames, _)| frames.as_slice()))
    }

    /// The id of a group.
    pub(super) fn id_of(&self, group: &[LocationId]) -> u64 {
        self.ids.get(group).map_or(0, |id| self.first_id + id)
    }
}
