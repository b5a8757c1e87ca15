//! One thread's stack and labels: read until they fit each other, and put into the snapshot.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::DirectRoster;
use super::joiner::{Join, RunningTask, TaskJoiner};
use crate::capture::SnapshotStats;
use crate::layout::Layout;
use crate::memory::ReadMemory;
use crate::model::function::{Function, GC, GEVENT_IDLE};
use crate::model::snapshot::ThreadState;
use crate::model::stack::{Frame, FunctionSerial, Stack};
use crate::unwind::code::CodeCache;
use crate::unwind::frames::{Failure, Hints, RawFrame, Target, WalkResult, Walker};
use crate::unwind::labels::{LabelPlace, LabelReader, MAX_LOOKS};

/// Walks of one stack until its frames fit the code objects they name. A frame that is just being
/// made has a new code object and an old instruction; one that is left may have lost both.
const MAX_READS: usize = 4;
/// Walks of one stack until the task that its thread runs is the one in it: short steps end between a
/// walk and a look at the task.
const MAX_MISSES: usize = 2;
/// Frames of a stack that is remembered as it was found; naming a deeper one anew costs little beside
/// walking it.
const MAX_REMEMBERED: usize = 512;

/// A thread to read, and by what.
pub(super) struct Subject<'a> {
    pub(super) memory: &'a mut dyn ReadMemory,
    pub(super) layout: &'a Layout,
    pub(super) target: Target,
}

/// A thread's last stack as it was found. Most of its frames are there again the next time, and have
/// the same names: to find these among all that are known would take longer than all else, for little of
/// that is in the processor's caches at a tick.
#[derive(Debug, Default)]
pub(super) struct LastFound {
    raw: Vec<RawFrame>,
    /// [`CodeCache::generation`] when they were named.
    generation: u64,
}

impl LastFound {
    /// The innermost frame.
    pub(super) fn leaf(&self) -> Option<&RawFrame> {
        self.raw.first()
    }

    /// How many frames at the root side are what they were; `named` are the names of the last ones.
    fn common(&self, raw: &[RawFrame], named: &[Frame], generation: u64) -> usize {
        if self.generation != generation || self.raw.len() > named.len() {
            return 0;
        }
        let pairs = raw.iter().rev().zip(self.raw.iter().rev());
        let common = pairs
            .take_while(|(now, last)| now.code == last.code && now.instruction == last.instruction)
            .count();
        // What is a leaf now and was none has another name if it is a frame of rprof itself.
        let has_shrunk = common == raw.len() && common < self.raw.len();
        if has_shrunk { 0 } else { common }
    }
}

/// Reads stacks; its buffers are used for every thread.
#[derive(Debug)]
pub(super) struct StackReader {
    pub(super) cache: CodeCache,
    walker: Walker,
    pub(super) raw: Vec<RawFrame>,
    pub(super) frames: Vec<Frame>,
    /// Whether each of `raw` is one of `frames`.
    is_plain: bool,
    /// Whether the thread that was stored last is known to have been elsewhere before.
    pub(super) has_other_leaf: bool,
    pub(super) labels: LabelReader,
    /// Puts what awaits tasks into the stacks of those that run them; if that is wanted.
    pub(super) joiner: Option<TaskJoiner>,
    /// The task in the stack that was read last.
    running: RunningTask,
}

impl StackReader {
    pub(super) fn new(cache: CodeCache) -> Self {
        Self {
            cache,
            walker: Walker::default(),
            raw: Vec::new(),
            frames: Vec::new(),
            is_plain: false,
            has_other_leaf: false,
            labels: LabelReader::default(),
            joiner: None,
            running: RunningTask::default(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let joiner = self.joiner.as_ref().map_or(0, TaskJoiner::bytes);
        self.cache.bytes() + self.labels.bytes() + joiner
    }

    /// Reads a stack into `self.frames`; `Ok(None)` if the thread executes no Python code. `at`: the
    /// thread's index in the roster, if it has one already.
    pub(super) fn read(
        &mut self,
        subject: &mut Subject<'_>,
        at: Option<usize>,
        hints: &mut Hints,
        roster: &mut DirectRoster,
    ) -> Result<Option<WalkResult>, Failure> {
        let Subject {
            memory,
            layout,
            target,
        } = subject;
        let (mut reads, mut misses) = (0, 0);
        while reads < MAX_READS {
            let walked = self
                .walker
                .walk(*memory, layout, target, hints, &mut self.raw)?;
            if self.raw.is_empty() {
                return Ok(None);
            }
            if !self.join(*memory, layout, target) && misses < MAX_MISSES {
                misses += 1;
                continue;
            }
            reads += 1;
            let mut common = at.map_or(0, |at| self.common(at, roster));
            let functions = roster.functions_mut();
            let named = loop {
                self.frames.clear();
                let new = &self.raw[..self.raw.len() - common];
                let named = self
                    .cache
                    .name(*memory, layout, new, functions, &mut self.frames);
                if common == 0 || new.is_empty() || !self.frames.is_empty() {
                    break named;
                }
                // Below what is left out another frame is the leaf.
                common = 0;
            };
            if named.is_ok() && !self.cache.may_have_died(&self.raw) {
                if let Some(at) = at {
                    let last = &roster.sample(at).stack.frames;
                    self.frames.extend(&last[last.len() - common..]);
                }
                self.is_plain = self.frames.len() == self.raw.len();
                self.count_frames();
                return Ok(Some(walked));
            }
            self.forget_dead_code(roster);
        }
        Err(Failure::Torn)
    }

    /// Finds the task that the thread runs, and puts what awaits that into the stack; whether the two
    /// are of the same moment.
    #[inline]
    fn join(&mut self, memory: &mut dyn ReadMemory, layout: &Layout, target: &Target) -> bool {
        let Some(joiner) = &mut self.joiner else {
            return true;
        };
        let joined = match self.walker.has_left_stack() {
            true => joiner.join(memory, layout, target.address, &mut self.raw),
            false => Join::None,
        };
        let is_of_moment = !matches!(joined, Join::Missed);
        self.running = match joined {
            Join::Joined(running) => running,
            Join::None | Join::Missed => RunningTask::default(),
        };
        is_of_moment
    }

    /// The frames that were read last of this task, and of what awaits it, if its thread ran it.
    pub(super) fn frames_of_running(&self, task: usize) -> Option<&[Frame]> {
        let own = self.frames.get(..self.running.frames)?;
        (self.running.task == task && !own.is_empty()).then_some(own)
    }

    /// Counts the frames that are the task's as they are named: some are left out.
    fn count_frames(&mut self) {
        if self.running.task != 0 {
            let below = &self.raw[self.running.frames..];
            let below = if self.is_plain {
                below.len()
            } else {
                self.cache.count_named(below)
            };
            self.running.frames = self.frames.len().saturating_sub(below);
        }
    }

    /// How many frames at the root side are those that the thread had when it was last looked at.
    fn common(&self, at: usize, roster: &DirectRoster) -> usize {
        let last = &roster.tracks()[at].extra.last_found;
        let named = &roster.sample(at).stack.frames;
        last.common(&self.raw, named, self.cache.generation())
    }

    /// Reads a stack, and the labels under which it was: those before and after are the same.
    pub(super) fn read_labelled(
        &mut self,
        subject: &mut Subject<'_>,
        at: usize,
        place: &LabelPlace,
        hints: &mut Hints,
        roster: &mut DirectRoster,
    ) -> Result<Option<WalkResult>, Failure> {
        let Target { address, ident, .. } = subject.target;
        let mut walked = Err(Failure::Torn);
        let mut seen = roster.tracks()[at].extra.context;
        let mut labels = None;
        let mut is_known = false;
        for _ in 0..MAX_LOOKS {
            let before = LabelReader::context(subject.memory, place, address, ident, seen);
            labels = before.and_then(|seen| self.labels.labels(subject.memory, place, seen));
            walked = self.read(subject, Some(at), hints, roster);
            seen = before.unwrap_or_default();
            let after = LabelReader::context(subject.memory, place, address, ident, seen);
            is_known = before.is_some() && before == after;
            if is_known {
                break;
            }
            // It went on under others meanwhile; a stack must not be charged to these.
            labels = None;
        }
        let extra = &mut roster.tracks_mut()[at].extra;
        extra.context = seen;
        extra.is_context_known = is_known;
        // A thread without a frame keeps its last stack, and the labels of that.
        if !matches!(walked, Ok(None)) {
            roster.set_labels(at, labels);
        }
        walked
    }

    /// Puts the stack that was read last into a thread's sample. Whether its frames as they were found are
    /// remembered there as well, and are not here any more.
    pub(super) fn store(
        &mut self,
        at: usize,
        walked: WalkResult,
        roster: &mut DirectRoster,
        stats: &mut SnapshotStats,
    ) -> bool {
        if walked.holds_gil && walked.is_collecting {
            roster
                .functions_mut()
                .entry(FunctionSerial::GC)
                .or_insert_with(|| Arc::new(Function::pseudo(GC)));
            let frame = Frame {
                function: FunctionSerial::GC,
                line: 0,
            };
            self.frames.insert(0, frame);
            // It collects in the task.
            self.running.frames += usize::from(self.running.task != 0);
        }
        stats.walked += 1;
        stats.incomplete += u32::from(walked.is_cut);
        if let [hub] = self.frames[..]
            && self.cache.is_hub(hub.function)
            && roster.sample_mut(at).state.waits()
        {
            self.show_idle(roster);
        }
        let sample = roster.sample_mut(at);
        if sample.stack_version == 0
            || sample.stack.incomplete != walked.is_cut
            || sample.stack.frames != self.frames
        {
            std::mem::swap(&mut sample.stack.frames, &mut self.frames);
            sample.stack.incomplete = walked.is_cut;
            let version = roster.version();
            roster.sample_mut(at).stack_version = version;
        }
        let running = std::mem::take(&mut self.running);
        roster.sample_mut(at).task.clone_from(&running.name);
        roster.tracks_mut()[at].extra.running = running;
        self.remember(at, roster)
    }

    /// Remembers the frames of a thread as they were found; whether there are not too many.
    fn remember(&mut self, at: usize, roster: &mut DirectRoster) -> bool {
        let last = &mut roster.tracks_mut()[at].extra.last_found;
        let is_remembered = self.is_plain && self.raw.len() <= MAX_REMEMBERED;
        if is_remembered {
            // Not those below, among which are those of tasks that await this one's.
            self.has_other_leaf = !last.raw.is_empty() && last.raw.first() != self.raw.first();
            std::mem::swap(&mut last.raw, &mut self.raw);
            last.generation = self.cache.generation();
        } else {
            *last = LastFound::default();
        }
        is_remembered
    }

    /// Exchanges the frames that were read last and those that are remembered of a thread.
    pub(super) fn swap_raw(&mut self, at: usize, roster: &mut DirectRoster) {
        let last = &mut roster.tracks_mut()[at].extra.last_found;
        std::mem::swap(&mut last.raw, &mut self.raw);
    }

    /// Has the stack say that its thread waits for something to happen: nobody called what it is in.
    #[cold]
    fn show_idle(&mut self, roster: &mut DirectRoster) {
        let idle = || Arc::new(Function::pseudo(GEVENT_IDLE));
        roster
            .functions_mut()
            .entry(FunctionSerial::IDLE)
            .or_insert_with(idle);
        self.frames[0] = Frame {
            function: FunctionSerial::IDLE,
            line: 0,
        };
        self.is_plain = false;
    }

    /// Forgets code objects that have died. If they are too many to tell, all stacks are read again.
    #[inline]
    pub(super) fn forget_dead_code(&mut self, roster: &mut DirectRoster) {
        if self.cache.forget(roster.functions_mut()) {
            roster.forget_stacks();
        }
    }
}

/// Notes that a thread's stack could not be read.
pub(super) fn store_torn(at: usize, roster: &mut DirectRoster, stats: &mut SnapshotStats) {
    stats.walked += 1;
    stats.incomplete += 1;
    let version = roster.version();
    let (track, sample) = roster.pair_mut(at);
    track.walked_at_cpu_ns = None;
    track.extra.last_found = LastFound::default();
    track.extra.running = RunningTask::default();
    sample.task = None;
    sample.stack = Stack {
        frames: Vec::new(),
        incomplete: true,
    };
    sample.state = ThreadState::Running;
    sample.off = None;
    sample.lock = None;
    sample.ready = 0;
    sample.stack_version = version;
}

#[cfg(test)]
mod tests {
    use super::LastFound;
    use crate::model::stack::{Frame, FunctionSerial};
    use crate::unwind::frames::RawFrame;

    /// Leaf first, as all stacks.
    fn found(instructions: &[usize]) -> Vec<RawFrame> {
        let frames = instructions.iter().map(|instruction| RawFrame {
            code: 0x1000,
            instruction: *instruction,
            address: 0,
        });
        frames.collect()
    }

    #[test]
    fn frames_at_the_root_side_are_found_again() {
        let last = LastFound {
            raw: found(&[3, 2, 1]),
            generation: 7,
        };
        let named = [Frame {
            function: FunctionSerial(1),
            line: 1,
        }; 4];
        let common = |now: &[usize]| last.common(&found(now), &named, 7);
        assert_eq!(common(&[3, 2, 1]), 3);
        assert_eq!(common(&[9, 2, 1]), 2);
        assert_eq!(common(&[8, 9, 3, 2, 1]), 3);
        assert_eq!(common(&[3, 2, 9]), 0);
        // One that called another and does not any more may be told otherwise.
        assert_eq!(common(&[2, 1]), 0);
        // A code object has died meanwhile, or the sample has lost its stack.
        assert_eq!(last.common(&found(&[3, 2, 1]), &named, 8), 0);
        assert_eq!(last.common(&found(&[3, 2, 1]), &named[..2], 7), 0);
    }
}
