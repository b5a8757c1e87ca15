//! Micro-benchmarks of folding, encoding and decoding: `cargo bench`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rprof::fold::merge::merge;
use rprof::fold::profile::{Profile, ProfileMeta};
use rprof::fold::window::{Limits, Window};
use rprof::model::function::Function;
use rprof::model::label::thread_labels;
use rprof::pprof::decode::decode;
use rprof::pprof::encode::encode;

/// 10 threads in 500 different stacks of 30 frames, the shape of a small web service.
fn build() -> Profile {
    let functions: Vec<Function> = (0..300)
        .map(|number| Function::new(&format!("pkg.mod{number}.func"), "pkg/mod.py", number))
        .collect();
    let mut window = Window::new(Limits::default(), true);
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

criterion_group!(benches, benchmarks);
criterion_main!(benches);
