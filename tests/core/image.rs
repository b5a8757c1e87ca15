//! The unwinder on recorded memory of every CPython version, whole and damaged.
//!
//! `tests/fixtures/record.py` makes the recordings and says what they are. More of them are read
//! from the directory that `RPROF_IMAGES` names.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use flate2::read::GzDecoder;
use proptest::prelude::*;
use proptest::sample::Index;
use rprof::layout::Layout;
use rprof::memory::Range;
use rprof::memory::image::Image;
use rprof::memory::own::Lasting;
use rprof::model::function::Function;
use rprof::model::module_name::ImportRoots;
use rprof::unwind::code::CodeCache;
use rprof::unwind::frames::{Hints, MAX_FRAMES, RawFrame, Target, WalkResult, Walker};
use rprof::unwind::threads::{ThreadListing, enumerate};
use rustc_hash::FxHashMap;

use crate::support::Watched;

const VERSIONS: [&str; 6] = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
/// The threads that `tests/fixtures/program.py` has.
const LABELS: [&str; 9] = [
    "main",
    "deep",
    "through C",
    "coroutine",
    "names",
    "host",
    "guest",
    "listener",
    "holder",
];
/// Threads looked at in damaged memory, where a list may lead anywhere.
const MAX_LOOKS: usize = 2 * LABELS.len();
/// What no walk of any damaged memory comes near: reads of one thread.
const MAX_READS: usize = 100_000;
/// Frames of a stack that are never cut.
const LEAST_FRAMES: usize = 480;
/// Leads nowhere, is no instruction, and each of its bytes is no owner of a frame.
const WILD: usize = 0x5a5a_5a5a_5a5a_5a58;

#[derive(Debug)]
pub(crate) struct RecordedThread {
    pub(crate) interpreter: usize,
    pub(crate) state: usize,
    pub(crate) ident: usize,
    pub(crate) native_id: u64,
    pub(crate) label: String,
    pub(crate) frames: Vec<RecordedFrame>,
}

#[derive(Debug)]
pub(crate) struct RecordedFrame {
    pub(crate) code: usize,
    pub(crate) line: u32,
    pub(crate) file: String,
    pub(crate) name: String,
}

#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) origin: PathBuf,
    pub(crate) image: Image,
    pub(crate) interpreters: Vec<usize>,
    pub(crate) threads: Vec<RecordedThread>,
}

impl Recording {
    fn load(origin: &Path) -> Self {
        let file = std::fs::File::open(origin)
            .unwrap_or_else(|error| panic!("{}: {error}", origin.display()));
        let mut bytes = Vec::new();
        GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
        let image = Image::parse(&bytes).expect("a recording");
        let mut recording = Self {
            origin: origin.to_owned(),
            interpreters: Vec::new(),
            threads: Vec::new(),
            image: Image::default(),
        };
        for line in image.remarks.lines() {
            recording.add(&line.split('\t').collect::<Vec<_>>());
        }
        recording.image = image;
        recording
    }

    fn add(&mut self, fields: &[&str]) {
        match fields {
            ["interpreter", address] => self.interpreters.push(address.parse().unwrap()),
            ["thread", state, ident, native_id, label] => self.threads.push(RecordedThread {
                interpreter: *self.interpreters.last().unwrap(),
                state: state.parse().unwrap(),
                ident: ident.parse().unwrap(),
                native_id: native_id.parse().unwrap(),
                label: (*label).to_owned(),
                frames: Vec::new(),
            }),
            ["frame", code, line, file, name] => {
                let frames = &mut self.threads.last_mut().unwrap().frames;
                frames.push(RecordedFrame {
                    code: code.parse().unwrap(),
                    line: line.parse().unwrap(),
                    file: (*file).to_owned(),
                    name: (*name).to_owned(),
                });
            }
            other => panic!("{}: {other:?}", self.origin.display()),
        }
    }

    pub(crate) fn layout(&self) -> Layout {
        let (runtime, version) = (self.image.runtime, self.image.version_hex);
        Layout::detect(&mut self.image.clone(), runtime, version).unwrap()
    }

    /// 3.10 keeps frames on the heap and tells no kernel ids.
    pub(crate) fn has_heap_frames(&self) -> bool {
        self.layout().has_heap_frames()
    }

    pub(crate) fn thread(&self, label: &str) -> &RecordedThread {
        let mut found = self.threads.iter().filter(|thread| thread.label == label);
        found.next().expect(label)
    }
}

pub(crate) static RECORDINGS: LazyLock<Vec<Recording>> = LazyLock::new(|| {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut files = VERSIONS
        .map(|version| fixtures.join(format!("memory-{version}.gz")))
        .to_vec();
    if let Some(directory) = std::env::var_os("RPROF_IMAGES") {
        let entries = std::fs::read_dir(directory).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    files.iter().map(|file| Recording::load(file)).collect()
});

/// A stack as it was found.
struct Found {
    walked: WalkResult,
    raw: Vec<RawFrame>,
    /// Function and line of each frame; `None` if one of them has no code object.
    named: Option<Vec<(Arc<Function>, u32)>>,
}

/// Reads one stack, and once more with what was learnt, which must come to the same.
fn look(memory: &mut Watched, layout: &Layout, target: &Target) -> Option<Found> {
    memory.batches = 0;
    let (mut walker, mut hints, mut raw) = (Walker::default(), Hints::default(), Vec::new());
    let first = walker.walk(memory, layout, target, &mut hints, &mut raw);
    let frames = raw.clone();
    let walked = walker.walk(memory, layout, target, &mut hints, &mut raw);
    if let (Ok(first), Ok(again)) = (first, walked) {
        assert_eq!((first, frames), (again, raw.clone()));
    }
    let roots = ImportRoots::default();
    let mut cache = CodeCache::new(memory.image.code_type, roots, "/rprof/".to_owned());
    let (mut functions, mut frames) = (FxHashMap::default(), Vec::new());
    let named = cache.name(memory, layout, &raw, &mut functions, &mut frames);
    assert!(memory.batches <= MAX_READS, "{} reads", memory.batches);
    let walked = walked.ok()?;
    assert!(raw.len() <= MAX_FRAMES);
    let frames = frames
        .iter()
        .map(|frame| (functions[&frame.function].clone(), frame.line));
    Some(Found {
        walked,
        raw,
        named: named.is_ok().then(|| frames.collect()),
    })
}

fn targets(listing: &ThreadListing) -> impl Iterator<Item = Target> {
    listing.threads.iter().map(|thread| {
        let home = &listing.interpreters[thread.interpreter];
        Target {
            address: thread.address,
            interpreter: home.address,
            ident: thread.ident,
            gil: home.gil,
            lasting: Lasting::default(),
        }
    })
}

/// Whether these are the innermost frames of what was recorded: all, or less from the root side.
fn is_leaf_side(thread: &RecordedThread, found: &Found) -> bool {
    found.raw.len() <= thread.frames.len()
        && found
            .raw
            .iter()
            .zip(&thread.frames)
            .all(|(found, frame)| found.code == frame.code)
}

fn assert_named(thread: &RecordedThread, named: &[(Arc<Function>, u32)], with_lines: bool) {
    for (depth, ((function, line), frame)) in named.iter().zip(&thread.frames).enumerate() {
        let found = (&*function.name, &*function.file);
        assert_eq!(
            found,
            (&*frame.name, &*frame.file),
            "{} {depth}",
            thread.label
        );
        if with_lines {
            assert_eq!(
                *line, frame.line,
                "{} at {depth}: {}",
                thread.label, frame.name
            );
        }
    }
}

#[test]
fn every_version_has_a_recording_of_its_own() {
    for (version, recording) in VERSIONS.iter().zip(RECORDINGS.iter()) {
        let hex = recording.image.version_hex;
        assert_eq!(format!("{}.{}", hex >> 24, hex >> 16 & 0xff), *version);
    }
    for recording in RECORDINGS.iter() {
        assert_eq!(recording.interpreters.len(), 2);
        let mut labels: Vec<_> = recording
            .threads
            .iter()
            .map(|thread| &*thread.label)
            .collect();
        labels.sort_unstable();
        let mut expected = LABELS;
        expected.sort_unstable();
        assert_eq!(labels, expected, "{}", recording.origin.display());
    }
}

#[test]
fn recordings_hold_what_is_hard_to_read() {
    for recording in RECORDINGS.iter() {
        assert!(recording.thread("deep").frames.len() > 1_200);
        let names: Vec<_> = recording.thread("names").frames.iter().collect();
        // One, one (not ASCII), two and four bytes a character.
        for name in ["<module>", "grüße", "приветствие", "𐐸𐐯𐑊𐐬"] {
            assert!(names.iter().any(|frame| frame.name == name), "{name}");
        }
        assert_eq!(names[0].file, "/fixture/größe/данные/𐐸.py");
        assert_eq!(names[0].line, 40_001);
        let is_qualified = !recording.has_heap_frames();
        let method = if is_qualified {
            "Shop.Cart.total"
        } else {
            "total"
        };
        let main = &recording.thread("main").frames;
        assert!(main.iter().any(|frame| frame.name == method));
        assert!(main.iter().any(|frame| frame.name.ends_with("<genexpr>")));
    }
}

#[test]
fn all_threads_of_all_interpreters_are_listed() {
    for recording in RECORDINGS.iter() {
        let (mut image, layout) = (recording.image.clone(), recording.layout());
        let mut listing = ThreadListing::default();
        assert!(enumerate(
            &mut image,
            &layout,
            recording.image.runtime,
            &mut listing
        ));
        let interpreters = listing.interpreters.iter().map(|known| known.address);
        assert!(interpreters.eq(recording.interpreters.iter().copied()));
        let found: Vec<_> = targets(&listing)
            .zip(&listing.threads)
            .map(|(target, thread)| {
                (
                    target.interpreter,
                    target.address,
                    target.ident,
                    thread.native_id,
                )
            })
            .collect();
        let native_id =
            |thread: &RecordedThread| layout.thread.native_id.map_or(0, |_| thread.native_id);
        let expected: Vec<_> = recording
            .threads
            .iter()
            .map(|thread| {
                (
                    thread.interpreter,
                    thread.state,
                    thread.ident,
                    native_id(thread),
                )
            })
            .collect();
        assert_eq!(found, expected, "{}", recording.origin.display());
    }
}

#[test]
fn every_stack_is_what_the_program_said() {
    for recording in RECORDINGS.iter() {
        let layout = recording.layout();
        let mut memory = Watched::new(recording.image.clone());
        let mut listing = ThreadListing::default();
        enumerate(&mut memory, &layout, recording.image.runtime, &mut listing);
        for (target, thread) in targets(&listing).zip(&recording.threads) {
            let place = format!("{}: {}", recording.origin.display(), thread.label);
            let found = look(&mut memory, &layout, &target).expect(&place);
            assert!(is_leaf_side(thread, &found), "{place}");
            // Heap frames are copied one by one, and no more than the kernel takes in one call.
            let is_too_deep = thread.label == "deep" && recording.has_heap_frames();
            assert_eq!(found.walked.is_cut, is_too_deep, "{place}");
            assert_eq!(
                found.raw.len() == thread.frames.len(),
                !is_too_deep,
                "{place}"
            );
            assert!(
                found.raw.len() >= thread.frames.len().min(LEAST_FRAMES),
                "{place}"
            );
            assert_named(thread, &found.named.expect(&place), true);
            assert_eq!(found.walked.holds_gil, thread.label == "holder", "{place}");
            assert!(!found.walked.is_collecting, "{place}");
        }
    }
}

/// What is read of a recording: by the listing and for names, and by the walks alone.
struct Reads {
    all: Vec<Range>,
    walks: Vec<Range>,
}

static READS: LazyLock<Vec<Reads>> = LazyLock::new(|| {
    let reads_of = |recording: &Recording| {
        let layout = recording.layout();
        let mut memory = Watched::new(recording.image.clone());
        let mut listing = ThreadListing::default();
        enumerate(&mut memory, &layout, recording.image.runtime, &mut listing);
        let mut walks = Vec::new();
        for target in targets(&listing) {
            let before = memory.asked.len();
            let (mut hints, mut raw) = (Hints::default(), Vec::new());
            Walker::default()
                .walk(&mut memory, &layout, &target, &mut hints, &mut raw)
                .unwrap();
            walks.extend(memory.asked.drain(before..));
            look(&mut memory, &layout, &target);
        }
        let distinct = |mut ranges: Vec<Range>| {
            ranges.sort_by_key(|range| (range.address, range.length));
            ranges.dedup();
            ranges
        };
        Reads {
            all: distinct(memory.asked),
            walks: distinct(walks),
        }
    };
    RECORDINGS.iter().map(reads_of).collect()
});

/// A stretch within one of those.
fn part(of: &[Range], which: Index, from: Index, to: Index) -> Range {
    let whole = of[which.index(of.len())];
    let from = from.index(whole.length.max(1));
    Range::new(
        whole.address + from,
        1 + to.index(whole.length.max(1) - from),
    )
}

fn any_version() -> impl Strategy<Value = usize> {
    0..RECORDINGS.len()
}

proptest! {
    /// Memory is taken away: what is found is right, and what is missing is said to be missing.
    #[test]
    fn without_some_memory_nothing_wrong_is_found(
        version in any_version(),
        holes in prop::collection::vec(any::<(Index, Index, Index)>(), 1..6),
    ) {
        let recording = &RECORDINGS[version];
        let mut image = recording.image.clone();
        for (which, from, to) in holes {
            image.remove(part(&READS[version].all, which, from, to));
        }
        let Ok(layout) = Layout::detect(&mut image.clone(), image.runtime, image.version_hex) else {
            return Ok(());
        };
        prop_assert_eq!(layout, recording.layout());
        let mut memory = Watched::new(image);
        let mut listing = ThreadListing::default();
        let is_whole = enumerate(&mut memory, &layout, recording.image.runtime, &mut listing);
        prop_assert!(!is_whole || listing.threads.len() == recording.threads.len());
        for target in targets(&listing) {
            let mut known = recording.threads.iter();
            let thread = known.find(|thread| thread.state == target.address).unwrap();
            prop_assert_eq!(
                (target.interpreter, target.ident),
                (thread.interpreter, thread.ident)
            );
            if let Some(found) = look(&mut memory, &layout, &target) {
                prop_assert!(is_leaf_side(thread, &found));
                let is_all = found.raw.len() == thread.frames.len();
                prop_assert!(is_all || found.walked.is_cut, "{}", thread.label);
                assert_named(thread, &found.named.unwrap_or_default(), true);
            }
        }
    }

    /// Words of stacks are lost: no frame is called by another than the one that called it.
    #[test]
    fn with_words_lost_no_edge_is_invented(
        version in any_version(),
        losses in prop::collection::vec((any::<(Index, Index)>(), any::<bool>()), 1..6),
    ) {
        let recording = &RECORDINGS[version];
        let layout = recording.layout();
        let mut memory = Watched::new(recording.image.clone());
        for ((which, from), is_wild) in losses {
            let word = part(&READS[version].walks, which, from, from).address & !7;
            let value = if is_wild { WILD } else { 0 };
            if let Some(bytes) = memory.image.get_mut(Range::new(word, 8)) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
        }
        for thread in &recording.threads {
            let target = Target {
                address: thread.state,
                interpreter: thread.interpreter,
                ident: thread.ident,
                gil: 0,
                lasting: Lasting::default(),
            };
            let Some(found) = look(&mut memory, &layout, &target) else {
                continue;
            };
            // Code that is none is noticed when it is named.
            if let Some(named) = &found.named {
                prop_assert!(is_leaf_side(thread, &found), "{}", thread.label);
                // 3.10 keeps the number of the instruction, and any number may be one.
                assert_named(thread, named, !recording.has_heap_frames());
            }
        }
    }

    /// Bits turn over, words lead elsewhere, memory is gone: whatever is found, it has an end.
    #[test]
    fn any_damage_is_survived(
        version in any_version(),
        flips in prop::collection::vec((any::<(Index, Index)>(), 0..8_u32), 0..12),
        leads in prop::collection::vec(any::<(Index, Index, Index)>(), 0..12),
        holes in prop::collection::vec(any::<(Index, Index, Index)>(), 0..3),
    ) {
        let recording = &RECORDINGS[version];
        let reads = &READS[version].all;
        let mut image = recording.image.clone();
        for ((which, from), bit) in flips {
            let place = part(reads, which, from, from).address;
            if let Some([byte]) = image.get_mut(Range::new(place, 1)) {
                *byte ^= 1 << bit;
            }
        }
        for (which, from, to) in leads {
            let word = part(reads, which, from, from).address & !7;
            let address = reads[to.index(reads.len())].address;
            if let Some(bytes) = image.get_mut(Range::new(word, 8)) {
                bytes.copy_from_slice(&address.to_le_bytes());
            }
        }
        for (which, from, to) in holes {
            image.remove(part(reads, which, from, to));
        }
        let Ok(layout) = Layout::detect(&mut image.clone(), image.runtime, image.version_hex) else {
            return Ok(());
        };
        let mut memory = Watched::new(image);
        let mut listing = ThreadListing::default();
        enumerate(&mut memory, &layout, recording.image.runtime, &mut listing);
        for target in targets(&listing).take(MAX_LOOKS) {
            look(&mut memory, &layout, &target);
        }
    }
}
