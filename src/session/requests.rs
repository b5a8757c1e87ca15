//! Requests: what the application is serving, how long each route takes, which requests are slow,
//! and which are wanted by a capture.
//!
//! Durations come from the clock at the begin and the end of a request, never from samples.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;

use super::control::RecordingId;
use crate::clock::cpu::{monotonic_ns, thread_id};
use crate::error::{Error, Result};
use crate::model::function::OTHER;

/// Requests under way that are watched; of more only the number is known.
const MAX_UNDER_WAY: usize = 100_000;
/// Routes with figures of their own; more share `<other>`.
const MAX_ROUTES: usize = 1_000;
/// Captures at a time, one bit each of `ActiveLabels::captures`.
const MAX_CAPTURES: u32 = 16;
/// Requests one capture may want.
pub const MAX_WANTED: u32 = 1_000_000;
/// Durations below 2^10 ns share a place, as do those beyond 2^42 ns (73 minutes).
const LOWEST_POWER: u32 = 10;
const HIGHEST_POWER: u32 = 42;
/// Places for each power of two: a duration is known to an eighth of itself.
const STEPS: usize = 8;
const PLACES: usize = (HIGHEST_POWER - LOWEST_POWER) as usize * STEPS + 1;

/// When a request counts as slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowLimit {
    /// Time from its begin in ns.
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
    /// Time since its begin in ns.
    pub elapsed_ns: u64,
    /// Which look this is, from 1.
    pub look: u32,
}

/// What is known of the durations of one route.
#[derive(Clone, Debug)]
pub struct RouteFigures {
    /// The route.
    pub route: Arc<str>,
    /// Requests ended.
    pub count: u64,
    /// Requests under way.
    pub under_way: u64,
    /// Sum of durations in ns.
    pub sum_ns: u64,
    /// The longest in ns.
    pub max_ns: u64,
    /// CPU time in ns, by the threads' clocks, of those of which it is known.
    pub cpu_ns: u64,
    /// How many these are.
    pub cpu_count: u64,
    histogram: Box<[u32]>,
}

impl RouteFigures {
    fn new(route: Arc<str>) -> Self {
        Self {
            route,
            count: 0,
            under_way: 0,
            sum_ns: 0,
            max_ns: 0,
            cpu_ns: 0,
            cpu_count: 0,
            histogram: vec![0; PLACES].into_boxed_slice(),
        }
    }

    fn add(&mut self, duration_ns: u64, cpu_ns: Option<u64>) {
        self.count += 1;
        if let Some(cpu_ns) = cpu_ns {
            self.cpu_ns = self.cpu_ns.saturating_add(cpu_ns);
            self.cpu_count += 1;
        }
        self.sum_ns = self.sum_ns.saturating_add(duration_ns);
        self.max_ns = self.max_ns.max(duration_ns);
        let place = &mut self.histogram[place_of(duration_ns)];
        *place = place.saturating_add(1);
    }

    /// The duration in ns that this part (0 to 1) of the requests did not exceed, known to an
    /// eighth of itself; 0 without any.
    #[must_use]
    pub fn quantile_ns(&self, part: f64) -> u64 {
        let whole: u64 = self.histogram.iter().map(|count| u64::from(*count)).sum();
        let wanted = (part * whole as f64).ceil().max(1.0) as u64;
        let mut sum = 0;
        for (place, count) in self.histogram.iter().enumerate() {
            sum += u64::from(*count);
            if *count > 0 && sum >= wanted {
                return upper_bound_ns(place).min(self.max_ns);
            }
        }
        0
    }
}

fn place_of(duration_ns: u64) -> usize {
    let duration = duration_ns.max(1);
    let power = duration.ilog2();
    if power < LOWEST_POWER {
        return 0;
    }
    if power >= HIGHEST_POWER {
        return PLACES - 1;
    }
    let step = (duration >> (power - 3)) as usize & (STEPS - 1);
    (power - LOWEST_POWER) as usize * STEPS + step + 1
}

fn upper_bound_ns(place: usize) -> u64 {
    if place == 0 {
        return 1 << LOWEST_POWER;
    }
    let (power, step) = ((place - 1) / STEPS, (place - 1) % STEPS);
    let power = LOWEST_POWER + u32::try_from(power).unwrap_or(0);
    ((STEPS + step + 1) as u64) << (power - 3)
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

#[derive(Debug)]
struct CaptureState {
    bit: u64,
    route: Option<String>,
    wanted: u32,
    begun: u32,
    durations: Vec<(u64, u64)>,
    /// Dropped when all have ended.
    done: Option<Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    last_number: u64,
    under_way: FxHashMap<u64, UnderWay>,
    /// When which slow request is to be looked at.
    due: BTreeSet<(u64, u64)>,
    routes: Vec<RouteFigures>,
    places: FxHashMap<Arc<str>, usize>,
    captures: Vec<CaptureState>,
    /// The shortest limit there ever was, in ns: so long nothing new can become due.
    shortest_ns: Option<u64>,
    /// Whether a request with a limit has begun since the watcher last looked.
    is_busy: bool,
    /// Whether the watcher waits to be woken.
    is_asleep: bool,
    /// Whether whoever waits is to look around.
    is_woken: bool,
    quit: bool,
}

/// The requests of one process.
#[derive(Debug, Default)]
pub struct Requests {
    state: Mutex<State>,
    wake: Condvar,
    /// Requests beyond [`MAX_UNDER_WAY`], which nobody watches.
    pub unwatched: AtomicU64,
}

/// A wish for the next so many requests.
#[derive(Debug)]
pub struct Capture {
    /// Its bit in `ActiveLabels::captures`.
    pub bit: u64,
    /// Disconnected when all have ended.
    pub done: Receiver<()>,
    /// The recording that takes them.
    pub recording: Option<RecordingId>,
}

impl Requests {
    /// Notes the begin of a request. `allowed` are the captures that may take it.
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
        let route = state.place(route);
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
        let place = state.place(route);
        let Some(request) = state.under_way.get_mut(&number) else {
            return Begun::default();
        };
        let old = std::mem::replace(&mut request.route, place);
        let taken = request.captures;
        state.routes[old].under_way = state.routes[old].under_way.saturating_sub(1);
        state.routes[place].under_way += 1;
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
        let duration_ns = now_ns.saturating_sub(ended.began_ns);
        let figures = &mut state.routes[ended.route];
        figures.under_way = figures.under_way.saturating_sub(1);
        figures.add(duration_ns, cpu_ns);
        if ended.captures != 0 {
            for capture in &mut state.captures {
                if ended.captures & capture.bit != 0 {
                    capture.durations.push((number, duration_ns));
                    if capture.durations.len() >= capture.wanted as usize {
                        capture.done = None;
                    }
                }
            }
        }
        Some(Ended {
            began_ns: ended.began_ns,
            duration_ns,
            looks: ended.looks,
            cpu_ns,
        })
    }

    /// Reserves a place for a capture. Requests are counted from [`Self::open`] on.
    ///
    /// # Errors
    /// When there are too many captures.
    pub fn capture(&self) -> Result<Capture> {
        let mut state = self.state.lock();
        let taken = state.captures.iter().fold(0, |bits, c| bits | c.bit);
        let bit = (0..MAX_CAPTURES)
            .map(|place| 1_u64 << place)
            .find(|bit| taken & bit == 0)
            .ok_or_else(|| {
                Error::state(format!(
                    "{MAX_CAPTURES} captures are waiting for requests already; close one first"
                ))
            })?;
        let (sender, done) = bounded(0);
        state.captures.push(CaptureState {
            bit,
            route: None,
            wanted: 0,
            begun: 0,
            durations: Vec::new(),
            done: Some(sender),
        });
        Ok(Capture {
            bit,
            done,
            recording: None,
        })
    }

    /// From now on requests are taken.
    pub fn open(&self, bit: u64, wanted: u32, route: Option<String>) {
        let mut state = self.state.lock();
        if let Some(capture) = state.captures.iter_mut().find(|c| c.bit == bit) {
            capture.wanted = wanted;
            capture.route = route;
        }
    }

    /// How many requests a capture has: begun and ended.
    #[must_use]
    pub fn progress(&self, bit: u64) -> (u32, u32) {
        let state = self.state.lock();
        let capture = state.captures.iter().find(|c| c.bit == bit);
        capture.map_or((0, 0), |capture| {
            let ended = u32::try_from(capture.durations.len()).unwrap_or(u32::MAX);
            (capture.begun, ended)
        })
    }

    /// Ends a capture; returns number and duration of each request that has ended.
    pub fn close(&self, bit: u64) -> Vec<(u64, u64)> {
        let mut state = self.state.lock();
        let place = state.captures.iter().position(|c| c.bit == bit);
        place.map_or_else(Vec::new, |at| state.captures.swap_remove(at).durations)
    }

    /// The figures of all routes.
    #[must_use]
    pub fn figures(&self) -> Vec<RouteFigures> {
        self.state.lock().routes.clone()
    }

    /// Waits until a slow request is due, or for `patience`; returns those that are.
    pub fn wait_for_due(&self, patience: Duration) -> Vec<Due> {
        let mut state = self.state.lock();
        if state.quit || std::mem::take(&mut state.is_woken) {
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

    /// Has whoever waits for due requests return, now and until [`Self::resume`].
    pub fn quit(&self) {
        self.state.lock().quit = true;
        self.wake.notify_all();
    }

    /// Permits waiting again.
    pub fn resume(&self) {
        self.state.lock().quit = false;
    }
}

impl State {
    /// Counts a request of this route for all captures that want it.
    fn claim(&mut self, route: &str, allowed: u64) -> u64 {
        let mut captures = 0;
        for capture in &mut self.captures {
            let is_wanted = capture
                .route
                .as_deref()
                .is_none_or(|wanted| wanted == route);
            if is_wanted && capture.begun < capture.wanted && allowed & capture.bit != 0 {
                capture.begun += 1;
                captures |= capture.bit;
            }
        }
        captures
    }

    fn place(&mut self, route: &str) -> usize {
        if let Some(&place) = self.places.get(route) {
            return place;
        }
        let name = if self.routes.len() < MAX_ROUTES {
            route
        } else {
            OTHER
        };
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        let name: Arc<str> = Arc::from(name);
        self.routes.push(RouteFigures::new(name.clone()));
        self.places.insert(name, self.routes.len() - 1);
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

    use crossbeam_channel::TryRecvError;
    use proptest::prelude::*;

    use super::{MAX_ROUTES, PLACES, Requests, RouteFigures, SlowLimit, place_of, upper_bound_ns};

    const NOW: Duration = Duration::ZERO;

    proptest! {
        #[test]
        fn a_place_holds_durations_within_an_eighth(duration in 1_u64..1 << 41) {
            let place = place_of(duration);
            prop_assert!(place < PLACES);
            let upper = upper_bound_ns(place);
            prop_assert!(duration <= upper);
            prop_assert!(place == 0 || upper <= duration + duration / 8 + 1);
        }

        #[test]
        fn quantiles_are_those_of_the_durations(
            mut durations in prop::collection::vec(2_000_u64..10_000_000_000, 1..200),
            part in 0.01_f64..1.0,
        ) {
            let mut figures = RouteFigures::new("x".into());
            for duration in &durations {
                figures.add(*duration, None);
            }
            durations.sort_unstable();
            let at = (part * durations.len() as f64).ceil() as usize - 1;
            let (said, exact) = (figures.quantile_ns(part), durations[at]);
            prop_assert!(said >= exact && said <= exact + exact / 8 + 1, "{} {}", said, exact);
        }
    }

    #[test]
    fn exactly_as_many_requests_are_captured_as_are_wanted() -> crate::error::Result<()> {
        let requests = Requests::default();
        let capture = requests.capture()?;
        assert_eq!(requests.begin("/a", None, u64::MAX).captures, 0);
        requests.open(capture.bit, 3, Some("/a".to_owned()));
        let mut taken = Vec::new();
        for turn in 0..20 {
            let route = if turn % 2 == 0 { "/a" } else { "/b" };
            let begun = requests.begin(route, None, u64::MAX);
            if begun.captures != 0 {
                assert_eq!(route, "/a");
                taken.push(begun.number);
            }
            assert!(requests.begin("/a", None, 0).captures == 0);
        }
        assert_eq!(taken.len(), 3);
        assert_eq!(requests.progress(capture.bit), (3, 0));
        for number in &taken {
            assert_eq!(capture.done.try_recv(), Err(TryRecvError::Empty));
            assert!(requests.end(*number, None).is_some());
        }
        assert_eq!(capture.done.try_recv(), Err(TryRecvError::Disconnected));
        let ended: Vec<u64> = requests.close(capture.bit).iter().map(|r| r.0).collect();
        assert_eq!(ended, taken);
        Ok(())
    }

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
