//! Sources: where samples come from that no look at a thread would bring.
//!
//! A hook tells an event on the thread on which it happens, by an [`EventSender`]; the sampler drains
//! it at its ticks. What a thread has to wait for is never the sampler: where there is no room the
//! event is lost, and counted.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, MutexGuard};

use crate::model::event::EventSample;
use crate::model::measure::MeasureSet;
use crate::model::stack::FunctionTable;

/// Tells of events, and of what there is at the end of a window.
pub trait Source: Send {
    /// What its samples measure.
    fn measures(&self) -> MeasureSet;

    /// Hands over what has happened since the last call; returns how many events were lost.
    fn drain(&mut self, events: &mut Vec<EventSample>) -> u64;

    /// Hands over what there is now, for measures that are levels; asked at the end of each window.
    fn levels(&mut self, _events: &mut Vec<EventSample>) {}

    /// The functions in the stacks of its samples.
    fn functions(&self) -> &FunctionTable;
}

/// A queue for `capacity` events.
#[must_use]
pub fn event_queue(capacity: usize) -> (EventSender, EventReceiver) {
    let (sender, receiver) = bounded(capacity);
    let lost = Arc::new(AtomicU64::new(0));
    let sender = EventSender {
        sender,
        lost: lost.clone(),
    };
    (sender, EventReceiver { receiver, lost })
}

/// The end of the queue at which events happen.
#[derive(Clone, Debug)]
pub struct EventSender {
    sender: Sender<EventSample>,
    lost: Arc<AtomicU64>,
}

impl EventSender {
    /// Tells an event, without waiting.
    pub fn send(&self, event: EventSample) {
        if self.sender.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The end of the queue that a source drains.
#[derive(Debug)]
pub struct EventReceiver {
    receiver: Receiver<EventSample>,
    lost: Arc<AtomicU64>,
}

impl EventReceiver {
    /// See [`Source::drain`]. What comes while it works is for the next time.
    pub fn drain(&self, events: &mut Vec<EventSample>) -> u64 {
        events.extend(self.receiver.try_iter().take(self.receiver.len()));
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// The sources of a process. The sampler asks them; they outlive it, and its engine.
#[derive(Clone, Default)]
pub struct Sources(Arc<Mutex<Vec<Box<dyn Source>>>>);

impl Sources {
    /// Adds a source, whose measures the recordings to come have.
    pub fn add(&self, source: Box<dyn Source>) {
        self.0.lock().push(source);
    }

    /// What all of them measure.
    #[must_use]
    pub fn measures(&self) -> MeasureSet {
        let sources = self.0.lock();
        let measures = sources.iter().map(|source| source.measures());
        measures.fold(MeasureSet::default(), MeasureSet::union)
    }

    /// All of them, to be asked.
    pub fn lock(&self) -> MutexGuard<'_, Vec<Box<dyn Source>>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::event_queue;
    use crate::model::event::EventSample;
    use crate::model::measure::{Amounts, MeasureId};
    use crate::model::stack::Stack;

    #[test]
    fn what_finds_no_room_is_counted() {
        let (sender, receiver) = event_queue(3);
        let mut events = Vec::new();
        for round in 1..=2 {
            for number in 0..5 {
                sender.send(EventSample {
                    thread_id: number,
                    at_ns: 0,
                    stack: Stack::default(),
                    labels: None,
                    task: None,
                    part: None,
                    is_followed: false,
                    lock: None,
                    values: Amounts::of(MeasureId::Exceptions, 1),
                });
            }
            assert_eq!(receiver.drain(&mut events), 2);
            let threads: Vec<u64> = events.iter().map(|event| event.thread_id).collect();
            assert_eq!(threads, [0, 1, 2].repeat(round));
            // What was told of is told once.
            assert_eq!(receiver.drain(&mut events), 0);
            assert_eq!(events.len(), 3 * round);
        }
    }
}
