//! Requests: what the application is serving, how long each route takes, which requests are slow,
//! and which are wanted by a capture.
//!
//! Durations come from the clock at the start and the end of a request, never from samples.
#![forbid(unsafe_code)]

pub mod captures;
pub mod figures;
mod followed;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;

use self::captures::CaptureState;
use self::figures::RouteFigures;
use self::followed::Followed;
use crate::clock::cpu::{monotonic_ns, thread_id};
use crate::model::function::OTHER;

/// Requests under way that are watched; of more only the number is known.
const MAX_UNDER_WAY: usize = 100_000;
/// Routes with figures of their own; more share `<other>`.
const MAX_ROUTES: usize = 1_000;
/// When a request counts as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowLimit {
    /// Time from its start in ns.
    pub after_ns: u64,
    /// Time between two looks at it from then on in ns; 0: one look only.
    pub repeat_ns: u64,
}

/// A request that has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Its number, never used again in this process; 0 if it is not watched.
    pub number: u64,
    /// The captures that want it.
    pub captures: u64,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When it began, by the monotonic clock in ns.
    pub began_ns: u64,
    /// How long it took in ns.
    pub duration_ns: u64,
    /// How often it was looked at because it was slow.
    pub looks: u32,
    /// CPU time spent on it in ns, by the clocks of its threads; `None` if that is not known.
    pub cpu_ns: Option<u64>,
}

/// A slow request that is to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its number.
    pub number: u64,
    /// Its route.
    pub route: Arc<str>,
    /// The kernel's id of the thread that began it.
    pub thread_id: u64,
    /// Time since its start in ns.
    pub elapsed_ns: u64,
    /// Which look this is, from 1.
    pub look: u32,
}

thread_local! {
    /// The kernel's id of the thread. In a forked child the one thread has another, which only
    /// makes a look at a loop that stands still see nothing.
    static THREAD_ID: u64 = thread_id();
}

#[derive(Debug)]
struct UnderWay {
    route: usize,
    began_ns: u64,
    captures: u64,
    thread_id: u64,
    slow: Option<SlowLimit>,
    due_ns: u64,
    looks: u32,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    under_way: FxHashMap<u64, UnderWay>,
    /// When which slow request is to be looked at.
    due: BTreeSet<(u64, u64)>,
    routes: Vec<RouteFigures>,
    /// The index of each route.
    indexes: FxHashMap<Arc<str>, usize>,
    captures: Vec<CaptureState>,
    followed: Followed,
    /// The shortest limit there ever was, in ns: so long nothing new can become due.
    shortest_ns: Option<u64>,
    /// Whether a request with a limit has begun since the watcher last looked.
    is_busy: bool,
    /// Whether the watcher waits to be woken.
    is_asleep: bool,
    /// Whether whoever waits is to look around.
    is_woken: bool,
}

/// The requests of one process.
#[derive(Debug, Default)]
pub struct Requests {
    state: Mutex<State>,
    wake: Condvar,
    /// Requests beyond [`MAX_UNDER_WAY`], which nobody watches.
    pub unwatched: AtomicU64,
}

impl Requests {
    /// Notes the start of a request. `allowed` are the captures that may take it.
    pub fn begin(&self, route: &str, slow: Option<SlowLimit>, allowed: u64) -> Begun {
        let began_ns = monotonic_ns();
        let thread_id = THREAD_ID.with(|id| *id);
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.under_way.len() >= MAX_UNDER_WAY {
            self.unwatched.fetch_add(1, Relaxed);
            return Begun::default();
        }
        state.last_number += 1;
        let number = state.last_number;
        let captures = state.claim(route, allowed);
        let route = state.index_of(route);
        state.routes[route].under_way += 1;
        let due_ns = slow.map_or(0, |slow| began_ns.saturating_add(slow.after_ns));
        if let Some(slow) = slow {
            state.due.insert((due_ns, number));
            state.is_busy = true;
            let shortest = state.shortest_ns.unwrap_or(u64::MAX);
            if state.is_asleep || slow.after_ns < shortest {
                state.shortest_ns = Some(shortest.min(slow.after_ns));
                state.is_asleep = false;
                self.wake.notify_all();
            }
        }
        state.under_way.insert(
            number,
            UnderWay {
                route,
                began_ns,
                captures,
                thread_id,
                slow,
                due_ns,
                looks: 0,
            },
        );
        Begun { number, captures }
    }

    /// Notes the route of a request that was begun before it was known; returns the captures that
    /// take it now.
    pub fn rename(&self, number: u64, route: &str, allowed: u64) -> Begun {
        let mut state = self.state.lock();
        let state = &mut *state;
        let index = state.index_of(route);
        let Some(request) = state.under_way.get_mut(&number) else {
            return Begun::default();
        };
        let old = std::mem::replace(&mut request.route, index);
        let taken = request.captures;
        state.routes[old].under_way = state.routes[old].under_way.saturating_sub(1);
        state.routes[index].under_way += 1;
        let captures = taken | state.claim(route, allowed & !taken);
        if let Some(request) = state.under_way.get_mut(&number) {
            request.captures = captures;
        }
        Begun { number, captures }
    }

    /// Notes the end of a request, on which `cpu_ns` were spent; `None` if it is not known.
    pub fn end(&self, number: u64, cpu_ns: Option<u64>) -> Option<Ended> {
        let now_ns = monotonic_ns();
        let mut state = self.state.lock();
        let state = &mut *state;
        let ended = state.under_way.remove(&number)?;
        if ended.slow.is_some() {
            state.due.remove(&(ended.due_ns, number));
        }
        state.followed.end(number, now_ns);
        let duration_ns = now_ns.saturating_sub(ended.began_ns);
        let figures = &mut state.routes[ended.route];
        figures.under_way = figures.under_way.saturating_sub(1);
        figures.add(duration_ns, cpu_ns);
        if ended.captures != 0 {
            state.count_captured(ended.captures, number, duration_ns);
        }
        Some(Ended {
            began_ns: ended.began_ns,
            duration_ns,
            looks: ended.looks,
            cpu_ns,
        })
    }

    /// The figures of all routes.
    #[must_use]
    pub fn figures(&self) -> Vec<RouteFigures> {
        self.state.lock().routes.clone()
    }

    /// Waits until a slow request is due, or for `patience`; returns those that are.
    pub fn wait_for_due(&self, patience: Duration) -> Vec<Due> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.is_woken) {
            return Vec::new();
        }
        let now_ns = monotonic_ns();
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let is_busy = std::mem::take(&mut state.is_busy) || !state.due.is_empty();
        let mut wait_ns = patience_ns;
        if is_busy {
            // What begins meanwhile is not due before the shortest limit.
            let first = state.due.first().map_or(u64::MAX, |(due_ns, _)| *due_ns);
            let shortest = state.shortest_ns.unwrap_or(u64::MAX);
            wait_ns = wait_ns.min(shortest).min(first.saturating_sub(now_ns));
        } else {
            state.is_asleep = true;
        }
        if wait_ns > 0 {
            self.wake
                .wait_for(&mut state, Duration::from_nanos(wait_ns));
        }
        state.is_asleep = false;
        state.is_woken = false;
        state.take_due(monotonic_ns())
    }

    /// Has whoever waits for due requests return, once.
    pub fn wake(&self) {
        self.state.lock().is_woken = true;
        self.wake.notify_all();
    }
}

impl State {
    fn index_of(&mut self, route: &str) -> usize {
        if let Some(&index) = self.indexes.get(route) {
            return index;
        }
        let name = if self.routes.len() < MAX_ROUTES {
            route
        } else {
            OTHER
        };
        if let Some(&index) = self.indexes.get(name) {
            return index;
        }
        let name: Arc<str> = Arc::from(name);
        self.routes.push(RouteFigures::new(name.clone()));
        self.indexes.insert(name, self.routes.len() - 1);
        self.routes.len() - 1
    }

    fn take_due(&mut self, now_ns: u64) -> Vec<Due> {
        let mut found = Vec::new();
        while let Some(&(due_ns, number)) = self.due.first() {
            if due_ns > now_ns {
                break;
            }
            self.due.pop_first();
            let Some(request) = self.under_way.get_mut(&number) else {
                continue;
            };
            request.looks += 1;
            found.push(Due {
                number,
                route: self.routes[request.route].route.clone(),
                thread_id: request.thread_id,
                elapsed_ns: now_ns.saturating_sub(request.began_ns),
                look: request.looks,
            });
            let repeat_ns = request.slow.map_or(0, |slow| slow.repeat_ns);
            // Looks that were missed are not made up for.
            if let Some(missed) = (now_ns - due_ns).checked_div(repeat_ns) {
                request.due_ns = due_ns + (missed + 1) * repeat_ns;
                self.due.insert((request.due_ns, number));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{MAX_ROUTES, Requests, SlowLimit};

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn slow_requests_become_due_again_and_again_until_they_end() {
        let requests = Requests::default();
        let at_once = SlowLimit {
            after_ns: 0,
            repeat_ns: 1,
        };
        let never = SlowLimit {
            after_ns: u64::MAX / 2,
            repeat_ns: 1,
        };
        let slow = requests.begin("/slow", Some(at_once), 0).number;
        requests.begin("/fast", Some(never), 0);
        for look in 1..4 {
            let due = requests.wait_for_due(NOW);
            assert_eq!((due.len(), due[0].number, due[0].look), (1, slow, look));
        }
        assert_eq!(requests.end(slow, None).map(|ended| ended.looks), Some(3));
        assert!(requests.wait_for_due(NOW).is_empty());
        assert_eq!(requests.end(slow, None), None);
    }

    #[test]
    fn routes_are_bounded() {
        let requests = Requests::default();
        for number in 0..2 * MAX_ROUTES {
            let begun = requests.begin(&format!("/{number}"), None, 0);
            requests.end(begun.number, Some(3));
        }
        let figures = requests.figures();
        assert_eq!(figures.len(), MAX_ROUTES + 1);
        assert_eq!(
            figures.iter().map(|route| route.count).sum::<u64>(),
            2 * MAX_ROUTES as u64
        );
        let sums = figures.iter().map(|route| (route.cpu_ns, route.cpu_count));
        let sum = sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        assert_eq!(sum, (6 * MAX_ROUTES as u64, 2 * MAX_ROUTES as u64));
    }
}
