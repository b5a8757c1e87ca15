//! Micro-benchmarks of folding, encoding and decoding: `cargo bench`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use rprof::account::Tick;
use rprof::fold::merge::merge;
use rprof::fold::profile::{Profile, ProfileMeta};
use rprof::fold::window::{Limits, Window};
use rprof::model::function::Function;
use rprof::model::label::thread_labels;
use rprof::model::measure::MeasureSet;
use rprof::model::snapshot::{Snapshot, ThreadKey, ThreadSample, ThreadState};
use rprof::model::stack::{Frame, FunctionSerial, Stack};
use rprof::pprof::decode::decode;
use rprof::pprof::encode::encode;
use rprof::session::config::RecordingConfig;
use rprof::session::control::RecordingId;
use rprof::session::recording::Recording;

const PERIOD_NS: u64 = 10_000_000;

/// 10 threads in 500 different stacks of 30 frames, the shape of a small web service.
fn build() -> Profile {
    let functions: Vec<Function> = (0..300)
        .map(|number| Function::new(&format!("pkg.mod{number}.func"), "pkg/mod.py", number))
        .collect();
    let mut window = Window::new(Limits::default(), MeasureSet::TIMES);
    for stack in 0..500_usize {
        let path = (0..30).map(|depth| {
            let choice = if depth < 20 {
                depth
            } else {
                (stack * 7 + depth * 13) % 300
            };
            (&functions[choice], 10 + depth as u32)
        });
        let thread = stack as u64 % 10;
        window.add_path(
            path,
            &thread_labels(thread, "worker"),
            &[1, 10_000_000, 9_000_000],
        );
    }
    window.finish(ProfileMeta::default())
}

const THREADS: u64 = 1_000;

/// A snapshot of threads in stacks of 30 frames, and a second stack for each.
fn snapshot() -> (Snapshot, Vec<Stack>) {
    let function = |number: u64| {
        let name = format!("pkg.mod{number}.func");
        Arc::new(Function::new(&name, "pkg/mod.py", 1))
    };
    let functions = (0..300).map(|number| (FunctionSerial(number), function(number)));
    let stack = |choice: u64| Stack {
        // Leaf first; the outer 20 frames are those of all.
        frames: (0..30_u64)
            .map(|depth| Frame {
                function: FunctionSerial(if depth < 10 {
                    (choice * 7 + depth * 13) % 280 + 20
                } else {
                    depth - 10
                }),
                line: 10 + depth as u32,
            })
            .collect(),
        incomplete: false,
    };
    let thread = |key: u64| ThreadSample {
        task: None,
        key: ThreadKey(key),
        thread_id: key,
        name: Arc::from(format!("worker-{key}")),
        cpu_ns: Some(0),
        state: ThreadState::Running,
        on_cpu: true,
        off: None,
        lock: None,
        cpu_wait_ns: None,
        ready: 0,
        gil: 0,
        labels: None,
        since_ns: 0,
        stack: stack(key % 100),
        stack_version: 1,
        first_seen_ns: 1,
        cpu_from_ns: 0,
        early_cpu_ns: 0,
        span: None,
    };
    let snapshot = Snapshot {
        threads: (1..=THREADS).map(thread).collect(),
        functions: functions.collect(),
        threads_version: 1,
        ..Snapshot::default()
    };
    let others = (1..=THREADS).map(|key| stack(key % 100 + 100)).collect();
    (snapshot, others)
}

/// A tick at which all threads have used their CPUs, and every third has another stack than before.
fn next_tick(snapshot: &mut Snapshot, others: &mut [Stack], number: u64) {
    snapshot.at_ns = number * PERIOD_NS;
    snapshot.moved_ns = snapshot.at_ns;
    for (thread, other) in snapshot.threads.iter_mut().zip(others) {
        thread.since_ns = snapshot.at_ns;
        thread.cpu_ns = thread.cpu_ns.map(|cpu_ns| cpu_ns + PERIOD_NS);
        if (thread.thread_id + number).is_multiple_of(3) {
            std::mem::swap(&mut thread.stack, other);
            thread.stack_version += 1;
        }
    }
}

fn fold_threads(criterion: &mut Criterion) {
    let config = RecordingConfig::of_all("bench", PERIOD_NS);
    let mut recording = Recording::new(RecordingId(1), config, MeasureSet::WITH_GIL, 0, 0);
    let (mut snapshot, mut others) = snapshot();
    let mut number = 0;
    criterion.bench_function("fold 1,000 changed threads", |bench| {
        bench.iter(|| {
            number += 1;
            next_tick(&mut snapshot, &mut others, number);
            let tick = Tick {
                at_ns: snapshot.at_ns,
                wall_ns: snapshot.at_ns,
                count: 1,
                ..Tick::default()
            };
            recording.observe(&snapshot, &tick);
        });
    });
    criterion.bench_function("fold 1,000 threads of which one has changed", |bench| {
        bench.iter(|| {
            number += 1;
            snapshot.at_ns = number * PERIOD_NS;
            snapshot.moved_ns = snapshot.at_ns;
            let thread = &mut snapshot.threads[0];
            thread.since_ns = snapshot.at_ns;
            thread.cpu_ns = Some(snapshot.at_ns);
            let tick = Tick {
                at_ns: snapshot.at_ns,
                wall_ns: snapshot.at_ns,
                count: 1,
                ..Tick::default()
            };
            recording.observe(&snapshot, &tick);
        });
    });
    let (profile, _) = recording.take_window(snapshot.at_ns, 0, "bench");
    assert!(profile.samples.len() >= THREADS as usize);
}

fn benchmarks(criterion: &mut Criterion) {
    let profile = build();
    let bytes = encode(&profile).unwrap();
    println!(
        "{} nodes, {} bytes of pprof",
        profile.tree.len(),
        bytes.len()
    );
    criterion.bench_function("fold 500 stacks of 30 frames", |bench| {
        bench.iter(|| black_box(build()));
    });
    criterion.bench_function("encode", |bench| {
        bench.iter(|| encode(black_box(&profile)).unwrap());
    });
    criterion.bench_function("decode", |bench| {
        bench.iter(|| decode(black_box(&bytes), "bench").unwrap());
    });
    criterion.bench_function("merge two", |bench| {
        bench.iter(|| merge(&[&profile, &profile], Limits::default()).unwrap());
    });
}

criterion_group!(benches, benchmarks, fold_threads);
criterion_main!(benches);
