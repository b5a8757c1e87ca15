//! Suspended greenlets: where each stands, read while the program runs.
//!
//! Several are read in step: what each of them needs next is copied by one call. In the end all of it is
//! copied once more: only of a greenlet of which nothing has changed, and which is still among those that
//! live, is believed what was found. One that was switched to in between is read again by itself, and then
//! left out. See [`crate::layout::greenlets`] for where things are.
#![forbid(unsafe_code)]

mod lane;

use std::sync::OnceLock;

use self::lane::Lane;
use super::frames::RawFrame;
use super::greenlet_table::GREENLETS;
use super::text::read_strings;
use crate::layout::Layout;
use crate::layout::greenlets::{GreenletLayout, GreenletState};
use crate::layout::tasks::TYPE;
use crate::memory::remembered::Remembered;
use crate::memory::{Range, ReadMemory, copy_each, read_word};

/// What is known of greenlets, once the program has imported them.
pub static KNOWN: OnceLock<GreenletLayout> = OnceLock::new();

/// Greenlets that are read in step.
pub const MAX_LANES: usize = 64;
/// Copies by which what is looked for is found; each leads one step further.
const MAX_ROUNDS: usize = 1_024;
/// Characters of a name.
const MAX_NAME: usize = 100;

/// A greenlet as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundGreenlet {
    /// What it does.
    pub state: GreenletState,
    /// Where it was left, innermost first; empty unless it is suspended in code of Python.
    pub frames: Vec<RawFrame>,
    /// Whether it has more frames than these.
    pub is_cut: bool,
    /// The context that it will go on in; 0: none.
    pub context: usize,
    /// The thread that it belongs to; `None` if that is unknown or gone.
    pub thread_id: Option<u64>,
    /// Address of its type.
    pub kind: usize,
    /// Its name, if somebody gave it one.
    pub name: Option<String>,
}

/// Reads greenlets; its buffers are used for each.
pub struct GreenletReader<'look> {
    memory: &'look mut (dyn ReadMemory + 'look),
    layout: &'look Layout,
    known: &'look GreenletLayout,
    ranges: Vec<Range>,
}

impl std::fmt::Debug for GreenletReader<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GreenletReader")
            .finish_non_exhaustive()
    }
}

impl<'look> GreenletReader<'look> {
    /// A reader for one look.
    pub fn new(
        memory: &'look mut (dyn ReadMemory + 'look),
        layout: &'look Layout,
        known: &'look GreenletLayout,
    ) -> Self {
        Self {
            memory,
            layout,
            known,
            ranges: Vec::new(),
        }
    }

    /// The greenlets at `addresses`, at most [`MAX_LANES`]; `None` for each that has gone, or did not stand
    /// still.
    pub fn greenlets(&mut self, addresses: &[usize]) -> Vec<Option<FoundGreenlet>> {
        let mut found = self.read(addresses);
        for (greenlet, address) in found.iter_mut().zip(addresses) {
            if greenlet.is_none() && addresses.len() > 1 {
                *greenlet = self.read(&[*address]).pop().flatten();
            }
            if !GREENLETS.contains(*address) {
                *greenlet = None;
            }
        }
        found
    }

    /// The same, whether or not they are known to live, tried once.
    pub fn read(&mut self, addresses: &[usize]) -> Vec<Option<FoundGreenlet>> {
        let addresses = addresses.iter().take(MAX_LANES);
        let mut lanes: Vec<Lane> = addresses
            .map(|address| Lane::new(*address, self.known))
            .collect();
        for _ in 0..MAX_ROUNDS {
            if !self.step(&mut lanes) {
                break;
            }
        }
        let names: Vec<Option<String>> = lanes.iter().map(|lane| self.name(lane)).collect();
        let all = Remembered::of(lanes.iter().map(|lane| &lane.kept));
        let are_still = all.is_still(self.memory);
        let lanes = lanes.into_iter().zip(names);
        lanes
            .map(|(lane, name)| {
                let is_still = are_still || lane.kept.is_still(self.memory);
                lane.found(self.known)
                    .filter(|_| is_still)
                    .map(|found| FoundGreenlet { name, ..found })
            })
            .collect()
    }

    /// Copies what each lane needs next; whether there was anything.
    fn step(&mut self, lanes: &mut [Lane]) -> bool {
        self.ranges.clear();
        self.ranges.extend(lanes.iter().filter_map(Lane::wanted));
        if self.ranges.is_empty() {
            return false;
        }
        let (layout, known) = (self.layout, self.known);
        let mut open = lanes.iter_mut().filter(|lane| lane.wanted().is_some());
        copy_each(self.memory, &self.ranges, |bytes| {
            if let Some(lane) = open.next() {
                lane.take(bytes, layout, known);
            }
        });
        true
    }

    /// The name among a greenlet's attributes. Those that no one gave are not among them.
    fn name(&mut self, lane: &Lane) -> Option<String> {
        let name = lane.name?;
        if read_word(self.memory, name.checked_add(TYPE)?)? != self.known.text_type {
            return None;
        }
        // It is this one's all the time, as the last copy will show.
        let [text] = read_strings(self.memory, &self.layout.text, [(name, MAX_NAME)])?;
        (!text.is_empty()).then_some(text)
    }
}
