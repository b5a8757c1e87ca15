//! Events on their way from a source into profiles.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};

use super::tests::{MS, Rig, config, rig, thread};
use crate::account::RequestFilter;
use crate::capture::scripted::{ScriptedSource, ScriptedTick};
use crate::capture::source::EventSender;
use crate::fold::profile::Profile;
use crate::model::event::{BlamedTask, EventSample, HoldingTask, TaskLock};
use crate::model::label::{ActiveLabels, Label, LabelValue};
use crate::model::lock::LockName;
use crate::model::measure::{Amounts, Column, MeasureId, MeasureSet};
use crate::model::stack::Stack;
use crate::pprof::decode::decode;
use crate::pprof::encode::encode_message;
use crate::report::collapsed::collapsed;
use crate::session::config::{RecordingConfig, ThreadFilter};
use crate::session::control::{Control, RecordingId};

use MeasureId::{AllocObjects, AllocSpace, Exceptions, InuseSpace, LockBlame, LockWait, TaskWall};

/// Set to have the profile written that the events give now.
const WRITE: &str = "RPROF_WRITE_RUNS";
const MEASURES: MeasureSet =
    MeasureSet::of(&[Exceptions, AllocObjects, AllocSpace, InuseSpace]).union(MeasureSet::TIMES);

fn ticks() -> Vec<ScriptedTick> {
    (0..6)
        .map(|at| {
            let threads = vec![
                thread(1, at * 10 * MS, &["serve", "main"]),
                thread(2, 0, &["wait"]),
            ];
            ((at + 1) * 10 * MS, threads)
        })
        .collect()
}

fn event(thread_id: u64, stack: &Stack, values: Amounts) -> EventSample {
    EventSample {
        thread_id,
        at_ns: 0,
        stack: stack.clone(),
        labels: None,
        task: None,
        part: None,
        is_followed: false,
        lock: None,
        values,
    }
}

/// The same in a request.
fn in_request(number: u64, event: EventSample) -> EventSample {
    let set = vec![Label {
        key: Arc::from("route"),
        value: LabelValue::Text(Arc::from("/x")),
    }];
    let labels = ActiveLabels {
        serial: number,
        request: number,
        captures: number,
        set: Arc::new(set),
    };
    EventSample {
        labels: Some(Arc::new(labels)),
        ..event
    }
}

/// A sampler with a source that has room for four events, and a stack of that.
fn rig_with_source() -> (Rig, EventSender, Stack) {
    let mut rig = rig(ticks());
    rig.measures = MEASURES;
    let (mut source, sender) = ScriptedSource::new(MEASURES, 4);
    let stack = source.stack(&["parse", "handle"]);
    rig.sources.add(Box::new(source));
    (rig, sender, stack)
}

/// Stacks with so much of a measure.
fn told(profile: &Profile, id: MeasureId) -> Vec<String> {
    let column = Column::Known(id);
    let column = profile.columns.iter().position(|known| *known == column);
    let text = collapsed(profile, column.unwrap(), true).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn an_event_comes_to_every_recording_that_takes_its_thread_and_its_request() {
    let (mut rig, sender, stack) = rig_with_source();
    let one = || event(1, &stack, Amounts::of(Exceptions, 1));
    // Nobody records yet.
    sender.send(one());
    rig.start(1, config());
    rig.start(
        2,
        RecordingConfig {
            threads: ThreadFilter::One(2),
            ..config()
        },
    );
    rig.start(
        3,
        RecordingConfig {
            requests: RequestFilter {
                captures: 1,
                keep_apart: true,
            },
            ..config()
        },
    );
    sender.send(one());
    sender.send(event(2, &stack, Amounts::of(Exceptions, 10)));
    sender.send(in_request(1, one()));
    rig.tick();
    sender.send(in_request(2, one()));
    // A thread that no look has found.
    sender.send(event(9, &stack, Amounts::of(Exceptions, 100)));
    let all = [
        "main;handle;parse 3",
        "thread 9;handle;parse 100",
        "worker;handle;parse 10",
    ];
    assert_eq!(told(&rig.stop(1), Exceptions), all);
    assert_eq!(told(&rig.stop(2), Exceptions), ["worker;handle;parse 10"]);
    let captured = rig.stop(3);
    assert_eq!(told(&captured, Exceptions), ["main;handle;parse 1"]);
    let labels: Vec<&str> = captured.label_sets[captured.samples[0].labels.0 as usize]
        .iter()
        .map(|label| &*label.key)
        .collect();
    let expected = [
        "thread id",
        "thread name",
        "thread class",
        "request number",
        "route",
    ];
    assert_eq!(labels, expected);
}

#[test]
fn what_happens_in_a_pause_is_not_recorded() {
    let (mut rig, sender, stack) = rig_with_source();
    let tell = |count| sender.send(event(1, &stack, Amounts::of(Exceptions, count)));
    rig.start(1, config());
    tell(1);
    let paused = crossbeam_channel::bounded(1).0;
    rig.sampler.handle(Control::Pause(RecordingId(1), paused));
    tell(10);
    rig.sampler.handle(Control::Resume(RecordingId(1)));
    tell(100);
    assert_eq!(told(&rig.stop(1), Exceptions), ["main;handle;parse 101"]);
}

#[test]
fn a_measure_that_came_later_is_not_in_a_recording_that_began_before() {
    let (mut rig, sender, stack) = rig_with_source();
    rig.measures = MeasureSet::TIMES.with(AllocSpace);
    rig.start(1, config());
    let values = Amounts::of(AllocObjects, 1).and(AllocSpace, 512);
    sender.send(event(1, &stack, values));
    let samples = |profile: Profile| profile.samples.len();
    sender.send(in_request(1, event(1, &stack, Amounts::of(Exceptions, 1))));
    let profile = rig.stop(1);
    assert_eq!(profile.columns.len(), 4);
    assert_eq!(told(&profile, AllocSpace), ["main;handle;parse 512"]);
    // Those of both threads at the begin, and the allocation: the exception has left no trace.
    assert_eq!(samples(profile), 3);
}

/// A task that waits for a lock for so long, and whom that is blamed on.
fn waiting(waited_ns: i64, blamed: BlamedTask, event: EventSample) -> EventSample {
    let name = LockName {
        serial: 7,
        text: Arc::from("asyncio.Lock Pool._lock"),
    };
    EventSample {
        lock: Some(TaskLock { name, blamed }),
        values: Amounts::of(TaskWall, waited_ns).and(LockWait, waited_ns),
        ..event
    }
}

#[test]
fn waits_of_tasks_are_blamed_in_equal_sums_on_those_who_were_found() {
    let (mut rig, sender, stack) = rig_with_source();
    rig.measures = MeasureSet::of(&[TaskWall, LockWait, LockBlame]).union(MEASURES);
    rig.start(1, config());
    let only = RequestFilter {
        captures: 1,
        keep_apart: false,
    };
    let config = RecordingConfig {
        requests: only,
        ..config()
    };
    rig.start(2, config);
    let mut inner = stack.clone();
    inner.frames.remove(0);
    let holder = BlamedTask::Task(Arc::new(HoldingTask {
        stack: inner,
        labels: None,
        task: Some(Arc::from("holder")),
        part: None,
    }));
    let waits = |ns, blamed| {
        in_request(
            1,
            waiting(ns, blamed, event(1, &stack, Amounts::of(TaskWall, 0))),
        )
    };
    for (waited_ns, blamed) in [
        (300, holder),
        (100, BlamedTask::Unknown),
        // Nobody was looked for: as at the others.
        (400, BlamedTask::AsFound),
        // News.
        (50, BlamedTask::Nobody),
    ] {
        sender.send(waits(waited_ns, blamed));
    }
    let all = rig.stop(1);
    let wait = ["main;handle;parse 850"];
    assert_eq!(told(&all, LockWait), wait);
    assert_eq!(told(&all, TaskWall), wait);
    let blame = ["main;<unknown holder> 200", "main;handle 600"];
    assert_eq!(told(&all, LockBlame), blame);
    let has = |key: &str, value: &str| {
        let mut labels = all.label_sets.iter().flatten();
        let expected = LabelValue::Text(Arc::from(value));
        labels.any(|label| &*label.key == key && label.value == expected)
    };
    assert!(has("task", "holder") && has("lock", "asyncio.Lock Pool._lock"));
    // Whoever works on another request is not in a recording of one.
    let one = rig.stop(2);
    assert_eq!(told(&one, LockWait), wait);
    assert_eq!(told(&one, LockBlame), ["main;<unknown holder> 800"]);
}

#[test]
fn events_without_room_are_counted_in_the_window() {
    let (mut rig, sender, stack) = rig_with_source();
    rig.start(1, config());
    for _ in 0..6 {
        sender.send(event(1, &stack, Amounts::of(Exceptions, 1)));
    }
    let profile = rig.stop(1);
    assert_eq!(told(&profile, Exceptions), ["main;handle;parse 4"]);
    let lost = "lost events: 2, for which there was no room";
    assert!(profile.meta.comments.iter().any(|comment| comment == lost));
}

#[test]
fn levels_are_asked_for_at_the_end_of_each_window() {
    let mut rig = rig(ticks());
    rig.measures = MEASURES;
    let (mut source, _) = ScriptedSource::new(MEASURES, 1);
    let stack = source.stack(&["load"]);
    let level = |bytes| vec![event(2, &stack, Amounts::of(InuseSpace, bytes))];
    source.set_levels([level(300), level(200)]);
    rig.sources.add(Box::new(source));
    rig.start(1, config());
    let (reply, answer) = crossbeam_channel::bounded(1);
    rig.sampler.handle(Control::Rotate(RecordingId(1), reply));
    assert_eq!(
        told(&answer.try_recv().unwrap(), InuseSpace),
        ["worker;load 300"]
    );
    assert_eq!(told(&rig.stop(1), InuseSpace), ["worker;load 200"]);
}

/// The profile that `tests/integration/test_viewer.py` opens.
#[test]
fn events_reach_the_file_that_the_page_is_tested_with() {
    let mut rig = rig(ticks());
    rig.measures = MEASURES;
    let (mut source, sender) = ScriptedSource::new(MEASURES, 8);
    let parse = source.stack(&["parse", "serve", "main"]);
    let load = source.stack(&["load", "serve", "main"]);
    let kept = event(1, &load, Amounts::of(InuseSpace, 3 << 20));
    source.set_levels([vec![kept]]);
    rig.sources.add(Box::new(source));
    rig.start(1, config());
    for number in 1..=3 {
        let failed = event(1, &parse, Amounts::of(Exceptions, 1));
        sender.send(in_request(number, failed));
    }
    let values = Amounts::of(AllocObjects, 16).and(AllocSpace, 8 << 20);
    sender.send(event(1, &load, values));
    for _ in 0..5 {
        rig.tick();
    }
    let mut profile = rig.stop(1);
    // Facts of the process and the build, not of what was recorded.
    let is_of_process = |comment: &str| {
        let facts = ["rprof ", "main thread: ", "jit: "];
        facts.iter().any(|fact| comment.starts_with(fact))
    };
    profile
        .meta
        .comments
        .retain(|comment| !is_of_process(comment));
    let message = encode_message(&profile);
    let file = fixture();
    if std::env::var_os(WRITE).is_some() {
        let mut packed = GzBuilder::new().write(Vec::new(), Compression::best());
        packed.write_all(&message).unwrap();
        std::fs::write(&file, packed.finish().unwrap()).unwrap();
    }
    let packed = std::fs::read(&file).unwrap();
    let mut bytes = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    assert!(bytes == message, "{} is another profile", file.display());
    let read = decode(&packed, "events.pb.gz").unwrap();
    for (id, expected) in [
        (Exceptions, "main;main;serve;parse 3"),
        (AllocObjects, "main;main;serve;load 16"),
        (AllocSpace, "main;main;serve;load 8388608"),
        (InuseSpace, "main;main;serve;load 3145728"),
    ] {
        assert_eq!(told(&read, id), [expected]);
    }
    assert_eq!(
        told(&read, MeasureId::Samples),
        ["main;main;serve 5", "worker;wait 5"]
    );
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/events.pb.gz")
}
