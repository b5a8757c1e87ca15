//! One greenlet that is being read: what was copied tells what is to be copied next.
#![forbid(unsafe_code)]

use super::FoundGreenlet;
use crate::layout::greenlets::{GreenletLayout, GreenletState, HEAD_BYTES, KEYS_BYTES};
use crate::layout::tasks::{LOWEST, TYPE};
use crate::layout::{
    EXECUTING_3_10, Instruction, Layout, OWNED_BY_GENERATOR, OWNED_BY_THREAD, UNWINDING_3_10,
};
use crate::memory::remembered::Remembered;
use crate::memory::{Range, int32, word};
use crate::unwind::frames::RawFrame;
use crate::unwind::greenlet_table::GREENLETS;

/// Frames read of one greenlet; a deeper one is cut at its root side.
const MAX_FRAMES: usize = 960;
/// Memory is given out in pages of this size, or a larger one.
const PAGE: usize = 4_096;
/// Most frames that call each other lie behind each other, and so many bytes of them are copied at once.
const WINDOW: usize = 2_048;

/// No keys of a dictionary are shorter, or it has no name among them.
const LEAST_KEYS_BYTES: usize = KEYS_BYTES / 8;

const WORD: usize = size_of::<usize>();

/// What is copied next.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// The greenlet.
    Head,
    /// Its object of C++.
    Inside,
    /// Where its newest frame is (3.11 and later).
    FrameObject,
    /// A frame, and others before it in memory.
    Frame(usize),
    /// The greenlet in which its thread began, the object of C++ of that, what greenlet knows of the
    /// thread: whether this one runs is told by that alone if it has no frame.
    Main,
    /// See [`Next::Main`].
    MainInside,
    /// See [`Next::Main`].
    Thread,
    /// Where the keys of its attributes are.
    Attributes,
    /// The keys, so many bytes of them.
    Keys(usize),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Lane {
    address: usize,
    next: Option<(Next, Range)>,
    /// Whether all of it could be read, and makes sense.
    is_whole: bool,
    kind: usize,
    attributes: usize,
    inside: Vec<u8>,
    state: GreenletState,
    frames: Vec<RawFrame>,
    is_cut: bool,
    /// Address of its name, if it has one.
    pub(super) name: Option<usize>,
    /// What has to be the same in the end.
    pub(super) kept: Remembered,
}

impl Lane {
    pub(super) fn new(address: usize, known: &GreenletLayout) -> Self {
        let mut lane = Self {
            address,
            next: None,
            is_whole: true,
            kind: 0,
            attributes: 0,
            inside: Vec::new(),
            state: GreenletState::Idle,
            frames: Vec::new(),
            is_cut: false,
            name: None,
            kept: Remembered::default(),
        };
        // What stands before the type counts references, which come and go.
        let length = known.head_bytes().min(HEAD_BYTES) - TYPE;
        lane.want(Next::Head, address.wrapping_add(TYPE), length);
        lane
    }

    /// What is to be copied next, if anything.
    pub(super) fn wanted(&self) -> Option<Range> {
        self.next.map(|(_, range)| range)
    }

    fn want(&mut self, next: Next, address: usize, length: usize) {
        if address < LOWEST || !address.is_multiple_of(WORD) {
            self.give_up();
        } else {
            self.next = Some((next, Range::new(address, length)));
        }
    }

    fn give_up(&mut self) {
        self.is_whole = false;
        self.next = None;
    }

    /// Takes in what was wanted; `None` if that cannot be read.
    pub(super) fn take(&mut self, bytes: Option<&[u8]>, layout: &Layout, known: &GreenletLayout) {
        let Some((next, range)) = self.next.take() else {
            return;
        };
        let Some(bytes) = bytes else {
            return self.take_nothing(next, range);
        };
        match next {
            Next::Head => {
                self.kept.add(range, bytes);
                self.kind = word(bytes, 0);
                self.attributes = word(bytes, known.attributes - TYPE);
                let inside = word(bytes, known.inside - TYPE);
                self.want(Next::Inside, inside, known.inside_bytes);
            }
            Next::Inside => {
                self.kept.add(range, bytes);
                self.inside = bytes.to_vec();
                self.state = known.state(bytes);
                let newest = word(bytes, known.frame);
                match (self.state, known.frame_of_object) {
                    (GreenletState::Idle, _) => {}
                    (GreenletState::Runs, _) => self.want_thread(known),
                    (GreenletState::Suspended, Some(at)) => {
                        self.want(Next::FrameObject, newest.wrapping_add(at), WORD);
                    }
                    (GreenletState::Suspended, None) => self.want_frame(newest, layout),
                }
            }
            Next::FrameObject => {
                self.kept.add(range, bytes);
                self.want_frame(word(bytes, 0), layout);
            }
            Next::Frame(address) => self.take_frames(address, range, bytes, layout, known),
            Next::Main => {
                let inside = word(bytes, 0).wrapping_add(known.thread);
                self.want(Next::MainInside, inside, WORD);
            }
            Next::MainInside => self.want(Next::Thread, word(bytes, 0), 2 * WORD),
            Next::Thread => {
                // The first greenlet of the thread, and the one that it runs.
                if word(bytes, 0) != self.main(known) {
                    self.give_up();
                } else if word(bytes, WORD) != self.address {
                    self.state = GreenletState::Suspended;
                    self.want_attributes(known);
                }
            }
            Next::Attributes => {
                self.kept.add(range, bytes);
                self.want(Next::Keys(KEYS_BYTES), word(bytes, 0), KEYS_BYTES);
            }
            Next::Keys(_) => {
                if let Some(at) = known.name_among(bytes) {
                    // With its key.
                    let kept = Range::new(range.address + at - WORD, 2 * WORD);
                    self.kept.add(kept, &bytes[at - WORD..at + WORD]);
                    self.name = Some(word(bytes, at));
                }
            }
        }
    }

    /// The keys of a dictionary are looked through as far as they can be read.
    fn take_nothing(&mut self, next: Next, range: Range) {
        match next {
            Next::Keys(length) if length > LEAST_KEYS_BYTES => {
                self.want(Next::Keys(length / 2), range.address, length / 2);
            }
            Next::Keys(_) => {}
            _ => self.give_up(),
        }
    }

    /// The greenlet in which the thread began.
    fn main(&self, known: &GreenletLayout) -> usize {
        if known.is_main(&self.inside) {
            self.address
        } else {
            word(&self.inside, known.main)
        }
    }

    fn want_thread(&mut self, known: &GreenletLayout) {
        let inside = self.main(known).wrapping_add(known.inside);
        self.want(Next::Main, inside, WORD);
    }

    fn want_attributes(&mut self, known: &GreenletLayout) {
        if self.attributes >= LOWEST {
            let keys = self.attributes.wrapping_add(known.keys);
            self.want(Next::Attributes, keys, WORD);
        }
    }

    fn want_frame(&mut self, address: usize, layout: &Layout) {
        let size = layout.frame.size;
        let begin = if layout.has_heap_frames() {
            address
        } else {
            let page = address & !(PAGE - 1);
            page.max((address.wrapping_add(size)).saturating_sub(WINDOW) & !(WORD - 1))
        };
        self.want(
            Next::Frame(address),
            begin,
            address.wrapping_add(size).wrapping_sub(begin),
        );
    }

    /// Takes in the frame at `address` and those that called it, as far as they were copied.
    fn take_frames(
        &mut self,
        mut address: usize,
        range: Range,
        bytes: &[u8],
        layout: &Layout,
        known: &GreenletLayout,
    ) {
        let size = layout.frame.size;
        // A frame on the heap begins with how many refer to it (3.10).
        let skipped = if layout.has_heap_frames() { TYPE } else { 0 };
        let end = range.address + range.length;
        loop {
            let is_copied = address >= range.address && address.saturating_add(size) <= end;
            if !is_copied {
                return self.want_frame(address, layout);
            }
            let frame = &bytes[address - range.address..][..size];
            let Some(raw) = raw_frame(frame, address, layout) else {
                return self.give_up();
            };
            let kept = Range::new(address + skipped, size - skipped);
            self.kept.add(kept, &frame[skipped..]);
            self.frames.push(raw);
            address = word(frame, layout.frame.previous);
            if address == 0 {
                break;
            }
            if self.frames.len() == MAX_FRAMES {
                self.is_cut = true;
                break;
            }
        }
        self.want_attributes(known);
    }

    /// What was found, but for the name; `None` if it was not all of it.
    pub(super) fn found(self, known: &GreenletLayout) -> Option<FoundGreenlet> {
        let is_whole = self.is_whole && self.next.is_none();
        is_whole.then(|| FoundGreenlet {
            state: self.state,
            is_cut: self.is_cut,
            context: known.context(&self.inside),
            thread_id: GREENLETS.thread_id(self.main(known)),
            kind: self.kind,
            name: None,
            frames: self.frames,
        })
    }
}

/// A frame of which this is a copy; `None` if it is none that may be suspended.
fn raw_frame(frame: &[u8], address: usize, layout: &Layout) -> Option<RawFrame> {
    let owner = frame[layout.frame.owner];
    let stands = if layout.has_heap_frames() {
        matches!(owner, EXECUTING_3_10 | UNWINDING_3_10)
    } else {
        matches!(owner, OWNED_BY_THREAD | OWNED_BY_GENERATOR)
    };
    let code = word(frame, layout.frame.code) & !layout.frame.code_tags;
    if !stands || code < LOWEST || !code.is_multiple_of(WORD) {
        return None;
    }
    Some(RawFrame {
        code,
        instruction: match layout.frame.instruction {
            Instruction::Index(at) => int32(frame, at).max(0) as usize,
            Instruction::Pointer(at) => word(frame, at),
        },
        address,
    })
}
