//! Profiles and memory to test with.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rprof::fold::profile::{Profile, ProfileMeta};
use rprof::fold::window::{Limits, Window};
use rprof::memory::image::Image;
use rprof::memory::{Range, ReadMemory};
use rprof::model::function::Function;
use rprof::model::label::{Label, LabelSet, LabelValue, thread_labels};
use rprof::model::measure::{MeasureId, MeasureSet};
use rprof::unwind::frames::RawFrame;

/// A stack, outermost first, of (function, line); its thread; its values.
pub(crate) type Row = (Vec<(Function, u32)>, (u64, String), [i64; 3]);

/// What a profile says, in a form that does not depend on the order of anything.
pub(crate) type Meaning = BTreeMap<(Vec<(Function, u32)>, LabelSet), Vec<i64>>;

pub(crate) fn meaning(profile: &Profile) -> Meaning {
    let mut meaning = Meaning::new();
    for (sample, values) in profile.rows() {
        if values.iter().all(|value| *value == 0) {
            continue;
        }
        let path: Vec<_> = profile.tree.path(sample.node).collect();
        let stack = path
            .into_iter()
            .rev()
            .map(|node| {
                let location = profile.tree.location(node);
                (
                    profile.symbols.function_of(location).clone(),
                    profile.symbols.location(location).line,
                )
            })
            .collect();
        let labels = profile.label_sets[sample.labels.0 as usize]
            .iter()
            .filter(|label| !is_empty_text(label))
            .cloned()
            .collect();
        let sums = meaning
            .entry((stack, labels))
            .or_insert_with(|| vec![0; values.len()]);
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
    meaning
}

fn is_empty_text(label: &Label) -> bool {
    matches!(&label.value, LabelValue::Text(text) if text.is_empty())
}

pub(crate) fn build(rows: &[Row], limits: Limits) -> Window {
    let mut window = Window::new(limits, MeasureSet::TIMES);
    for (stack, (id, name), values) in rows {
        let frames = stack.iter().map(|(function, line)| (function, *line));
        window.add_path(frames, &thread_labels(*id, name), values);
    }
    window
}

pub(crate) fn profile(rows: &[Row]) -> Profile {
    build(rows, Limits::default()).finish(ProfileMeta {
        time_ns: 1_795_224_225_000_000_000,
        duration_ns: 60_000_000_000,
        period_ns: 10_000_000,
        program: "app".to_owned(),
        comments: vec!["engine: scripted".to_owned(), "rate: 100".to_owned()],
        ..ProfileMeta::default()
    })
}

pub(crate) fn function(name: &str) -> Function {
    Function::new(name, &format!("{name}.py"), 3)
}

/// A row of plain names: `"main;a;b"`.
pub(crate) fn row(stack: &str, thread: u64, values: [i64; 3]) -> Row {
    let frames = stack.split(';').map(|name| (function(name), 4)).collect();
    (frames, (thread, format!("t{thread}")), values)
}

fn any_function() -> impl Strategy<Value = Function> {
    ("[a-c<>é]{0,3}", "[a-b/]{0,2}", 0..3_u32)
        .prop_map(|(name, file, line)| Function::new(&name, &file, line))
}

pub(crate) fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let stack = prop::collection::vec((any_function(), 0..4_u32), 0..6);
    let thread = (0..4_u64, "[a-b]{0,1}");
    let values = prop::array::uniform3(0..1_000_000_i64);
    prop::collection::vec((stack, thread, values), 0..40)
}

/// The code objects of frames, leaf first.
pub(crate) fn codes(frames: &[RawFrame]) -> Vec<usize> {
    frames.iter().map(|frame| frame.code).collect()
}

/// Memory that remembers what was asked of it.
pub(crate) struct Watched {
    pub(crate) image: Image,
    pub(crate) asked: Vec<Range>,
    pub(crate) batches: usize,
}

impl Watched {
    pub(crate) fn new(image: Image) -> Self {
        Self {
            image,
            asked: Vec::new(),
            batches: 0,
        }
    }
}

impl ReadMemory for Watched {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        self.batches += 1;
        self.asked.extend(ranges);
        self.image.read_batch(ranges)
    }

    fn bytes(&self) -> &[u8] {
        self.image.bytes()
    }

    fn capacity(&self) -> usize {
        self.image.capacity()
    }

    fn name(&self) -> &'static str {
        "watched"
    }
}

/// The columns of these profiles.
pub(crate) const SAMPLES: usize = column(MeasureId::Samples);
pub(crate) const WALL: usize = column(MeasureId::Wall);
pub(crate) const CPU: usize = column(MeasureId::Cpu);

const fn column(id: MeasureId) -> usize {
    MeasureSet::TIMES.column(id).unwrap()
}
