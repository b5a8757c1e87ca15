//! The labels a thread works under, out of its context.
//!
//! `rprof.labels` keeps an object of ours in a context variable, so that it follows threads, tasks
//! and whatever else switches contexts. A thread state names its context, a context its variables
//! (`PyContext`, `Include/internal/pycore_context.h`), and these are an immutable hash trie
//! (`PyHamtObject`, `Include/internal/pycore_hamt.h`; `Python/hamt.c`). The heads are the same in
//! 3.10-3.15; where they are not, [`LabelPlace`] is never made.
#![forbid(unsafe_code)]

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use rustc_hash::FxHashMap;

use crate::layout::context::{
    BITMAP, CHILDREN, CONTEXT_VARIABLES, MAX_LEVELS, PAIRS, ROOT, SIZE, TYPE, TYPE_NAME,
};
use crate::memory::{Range, ReadMemory, int32, read, read_word, word};
use crate::model::label::{ActiveLabels, MAX_ENCODED_BYTES};

const WORD: usize = size_of::<usize>();
/// A hash that several variables share; more would not be by chance.
const MAX_COLLISIONS: usize = 16;
/// Label objects whose content is remembered.
const MAX_REMEMBERED: usize = 4_096;
/// Looks at one thread until its labels are given up for this tick.
pub const MAX_LOOKS: usize = 8;

/// What stands at the head of a label object.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Shown {
    /// [`LabelPlace::magic`] as long as the object lives.
    pub magic: AtomicUsize,
    /// See [`ActiveLabels::serial`]; 0 while the rest is being changed.
    pub serial: AtomicUsize,
    /// Where its bytes are.
    pub bytes: AtomicUsize,
    /// How many.
    pub length: AtomicUsize,
    /// See [`ActiveLabels::request`].
    pub request: AtomicUsize,
    /// See [`ActiveLabels::captures`].
    pub captures: AtomicUsize,
}

impl Shown {
    /// Shows other labels. Whoever looks meanwhile finds none, and looks again.
    pub fn show(&self, serial: usize, bytes: &[u8], request: u64, captures: u64) {
        self.serial.store(0, Ordering::Relaxed);
        // Before what follows, as the last store is behind it; stronger ones would each wait for the
        // caches.
        fence(Ordering::Release);
        self.bytes.store(bytes.as_ptr() as usize, Ordering::Relaxed);
        self.length.store(bytes.len(), Ordering::Relaxed);
        self.request.store(request as usize, Ordering::Relaxed);
        self.captures.store(captures as usize, Ordering::Relaxed);
        self.serial.store(serial, Ordering::Release);
    }

    /// Shows nothing any more.
    pub fn hide(&self) {
        self.magic.store(0, Ordering::Relaxed);
        // Before the memory is used again.
        fence(Ordering::Release);
    }
}

/// Looks at labels that are being changed until they are given up for this tick.
const MAX_CHANGES: usize = 4;

/// Where labels are in this process.
#[derive(Clone, Copy, Debug)]
pub struct LabelPlace {
    /// `PyThreadState.context`.
    pub context: usize,
    /// Address of the context variable.
    pub variable: usize,
    /// Its hash, as the trie takes it.
    pub hash: u32,
    /// From a label object to its [`Shown`].
    pub shown: usize,
    /// What no other memory begins with.
    pub magic: usize,
}

/// Where labels are, once any were made. From then on they are looked for.
pub static PLACE: OnceLock<LabelPlace> = OnceLock::new();

/// The trie's own hash of what Python's `hash()` says (`hamt_hash`).
#[must_use]
pub fn trie_hash(hash: i64) -> u32 {
    let folded = (hash ^ hash >> 32) as u32;
    if folded == u32::MAX {
        u32::MAX - 1
    } else {
        folded
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeKind {
    Bitmap,
    Array,
    Collision,
}

/// A thread's context and the variables it had, at one moment. Equal ones are the same, even though
/// memory is used again: each change leaves its mark in one of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextSeen {
    context: usize,
    /// `PyThreadState.context_ver`, right behind the context: how often it was switched.
    version: usize,
    variables: usize,
    /// How often labels were set in it.
    sets: u32,
}

impl ContextSeen {
    /// How often the thread's context was switched.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version as u64
    }
}

/// How often labels were set, by thread; a few threads may share a number.
static SETS: [AtomicU32; 1_024] = [const { AtomicU32::new(0) }; 1_024];

fn sets_of(ident: usize) -> &'static AtomicU32 {
    // Idents are addresses of large, aligned blocks.
    &SETS[(ident >> 12).wrapping_mul(0x9E37_79B9) >> 8 & (SETS.len() - 1)]
}

/// Notes that the thread of this ident is about to set labels.
pub fn note_set(ident: usize) {
    sets_of(ident).fetch_add(1, Ordering::SeqCst);
}

/// Reads labels; what it has learnt of types and contents is used for every thread.
#[derive(Debug, Default)]
pub struct LabelReader {
    kinds: Vec<(usize, NodeKind)>,
    known: FxHashMap<u64, Arc<ActiveLabels>>,
}

impl LabelReader {
    /// The thread's context as it is; `hint` is what it was. `None` if it cannot be had.
    pub fn context(
        memory: &mut (dyn ReadMemory + '_),
        place: &LabelPlace,
        thread: usize,
        ident: usize,
        hint: ContextSeen,
    ) -> Option<ContextSeen> {
        let mut context = hint.context;
        for _ in 0..MAX_LOOKS {
            if context == 0 {
                context = read_word(memory, thread + place.context)?;
                if context == 0 {
                    return Some(ContextSeen::default());
                }
            }
            let sets = sets_of(ident).load(Ordering::SeqCst);
            // All at once: they belong together.
            let all = [
                Range::new(thread + place.context, 2 * WORD),
                Range::new(context.wrapping_add(CONTEXT_VARIABLES), WORD),
                Range::new(thread + place.context, 2 * WORD),
            ];
            let whole = memory.read_batch(&all);
            let bytes = memory.bytes();
            if whole == all.len()
                && word(bytes, 0) == context
                && bytes[..2 * WORD] == bytes[3 * WORD..5 * WORD]
            {
                return Some(ContextSeen {
                    context,
                    version: word(bytes, WORD),
                    variables: word(bytes, 2 * WORD),
                    sets,
                });
            }
            context = 0;
        }
        None
    }

    /// The labels in a context, which must still be the thread's afterwards to be relied on.
    pub fn labels(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        place: &LabelPlace,
        seen: ContextSeen,
    ) -> Option<Arc<ActiveLabels>> {
        self.labels_among(memory, place, seen.variables)
    }

    /// The labels among a context's variables.
    pub fn labels_among(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        place: &LabelPlace,
        variables: usize,
    ) -> Option<Arc<ActiveLabels>> {
        if variables == 0 {
            return None;
        }
        let object = self.find(memory, place, variables)?;
        self.content(memory, place, object)
    }

    /// Forgets what it has learnt of the contents.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// An estimate of the memory held, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.known.capacity() * 256
    }

    /// The variable's value in the trie at `trie`.
    fn find(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        place: &LabelPlace,
        trie: usize,
    ) -> Option<usize> {
        let mut node = read_word(memory, trie.checked_add(ROOT)?)?;
        for level in 0..MAX_LEVELS {
            let branch = if level < 7 {
                place.hash >> (5 * level) & 31
            } else {
                0
            };
            let kind = self.kind(memory, node)?;
            if kind == NodeKind::Array {
                let child = node.checked_add(CHILDREN + branch as usize * WORD)?;
                node = read_word(memory, child).filter(|next| *next != 0)?;
                continue;
            }
            let head = read(memory, node, PAIRS)?;
            let (bitmap, size) = (int32(head, BITMAP) as u32, word(head, SIZE));
            if kind == NodeKind::Collision {
                let pairs = (size / 2).min(MAX_COLLISIONS);
                let bytes = read(memory, node.checked_add(PAIRS)?, pairs * 2 * WORD)?;
                return (0..pairs)
                    .find(|pair| word(bytes, pair * 2 * WORD) == place.variable)
                    .map(|pair| word(bytes, (pair * 2 + 1) * WORD));
            }
            let bit = 1_u32 << branch;
            if bitmap & bit == 0 {
                return None;
            }
            let index = (bitmap & (bit - 1)).count_ones() as usize;
            let pair = read(
                memory,
                node.checked_add(PAIRS + index * 2 * WORD)?,
                2 * WORD,
            )?;
            match word(pair, 0) {
                0 => node = word(pair, WORD),
                key if key == place.variable => return Some(word(pair, WORD)),
                _ => return None,
            }
        }
        None
    }

    fn kind(&mut self, memory: &mut (dyn ReadMemory + '_), node: usize) -> Option<NodeKind> {
        let kind = read_word(memory, node.checked_add(TYPE)?)?;
        if let Some((_, known)) = self.kinds.iter().find(|(address, _)| *address == kind) {
            return Some(*known);
        }
        let name = read_word(memory, kind.checked_add(TYPE_NAME)?)?;
        let text = read(memory, name, 16)?;
        let known = match text {
            _ if text.starts_with(b"hamt_bitmap_node") => NodeKind::Bitmap,
            _ if text.starts_with(b"hamt_array_node\0") => NodeKind::Array,
            _ if text.starts_with(b"hamt_collision_n") => NodeKind::Collision,
            _ => return None,
        };
        self.kinds.push((kind, known));
        Some(known)
    }

    fn content(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        place: &LabelPlace,
        object: usize,
    ) -> Option<Arc<ActiveLabels>> {
        let at = object.checked_add(place.shown)?;
        for _ in 0..MAX_CHANGES {
            let shown = read(memory, at, size_of::<Shown>())?.to_vec();
            let field = |offset| word(&shown, offset);
            if field(offset_of!(Shown, magic)) != place.magic {
                return None;
            }
            let serial = field(offset_of!(Shown, serial)) as u64;
            if let Some(known) = self.known.get(&serial) {
                return Some(known.clone());
            }
            let (bytes, length) = (
                field(offset_of!(Shown, bytes)),
                field(offset_of!(Shown, length)),
            );
            if serial == 0 || length > MAX_ENCODED_BYTES {
                continue;
            }
            let Some(bytes) = read(memory, bytes, length).map(<[u8]>::to_vec) else {
                continue;
            };
            // It has neither died nor changed meanwhile: what was read is its own.
            if read(memory, at, size_of::<Shown>())? != shown {
                continue;
            }
            let request = field(offset_of!(Shown, request)) as u64;
            let captures = field(offset_of!(Shown, captures)) as u64;
            let labels = Arc::new(ActiveLabels::decode(serial, request, captures, &bytes)?);
            if self.known.len() >= MAX_REMEMBERED {
                self.known.clear();
            }
            self.known.insert(serial, labels.clone());
            return Some(labels);
        }
        None
    }
}
