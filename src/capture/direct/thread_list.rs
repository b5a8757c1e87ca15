//! Which threads there are: all of them are listed when the interpreter's lists have changed, and
//! now and then. A thread belongs to the roster once it has executed Python code.
#![forbid(unsafe_code)]

use super::{DirectRoster, Interpreter, Unable};
use crate::capture::Missed;
use crate::memory::ReadMemory;
use crate::unwind::frames::{Hints, Target};
use crate::unwind::threads::{Change, Heads, ListedThread, ThreadListing, enumerate};

/// Looks after which all threads are listed again even if nothing seems to have changed: the end of
/// a thread in the middle of the list changes no head.
const LIST_INTERVAL: u64 = 64;

/// All threads as they were listed last.
#[derive(Debug, Default)]
pub(super) struct ThreadList {
    listing: ThreadListing,
    heads: Heads,
    /// Whether it is known to be out of date.
    is_stale: bool,
    /// The look that listed them; 0 before the first.
    listed_in: u64,
    /// Threads that have not executed Python code yet.
    pub(super) unstarted: Vec<(ListedThread, Hints)>,
}

impl ThreadList {
    /// Looks whether threads have been added since they were listed.
    pub(super) fn check(
        &mut self,
        memory: &mut dyn ReadMemory,
        interpreter: &Interpreter,
    ) -> Result<(), Unable> {
        let Interpreter {
            layout,
            runtime,
            lasting,
            ..
        } = interpreter;
        match self
            .heads
            .check(memory, layout, *runtime, *lasting, &self.listing)
        {
            Change::Finalizing => return Err(Missed::Finalizing.into()),
            Change::Unreadable => return Err(Unable::MemoryLost),
            Change::Changed => self.is_stale = true,
            Change::Same => {}
        }
        Ok(())
    }

    /// Has the next look list all threads.
    pub(super) fn expire(&mut self) {
        self.is_stale = true;
    }

    /// Whether threads are to be listed in this look.
    pub(super) fn is_due(&self, look: u64) -> bool {
        self.is_stale || self.listed_in == 0 || look - self.listed_in >= LIST_INTERVAL
    }

    /// Lists all threads but `ours`, the address of a thread state, and drops those from the roster
    /// that are not there any more.
    pub(super) fn renew(
        &mut self,
        memory: &mut dyn ReadMemory,
        interpreter: &Interpreter,
        ours: usize,
        roster: &mut DirectRoster,
    ) -> Result<(), Unable> {
        let Interpreter {
            layout, runtime, ..
        } = interpreter;
        if !enumerate(memory, layout, *runtime, &mut self.listing) {
            self.is_stale = true;
            if self.listing.threads.is_empty() {
                return Err(Unable::MemoryLost);
            }
            // A list changed under way: the next look tries again.
            return Ok(());
        }
        self.heads.remember(&self.listing);
        self.is_stale = false;
        self.listed_in = roster.look();
        let threads = &mut self.listing.threads;
        threads.retain(|thread| thread.address != ours);
        for thread in &*threads {
            let known = roster
                .index_of(thread.ident)
                .filter(|at| roster.tracks()[*at].extra.address == thread.address);
            let id = known.map_or(0, |_| interpreter.thread_id(memory, thread));
            match known {
                Some(at) if roster.sample(at).thread_id == id => {
                    let look = roster.look();
                    let track = &mut roster.tracks_mut()[at];
                    track.seen_in = look;
                    track.extra.interpreter = thread.interpreter;
                }
                _ => {
                    let is_known = |(known, _): &(ListedThread, Hints)| {
                        known.address == thread.address && known.ident == thread.ident
                    };
                    if !self.unstarted.iter().any(is_known) {
                        self.unstarted.push((*thread, Hints::default()));
                    }
                }
            }
        }
        self.unstarted
            .retain(|(unstarted, _)| threads.contains(unstarted));
        roster.drop_ended();
        if threads.is_empty() {
            // The last Python thread has ended without the interpreter being shut down: a child
            // forked from a thread ends when that thread does.
            return Err(Missed::Finalizing.into());
        }
        Ok(())
    }

    /// Address of the GIL of an interpreter, by its index in the list.
    #[inline]
    pub(super) fn gil_of(&self, interpreter: usize) -> Option<usize> {
        self.listing
            .interpreters
            .get(interpreter)
            .map(|home| home.gil)
    }

    /// How to walk a thread.
    pub(super) fn target(
        &self,
        address: usize,
        interpreter: usize,
        ident: usize,
        facts: &Interpreter,
    ) -> Option<Target> {
        let home = self.listing.interpreters.get(interpreter)?;
        Some(Target {
            address,
            interpreter: home.address,
            ident,
            gil: home.gil,
            lasting: facts.lasting,
        })
    }
}
