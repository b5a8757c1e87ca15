//! How many callbacks the event loops of threads have ready.
#![forbid(unsafe_code)]

use super::DirectEngine;
use crate::memory::ReadMemory;
use crate::unwind::ready::ReadyQueue;
use crate::unwind::tasks::KNOWN;

/// Looks at a thread that runs no task until it is asked again whether it runs a loop.
const PATIENCE: u8 = 15;

/// What is known of the loop that a thread runs.
#[derive(Debug, Default)]
pub(super) struct LoopTrack {
    queue: Option<ReadyQueue>,
    /// Looks until the thread is asked again.
    patience: u8,
}

/// Whether it is known where event loops have what is ready.
pub(super) fn is_told() -> bool {
    let known = KNOWN.get();
    known.is_some_and(|known| known.loops.is_some() && known.deque != 0)
}

impl DirectEngine {
    /// Finds how many callbacks the loop of a thread has ready, after its stack.
    #[inline]
    pub(super) fn update_ready(&mut self, at: usize, memory: &mut dyn ReadMemory) {
        if let Some(known) = KNOWN.get()
            && self.stacks.joiner.is_some()
        {
            let layout = &self.interpreter.layout;
            let (track, sample) = self.roster.pair_mut(at);
            let track = &mut track.extra;
            let of_loop = &mut track.of_loop;
            let ready = of_loop.queue.as_ref().and_then(|queue| queue.ready(memory));
            sample.ready = ready.unwrap_or(0);
            if ready.is_some() {
                return;
            }
            of_loop.queue = None;
            let is_asked = track.running.task != 0 || of_loop.patience == 0;
            if !is_asked {
                of_loop.patience -= 1;
                return;
            }
            of_loop.patience = PATIENCE;
            let found = ReadyQueue::find(memory, layout, known, track.address);
            sample.ready = found
                .as_ref()
                .and_then(|queue| queue.ready(memory))
                .unwrap_or(0);
            of_loop.queue = found;
        }
    }
}
