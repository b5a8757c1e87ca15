//! What the application says the calling thread is doing: the labels in its context, by plain loads.
//!
//! The context is the thread's own, and what it holds is immutable or ours; it cannot die while the
//! thread is here. The walk is that of `unwind/labels.rs`, where layouts are told; they were tried out
//! before there is a place to look at.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::walk::{load, may_be_object};
use crate::heap::said::Said;
use crate::layout::context::{
    BITMAP, CHILDREN, CONTEXT_VARIABLES, MAX_LEVELS, PAIRS, ROOT, SIZE, TYPE, TYPE_NAME,
};
use crate::py::labels::Labels;
use crate::unwind::labels::{LabelPlace, PLACE, Shown};

const WORD: usize = size_of::<usize>();
/// A hash that several variables share; more would not be by chance.
const MAX_COLLISIONS: usize = 16;
/// Looks at labels that another thread changes.
const LOOKS: u32 = 16;

/// The type of our label objects.
static LABELS_TYPE: OnceLock<usize> = OnceLock::new();

/// Learns what label objects are, before any sample is taken.
pub(super) fn learn(py: Python<'_>) {
    LABELS_TYPE.get_or_init(|| py.get_type::<Labels>().as_ptr() as usize);
}

/// Hands to `take` what the thread of this state works under. The calling thread is that thread.
pub(super) fn said_in<T>(state: usize, take: impl FnOnce(&Said<'_>) -> T) -> Option<T> {
    let place = PLACE.get()?;
    // SAFETY: the state is the calling thread's, which alone changes its context; see above.
    let object = unsafe { labels_object(state, place)? };
    // SAFETY: of this type are our objects alone, which the context keeps alive.
    unsafe {
        if load(object + TYPE) != *LABELS_TYPE.get()? {
            return None;
        }
        let shown = &*((object + place.shown) as *const Shown);
        if shown.magic.load(Ordering::Relaxed) != place.magic {
            return None;
        }
        let labels = &*((object + place.shown - Labels::SHOWN) as *const Labels);
        let mut take = Some(take);
        for _ in 0..LOOKS {
            let told = labels.try_said(|bytes, request, captures| {
                let said = Said {
                    bytes,
                    request,
                    captures,
                };
                take.take().map(|take| take(&said))
            });
            match told {
                Some(told) => return told,
                None => std::hint::spin_loop(),
            }
        }
    }
    None
}

/// The value of our variable in the context of a thread.
///
/// # Safety
/// The state is the calling thread's.
unsafe fn labels_object(state: usize, place: &LabelPlace) -> Option<usize> {
    let some = |address: usize| may_be_object(address).then_some(address);
    // SAFETY: as the caller says; a context has variables, which are a trie of nodes of three kinds.
    unsafe {
        let context = some(load(state + place.context))?;
        let variables = some(load(context + CONTEXT_VARIABLES))?;
        let mut node = some(load(variables + ROOT))?;
        for level in 0..MAX_LEVELS {
            let branch = if level < 7 {
                place.hash >> (5 * level) & 31
            } else {
                0
            };
            let name = (load(load(node + TYPE) + TYPE_NAME) as *const u8).cast::<[u8; 16]>();
            match &*name {
                b"hamt_array_node\0" => {
                    node = some(load(node + CHILDREN + branch as usize * WORD))?;
                    continue;
                }
                b"hamt_collision_n" => {
                    let pairs = (load(node + SIZE) / 2).min(MAX_COLLISIONS);
                    let pair = |pair: usize| node + PAIRS + pair * 2 * WORD;
                    let own = (0..pairs).find(|at| load(pair(*at)) == place.variable)?;
                    return some(load(pair(own) + WORD));
                }
                b"hamt_bitmap_node" => {}
                _ => return None,
            }
            let bitmap = load(node + BITMAP) as u32;
            let bit = 1_u32 << branch;
            if bitmap & bit == 0 {
                return None;
            }
            let index = (bitmap & (bit - 1)).count_ones() as usize;
            let pair = node + PAIRS + index * 2 * WORD;
            match load(pair) {
                0 => node = some(load(pair + WORD))?,
                key if key == place.variable => return some(load(pair + WORD)),
                _ => return None,
            }
        }
    }
    None
}
