//! Tells a recording what it was told in a run. This is the only file of the test that names types
//! of the house: whoever changes those changes what is here, and not the files of the runs.

use std::sync::Arc;

use rprof::account::{RequestFilter, Tick, TicksLeftOut};
use rprof::fold::profile::Profile;
use rprof::fold::window::Limits;
use rprof::model::function::Function;
use rprof::model::label::{ActiveLabels, Label, LabelSet, LabelValue};
use rprof::model::measure::MeasureSet;
use rprof::model::snapshot::{CpuSpan, Snapshot, SpanEnd, ThreadKey, ThreadSample, ThreadState};
use rprof::model::stack::{Frame, FunctionSerial, Stack};
use rprof::session::config::{RecordingConfig, ThreadFilter};
use rprof::session::control::RecordingId;
use rprof::session::flight::Ring;
use rprof::session::recording::{Recording, WindowCounters};

use super::script::{Moment, Setup, Span, Thread, Told};

/// A recording, and what it is shown.
pub(crate) struct Player {
    recording: Recording,
    snapshot: Snapshot,
    functions_version: u64,
    label_sets: Vec<Arc<LabelSet>>,
}

impl Player {
    pub(crate) fn new(setup: &Setup, measures: MeasureSet) -> Self {
        let (kind, rest) = setup
            .threads
            .split_once(' ')
            .unwrap_or((&setup.threads, ""));
        let threads = match kind {
            "all" => ThreadFilter::All,
            "one" => ThreadFilter::One(rest.parse().unwrap()),
            "names" => ThreadFilter::Names(rest.split(',').map(str::to_owned).collect()),
            other => panic!("not a filter of threads: {other:?}"),
        };
        let config = RecordingConfig {
            locks: false,
            period_ns: setup.period_ns,
            max_overhead: 0.0,
            limits: Limits {
                max_nodes: setup.max_nodes,
                max_depth: setup.max_depth,
            },
            threads,
            window_ns: None,
            program: setup.program.clone(),
            requests: RequestFilter {
                captures: setup.captures,
                keep_apart: setup.keep_apart,
            },
            ring: setup.is_flight.then(|| Arc::new(Ring::new(0, 0))),
        };
        let (now_ns, unix_ns) = (setup.now_ns, setup.unix_ns);
        Self {
            recording: Recording::new(RecordingId(1), config, measures, now_ns, unix_ns),
            snapshot: Snapshot::default(),
            functions_version: 0,
            label_sets: Vec::new(),
        }
    }

    /// Tells the recording; returns the window if that was ended.
    pub(crate) fn tell(&mut self, told: Told, moment: &Moment) -> Option<Profile> {
        let tick = |wall_ns, count, ticks, is_idle| Tick {
            at_ns: moment.at_ns,
            wall_ns,
            count,
            left_out: TicksLeftOut { ticks, is_idle },
            is_overdue: moment.is_overdue,
        };
        match told {
            Told::Observe {
                wall_ns,
                left_out,
                is_idle,
            } => {
                self.show(moment);
                let tick = tick(wall_ns, 1, left_out, is_idle);
                self.recording.observe(&self.snapshot, &tick);
            }
            Told::Settle {
                wall_ns,
                left_out,
                is_idle,
            } => {
                self.show(moment);
                let tick = tick(wall_ns, 0, left_out, is_idle);
                self.recording.settle(&self.snapshot, &tick);
            }
            Told::Note => {
                self.show(moment);
                self.recording.note(&self.snapshot);
            }
            Told::Count(counts) => self.recording.count(WindowCounters {
                late: counts.late,
                incomplete: counts.incomplete,
                skipped: counts.skipped,
                gap_ns: counts.gap_ns,
                starved_ns: counts.starved_ns,
                unattended_ns: counts.unattended_ns,
                ..WindowCounters::default()
            }),
            Told::Pause => self.recording.pause(),
            Told::Resume { wall_ns } => self.recording.resume(wall_ns),
            Told::Starve => self.recording.starve(),
            Told::TakeWindow {
                wall_ns,
                unix_ns,
                engine,
            } => {
                let (profile, _) = self.recording.take_window(wall_ns, unix_ns, &engine);
                return Some(profile);
            }
        }
        None
    }

    fn show(&mut self, moment: &Moment) {
        if self.functions_version != moment.functions_version {
            self.functions_version = moment.functions_version;
            let functions = moment.functions.iter();
            self.snapshot.functions = functions
                .map(|(serial, (name, file, line))| {
                    (
                        FunctionSerial(*serial),
                        Arc::new(Function::new(name, file, *line)),
                    )
                })
                .collect();
        }
        for pairs in &moment.label_sets[self.label_sets.len()..] {
            let labels = pairs.iter().map(|(key, value)| Label {
                key: Arc::from(key.as_str()),
                value: LabelValue::Text(Arc::from(value.as_str())),
            });
            self.label_sets.push(Arc::new(labels.collect()));
        }
        let snapshot = &mut self.snapshot;
        snapshot.at_ns = moment.at_ns;
        snapshot.moved_ns = moment.moved_ns;
        snapshot.hides_gil_waits = moment.hides_gil_waits;
        snapshot.has_requests = moment.has_requests;
        snapshot.threads_version = moment.threads_version;
        let sets = &self.label_sets;
        let threads = moment.threads.iter().map(|it| thread(it, moment, sets));
        snapshot.threads = threads.collect();
        let spans = moment.spans.iter().map(|it| span(it, moment, sets));
        snapshot.spans = spans.collect();
    }
}

fn active(
    labels: Option<usize>,
    moment: &Moment,
    sets: &[Arc<LabelSet>],
) -> Option<Arc<ActiveLabels>> {
    let active = &moment.actives[labels?];
    Some(Arc::new(ActiveLabels {
        serial: active.serial,
        request: active.request,
        captures: active.captures,
        set: sets[active.set].clone(),
    }))
}

fn thread(it: &Thread, moment: &Moment, sets: &[Arc<LabelSet>]) -> ThreadSample {
    let stack = &moment.stacks[it.stack];
    let frames = stack.frames.iter().map(|(function, line)| Frame {
        function: FunctionSerial(*function),
        line: *line,
    });
    ThreadSample {
        task: None,
        key: ThreadKey(it.key),
        thread_id: it.id,
        name: Arc::from(it.name.as_str()),
        cpu_ns: it.cpu_ns,
        state: match it.state {
            'U' => ThreadState::Unknown,
            'R' => ThreadState::Running,
            'Y' => ThreadState::Ready,
            'G' => ThreadState::HoldsGil,
            'W' => ThreadState::WaitsForGil,
            'L' => ThreadState::WaitsForLock,
            'B' => ThreadState::Blocked,
            other => panic!("not a thread's state: {other:?}"),
        },
        on_cpu: it.is_on_cpu,
        off: None,
        lock: None,
        cpu_wait_ns: None,
        ready: 0,
        gil: 0,
        labels: active(it.labels, moment, sets),
        since_ns: it.since_ns(),
        stack: Stack {
            frames: frames.collect(),
            incomplete: stack.is_incomplete,
        },
        stack_version: it.stack_version,
        first_seen_ns: it.first_seen_ns,
        cpu_from_ns: it.cpu_from_ns,
        early_cpu_ns: it.early_cpu_ns,
        span: (it.span != '-').then(|| span_end(it.span)),
    }
}

fn span(it: &Span, moment: &Moment, sets: &[Arc<LabelSet>]) -> CpuSpan {
    CpuSpan {
        key: ThreadKey(it.key),
        thread_id: it.id,
        name: Arc::from(it.name.as_str()),
        labels: active(it.labels, moment, sets),
        from_ns: it.from_ns,
        to_ns: it.to_ns,
        end: span_end(it.end),
    }
}

fn span_end(letter: char) -> SpanEnd {
    match letter {
        'O' => SpanEnd::Open,
        'E' => SpanEnd::Exact,
        'M' => SpanEnd::Mixed,
        other => panic!("not an end of a span: {other:?}"),
    }
}
