//! Requests that are followed through their own task: what is told of each adds up to how long it took.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;

use super::DirectEngine;
use super::suspended::{Drawn, TaskDraws, amounts};
use super::task_blame::Waiting;
use crate::clock::cpu::monotonic_ns;
use crate::layout::tasks::TaskLayout;
use crate::memory::ReadMemory;
use crate::model::event::{BlamedTask, EventSample, TaskLock};
use crate::model::measure::Amounts;
use crate::model::stack::FunctionTable;
use crate::model::task::{RequestPart, RequestTask};
use crate::unwind::tasks::TaskReader;

/// Requests that are remembered; of more nothing is told.
const MAX_REQUESTS: usize = 20_000;
/// The end of one that nothing was told of for so long was lost, in ns: each has its turn within a minute.
const LOST_NS: u64 = 600_000_000_000;

/// What was told of each request, by number.
#[derive(Debug, Default)]
pub(super) struct FollowedRequests(FxHashMap<u64, Told>);

#[derive(Debug)]
struct Told {
    /// Until when, by the monotonic clock in ns.
    until_ns: u64,
    /// What was told last.
    last: EventSample,
}

impl FollowedRequests {
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * (size_of::<(u64, Told)>() + 1)
            + self
                .0
                .values()
                .map(|told| told.last.stack.frames.len() * 16)
                .sum::<usize>()
    }

    /// The time of a request under way since it was told of last, with its task where `event` has it; none
    /// if there are too many.
    fn tell(
        &mut self,
        request: RequestTask,
        event: &EventSample,
        now_ns: u64,
    ) -> Option<EventSample> {
        let known = &mut self.0;
        let until_ns = known.get(&request.number).map(|told| told.until_ns);
        if until_ns.is_none() {
            if known.len() >= MAX_REQUESTS {
                known.retain(|_, told| now_ns.saturating_sub(told.until_ns) < LOST_NS);
            }
            // One that is forgotten would be told of from its beginning again.
            if known.len() >= MAX_REQUESTS || known.try_reserve(1).is_err() {
                return None;
            }
        }
        let told = Told {
            until_ns: now_ns,
            last: event.clone(),
        };
        known.insert(request.number, told);
        Some(EventSample {
            values: amount(
                now_ns.saturating_sub(until_ns.unwrap_or(request.began_ns)),
                event,
            ),
            ..event.clone()
        })
    }

    /// The rest of a request that has ended, where its task was last.
    fn end(
        &mut self,
        number: u64,
        ended_ns: u64,
        functions: &FunctionTable,
    ) -> Option<EventSample> {
        let told = self.0.remove(&number)?;
        let rest_ns = ended_ns.saturating_sub(told.until_ns);
        // Functions that have died are not known any more.
        let mut frames = told.last.stack.frames.iter();
        let are_known = frames.all(|frame| functions.contains_key(&frame.function));
        let lock = told.last.lock.clone().map(|lock| TaskLock {
            blamed: match lock.blamed {
                BlamedTask::Nobody => BlamedTask::Nobody,
                _ => BlamedTask::AsFound,
            },
            ..lock
        });
        (rest_ns > 0 && are_known).then(|| EventSample {
            values: amount(rest_ns, &told.last),
            lock,
            ..told.last
        })
    }
}

/// So much of the life of a task, which was at this event.
fn amount(ns: u64, event: &EventSample) -> Amounts {
    amounts(i64::try_from(ns).unwrap_or(i64::MAX), event.lock.is_some())
}

impl DirectEngine {
    /// Tells where the own tasks of these requests are, for the time since they were told of last. Returns
    /// those that wait for locks.
    pub(super) fn follow_requests(
        &mut self,
        memory: &mut dyn ReadMemory,
        known: &TaskLayout,
        requests: &[RequestTask],
        draws: &mut TaskDraws,
        events: &mut Vec<EventSample>,
    ) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        let mut under_way = Vec::new();
        for request in requests {
            match request.ended_ns {
                Some(ended_ns) => {
                    let functions = &self.roster.snapshot().functions;
                    events.extend(draws.requests.end(request.number, ended_ns, functions));
                }
                None => under_way.push(*request),
            }
        }
        if under_way.is_empty() {
            return waiting;
        }
        let addresses: Vec<usize> = under_way.iter().map(|request| request.task).collect();
        let layout = &self.interpreter.layout;
        let all = TaskReader::new(memory, &mut draws.store, layout, known).joined_all(&addresses);
        let now_ns = monotonic_ns();
        let mut found = Vec::with_capacity(all.len());
        let mut drawn = Vec::with_capacity(all.len());
        for (request, joined) in under_way.into_iter().zip(all) {
            if let Some(joined) = joined {
                found.push(request);
                drawn.push(Drawn::new(request.task, joined, 0));
            }
        }
        self.name_tasks(memory, &mut drawn);
        for (request, drawn) in found.into_iter().zip(drawn) {
            let event = self.event_of_task(memory, known, &drawn, draws);
            // Within another request its task works on that.
            let is_its = |event: &EventSample| {
                let labels = event.labels.as_ref();
                labels.is_some_and(|labels| labels.request == request.number)
            };
            if let Some(event) = event.filter(is_its) {
                let event = EventSample {
                    part: Some(RequestPart::Own),
                    is_followed: true,
                    ..event
                };
                if let Some(event) = draws.requests.tell(request, &event, now_ns) {
                    events.push(event);
                    waiting.extend(drawn.waiting(events.len() - 1));
                }
            }
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::{FollowedRequests, LOST_NS, MAX_REQUESTS};
    use crate::capture::direct::suspended::amounts;
    use crate::model::event::EventSample;
    use crate::model::measure::MeasureId;
    use crate::model::stack::{FunctionTable, Stack};
    use crate::model::task::RequestTask;

    fn event() -> EventSample {
        EventSample {
            thread_id: 1,
            at_ns: 0,
            stack: Stack::default(),
            labels: None,
            task: None,
            part: None,
            is_followed: true,
            lock: None,
            values: amounts(0, false),
        }
    }

    fn task_wall(event: &EventSample) -> i64 {
        let pairs = event.values.pairs();
        assert!(pairs.iter().all(|(id, _)| *id == MeasureId::TaskWall));
        pairs.iter().map(|(_, amount)| amount).sum()
    }

    #[test]
    fn no_time_of_a_request_is_told_twice_however_many_there_are() {
        let mut requests = FollowedRequests::default();
        let mut tell = |number: usize, now_ns: u64| {
            let request = RequestTask {
                number: number as u64,
                task: 0,
                began_ns: 100,
                ended_ns: None,
            };
            let told = requests.tell(request, &event(), now_ns);
            told.map(|told| task_wall(&told))
        };
        for number in 1..=MAX_REQUESTS {
            assert_eq!(tell(number, 1_000), Some(900));
        }
        assert_eq!(tell(MAX_REQUESTS + 1, 2_000), None);
        assert_eq!(tell(1, 3_000), Some(2_000));
        // The others' ends were lost.
        assert_eq!(
            tell(MAX_REQUESTS + 1, LOST_NS + 2_000),
            Some(LOST_NS as i64 + 1_900)
        );
        assert_eq!(tell(1, LOST_NS + 2_000), Some(LOST_NS as i64 - 1_000));
        assert_eq!(requests.0.len(), 2);
        let functions = FunctionTable::default();
        let rest = requests.end(1, LOST_NS + 2_500, &functions);
        assert_eq!(rest.map(|rest| task_wall(&rest)), Some(500));
        assert!(requests.end(1, LOST_NS + 2_500, &functions).is_none());
    }
}
