//! Threads that are listed and execute no Python code yet.
#![forbid(unsafe_code)]

use super::stacks::Subject;
use super::{DirectEngine, DirectTrack};
use crate::capture::SnapshotStats;
use crate::capture::roster::Newcomer;
use crate::clock::cpu::thread_cpu_ns;
use crate::memory::ReadMemory;
use crate::unwind::frames::{Failure, Hints};
use crate::unwind::threads::ListedThread;

impl DirectEngine {
    /// Looks whether threads that had no Python frame yet have one now.
    pub(super) fn look_for_started(
        &mut self,
        memory: &mut dyn ReadMemory,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) {
        if self.list.unstarted.is_empty() {
            return;
        }
        let mut unstarted = std::mem::take(&mut self.list.unstarted);
        unstarted.retain_mut(|(thread, hints)| {
            !self.add_started(thread, hints, memory, previous_ns, stats)
        });
        // None can have been added meanwhile: nobody else lists threads.
        self.list.unstarted = unstarted;
    }

    /// Adds a thread to the roster if it executes Python code; whether it does.
    fn add_started(
        &mut self,
        thread: &ListedThread,
        hints: &mut Hints,
        memory: &mut dyn ReadMemory,
        previous_ns: u64,
        stats: &mut SnapshotStats,
    ) -> bool {
        let ListedThread {
            address,
            interpreter,
            ident,
            ..
        } = *thread;
        let target = self
            .list
            .target(address, interpreter, ident, &self.interpreter);
        let Some(target) = target else {
            return false;
        };
        let mut subject = Subject {
            memory,
            layout: &self.interpreter.layout,
            target,
        };
        match self
            .stacks
            .read(&mut subject, None, hints, &mut self.roster)
        {
            Ok(Some(_)) => {}
            // It has begun to run, or has ended: the next list has its ids.
            Err(Failure::Gone) => {
                self.list.expire();
                return false;
            }
            Ok(None) | Err(Failure::Torn) => return false,
        }
        let id = self.interpreter.thread_id(memory, thread);
        let cpu_ns = thread_cpu_ns(id);
        // A state without a clock has outlived its thread: a fork that Python did not see.
        if cpu_ns.is_none() || !self.roster.has_room() {
            return false;
        }
        let newcomer = Newcomer {
            id: ident,
            thread_id: id,
            cpu_ns,
            now_ns: self.roster.snapshot().at_ns,
            previous_ns,
        };
        let extra = DirectTrack {
            address,
            interpreter,
            hints: std::mem::take(hints),
            ..DirectTrack::default()
        };
        let at = self.roster.add(newcomer, extra);
        self.roster.tracks_mut()[at].named_in = self.roster.look();
        self.names.hurry();
        self.update(at, memory, cpu_ns, stats);
        true
    }
}
