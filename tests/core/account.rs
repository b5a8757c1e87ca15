//! Charges say of which time they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use rprof::account::{Ledgers, RequestFilter, Tick, TicksLeftOut};
use rprof::fold::call_tree::NodeId;
use rprof::fold::charge::{Charge, Fold};
use rprof::fold::window::{Limits, ThreadLabels, Window};
use rprof::model::label::LabelSetId;
use rprof::model::lock::LockName;
use rprof::model::measure::{MeasureId, MeasureSet};
use rprof::model::off_cpu::OffCpu;
use rprof::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use rprof::model::stack::{Frame, FunctionSerial, FunctionTable, Stack};
use rprof::model::task::RequestPart;

const MS: u64 = 1_000_000;

/// A window, and all charges as they came: what a timeline would be made of.
struct Timeline {
    window: Window,
    charges: Vec<Charge>,
    /// Whose the labels are.
    threads: BTreeMap<LabelSetId, u64>,
}

impl Timeline {
    fn new() -> Self {
        Self {
            window: Window::new(Limits::default(), MeasureSet::WITH_GIL),
            charges: Vec::new(),
            threads: BTreeMap::new(),
        }
    }
}

impl Fold for Timeline {
    fn with_task(&mut self, labels: LabelSetId, task: Option<&Arc<str>>) -> LabelSetId {
        self.window.with_task(labels, task)
    }

    fn measures(&self) -> MeasureSet {
        Fold::measures(&self.window)
    }

    fn node_of(&mut self, stack: &Stack, functions: &FunctionTable) -> NodeId {
        self.window.node_of(stack, functions)
    }

    fn thread(&mut self, thread: &ThreadLabels<'_>) -> LabelSetId {
        let labels = self.window.thread(thread);
        self.threads.insert(labels, thread.id);
        labels
    }

    fn call_thread(&mut self, labels: LabelSetId, name: &str) -> LabelSetId {
        self.window.call_thread(labels, name)
    }

    fn with_reason(&mut self, labels: LabelSetId, reason: Option<OffCpu>) -> LabelSetId {
        self.window.with_reason(labels, reason)
    }

    fn with_part(&mut self, labels: LabelSetId, part: Option<RequestPart>) -> LabelSetId {
        self.window.with_part(labels, part)
    }

    fn with_lock(&mut self, labels: LabelSetId, lock: Option<&LockName>) -> LabelSetId {
        self.window.with_lock(labels, lock)
    }

    fn add(&mut self, charge: &Charge) {
        Fold::add(&mut self.window, charge);
        self.charges.push(*charge);
    }

    fn pseudo(&mut self, name: &str) -> NodeId {
        Fold::pseudo(&mut self.window, name)
    }

    fn total(&self, id: MeasureId) -> u64 {
        Fold::total(&self.window, id)
    }

    fn spread(&mut self, id: MeasureId, left: &[(LabelSetId, u64)]) {
        self.window.spread(id, left);
    }
}

/// How much of a measure a charge has.
fn amount(charge: &Charge, wanted: MeasureId) -> u64 {
    let pairs = charge.values.pairs().iter();
    let amounts = pairs.filter(|(id, _)| *id == wanted);
    amounts
        .map(|(_, amount)| u64::try_from(*amount).unwrap())
        .sum()
}

/// A thread that is found at this time, at which its clock has moved.
fn thread(id: u64, at_ns: u64) -> ThreadSample {
    ThreadSample {
        task: None,
        key: ThreadKey(id),
        thread_id: id,
        name: Arc::from("worker"),
        cpu_ns: Some(at_ns),
        state: ThreadState::Unknown,
        on_cpu: true,
        off: None,
        lock: None,
        cpu_wait_ns: None,
        ready: 0,
        gil: 0,
        labels: None,
        since_ns: at_ns,
        stack: Stack {
            frames: vec![Frame {
                function: FunctionSerial(1),
                line: 1,
            }],
            incomplete: false,
        },
        stack_version: 1,
        first_seen_ns: 10 * MS,
        cpu_from_ns: 0,
        early_cpu_ns: 0,
        span: None,
    }
}

/// One thread that is found like this at ticks 10 ms apart: its state, its CPU clock in ms, its
/// stack. `None`: the tick was left out, for nothing has happened.
fn charges(ticks: &[Option<(ThreadState, u64, u64)>]) -> Vec<Charge> {
    charges_of(RequestFilter::default(), true, ticks)
}

/// The same of a recording that takes these requests; not `on_cpu`: the thread was pushed aside.
fn charges_of(
    filter: RequestFilter,
    on_cpu: bool,
    ticks: &[Option<(ThreadState, u64, u64)>],
) -> Vec<Charge> {
    let mut ledgers = Ledgers::new(filter, false);
    let mut timeline = Timeline::new();
    let mut snapshot = Snapshot {
        threads_version: 1,
        ..Snapshot::default()
    };
    let mut left_out = 0;
    for (number, tick) in (1..).zip(ticks) {
        let Some((state, cpu_ms, function)) = *tick else {
            left_out += 1;
            continue;
        };
        snapshot.at_ns = number * 10 * MS;
        snapshot.moved_ns = snapshot.at_ns;
        let mut thread = thread(1, snapshot.at_ns);
        thread.cpu_ns = Some(cpu_ms * MS);
        (thread.state, thread.on_cpu) = (state, on_cpu);
        thread.stack.frames[0].function = FunctionSerial(function);
        thread.stack_version = function;
        snapshot.threads = vec![thread];
        let tick = Tick {
            at_ns: snapshot.at_ns,
            wall_ns: snapshot.at_ns,
            count: 1,
            left_out: TicksLeftOut {
                ticks: std::mem::take(&mut left_out),
                is_idle: true,
            },
            is_overdue: false,
        };
        ledgers.observe(&snapshot, &tick, |_| true, &mut timeline);
    }
    ledgers.end_window(&mut timeline);
    timeline.charges
}

use ThreadState::{Blocked, HoldsGil, WaitsForGil};

#[test]
fn charges_of_wall_time_follow_each_other() {
    let charges = charges(&[
        Some((HoldsGil, 0, 1)),
        Some((HoldsGil, 10, 2)),
        None,
        None,
        Some((Blocked, 11, 3)),
        Some((HoldsGil, 11, 1)),
        Some((HoldsGil, 20, 1)),
    ]);
    let mut end_ns = 10 * MS;
    for charge in &charges {
        let wall_ns = amount(charge, MeasureId::Wall);
        if wall_ns > 0 {
            assert_eq!(charge.from_ns, end_ns, "{charges:?}");
            assert_eq!(charge.to_ns - charge.from_ns, wall_ns, "{charges:?}");
            end_ns = charge.to_ns;
        }
    }
    assert_eq!(end_ns, 70 * MS);
}

#[test]
fn cpu_time_has_the_time_of_its_sighting_or_none() {
    let charges = charges(&[
        Some((HoldsGil, 0, 1)),
        Some((HoldsGil, 10, 1)),
        // Spent somewhere, and only known at the end.
        Some((Blocked, 15, 2)),
    ]);
    let cpu: Vec<_> = charges
        .iter()
        .filter(|charge| amount(charge, MeasureId::Cpu) > 0)
        .map(|charge| {
            let cpu_ms = amount(charge, MeasureId::Cpu) / MS;
            (cpu_ms, charge.from_ns / MS, charge.to_ns / MS)
        })
        .collect();
    assert_eq!(cpu, [(10, 10, 20), (5, 30, 30)]);
}

#[test]
fn a_thread_that_is_not_recorded_is_charged_with_nothing() {
    let filter = RequestFilter {
        captures: 1,
        keep_apart: true,
    };
    let ticks = [10, 20, 30].map(|cpu_ms| Some((HoldsGil, cpu_ms, 1)));
    for on_cpu in [true, false] {
        let charges = charges_of(filter, on_cpu, &ticks);
        assert!(charges.is_empty(), "{charges:?}");
    }
}

/// For how many ms each thread is blamed, whose state and GIL are these at ticks 10 ms apart; thread
/// 100 and those after it are not recorded.
fn blamed(ticks: &[&[(u64, ThreadState, u64)]]) -> BTreeMap<u64, u64> {
    let mut ledgers = Ledgers::new(RequestFilter::default(), false);
    let mut timeline = Timeline::new();
    for (number, states) in (1..).zip(ticks) {
        let at_ns = number * 10 * MS;
        let threads = states.iter().map(|&(id, state, gil)| {
            let mut thread = thread(id, at_ns);
            (thread.state, thread.gil) = (state, gil);
            thread
        });
        let snapshot = Snapshot {
            at_ns,
            moved_ns: at_ns,
            threads: threads.collect(),
            threads_version: number,
            ..Snapshot::default()
        };
        let tick = Tick {
            at_ns,
            wall_ns: at_ns,
            count: 1,
            ..Tick::default()
        };
        ledgers.observe(
            &snapshot,
            &tick,
            |thread| thread.thread_id < 100,
            &mut timeline,
        );
    }
    ledgers.end_window(&mut timeline);
    let sum = |id| {
        timeline
            .charges
            .iter()
            .map(|charge| amount(charge, id))
            .sum::<u64>()
    };
    assert_eq!(sum(MeasureId::GilBlame), sum(MeasureId::GilWait));
    let mut blamed = BTreeMap::new();
    for charge in &timeline.charges {
        let part_ms = amount(charge, MeasureId::GilBlame) / MS;
        if part_ms > 0 {
            *blamed.entry(timeline.threads[&charge.labels]).or_default() += part_ms;
        }
    }
    blamed
}

#[test]
fn each_gil_has_a_holder_of_its_own() {
    let held = [
        (1, HoldsGil, 7),
        (2, WaitsForGil, 7),
        (3, HoldsGil, 8),
        (4, WaitsForGil, 8),
    ];
    let turned = [
        (1, WaitsForGil, 7),
        (2, HoldsGil, 7),
        (3, HoldsGil, 8),
        (4, WaitsForGil, 8),
    ];
    assert_eq!(blamed(&[&held, &held]), [(1, 10), (3, 10)].into());
    assert_eq!(
        blamed(&[&held, &held, &turned]),
        [(1, 10), (2, 10), (3, 20)].into()
    );
    // Each who waits is a wait of its own.
    let three = [(1, HoldsGil, 7), (2, WaitsForGil, 7), (3, WaitsForGil, 7)];
    assert_eq!(blamed(&[&three, &three]), [(1, 20)].into());
}

#[test]
fn nobody_is_blamed_who_may_not_have_held_the_gil() {
    let nobody = [(1, Blocked, 7), (2, WaitsForGil, 7)];
    // Looked at before and after a switch.
    let both = [(1, HoldsGil, 7), (2, WaitsForGil, 7), (3, HoldsGil, 7)];
    let not_recorded = [(2, WaitsForGil, 7), (100, HoldsGil, 7)];
    for tick in [&nobody[..], &both, &not_recorded] {
        // It stands beside who waited, as `<unknown holder>`.
        assert_eq!(blamed(&[tick, tick]), [(2, 10)].into(), "{tick:?}");
    }
    // Who has gone holds nothing any more.
    let gone = [(2, WaitsForGil, 7)];
    let held = [(1, HoldsGil, 7), (2, WaitsForGil, 7)];
    assert_eq!(blamed(&[&held, &held, &gone]), [(1, 10), (2, 10)].into());
}
