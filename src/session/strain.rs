//! What the limits and the neighbours of the process and its own locks have cost it, for windows and for
//! whoever asks.
//!
//! Never asked by the sampler: see [`crate::clock::container`]. Locks are told of while they count
//! (`locks="exact"`).
#![forbid(unsafe_code)]

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::control::RecordingId;
use crate::clock::container::Strain;
use crate::clock::cpu::monotonic_ns;
use crate::model::window_facts::{Fact, strain_comments};
use crate::unwind::lock_owners::{LockFigures, OWNERS};

/// The kernel is not asked more often.
const INTERVAL_NS: u64 = 1_000_000_000;

/// What was known at a time, in ns.
type Reading = (u64, Strain);

/// See the module's documentation.
#[derive(Default)]
pub struct StrainGauge {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    newest: Option<Reading>,
    /// What was known when the open window of each recording began.
    begun: FxHashMap<RecordingId, (Reading, LockFigures)>,
}

impl StrainGauge {
    /// What is known now, or was a moment ago.
    pub fn read(&self) -> Strain {
        self.state.lock().read(monotonic_ns(), Strain::read).1
    }

    /// A recording begins.
    pub fn begin(&self, id: RecordingId) {
        let mut state = self.state.lock();
        let reading = state.read(monotonic_ns(), Strain::read);
        state.begun.insert(id, (reading, OWNERS.figures()));
    }

    /// A recording has ended.
    pub fn end(&self, id: RecordingId) {
        self.state.lock().begun.remove(&id);
    }

    /// What happened in the window of a recording that has just ended, as its comments.
    pub fn comments(&self, id: RecordingId) -> Vec<String> {
        let mut state = self.state.lock();
        let Some((begun, locks_begun)) = state.begun.get(&id).copied() else {
            return Vec::new();
        };
        let ended = state.read(monotonic_ns(), Strain::read);
        let locks = OWNERS.figures();
        state.begun.insert(id, (ended, locks));
        comments(begun, ended, locks.since(&locks_begun))
    }
}

impl State {
    fn read(&mut self, now_ns: u64, read: impl FnOnce() -> Strain) -> Reading {
        match self.newest {
            Some(newest) if now_ns < newest.0 + INTERVAL_NS => newest,
            _ => *self.newest.insert((now_ns, read())),
        }
    }
}

fn comments(begun: Reading, ended: Reading, locks: LockFigures) -> Vec<String> {
    let mut numbers = strain(begun, ended);
    if !locks.is_nothing() {
        numbers.extend([
            (
                Fact::LocksFoundTaken,
                (locks.contended + locks.given_up) as f64,
            ),
            (Fact::LocksWaitedSeconds, locks.waited_ns as f64 / 1e9),
        ]);
    }
    strain_comments(numbers)
}

fn strain(begun: Reading, ended: Reading) -> Vec<(Fact, f64)> {
    let passed_ns = ended.0.saturating_sub(begun.0);
    if passed_ns == 0 {
        return Vec::new();
    }
    let strain = ended.1.since(&begun.1);
    let [cpu, io] = if strain.is_of_container {
        [
            Fact::ContainerCpuPressureSeconds,
            Fact::ContainerIoPressureSeconds,
        ]
    } else {
        [
            Fact::MachineCpuPressureSeconds,
            Fact::MachineIoPressureSeconds,
        ]
    };
    let known = [
        (Fact::ThrottledSeconds, strain.throttled_ns),
        (cpu, strain.cpu_pressure_ns),
        (io, strain.io_pressure_ns),
        (Fact::StrainSeconds, Some(passed_ns)),
    ];
    let known = known
        .into_iter()
        .filter_map(|(fact, ns)| Some((fact, ns? as f64 / 1e9)));
    known.collect()
}

#[cfg(test)]
mod tests {
    use super::{INTERVAL_NS, LockFigures, State, comments};
    use crate::clock::container::Strain;
    use crate::model::window_facts::{Fact, read};

    #[test]
    fn the_kernel_is_asked_once_in_a_second() {
        let mut state = State::default();
        let mut asked = 0;
        for now_ns in (0..5 * INTERVAL_NS).step_by(100_000_000) {
            state.read(now_ns, || {
                asked += 1;
                Strain::default()
            });
        }
        assert_eq!(asked, 5);
    }

    #[test]
    fn comments_tell_what_was_added_in_the_window() {
        let strain = |throttled_ns, cpu_pressure_ns| Strain {
            throttled_ns,
            cpu_pressure_ns,
            is_of_container: throttled_ns.is_some(),
            ..Strain::default()
        };
        let begun = (0, strain(Some(1_000_000_000), Some(5)));
        let ended = (
            60_000_000_000,
            strain(Some(2_250_000_000), Some(6_000_000_005)),
        );
        let none = LockFigures::default();
        assert_eq!(
            comments(begun, ended, none),
            [
                "container throttled: 1.250 s of 60.0 s",
                "cpu pressure of the container: 6.000 s of 60.0 s",
            ]
        );
        let told = read(&comments(begun, ended, none));
        assert!(told.contains(&(Fact::ThrottledSeconds, 1.25)), "{told:?}");
        assert!(told.contains(&(Fact::StrainSeconds, 60.0)), "{told:?}");
        let begun = (0, strain(None, Some(5)));
        assert_eq!(
            comments(begun, (60_000_000_000, strain(None, Some(5))), none),
            ["cpu pressure of the machine: 0.000 s of 60.0 s"]
        );
        // Too short to tell.
        assert!(comments(begun, begun, none).is_empty());
        assert!(comments((0, Strain::default()), (1, Strain::default()), none).is_empty());
        let locks = LockFigures {
            contended: 5,
            given_up: 2,
            waited_ns: 1_250_000_000,
            round: 1,
        };
        let told = comments(begun, begun, locks);
        assert_eq!(told, ["locks found taken: 7, waited for during 1.250 s"]);
        let numbers = [
            (Fact::LocksFoundTaken, 7.0),
            (Fact::LocksWaitedSeconds, 1.25),
        ];
        assert_eq!(read(&told), numbers);
    }
}
