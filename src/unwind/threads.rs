//! Threads: all interpreters, all thread states.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use crate::memory::own::Lasting;
use crate::memory::{Range, ReadMemory, int32, read, read_word, word};

/// Interpreters looked at.
pub const MAX_INTERPRETERS: usize = 256;
/// Threads looked at.
pub const MAX_THREADS: usize = 32_768;

/// An interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its address.
    pub address: usize,
    /// Its first thread state.
    pub threads_head: usize,
    /// Address of its GIL.
    pub gil: usize,
}

/// A thread state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedThread {
    /// Its address.
    pub address: usize,
    /// The index of its interpreter in [`ThreadListing::interpreters`].
    pub interpreter: usize,
    /// `threading.get_ident()`.
    pub ident: usize,
    /// The kernel's id; 0 where it is not kept.
    pub native_id: u64,
}

/// All threads at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadListing {
    /// The first interpreter's address.
    pub head: usize,
    /// All interpreters.
    pub interpreters: Vec<Interpreter>,
    /// All threads; one that has not begun to run has no ident yet, or its maker's (3.10, 3.11).
    pub threads: Vec<ListedThread>,
}

/// What the runtime said last; while it says the same, no thread was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heads {
    words: Vec<usize>,
    ranges: Vec<Range>,
}

/// What [`Heads::check`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Same,
    /// The lists may have changed.
    Changed,
    /// The interpreter is shutting down.
    Finalizing,
    /// Not even the runtime can be read.
    Unreadable,
}

impl Heads {
    /// Looks whether the heads of all lists are as they were in `listing`; `lasting` is memory that
    /// need not be copied by the kernel.
    #[inline]
    pub fn check(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        runtime: usize,
        lasting: Lasting,
        listing: &ThreadListing,
    ) -> Change {
        self.check_lasting(layout, runtime, lasting, listing)
            .unwrap_or_else(|| self.check_copy(memory, layout, runtime, listing))
    }

    /// As [`Self::check`], wherever the heads are.
    #[inline(never)]
    fn check_copy(
        &mut self,
        memory: &mut (dyn ReadMemory + '_),
        layout: &Layout,
        runtime: usize,
        listing: &ThreadListing,
    ) -> Change {
        const WORD: usize = size_of::<usize>();
        self.ranges.clear();
        let heads = [layout.runtime.finalizing, layout.runtime.interpreters_head];
        self.ranges
            .extend(heads.map(|offset| Range::new(runtime + offset, WORD)));
        self.ranges
            .extend(listing.interpreters.iter().map(|interpreter| {
                Range::new(interpreter.address + layout.interpreter.threads_head, WORD)
            }));
        match memory.read_batch(&self.ranges) {
            0 => return Change::Unreadable,
            whole if whole < self.ranges.len() => return Change::Changed,
            _ => {}
        }
        let bytes = memory.bytes();
        if word(bytes, 0) != 0 {
            return Change::Finalizing;
        }
        let words = (1..self.ranges.len()).map(|at| word(bytes, at * WORD));
        if words.eq(self.words.iter().copied()) {
            Change::Same
        } else {
            Change::Changed
        }
    }

    /// As [`Self::check`], if all heads are in `lasting`.
    #[inline]
    fn check_lasting(
        &self,
        layout: &Layout,
        runtime: usize,
        lasting: Lasting,
        listing: &ThreadListing,
    ) -> Option<Change> {
        if lasting.word(runtime + layout.runtime.finalizing)? != 0 {
            return Some(Change::Finalizing);
        }
        let mut known = self.words.iter().copied();
        let head = lasting.word(runtime + layout.runtime.interpreters_head)?;
        let mut is_same = known.next() == Some(head);
        for interpreter in &listing.interpreters {
            let head = lasting.word(interpreter.address + layout.interpreter.threads_head)?;
            is_same &= known.next() == Some(head);
        }
        Some(if is_same {
            Change::Same
        } else {
            Change::Changed
        })
    }

    /// Takes the heads that `listing` began with for those to compare with: a thread that was added
    /// while the lists were read shows as a change.
    pub fn remember(&mut self, listing: &ThreadListing) {
        self.words.clear();
        self.words.push(listing.head);
        let heads = listing.interpreters.iter().map(|known| known.threads_head);
        self.words.extend(heads);
    }
}

/// Lists all threads. A list that changes under way ends early; the next listing has the others.
/// Returns whether every list was read to its end.
pub fn enumerate(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    runtime: usize,
    listing: &mut ThreadListing,
) -> bool {
    let mut is_whole = true;
    listing.interpreters.clear();
    listing.threads.clear();
    listing.head = read_word(memory, runtime + layout.runtime.interpreters_head).unwrap_or(0);
    let mut next = listing.head;
    while next != 0 && listing.interpreters.len() < MAX_INTERPRETERS {
        let address = next;
        if listing
            .interpreters
            .iter()
            .any(|known| known.address == address)
        {
            return false;
        }
        // The address may be anything until something was read there.
        let head = address.wrapping_add(layout.interpreter.threads_head);
        let Some(threads_head) = read_word(memory, head) else {
            return false;
        };
        let gil = layout.gil.address(memory, runtime, address).unwrap_or(0);
        let interpreter = listing.interpreters.len();
        listing.interpreters.push(Interpreter {
            address,
            threads_head,
            gil,
        });
        is_whole &= list_threads(memory, layout, interpreter, listing);
        let link = address.wrapping_add(layout.interpreter.next);
        let Some(following) = read_word(memory, link) else {
            return false;
        };
        next = following;
    }
    is_whole && !listing.interpreters.is_empty()
}

fn list_threads(
    memory: &mut (dyn ReadMemory + '_),
    layout: &Layout,
    interpreter: usize,
    listing: &mut ThreadListing,
) -> bool {
    let owner = listing.interpreters[interpreter];
    let thread = &layout.thread;
    let mut next = owner.threads_head;
    let first = listing.threads.len();
    let mut steps = 0;
    while next != 0 && listing.threads.len() < MAX_THREADS && steps < MAX_THREADS {
        steps += 1;
        let address = next;
        let Some(bytes) = read(memory, address, thread.size) else {
            return false;
        };
        if word(bytes, thread.interpreter) != owner.address {
            return false;
        }
        next = word(bytes, thread.next);
        let ident = word(bytes, thread.ident);
        let native_id = thread.native_id.map_or(0, |at| word(bytes, at) as u64);
        listing.threads.push(ListedThread {
            address,
            interpreter,
            ident,
            native_id,
        });
        // A list that leads back to its begin would never end.
        if next == owner.threads_head {
            listing.threads.truncate(first);
            return false;
        }
    }
    true
}

/// The thread state that holds the GIL at `gil`, or 0; and whether it collects garbage.
pub fn gil_holder(bytes: &[u8], layout: &Layout) -> usize {
    if int32(bytes, layout.gil.locked) == 1 {
        word(bytes, layout.gil.holder)
    } else {
        0
    }
}
