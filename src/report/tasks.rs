//! asyncio's tasks at one moment, as text: each below those that wait for it.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::held_up;
use crate::model::snapshot::Snapshot;
use crate::model::stack::Frame;
use crate::model::task::{Task, TaskKind, TaskState, Tasks};

/// Tasks below each other that are shown.
const MAX_DEPTH: usize = 64;
/// Frames shown of one task, the innermost.
const MAX_FRAMES: usize = 64;
/// Places told of those that wait.
const MAX_PLACES: usize = 3;
/// What asyncio's functions begin with.
pub(super) const OWN_FUNCTIONS: &str = "asyncio.";

/// All of them; empty if there is none.
#[must_use]
pub fn text(tasks: &Tasks, snapshot: &Snapshot) -> String {
    if tasks.tasks.is_empty() {
        return String::new();
    }
    let mut forest = Forest::new(tasks, snapshot);
    let all = 0..tasks.tasks.len();
    let roots = all
        .clone()
        .filter(|task| tasks.tasks[*task].awaited_by.is_empty());
    // Those that wait for each other are below no root.
    let order: Vec<usize> = roots.chain(all).collect();
    let mut text = forest.siblings(&order, 0);
    if tasks.omitted > 0 {
        let _ = writeln!(text, "and {} more tasks", tasks.omitted);
    }
    text
}

/// Where those wait that wait for no other: the innermost line of each that is not asyncio's own.
#[must_use]
pub fn places(tasks: &Tasks, snapshot: &Snapshot) -> String {
    let mut is_awaiting = vec![false; tasks.tasks.len()];
    for waiter in tasks.tasks.iter().flat_map(|task| &task.awaited_by) {
        if let Some(is_awaiting) = is_awaiting.get_mut(*waiter) {
            *is_awaiting = true;
        }
    }
    let mut places: Vec<(String, usize)> = Vec::new();
    for (task, is_awaiting) in tasks.tasks.iter().zip(is_awaiting) {
        if is_awaiting || task.state != TaskState::Waits {
            continue;
        }
        let found = lines(&task.frames, snapshot)
            .find(|(function, ..)| !function.starts_with(OWN_FUNCTIONS))
            .or_else(|| lines(&task.frames, snapshot).next());
        let Some((function, file, line)) = found else {
            continue;
        };
        let place = format!("{function} ({file}:{line})");
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, number)) => *number += 1,
            None => places.push((place, 1)),
        }
    }
    places.sort_by_key(|(_, number)| std::cmp::Reverse(*number));
    let more = places.len().saturating_sub(MAX_PLACES);
    let mut text = String::new();
    for (place, number) in places.into_iter().take(MAX_PLACES) {
        let begin = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{begin}{place}");
        if number > 1 {
            let _ = write!(text, " ({number} tasks)");
        }
    }
    if more > 0 {
        let _ = write!(text, " and {more} more places");
    }
    text
}

/// All of them as data.
#[must_use]
pub fn to_json(tasks: &Tasks, snapshot: &Snapshot) -> Value {
    let all = tasks.tasks.iter().map(|task| {
        let frames = lines(&task.frames, snapshot).map(
            |(function, file, line)| json!({ "function": function, "file": file, "line": line }),
        );
        json!({
            "kind": word(task.kind).to_lowercase(),
            "name": task.name,
            "state": doing(task.state),
            "awaited_by": task.awaited_by,
            "lock": held_up::task_to_json(tasks, task),
            "request": task.request,
            "frames": frames.collect::<Vec<_>>(),
        })
    });
    all.collect()
}

pub(super) fn word(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Task => "Task",
        TaskKind::Greenlet => "Greenlet",
    }
}

fn doing(state: TaskState) -> &'static str {
    match state {
        TaskState::New => "not begun",
        TaskState::Waits => "waiting",
        TaskState::Runs => "running",
    }
}

pub(super) fn lines<'a>(
    frames: &'a [Frame],
    snapshot: &'a Snapshot,
) -> impl Iterator<Item = (&'a str, &'a str, u32)> {
    frames.iter().filter_map(|frame| {
        let function = snapshot.function(frame.function)?;
        Some((&*function.name, &*function.file, frame.line))
    })
}

struct Forest<'a> {
    tasks: &'a [Task],
    snapshot: &'a Snapshot,
    /// Those that each task waits for.
    children: Vec<Vec<usize>>,
    is_shown: Vec<bool>,
}

impl<'a> Forest<'a> {
    fn new(tasks: &'a Tasks, snapshot: &'a Snapshot) -> Self {
        let mut children = vec![Vec::new(); tasks.tasks.len()];
        for (place, task) in tasks.tasks.iter().enumerate() {
            for waiter in &task.awaited_by {
                if let Some(children) = children.get_mut(*waiter) {
                    children.push(place);
                }
            }
        }
        Self {
            tasks: &tasks.tasks,
            snapshot,
            children,
            is_shown: vec![false; tasks.tasks.len()],
        }
    }

    /// Tasks beside each other; what is the same is one entry, with its number.
    fn siblings(&mut self, places: &[usize], depth: usize) -> String {
        let mut entries: Vec<(String, usize)> = Vec::new();
        for place in places {
            if depth == 0 && self.is_shown[*place] {
                continue;
            }
            let entry = self.entry(*place, depth);
            match entries.iter_mut().find(|(known, _)| *known == entry) {
                Some((_, number)) => *number += 1,
                None => entries.push((entry, 1)),
            }
        }
        let mut text = String::new();
        for (entry, number) in entries {
            if number > 1 {
                let _ = write!(text, "{:1$}{number} times: ", "", 4 * depth);
                text.push_str(entry.trim_start());
            } else {
                text.push_str(&entry);
            }
            if depth == 0 {
                text.push('\n');
            }
        }
        text
    }

    fn entry(&mut self, place: usize, depth: usize) -> String {
        let task = &self.tasks[place];
        let indent = 4 * depth;
        let mut text = format!("{:indent$}{}", "", word(task.kind));
        if let Some(name) = &task.name {
            let _ = write!(text, " {name:?}");
        }
        if std::mem::replace(&mut self.is_shown[place], true) {
            text.push_str(", shown above\n");
            return text;
        }
        let _ = write!(text, ", {}", doing(task.state));
        if task.frames.is_empty() {
            text.push('\n');
        } else {
            text.push_str(" (most recent call first):\n");
        }
        for (function, file, line) in lines(&task.frames, self.snapshot).take(MAX_FRAMES) {
            let _ = writeln!(
                text,
                "{:indent$}  File \"{file}\", line {line}, in {function}",
                ""
            );
        }
        if task.frames.len() > MAX_FRAMES {
            let omitted = task.frames.len() - MAX_FRAMES;
            let _ = writeln!(text, "{:indent$}  <{omitted} frames omitted>", "");
        }
        text.push_str(&held_up::task_line(self.snapshot, self.tasks, task, indent));
        let children = std::mem::take(&mut self.children[place]);
        if !children.is_empty() {
            let _ = writeln!(text, "{:indent$}  waits for:", "");
            if depth < MAX_DEPTH {
                text.push_str(&self.siblings(&children, depth + 1));
            } else {
                let _ = writeln!(text, "{:indent$}    {} tasks", "", children.len());
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::text;
    use crate::model::function::Function;
    use crate::model::snapshot::Snapshot;
    use crate::model::stack::{Frame, FunctionSerial};
    use crate::model::task::{Task, TaskKind, TaskState, Tasks};

    fn task(name: Option<&str>, line: u32, awaited_by: &[usize]) -> Task {
        Task {
            kind: TaskKind::Task,
            name: name.map(str::to_owned),
            state: TaskState::Waits,
            frames: vec![Frame {
                function: FunctionSerial(1),
                line,
            }],
            awaited_by: awaited_by.to_vec(),
            waits_for: None,
            request: 0,
        }
    }

    fn shown(tasks: Vec<Task>) -> String {
        let mut snapshot = Snapshot::default();
        let function = Arc::new(Function::new("m.f", "m.py", 1));
        snapshot.functions.insert(FunctionSerial(1), function);
        text(&Tasks { tasks, omitted: 2 }, &snapshot)
    }

    #[test]
    fn a_task_stands_below_the_one_that_waits_for_it_and_equal_ones_are_one_entry() {
        let text = shown(vec![
            task(Some("main"), 1, &[]),
            task(None, 2, &[0]),
            task(None, 2, &[0]),
        ]);
        let expected = "\
Task \"main\", waiting (most recent call first):
  File \"m.py\", line 1, in m.f
  waits for:
    2 times: Task, waiting (most recent call first):
      File \"m.py\", line 2, in m.f

and 2 more tasks
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_greenlet_is_called_one() {
        let greenlet = Task {
            kind: TaskKind::Greenlet,
            ..task(Some("pump"), 3, &[])
        };
        let text = shown(vec![greenlet]);
        assert!(
            text.starts_with("Greenlet \"pump\", waiting (most"),
            "{text}"
        );
    }

    #[test]
    fn tasks_that_wait_for_each_other_are_shown_once() {
        let text = shown(vec![task(Some("a"), 1, &[1]), task(Some("b"), 2, &[0])]);
        assert_eq!(text.matches("line 1").count(), 1, "{text}");
        assert_eq!(text.matches("line 2").count(), 1, "{text}");
        assert!(text.contains("Task \"a\", shown above"), "{text}");
    }

    #[test]
    fn a_chain_of_any_length_is_shown() {
        let all = 0..1_000_usize;
        let tasks = all.map(|at| {
            let waiter = at.checked_sub(1);
            task(None, u32::try_from(at).unwrap_or(0), waiter.as_slice())
        });
        let text = shown(tasks.collect());
        assert_eq!(text.matches("line ").count(), 1_000);
    }
}
