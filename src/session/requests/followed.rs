//! Requests that are followed through the task of asyncio in which they began, so that what is told of
//! them adds up to how long they took.
//!
//! Of all that are under way some have their turn at each draw, so that it costs the same however many
//! there are.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Requests;
use crate::model::task::RequestTask;

/// Requests that are followed at a time.
const MAX_FOLLOWED: usize = 10_000;
/// Requests that have their turn at a draw.
const TURNS: usize = 64;
/// Requests that have ended and of which this is yet to be told.
const MAX_ENDED: usize = 10_000;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Followed {
    /// By number; and whether each had a turn.
    under_way: BTreeMap<u64, (RequestTask, bool)>,
    ended: Vec<RequestTask>,
    /// The number whose turn was last.
    last: u64,
}

impl Followed {
    /// Notes the end of a request. One that had no turn is not told of.
    pub(super) fn end(&mut self, number: u64, ended_ns: u64) {
        if let Some((request, true)) = self.under_way.remove(&number)
            && self.ended.len() < MAX_ENDED
        {
            self.ended.push(RequestTask {
                ended_ns: Some(ended_ns),
                ..request
            });
        }
    }

    fn take_turns(&mut self, found: &mut Vec<RequestTask>) {
        found.append(&mut self.ended);
        let later: Vec<u64> = self
            .under_way
            .range(self.last + 1..)
            .map(|one| *one.0)
            .take(TURNS)
            .collect();
        let rest = TURNS - later.len();
        let earlier: Vec<u64> = self
            .under_way
            .range(..=self.last)
            .map(|one| *one.0)
            .take(rest)
            .collect();
        for number in later.into_iter().chain(earlier) {
            if let Some((request, had_turn)) = self.under_way.get_mut(&number) {
                *had_turn = true;
                self.last = number;
                found.push(*request);
            }
        }
    }
}

impl Requests {
    /// Has a request followed through the task at this address, in which it began.
    pub fn follow(&self, number: u64, task: usize) {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(request) = state.under_way.get(&number)
            && state.followed.under_way.len() < MAX_FOLLOWED
        {
            let request = RequestTask {
                number,
                task,
                began_ns: request.began_ns,
                ended_ns: None,
            };
            state.followed.under_way.insert(number, (request, false));
        }
    }

    /// Address of the task in which a request began; 0 if it is not followed.
    #[must_use]
    pub fn own_task(&self, number: u64) -> usize {
        let state = self.state.lock();
        let followed = state.followed.under_way.get(&number);
        followed.map_or(0, |(request, _)| request.task)
    }

    /// Adds those whose turn it is, and those that have ended since they had one.
    pub fn take_turns(&self, found: &mut Vec<RequestTask>) {
        self.state.lock().followed.take_turns(found);
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_ENDED, TURNS};
    use crate::session::requests::Requests;

    #[test]
    fn each_has_its_turn_and_its_end_is_told_once() {
        let requests = Requests::default();
        let begin = |_| {
            let number = requests.begin("/x", None, 0).number;
            requests.follow(number, 16 * usize::try_from(number).unwrap_or(0));
            number
        };
        let numbers: Vec<u64> = (0..3 * TURNS as u64 / 2).map(begin).collect();
        let turns = || {
            let mut found = Vec::new();
            requests.take_turns(&mut found);
            found
        };
        let first: Vec<u64> = turns().iter().map(|one| one.number).collect();
        assert_eq!(first, numbers[..TURNS]);
        // One that had a turn, and one that had none.
        for number in [numbers[0], numbers[TURNS]] {
            assert!(requests.end(number, None).is_some());
        }
        let second = turns();
        assert_eq!((second[0].number, second.len()), (numbers[0], TURNS + 1));
        assert!(second[0].ended_ns >= Some(second[0].began_ns));
        assert!(second[1..].iter().all(|one| one.ended_ns.is_none()));
        assert_eq!(second[1].number, numbers[TURNS + 1]);
        assert!(turns().iter().all(|one| one.ended_ns.is_none()));
        // What nobody asks for does not grow without end.
        for _ in 0..MAX_ENDED / TURNS + 2 {
            let some: Vec<u64> = (0..TURNS as u64).map(begin).collect();
            turns();
            turns();
            for number in some {
                assert!(requests.end(number, None).is_some());
            }
        }
    }
}
