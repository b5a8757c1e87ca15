//! The direct engine on recorded memory of every CPython version. A thread of the test stands for each
//! recorded one: it has the kernel's id and the CPU clock, the recording has the frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rprof::capture::direct::{DirectEngine, Interpreter, NameSource, ThreadName};
use rprof::capture::{Engine, Missed, SnapshotStats};
use rprof::clock::cpu::{own_cpu_ns, thread_id};
use rprof::clock::thread_state::{Activity, ThreadActivity};
use rprof::layout::{FramePlace, Layout};
use rprof::memory::image::Image;
use rprof::memory::own::Lasting;
use rprof::memory::{Range, ReadMemory, read_word};
use rprof::model::module_name::ImportRoots;
use rprof::model::snapshot::{Snapshot, ThreadSample, ThreadState};
use rprof::unwind::code::CodeCache;

use crate::image::{RECORDINGS, RecordedThread, Recording};

/// Where the C library keeps the kernel's id, from the ident, in the programs of these tests (3.10).
const ID_FROM_IDENT: usize = 720;
/// CPU time that a thread spends to have its clock move.
const BURN_NS: u64 = 200_000;

/// A thread that waits, and computes when it is told to.
struct StandIn {
    id: u64,
    tell: Sender<()>,
    done: Receiver<()>,
    thread: JoinHandle<()>,
}

impl StandIn {
    fn start() -> Self {
        let (tell, told) = channel::<()>();
        let (say, done) = channel();
        let (say_id, id) = channel();
        let thread = std::thread::spawn(move || {
            say_id.send(thread_id()).unwrap();
            while told.recv().is_ok() {
                let until_ns = own_cpu_ns() + BURN_NS;
                while own_cpu_ns() < until_ns {}
                say.send(()).unwrap();
            }
        });
        let stand_in = Self {
            id: id.recv().unwrap(),
            tell,
            done,
            thread,
        };
        stand_in.wait();
        stand_in
    }

    /// Returns when it waits, and its clock stands still.
    fn wait(&self) {
        let activity = ThreadActivity::open(self.id).expect("a thread that lives");
        while matches!(activity.read(), Some(Activity::Running)) {
            std::thread::yield_now();
        }
    }

    fn compute(&self) {
        self.tell.send(()).unwrap();
        self.done.recv().unwrap();
        self.wait();
    }

    fn end(self) {
        drop(self.tell);
        self.thread.join().unwrap();
    }
}

/// Memory that the test changes between looks; `None` where it cannot be read.
type Shared = Arc<Mutex<Option<Image>>>;

struct SharedMemory {
    image: Shared,
    copied: Vec<u8>,
}

impl ReadMemory for SharedMemory {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        let mut image = self.image.lock();
        let Some(image) = &mut *image else {
            return 0;
        };
        let whole = image.read_batch(ranges);
        self.copied.clear();
        self.copied.extend_from_slice(image.bytes());
        whole
    }

    fn bytes(&self) -> &[u8] {
        &self.copied
    }

    fn capacity(&self) -> usize {
        1 << 20
    }

    fn name(&self) -> &'static str {
        "shared"
    }
}

/// Names that are there at once, again and again.
struct Names(Vec<ThreadName>);

impl NameSource for Names {
    fn request(&mut self) {}

    fn collect(&mut self) -> Option<Vec<ThreadName>> {
        Some(self.0.clone())
    }

    fn thread_state(&self) -> usize {
        0
    }

    fn park(&mut self) {}

    fn end(&mut self) {}
}

/// A recorded program, and an engine that looks at it.
struct Stage {
    recording: &'static Recording,
    layout: Layout,
    image: Shared,
    opened: Arc<AtomicUsize>,
    stand_ins: Vec<StandIn>,
    engine: DirectEngine,
}

impl Stage {
    fn new(recording: &'static Recording) -> Self {
        let layout = recording.layout();
        let mut image = recording.image.clone();
        let stand_ins: Vec<StandIn> = recording.threads.iter().map(|_| StandIn::start()).collect();
        let ident_of = |thread: &RecordedThread| {
            // The guest is what the host's thread does in the sub-interpreter: here, another thread.
            thread.ident + if thread.label == "guest" { 0x1000 } else { 0 }
        };
        for (thread, stand_in) in recording.threads.iter().zip(&stand_ins) {
            set(
                &mut image,
                thread.state + layout.thread.ident,
                ident_of(thread),
            );
            match layout.thread.native_id {
                Some(at) => set(&mut image, thread.state + at, stand_in.id as usize),
                None => {
                    let id = (stand_in.id as usize).to_ne_bytes().to_vec();
                    image.insert(ident_of(thread) + ID_FROM_IDENT, id);
                }
            }
        }
        let (runtime, home) = (image.runtime, recording.interpreters[0]);
        let interpreter = Interpreter {
            layout,
            runtime,
            gil: layout.gil.address(&mut image, runtime, home).unwrap(),
            lasting: Lasting::default(),
            knows_locks: false,
            stale_id: None,
            id_from_ident: layout.thread.native_id.is_none().then_some(ID_FROM_IDENT),
        };
        let names = recording.threads.iter().map(|thread| ThreadName {
            ident: ident_of(thread),
            name: Arc::from(&*thread.label),
        });
        let cache = CodeCache::new(
            image.code_type,
            ImportRoots::default(),
            "/rprof/".to_owned(),
        );
        let image = Arc::new(Mutex::new(Some(image)));
        let opened = Arc::new(AtomicUsize::new(0));
        let open = {
            let (image, opened) = (image.clone(), opened.clone());
            move || -> Option<Box<dyn ReadMemory>> {
                opened.fetch_add(1, Ordering::Relaxed);
                let (image, copied) = (image.clone(), Vec::new());
                Some(Box::new(SharedMemory { image, copied }))
            }
        };
        let names = Box::new(Names(names.collect()));
        Self {
            recording,
            layout,
            image,
            opened,
            stand_ins,
            engine: DirectEngine::new(interpreter, Box::new(open), names, cache),
        }
    }

    fn look(&mut self) -> SnapshotStats {
        self.engine.look().expect("a snapshot")
    }

    /// The sample of a thread by its name.
    fn sample(&self, name: &str) -> &ThreadSample {
        sample(self.engine.snapshot(), name)
    }

    fn stand_in(&self, name: &str) -> &StandIn {
        let mut threads = self.recording.threads.iter();
        let at = threads.position(|thread| thread.label == name);
        &self.stand_ins[at.unwrap()]
    }

    fn change(&self, change: impl FnOnce(&mut Image)) {
        change(self.image.lock().as_mut().unwrap());
    }

    /// A thread returns from the function that it is in.
    fn leave(&self, name: &str) {
        let layout = self.layout;
        let state = self.recording.thread(name).state;
        self.change(|image| {
            let place = match layout.thread.frame {
                FramePlace::Object(at) | FramePlace::Direct(at) => state + at,
                FramePlace::CFrame(at, inside) => read_word(image, state + at).unwrap() + inside,
            };
            let newest = read_word(image, place).unwrap();
            let caller = read_word(image, newest + layout.frame.previous).unwrap();
            set(image, place, caller);
        });
    }

    fn end(self) {
        drop(self.engine);
        for stand_in in self.stand_ins {
            stand_in.end();
        }
    }
}

fn sample<'snapshot>(snapshot: &'snapshot Snapshot, name: &str) -> &'snapshot ThreadSample {
    let mut threads = snapshot.threads.iter();
    threads.find(|thread| &*thread.name == name).expect(name)
}

fn set(image: &mut Image, address: usize, value: usize) {
    let word = image.get_mut(Range::new(address, 8)).expect("recorded");
    word.copy_from_slice(&value.to_ne_bytes());
}

/// Name and line of each frame, leaf first.
fn shown(snapshot: &Snapshot, name: &str) -> Vec<(String, u32)> {
    let frames = &sample(snapshot, name).stack.frames;
    let function = |serial| snapshot.function(serial).expect("a known function");
    frames
        .iter()
        .map(|frame| (function(frame.function).name.to_string(), frame.line))
        .collect()
}

fn assert_as_recorded(stage: &Stage, snapshot: &Snapshot) {
    let recording = stage.recording;
    assert_eq!(snapshot.threads.len(), recording.threads.len());
    for (thread, stand_in) in recording.threads.iter().zip(&stage.stand_ins) {
        let place = format!("{}: {}", recording.origin.display(), thread.label);
        let found = sample(snapshot, &thread.label);
        assert_eq!(found.thread_id, stand_in.id, "{place}");
        let frames = thread.frames.iter();
        let mut expected: Vec<_> = frames
            .map(|frame| (frame.name.clone(), frame.line))
            .collect();
        // Heap frames are copied one by one, and no more than the kernel takes in one call.
        let is_cut = thread.label == "deep" && recording.has_heap_frames();
        assert_eq!(found.stack.incomplete, is_cut, "{place}");
        if is_cut {
            expected.truncate(found.stack.frames.len());
        }
        assert_eq!(shown(snapshot, &thread.label), expected, "{place}");
        // All of them wait, in the kernel, for the test; one does so with the GIL.
        if thread.label == "holder" {
            assert_eq!(found.state, ThreadState::HoldsGil, "{place}");
            assert!(!found.on_cpu, "{place}");
        } else {
            assert!(found.state.waits(), "{place}: {:?}", found.state);
        }
    }
}

#[test]
fn a_look_finds_every_thread_its_stack_and_what_it_does() {
    for recording in RECORDINGS.iter() {
        let mut stage = Stage::new(recording);
        let stats = stage.look();
        assert_eq!(stats.walked as usize, recording.threads.len());
        assert_eq!(stats.incomplete, u32::from(recording.has_heap_frames()));
        assert_as_recorded(&stage, stage.engine.snapshot());
        stage.end();
    }
}

#[test]
fn a_stack_is_read_again_only_when_its_thread_has_run() {
    for recording in RECORDINGS.iter() {
        let mut stage = Stage::new(recording);
        stage.look();
        let first_ns = stage.engine.snapshot().at_ns;
        let version = stage.sample("names").stack_version;
        let frames = shown(stage.engine.snapshot(), "names");
        // It returns, but its clock says that it did not run: then nobody looks.
        stage.leave("names");
        let stats = stage.look();
        assert_eq!(stats, SnapshotStats::default());
        let snapshot = stage.engine.snapshot();
        assert!(snapshot.at_ns > first_ns && snapshot.moved_ns == first_ns);
        assert_eq!(stage.sample("names").since_ns, first_ns);
        assert_eq!(shown(snapshot, "names"), frames);
        stage.stand_in("names").compute();
        stage.stand_in("host").compute();
        assert_eq!(stage.look().walked, 2);
        let snapshot = stage.engine.snapshot();
        assert_eq!(snapshot.moved_ns, snapshot.at_ns);
        assert_eq!(shown(snapshot, "names"), frames[1..]);
        let after = stage.sample("names");
        assert!(after.stack_version > version && after.since_ns == snapshot.at_ns);
        // This one has run and is where it was.
        assert!(stage.sample("host").stack_version <= recording.threads.len() as u64);
        stage.end();
    }
}

#[test]
fn a_thread_that_leaves_the_list_leaves_the_snapshot() {
    for recording in RECORDINGS.iter() {
        let mut stage = Stage::new(recording);
        stage.look();
        let version = stage.engine.snapshot().threads_version;
        let head = recording.interpreters[0] + stage.layout.interpreter.threads_head;
        let mut gone = 0;
        stage.change(|image| {
            gone = read_word(image, head).unwrap();
            let next = read_word(image, gone + stage.layout.thread.next).unwrap();
            set(image, head, next);
        });
        stage.look();
        let snapshot = stage.engine.snapshot();
        assert_eq!(snapshot.threads.len(), recording.threads.len() - 1);
        assert!(snapshot.threads_version > version);
        for thread in &recording.threads {
            let mut known = snapshot.threads.iter();
            let is_there = known.any(|known| *known.name == *thread.label);
            assert_eq!(is_there, thread.state != gone, "{}", thread.label);
        }
        stage.end();
    }
}

#[test]
fn without_its_memory_a_look_is_missed_and_the_next_one_opens_it_again() {
    let mut stage = Stage::new(&RECORDINGS[0]);
    stage.look();
    let image = stage.image.lock().take();
    for _ in 0..2 {
        assert_eq!(stage.engine.look(), Err(Missed::NotNow));
    }
    assert_as_recorded(&stage, stage.engine.snapshot());
    *stage.image.lock() = image;
    stage.stand_in("main").compute();
    assert_eq!(stage.look().walked, 1);
    assert_eq!(stage.opened.load(Ordering::Relaxed), 3);
    stage.end();
}

#[test]
fn an_interpreter_that_shuts_down_is_left_alone() {
    for recording in RECORDINGS.iter() {
        let mut stage = Stage::new(recording);
        stage.look();
        let finalizing = recording.image.runtime + stage.layout.runtime.finalizing;
        stage.change(|image| set(image, finalizing, recording.threads[0].state));
        assert_eq!(stage.engine.look(), Err(Missed::Finalizing));
        assert_as_recorded(&stage, stage.engine.snapshot());
        stage.end();
    }
}

#[test]
fn whoever_looks_once_may_do_so_again() {
    for recording in RECORDINGS.iter() {
        let mut stage = Stage::new(recording);
        for _ in 0..2 {
            let snapshot = stage.engine.look_once().unwrap();
            assert_as_recorded(&stage, &snapshot);
            // Nothing is kept in between.
            assert!(stage.engine.snapshot().threads.is_empty());
            assert_eq!(stage.engine.bytes(), 0);
        }
        stage.end();
    }
}

#[test]
fn after_all_was_forgotten_all_is_found_again() {
    let mut stage = Stage::new(&RECORDINGS[0]);
    stage.look();
    let keys = |stage: &Stage| -> Vec<_> {
        let threads = stage.engine.snapshot().threads.iter();
        threads.map(|thread| thread.key).collect()
    };
    let known = keys(&stage);
    let version = stage.engine.snapshot().threads_version;
    stage.engine.forget();
    let snapshot = stage.engine.snapshot();
    assert!(snapshot.threads.is_empty() && snapshot.functions.is_empty());
    assert!(snapshot.threads_version > version);
    assert_eq!(stage.look().walked as usize, known.len());
    let found = keys(&stage);
    assert_eq!(found.len(), known.len());
    // A key is never used again.
    assert!(found.iter().min() > known.iter().max());
    stage.end();
}
