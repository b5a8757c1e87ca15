//! Steps of tasks, each one counted: from where a task goes on to where it next gives way.
//!
//! Written by the threads that run event loops, which have the GIL, and read by anyone. What is looked
//! up at each step is an address; a name is made of it once.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use crate::model::function::OTHER;

/// Coroutines counted apart; more share [`OTHER`].
pub const MAX_COROUTINES: usize = 2_048;
const PLACES: usize = 2 * MAX_COROUTINES;
/// A step that is longer than this stalls its loop (`loop.slow_callback_duration` of asyncio).
pub const STALL_NS: u64 = 100_000_000;

#[derive(Debug)]
struct Entry {
    key: AtomicUsize,
    name: OnceLock<Box<str>>,
    steps: AtomicU64,
    run_ns: AtomicU64,
    cpu_ns: AtomicU64,
    longest_ns: AtomicU64,
    stalls: AtomicU64,
}

impl Entry {
    const fn new() -> Self {
        Self {
            key: AtomicUsize::new(0),
            name: OnceLock::new(),
            steps: AtomicU64::new(0),
            run_ns: AtomicU64::new(0),
            cpu_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
        }
    }

    /// Nobody else writes: whoever does has the GIL.
    fn add(&self, run_ns: u64, cpu_ns: u64) {
        let more = |counter: &AtomicU64, amount: u64| {
            counter.store(counter.load(Relaxed) + amount, Relaxed);
        };
        more(&self.steps, 1);
        more(&self.run_ns, run_ns);
        more(&self.cpu_ns, cpu_ns);
        if run_ns > self.longest_ns.load(Relaxed) {
            self.longest_ns.store(run_ns, Relaxed);
        }
        if run_ns > STALL_NS {
            more(&self.stalls, 1);
        }
    }

    fn figures(&self) -> StepFigures {
        StepFigures {
            coroutine: self.name.get().map_or(OTHER, |name| name).to_owned(),
            steps: self.steps.load(Relaxed),
            run_ns: self.run_ns.load(Relaxed),
            cpu_ns: self.cpu_ns.load(Relaxed),
            longest_ns: self.longest_ns.load(Relaxed),
            stalls: self.stalls.load(Relaxed),
        }
    }

    fn start_over(&self) {
        for counter in [
            &self.steps,
            &self.run_ns,
            &self.cpu_ns,
            &self.longest_ns,
            &self.stalls,
        ] {
            counter.store(0, Relaxed);
        }
    }
}

/// What is known of the steps of one coroutine function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepFigures {
    /// Its name, as functions have it in stacks.
    pub coroutine: String,
    /// Steps that have ended.
    pub steps: u64,
    /// How long they took, in ns.
    pub run_ns: u64,
    /// CPU time of these, in ns.
    pub cpu_ns: u64,
    /// The longest, in ns.
    pub longest_ns: u64,
    /// How many were longer than [`STALL_NS`].
    pub stalls: u64,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct StepTable {
    is_on: AtomicBool,
    entries: [Entry; PLACES],
    count: AtomicUsize,
    others: Entry,
}

/// The steps of this process.
pub static STEPS: StepTable = StepTable::new();

impl Default for StepTable {
    fn default() -> Self {
        Self::new()
    }
}

impl StepTable {
    /// A table that counts nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            entries: [const { Entry::new() }; PLACES],
            count: AtomicUsize::new(0),
            others: Entry::new(),
        }
    }

    /// Whether steps are counted.
    #[must_use]
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Counts from now on, from nothing.
    pub fn begin(&self) {
        self.start_over();
        self.is_on.store(true, SeqCst);
    }

    /// Counts no more; what was counted can be read still.
    pub fn end(&self) {
        self.is_on.store(false, SeqCst);
    }

    /// Forgets what was counted, as in a forked child.
    pub fn start_over(&self) {
        let entries = self.entries.iter();
        let known = entries.filter(|entry| entry.key.load(Relaxed) != 0);
        for entry in known.chain([&self.others]) {
            entry.start_over();
        }
    }

    /// Where the coroutine of this key is counted, which `name` is asked of if it is new; `None`: with
    /// the others. The caller has the GIL.
    pub fn place(&self, key: usize, name: impl FnOnce() -> Option<String>) -> Option<usize> {
        if key == 0 {
            return None;
        }
        self.find(key).or_else(|_| self.insert(key, name)).ok()
    }

    /// Where the key is, or the first free place for it.
    #[inline]
    fn find(&self, key: usize) -> Result<usize, usize> {
        let mut at = ((key >> 4).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) & (PLACES - 1);
        loop {
            match self.entries[at].key.load(Relaxed) {
                known if known == key => return Ok(at),
                0 => return Err(at),
                _ => at = (at + 1) & (PLACES - 1),
            }
        }
    }

    #[cold]
    fn insert(&self, key: usize, name: impl FnOnce() -> Option<String>) -> Result<usize, ()> {
        if self.count.load(Relaxed) == MAX_COROUTINES {
            return Err(());
        }
        let name = name().ok_or(())?;
        // Whoever tells the name may have had something else counted.
        match self.find(key) {
            Err(at) if self.count.load(Relaxed) < MAX_COROUTINES => {
                self.count.store(self.count.load(Relaxed) + 1, Relaxed);
                let entry = &self.entries[at];
                drop(entry.name.set(name.into_boxed_str()));
                entry.key.store(key, SeqCst);
                Ok(at)
            }
            known => known.map_err(drop),
        }
    }

    /// Counts a step. The caller has the GIL.
    #[inline]
    pub fn add(&self, place: Option<usize>, run_ns: u64, cpu_ns: u64) {
        let entry = place.map_or(&self.others, |at| &self.entries[at]);
        entry.add(run_ns, cpu_ns);
    }

    /// All that have made a step, those with the most time first.
    #[must_use]
    pub fn figures(&self) -> Vec<StepFigures> {
        let entries = self.entries.iter().chain([&self.others]);
        let mut figures: Vec<StepFigures> = entries
            .filter(|entry| entry.steps.load(Relaxed) > 0)
            .map(Entry::figures)
            .collect();
        figures.sort_by(|one, other| {
            let by_time = other.run_ns.cmp(&one.run_ns);
            by_time.then_with(|| one.coroutine.cmp(&other.coroutine))
        });
        figures
    }

    /// The same as a table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{:>10} {:>12} {:>12} {:>12} {:>7}  coroutine\n",
            "steps", "run s", "cpu s", "longest s", "stalls"
        );
        let seconds = |ns: u64| ns as f64 / 1e9;
        for row in self.figures() {
            let _ = writeln!(
                text,
                "{:>10} {:>12.6} {:>12.6} {:>12.6} {:>7}  {}",
                row.steps,
                seconds(row.run_ns),
                seconds(row.cpu_ns),
                seconds(row.longest_ns),
                row.stalls,
                row.coroutine
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_COROUTINES, STALL_NS, StepFigures, StepTable};
    use crate::model::function::OTHER;

    fn named(name: &str) -> impl FnOnce() -> Option<String> {
        let name = name.to_owned();
        move || Some(name)
    }

    #[test]
    fn steps_add_up_by_coroutine() {
        let table = Box::new(StepTable::new());
        let first = table.place(0x1000, named("m.f"));
        table.add(first, 5, 4);
        table.add(table.place(0x2000, named("m.g")), 3, 3);
        table.add(table.place(0x1000, named("never asked")), STALL_NS + 1, 7);
        assert_eq!(
            table.figures(),
            [
                StepFigures {
                    coroutine: "m.f".to_owned(),
                    steps: 2,
                    run_ns: STALL_NS + 6,
                    cpu_ns: 11,
                    longest_ns: STALL_NS + 1,
                    stalls: 1,
                },
                StepFigures {
                    coroutine: "m.g".to_owned(),
                    steps: 1,
                    run_ns: 3,
                    cpu_ns: 3,
                    longest_ns: 3,
                    stalls: 0,
                },
            ]
        );
        assert_eq!(table.text().lines().count(), 3);
        table.begin();
        assert_eq!(table.figures(), []);
        table.add(table.place(0x2000, named("never asked")), 1, 1);
        assert_eq!(table.figures()[0].coroutine, "m.g");
    }

    #[test]
    fn coroutines_without_room_are_counted_together() {
        let table = Box::new(StepTable::new());
        for number in 0..MAX_COROUTINES + 3 {
            table.add(table.place((number + 1) << 6, named("m.f")), 1, 1);
        }
        let figures = table.figures();
        let others: Vec<_> = figures
            .iter()
            .filter(|row| row.coroutine == OTHER)
            .collect();
        assert_eq!(others[0].steps, 3);
        assert_eq!(figures.len(), MAX_COROUTINES + 1);
    }
}
