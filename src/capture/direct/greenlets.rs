//! Greenlets: where the suspended ones wait, drawn now and then, and all of them on demand.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::DirectEngine;
use crate::layout::context::{CONTEXT_VARIABLES, TYPE_NAME};
use crate::layout::greenlets::GreenletState;
use crate::layout::tasks::LOWEST;
use crate::memory::{ReadMemory, read, read_word, reserve};
use crate::model::event::EventSample;
use crate::model::label::ActiveLabels;
use crate::model::measure::{Amounts, MeasureId};
use crate::model::snapshot::Snapshot;
use crate::model::stack::{Frame, FunctionSerial, Stack};
use crate::model::task::{Task, TaskKind, TaskState, Tasks};
use crate::unwind::code::CodeCache;
use crate::unwind::frames::RawFrame;
use crate::unwind::greenlet_table::GREENLETS;
use crate::unwind::greenlets::{FoundGreenlet, GreenletReader, KNOWN, MAX_LANES};
use crate::unwind::labels::PLACE;

/// Greenlets drawn at a time: after a minute a place with a tenth of the waiting is told within some
/// percent of it.
pub(super) const DRAWN: usize = 30;
/// Tasks and greenlets of which all is told on demand; of more only the number.
const MAX_SHOWN: usize = 2_000;
/// Greenlets that are looked at on demand.
const MAX_ASKED: usize = 20_000;
/// Greenlets that are part of a task of asyncio: of `sqlalchemy.util.concurrency`.
const PART_OF_TASK: &[u8] = b"_AsyncIoGreenlet\0";

/// Numbers by chance, as good as a draw needs.
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Default for Chance {
    fn default() -> Self {
        Self(0x9E37_79B9_7F4A_7C15)
    }
}

impl Chance {
    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }
}

impl DirectEngine {
    /// Tells what greenlets have lived in the last `passed_ns`: some of them, each of which stands for
    /// several.
    pub(super) fn draw_greenlets(&mut self, passed_ns: u64, events: &mut Vec<EventSample>) {
        let Some(known) = KNOWN.get().filter(|_| !reserve::is_short()) else {
            return;
        };
        let mut drawn = std::mem::take(&mut self.drawn);
        let chance = &mut self.chance;
        let (all, taken) = GREENLETS.draw(DRAWN, &mut || chance.next(), &mut drawn);
        if taken > 0
            && let Some(mut memory) = self.memory.take().or_else(&self.open_memory)
        {
            let stands_for = u128::from(passed_ns) * u128::from(all) / u128::from(taken);
            let amount = i64::try_from(stands_for).unwrap_or(i64::MAX);
            let layout = &self.interpreter.layout;
            let found = GreenletReader::new(memory.as_mut(), layout, known).greenlets(&drawn);
            let mut kinds = Vec::new();
            for greenlet in found.into_iter().flatten() {
                if !is_part_of_task(memory.as_mut(), greenlet.kind, &mut kinds) {
                    events.extend(self.event_of(memory.as_mut(), &greenlet, amount));
                }
            }
            self.memory = Some(memory);
        }
        self.drawn = drawn;
    }

    fn event_of(
        &mut self,
        memory: &mut dyn ReadMemory,
        found: &FoundGreenlet,
        amount: i64,
    ) -> Option<EventSample> {
        let thread_id = found.thread_id?;
        let mut name = None;
        let (stack, labels) = match found.state {
            GreenletState::Idle => return None,
            // What has run since the look may be another one, which is as good: it ran instead.
            GreenletState::Runs => match self.seen_in_thread(thread_id)? {
                (seen, _) if is_hub(&self.stacks.cache, &seen.frames) => {
                    self.stands_in_thread(memory, thread_id)?
                }
                seen => seen,
            },
            GreenletState::Suspended => {
                name = found.name.as_deref().map(Arc::from);
                let stack = Stack {
                    frames: self.frames_of(memory, &found.frames)?,
                    incomplete: found.is_cut,
                };
                (stack, self.labels_of(memory, found.context))
            }
        };
        if is_hub(&self.stacks.cache, &stack.frames) {
            return None;
        }
        let name = name.or_else(|| self.root_function(&stack.frames));
        Some(EventSample {
            thread_id,
            at_ns: self.roster.snapshot().at_ns,
            stack,
            labels,
            task: name,
            part: None,
            is_followed: false,
            lock: None,
            values: Amounts::of(MeasureId::TaskWall, amount),
        })
    }

    /// Where a thread was at the last look, and under which labels.
    fn seen_in_thread(&self, thread_id: u64) -> Option<(Stack, Option<Arc<ActiveLabels>>)> {
        let mut threads = self.roster.snapshot().threads.iter();
        let thread = threads.find(|thread| thread.thread_id == thread_id)?;
        Some((thread.stack.clone(), thread.labels.clone()))
    }

    /// Where a thread is now: at the last look the hub ran, which no greenlet is charged for.
    fn stands_in_thread(
        &mut self,
        memory: &mut dyn ReadMemory,
        thread_id: u64,
    ) -> Option<(Stack, Option<Arc<ActiveLabels>>)> {
        let mut threads = self.roster.snapshot().threads.iter();
        let at = threads.position(|thread| thread.thread_id == thread_id)?;
        if !self.read_again(at, memory) {
            return None;
        }
        let stack = Stack {
            frames: self.stacks.frames.clone(),
            incomplete: false,
        };
        Some((stack, self.roster.sample(at).labels.clone()))
    }

    /// The frames of a suspended greenlet or task, named; `None` if one of them is none. A greenlet that was
    /// left in code of C alone has none.
    pub(super) fn frames_of(
        &mut self,
        memory: &mut dyn ReadMemory,
        found: &[RawFrame],
    ) -> Option<Vec<Frame>> {
        let mut frames = Vec::new();
        let (cache, layout) = (&mut self.stacks.cache, &self.interpreter.layout);
        let functions = self.roster.functions_mut();
        let named = cache.name(memory, layout, found, functions, &mut frames);
        let is_ours = frames.is_empty() && !found.is_empty();
        (named.is_ok() && !cache.may_have_died(found) && !is_ours).then_some(frames)
    }

    /// The labels in a context.
    pub(super) fn labels_of(
        &mut self,
        memory: &mut dyn ReadMemory,
        context: usize,
    ) -> Option<Arc<ActiveLabels>> {
        let place = PLACE.get().filter(|_| context >= LOWEST)?;
        let variables = read_word(memory, context.checked_add(CONTEXT_VARIABLES)?)?;
        self.stacks.labels.labels_among(memory, place, variables)
    }

    /// The outermost function that is the program's.
    fn root_function(&self, frames: &[Frame]) -> Option<Arc<str>> {
        let snapshot = self.roster.snapshot();
        let functions = frames.iter().rev();
        functions
            .filter_map(|frame| snapshot.function(frame.function))
            .find(|function| !function.file.ends_with("gevent/greenlet.py"))
            .map(|function| function.name.clone())
    }

    /// Adds the greenlets that are suspended at this moment, but for the hubs; `requests`: only those that
    /// work on one of them. What their frames are is added to `snapshot`, which the engine has just made.
    pub(super) fn look_at_greenlets(
        &mut self,
        snapshot: &mut Snapshot,
        requests: Option<&[u64]>,
        tasks: &mut Tasks,
    ) {
        let Some(known) = KNOWN.get().filter(|_| !reserve::is_short()) else {
            return;
        };
        let Some(mut memory) = (self.open_memory)() else {
            return;
        };
        let memory = memory.as_mut();
        let mut addresses = Vec::new();
        GREENLETS.list(MAX_ASKED, &mut addresses);
        let all = GREENLETS.len();
        let mut looked_at = 0;
        let mut read = Vec::new().into_iter();
        while tasks.tasks.len() < MAX_SHOWN {
            let Some(greenlet) = read.next() else {
                let rest = &addresses[looked_at..];
                let now = &rest[..rest.len().min(MAX_LANES)];
                if now.is_empty() {
                    break;
                }
                looked_at += now.len();
                let layout = &self.interpreter.layout;
                let mut reader = GreenletReader::new(memory, layout, known);
                read = reader.greenlets(now).into_iter();
                continue;
            };
            let greenlet = greenlet.filter(|found| found.state == GreenletState::Suspended);
            let Some(found) = greenlet else {
                continue;
            };
            let labels = self.labels_of(memory, found.context);
            let request = labels.map_or(0, |labels| labels.request);
            if requests.is_some_and(|requests| !requests.contains(&request)) {
                continue;
            }
            let mut frames = Vec::new();
            let (cache, layout) = (&mut self.stacks.cache, &self.interpreter.layout);
            let functions = &mut snapshot.functions;
            let named = cache.name(memory, layout, &found.frames, functions, &mut frames);
            let is_hub = frames
                .last()
                .is_some_and(|root| cache.is_hub(root.function));
            if named.is_err() || cache.may_have_died(&found.frames) || is_hub {
                continue;
            }
            tasks.tasks.push(Task {
                kind: TaskKind::Greenlet,
                name: found.name,
                state: TaskState::Waits,
                frames,
                awaited_by: Vec::new(),
                waits_for: None,
                request,
            });
        }
        if requests.is_none() {
            tasks.omitted += all.saturating_sub(looked_at - read.len());
        }
        // As for tasks: another snapshot does not know what this one does.
        self.stacks.cache.forget_all();
    }
}

/// Whether these are the frames of a loop of gevent, which does nothing by itself.
fn is_hub(cache: &CodeCache, frames: &[Frame]) -> bool {
    let root = frames.last().map(|frame| frame.function);
    root.is_some_and(|root| root == FunctionSerial::IDLE || cache.is_hub(root))
}

/// Whether greenlets of this type carry on a task of asyncio, which lives for as long; `known` is what was
/// found of types in this look.
fn is_part_of_task(
    memory: &mut (dyn ReadMemory + '_),
    kind: usize,
    known: &mut Vec<(usize, bool)>,
) -> bool {
    if let Some((_, is_part)) = known.iter().find(|(known, _)| *known == kind) {
        return *is_part;
    }
    let name = kind
        .checked_add(TYPE_NAME)
        .and_then(|place| read_word(memory, place));
    let text = name.and_then(|name| read(memory, name, PART_OF_TASK.len()));
    let is_part = text == Some(PART_OF_TASK);
    known.push((kind, is_part));
    is_part
}
