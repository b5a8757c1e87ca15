//! Threads and frames out of made-up memory: what is right is found, what is wrong does no harm.

use proptest::prelude::*;
use rprof::layout::{CHUNK, Layout, OWNED_BY_GENERATOR, OWNED_BY_THREAD, v3_12};
use rprof::memory::image::Image;
use rprof::memory::own::Lasting;
use rprof::memory::{Range, ReadMemory};
use rprof::unwind::frames::{Failure, Hints, Target, Walker};
use rprof::unwind::threads::{Change, Heads, ThreadListing, enumerate};

use crate::support::codes;

const LAYOUT: Layout = v3_12::LAYOUT;
const RUNTIME: usize = 0x10_0000;
const INTERPRETER: usize = 0x20_0000;
const GIL: usize = 0x30_0000;
const THREAD: usize = 0x40_0000;
const C_STACK: usize = 0x50_0000;
const STACK_CHUNK: usize = 0x60_0000;
const CHUNK_BYTES: usize = 16 << 10;
const GENERATOR: usize = 0x70_0000;
const IDENT: usize = 0x7f00_0000;
/// `FRAME_OWNED_BY_CSTACK` of 3.12.
const ENTRY: u8 = 3;

/// The frame pointer that `LAYOUT` leads to.
const CURRENT: usize = C_STACK + 4096;

/// Memory that is written first and put into an image then.
struct Piece {
    address: usize,
    bytes: Vec<u8>,
}

impl Piece {
    fn new(address: usize, length: usize) -> Self {
        Self {
            address,
            bytes: vec![0; length],
        }
    }

    fn word(&mut self, offset: usize, value: usize) -> &mut Self {
        self.bytes[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn frame(&mut self, offset: usize, owner: u8, code: usize, previous: usize) -> &mut Self {
        let frame = &LAYOUT.frame;
        self.word(offset + frame.code, code)
            .word(offset + frame.previous, previous)
            .word(offset + 56, code + 200);
        self.bytes[offset + frame.owner] = owner;
        self
    }
}

/// A program inside a generator that a function drives, below an entry frame from C:
/// main (data stack) <- entry (C stack) <- driver (data stack) <- generator (heap).
fn pieces() -> Vec<Piece> {
    let mut runtime = Piece::new(RUNTIME, 256);
    runtime.word(LAYOUT.runtime.interpreters_head, INTERPRETER);
    let mut interpreter = Piece::new(INTERPRETER, 1024);
    interpreter
        .word(LAYOUT.interpreter.threads_head, THREAD)
        .word(384, GIL);
    let mut gil = Piece::new(GIL, 256);
    gil.word(LAYOUT.gil.holder, THREAD)
        .word(LAYOUT.gil.locked, 1);
    let mut thread = Piece::new(THREAD, 512);
    thread
        .word(LAYOUT.thread.interpreter, INTERPRETER)
        .word(LAYOUT.thread.ident, IDENT)
        .word(144, 4711)
        .word(56, CURRENT)
        .word(232, STACK_CHUNK);
    let mut c_stack = Piece::new(C_STACK, 8192);
    c_stack
        .word(4096, GENERATOR)
        .frame(1024, ENTRY, 0, STACK_CHUNK + CHUNK.data);
    let mut chunk = Piece::new(STACK_CHUNK, CHUNK_BYTES);
    chunk
        .word(CHUNK.size, CHUNK_BYTES)
        .frame(CHUNK.data, OWNED_BY_THREAD, 0xA000, 0)
        .frame(CHUNK.data + 120, OWNED_BY_THREAD, 0xB000, C_STACK + 1024);
    let mut generator = Piece::new(GENERATOR, 256);
    generator.frame(
        0,
        OWNED_BY_GENERATOR,
        0xC000,
        STACK_CHUNK + CHUNK.data + 120,
    );
    vec![runtime, interpreter, gil, thread, c_stack, chunk, generator]
}

fn image(pieces: Vec<Piece>) -> Image {
    let mut image = Image::default();
    for piece in pieces {
        image.insert(piece.address, piece.bytes);
    }
    image
}

fn target() -> Target {
    Target {
        address: THREAD,
        interpreter: INTERPRETER,
        ident: IDENT,
        gil: GIL,
        lasting: Lasting::default(),
    }
}

#[test]
fn a_stack_over_three_kinds_of_memory_is_found() {
    let mut memory = image(pieces());
    let (mut walker, mut hints, mut frames) = (Walker::default(), Hints::default(), Vec::new());
    for _ in 0..3 {
        let walked = walker
            .walk(&mut memory, &LAYOUT, &target(), &mut hints, &mut frames)
            .unwrap();
        assert_eq!(codes(&frames), [0xC000, 0xB000, 0xA000]);
        assert!(walked.holds_gil && !walked.is_collecting && !walked.is_cut);
    }
}

#[test]
fn a_generator_without_a_caller_is_no_stack() {
    let mut pieces = pieces();
    pieces[6].word(LAYOUT.frame.previous, 0);
    let walked = Walker::default().walk(
        &mut image(pieces),
        &LAYOUT,
        &target(),
        &mut Hints::default(),
        &mut Vec::new(),
    );
    assert_eq!(walked, Err(Failure::Torn));
}

/// Memory that is another from the second copy of the frame pointer on.
struct Moving {
    before: Image,
    after: Image,
    bytes: Vec<u8>,
}

impl ReadMemory for Moving {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        self.bytes.clear();
        let mut is_after = false;
        let mut looks = 0;
        for (index, range) in ranges.iter().enumerate() {
            looks += usize::from(range.address == CURRENT);
            is_after |= looks == 2;
            let memory = if is_after {
                &mut self.after
            } else {
                &mut self.before
            };
            if memory.read_batch(&[*range]) == 0 {
                return index;
            }
            self.bytes
                .extend_from_slice(&memory.bytes()[..range.length]);
        }
        ranges.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn capacity(&self) -> usize {
        self.before.capacity()
    }

    fn name(&self) -> &'static str {
        "moving"
    }
}

#[test]
fn a_generator_that_was_left_meanwhile_does_not_hide_its_caller() {
    const INNER: usize = GENERATOR + 128;
    let scene = |inner_caller: usize, current: usize| {
        let mut pieces = pieces();
        pieces[6].frame(128, OWNED_BY_GENERATOR, 0xD000, inner_caller);
        pieces[4].word(4096, current);
        image(pieces)
    };
    let mut memory = scene(GENERATOR, INNER);
    let (mut walker, mut hints, mut frames) = (Walker::default(), Hints::default(), Vec::new());
    let mut walk = |memory: &mut dyn ReadMemory| {
        let walked = walker.walk(memory, &LAYOUT, &target(), &mut hints, &mut frames);
        walked.map(|_| codes(&frames))
    };
    let whole = vec![0xD000, 0xC000, 0xB000, 0xA000];
    assert_eq!(walk(&mut memory), Ok(whole.clone()));
    // The inner generator has been left when it is copied; then the thread is in the outer one, or
    // in the inner one again.
    for (current, expected) in [
        (GENERATOR, Ok(whole[1..].to_vec())),
        (INNER, Err(Failure::Torn)),
        (STACK_CHUNK + CHUNK.data, Err(Failure::Torn)),
    ] {
        let mut moving = Moving {
            before: scene(0, INNER),
            after: scene(0, current),
            bytes: Vec::new(),
        };
        assert_eq!(walk(&mut moving), expected, "{current:x}");
    }
}

#[test]
fn another_thread_in_the_same_place_is_not_it() {
    let mut pieces = pieces();
    pieces[3].word(LAYOUT.thread.ident, IDENT + 8);
    let walked = Walker::default().walk(
        &mut image(pieces),
        &LAYOUT,
        &target(),
        &mut Hints::default(),
        &mut Vec::new(),
    );
    assert_eq!(walked, Err(Failure::Gone));
}

#[test]
fn a_stack_that_leads_in_a_circle_ends() {
    let mut pieces = pieces();
    pieces[5].word(CHUNK.data + LAYOUT.frame.previous, GENERATOR);
    let mut frames = Vec::new();
    let walked = Walker::default().walk(
        &mut image(pieces),
        &LAYOUT,
        &target(),
        &mut Hints::default(),
        &mut frames,
    );
    assert!(walked.is_err() || walked.is_ok_and(|walked| walked.is_cut));
}

#[test]
fn all_threads_are_listed_and_a_new_one_is_noticed() {
    let mut memory = image(pieces());
    let (mut listing, mut heads) = (ThreadListing::default(), Heads::default());
    assert!(enumerate(&mut memory, &LAYOUT, RUNTIME, &mut listing));
    assert_eq!(listing.interpreters[0].gil, GIL);
    let [thread] = listing.threads[..] else {
        panic!("{:?}", listing.threads)
    };
    assert_eq!((thread.ident, thread.native_id), (IDENT, 4711));
    heads.remember(&listing);
    assert_eq!(
        heads.check(&mut memory, &LAYOUT, RUNTIME, Lasting::default(), &listing),
        Change::Same
    );
    let mut pieces = pieces();
    pieces[1].word(LAYOUT.interpreter.threads_head, THREAD + 0x1000);
    let mut memory = image(pieces);
    assert_eq!(
        heads.check(&mut memory, &LAYOUT, RUNTIME, Lasting::default(), &listing),
        Change::Changed
    );
    assert!(
        !enumerate(&mut memory, &LAYOUT, RUNTIME, &mut listing),
        "an unreadable thread"
    );
}

#[test]
fn a_list_that_leads_in_a_circle_ends() {
    let mut pieces = pieces();
    pieces[3].word(LAYOUT.thread.next, THREAD);
    let mut listing = ThreadListing::default();
    assert!(!enumerate(
        &mut image(pieces),
        &LAYOUT,
        RUNTIME,
        &mut listing
    ));
}

proptest! {
    /// Words all over the memory are replaced, by other addresses or by anything: the walk ends,
    /// with some answer, and the next one does too.
    #[test]
    fn damaged_memory_does_no_harm(
        damage in proptest::collection::vec((0..7_usize, 0..2_048_usize, 0..12_usize, any::<u64>()), 0..24)
    ) {
        let places = [
            RUNTIME, INTERPRETER, GIL, THREAD, C_STACK + 1024, C_STACK + 4096, STACK_CHUNK,
            STACK_CHUNK + CHUNK.data, STACK_CHUNK + 144, GENERATOR, 0,
        ];
        let mut pieces = pieces();
        for (piece, offset, place, value) in damage {
            let value = places.get(place).copied().unwrap_or(value as usize);
            let piece = &mut pieces[piece];
            let offset = offset % (piece.bytes.len() / 8) * 8;
            piece.word(offset, value);
        }
        let mut memory = image(pieces);
        let mut listing = ThreadListing::default();
        enumerate(&mut memory, &LAYOUT, RUNTIME, &mut listing);
        let (mut walker, mut hints, mut frames) = (Walker::default(), Hints::default(), Vec::new());
        for _ in 0..2 {
            let walked = walker.walk(&mut memory, &LAYOUT, &target(), &mut hints, &mut frames);
            prop_assert!(walked.is_err() || frames.len() <= rprof::unwind::frames::MAX_FRAMES);
        }
    }
}
