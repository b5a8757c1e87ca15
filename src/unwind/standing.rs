//! Where many tasks stand, at little cost: each object on the way is copied once, with those of the others,
//! and is not looked at again. What was found of a task may be of several moments; whoever needs more asks
//! for that task alone ([`TaskReader::joined`]).
#![forbid(unsafe_code)]

use super::frames::RawFrame;
use super::tasks::{MAX_ROUNDS, MAX_STEPS, Step, TaskReader};
use crate::layout::tasks::Kind;
use crate::memory::read_word;

/// A task that has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StandingTask {
    /// Its address.
    pub task: usize,
    /// Where it waits, innermost first: its own frames alone. None if it runs.
    pub frames: Vec<RawFrame>,
}

/// A task on the way to where it waits.
struct Way {
    found: StandingTask,
    /// What is looked at next; 0: the task itself.
    object: usize,
    steps: usize,
    is_open: bool,
    /// Whether it has begun, and not ended.
    stands: bool,
}

impl Way {
    fn new(task: usize) -> Self {
        Self {
            found: StandingTask {
                task,
                frames: Vec::new(),
            },
            object: 0,
            steps: 0,
            is_open: true,
            stands: false,
        }
    }

    /// Goes on by what was found.
    fn go(&mut self, step: Option<Step>) {
        let next = match step {
            Some(Step::Into(inner)) => Some(inner),
            Some(Step::Frame(frame, next)) => {
                self.found.frames.push(frame);
                self.stands = true;
                next
            }
            Some(Step::Runs) => {
                self.stands = true;
                None
            }
            Some(Step::Nothing) => None,
            Some(Step::New(_)) | None => {
                self.stands = false;
                None
            }
        };
        self.steps += 1;
        self.object = next.unwrap_or(0);
        self.is_open = self.object != 0 && self.steps < MAX_STEPS;
    }
}

impl TaskReader<'_> {
    /// Those of these tasks that have begun and not ended.
    pub fn standing(&mut self, tasks: &[usize]) -> Vec<StandingTask> {
        self.memory.memory.forget();
        let mut ways: Vec<Way> = tasks.iter().map(|task| Way::new(*task)).collect();
        for _ in 0..MAX_ROUNDS {
            let mut has_missed = false;
            for way in ways.iter_mut().filter(|way| way.is_open) {
                has_missed |= !self.follow_way(way);
            }
            if !has_missed || !self.memory.memory.fetch() {
                break;
            }
        }
        let ended = ways.into_iter().filter(|way| way.stands && !way.is_open);
        ended
            .map(|mut way| {
                way.found.frames.reverse();
                way.found
            })
            .collect()
    }

    /// Goes on as far as all is there that is needed; whether that was to the end.
    fn follow_way(&mut self, way: &mut Way) -> bool {
        while way.is_open {
            self.begin();
            let step = match way.object {
                0 => self.coroutine_of(way.found.task).map(Step::Into),
                object => self.step(object, way.steps == 1),
            };
            if self.memory.memory.has_missed() {
                return false;
            }
            way.go(step);
        }
        true
    }

    /// What a task was made of.
    fn coroutine_of(&mut self, task: usize) -> Option<usize> {
        if self.kind(task) != Kind::Task {
            return None;
        }
        read_word(&mut self.memory, task.checked_add(self.known.coroutine)?)
    }
}
