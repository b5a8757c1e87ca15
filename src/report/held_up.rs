//! Which locks threads and tasks wait for at one moment, who holds them, and who waits for each other in
//! a circle.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use rustc_hash::FxHashMap;
use serde_json::{Value, json};

use super::dump::frames;
use super::tasks::{OWN_FUNCTIONS, lines, word};
use crate::model::function::{OTHER_PROCESS, UNKNOWN_HOLDER};
use crate::model::label::thread_title;
use crate::model::lock::{Holder, LockWait};
use crate::model::snapshot::{Snapshot, ThreadKey, ThreadSample};
use crate::model::task::{Task, TaskHolder, Tasks};

/// What names of those begin with that nobody holds, but that somebody has to end.
const TO_END: [&str; 2] = ["Thread ", "Future "];

/// Who keeps a thread waiting.
enum Keeper<'a> {
    Thread(&'a ThreadSample),
    OtherProcess,
    Unknown,
}

/// Who keeps it waiting that waits so; `None` if nobody does.
fn keeper<'a>(snapshot: &'a Snapshot, lock: &LockWait) -> Option<Keeper<'a>> {
    if !lock.is_blamed {
        return None;
    }
    let held = snapshot.held.iter().find(|held| held.place == lock.place);
    Some(match held.map_or(Holder::Unknown, |held| held.holder) {
        Holder::Thread(key) => {
            let found = snapshot.threads.iter().find(|thread| thread.key == key);
            found.map_or(Keeper::Unknown, Keeper::Thread)
        }
        Holder::OtherProcess => Keeper::OtherProcess,
        Holder::Unknown => Keeper::Unknown,
    })
}

/// A thread by its number and name.
fn thread_name(thread: &ThreadSample) -> String {
    let title = thread_title(thread.thread_id, &thread.name);
    format!("Thread {} \"{title}\"", thread.thread_id)
}

/// What somebody waits for, up to who keeps it: `Lock Pool._lock, held by `.
fn held_by(lock: &LockWait) -> &'static str {
    if TO_END.iter().any(|kind| lock.name.text.starts_with(kind)) {
        "kept waiting by"
    } else {
        "held by"
    }
}

/// What a thread waits for and who keeps it waiting, a line; empty if it waits for no lock.
#[must_use]
pub fn line(snapshot: &Snapshot, thread: &ThreadSample) -> String {
    let Some(lock) = &thread.lock else {
        return String::new();
    };
    let mut text = format!("  waits for {}", lock.name.text);
    let held_by = held_by(lock);
    // Writing to a String cannot fail.
    let _ = match keeper(snapshot, lock) {
        None => Ok(()),
        Some(Keeper::Unknown) => write!(text, ", {held_by} {UNKNOWN_HOLDER}"),
        Some(Keeper::OtherProcess) => write!(text, ", {held_by} {OTHER_PROCESS}"),
        Some(Keeper::Thread(holder)) => {
            let _ = write!(text, ", {held_by} {}", thread_name(holder));
            match frames(snapshot, holder).next() {
                Some((function, file, line)) => write!(text, " in {function} ({file}:{line})"),
                None => Ok(()),
            }
        }
    };
    text.push('\n');
    text
}

/// The same as data; null if it waits for no lock.
#[must_use]
pub fn to_json(snapshot: &Snapshot, thread: &ThreadSample) -> Value {
    let Some(lock) = &thread.lock else {
        return Value::Null;
    };
    let (holder, holder_id) = match keeper(snapshot, lock) {
        None => (None, None),
        Some(Keeper::Unknown) => (Some(UNKNOWN_HOLDER.into()), None),
        Some(Keeper::OtherProcess) => (Some(OTHER_PROCESS.into()), None),
        Some(Keeper::Thread(holder)) => (
            Some(thread_title(holder.thread_id, &holder.name)),
            Some(holder.thread_id),
        ),
    };
    json!({
        "name": &*lock.name.text,
        "holder": holder,
        "holder_id": holder_id,
        "has_timeout": lock.has_timeout,
    })
}

/// Threads that wait for each other: each for the next one, the last one for the first.
#[must_use]
pub fn circles(snapshot: &Snapshot) -> Vec<Vec<&ThreadSample>> {
    let indexes: FxHashMap<ThreadKey, usize> = snapshot
        .threads
        .iter()
        .enumerate()
        .map(|(at, thread)| (thread.key, at))
        .collect();
    let next =
        snapshot
            .threads
            .iter()
            .map(|thread| match keeper(snapshot, thread.lock.as_ref()?)? {
                Keeper::Thread(holder) => indexes.get(&holder.key).copied(),
                Keeper::OtherProcess | Keeper::Unknown => None,
            });
    let circles = around(&next.collect::<Vec<_>>()).into_iter();
    let threads = |circle: Vec<usize>| circle.into_iter().map(|at| &snapshot.threads[at]).collect();
    circles.map(threads).collect()
}

/// The circles among those of which each leads to one other at the most.
fn around(next: &[Option<usize>]) -> Vec<Vec<usize>> {
    // From where each was come by.
    let mut seen_from = vec![None; next.len()];
    let mut circles = Vec::new();
    for start in 0..next.len() {
        let mut at = Some(start);
        while let Some(place) = at.filter(|place| seen_from[*place].is_none()) {
            seen_from[place] = Some(start);
            at = next[place];
        }
        if let Some(first) = at.filter(|place| seen_from[*place] == Some(start)) {
            let others = std::iter::successors(next[first], |place| next[*place]);
            let others = others.take_while(|place| *place != first);
            circles.push(std::iter::once(first).chain(others).collect());
        }
    }
    circles
}

fn has_timeout(circle: &[&ThreadSample]) -> bool {
    let mut locks = circle.iter().filter_map(|thread| thread.lock.as_ref());
    locks.any(|lock| lock.has_timeout)
}

/// A line for each circle of threads and of tasks; empty if there is none.
#[must_use]
pub fn deadlocks(snapshot: &Snapshot, tasks: &Tasks) -> String {
    let mut text = String::new();
    let mut tell = |until: &str, waits: Vec<String>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "deadlock{until}: {}", waits.join(", "));
    };
    for circle in circles(snapshot) {
        let until = if has_timeout(&circle) {
            " until a timeout"
        } else {
            ""
        };
        let pairs = circle.iter().zip(circle.iter().cycle().skip(1));
        let waits = pairs.filter_map(|(thread, holder)| {
            let lock = thread.lock.as_ref()?;
            let (name, holder) = (thread_name(thread), thread_name(holder));
            let (lock, held_by) = (&lock.name.text, held_by(lock));
            Some(format!("{name} waits for {lock} {held_by} {holder}"))
        });
        tell(until, waits.collect());
    }
    for circle in task_circles(tasks) {
        let pairs = circle.iter().zip(circle.iter().cycle().skip(1));
        let waits = pairs.filter_map(|(task, holder)| {
            let [task, holder] = [task, holder].map(|at| &tasks.tasks[*at]);
            let lock = &task.waits_for.as_ref()?.name;
            let (task, holder) = (task_name(snapshot, task), task_name(snapshot, holder));
            Some(format!("{task} waits for {lock} held by {holder}"))
        });
        tell("", waits.collect());
    }
    text
}

/// The same as data.
#[must_use]
pub fn deadlocks_to_json(snapshot: &Snapshot, tasks: &Tasks) -> Value {
    let threads = circles(snapshot).into_iter().map(|circle| {
        let threads: Vec<u64> = circle.iter().map(|thread| thread.thread_id).collect();
        json!({ "threads": threads, "has_timeout": has_timeout(&circle) })
    });
    let tasks = task_circles(tasks).into_iter();
    threads
        .chain(tasks.map(|circle| json!({ "tasks": circle })))
        .collect()
}

/// The indexes of tasks that wait for each other's locks.
fn task_circles(tasks: &Tasks) -> Vec<Vec<usize>> {
    let next = tasks
        .tasks
        .iter()
        .map(|task| match task.waits_for.as_ref()?.holder {
            TaskHolder::Task(holder) => Some(holder),
            TaskHolder::Nobody | TaskHolder::Unknown => None,
        });
    around(&next.collect::<Vec<_>>())
}

/// A task by its name, or by where it is.
fn task_name(snapshot: &Snapshot, task: &Task) -> String {
    let kind = word(task.kind);
    match &task.name {
        Some(name) => format!("{kind} {name:?}"),
        None => format!("{kind}{}", task_place(snapshot, task)),
    }
}

/// Where a task is, outside of asyncio; empty while it runs.
fn task_place(snapshot: &Snapshot, task: &Task) -> String {
    let is_user = |(function, ..): &(&str, &str, u32)| !function.starts_with(OWN_FUNCTIONS);
    let found = lines(&task.frames, snapshot).find(is_user);
    found.map_or_else(String::new, |(function, file, line)| {
        format!(" in {function} ({file}:{line})")
    })
}

/// What a task waits for that is no task, and who keeps it waiting, a line; empty if there is nothing.
#[must_use]
pub fn task_line(snapshot: &Snapshot, tasks: &[Task], task: &Task, indent: usize) -> String {
    let Some(wait) = &task.waits_for else {
        return String::new();
    };
    let holder = match wait.holder {
        TaskHolder::Nobody => String::new(),
        TaskHolder::Unknown => format!(", held by {UNKNOWN_HOLDER}"),
        TaskHolder::Task(holder) => {
            let holder = &tasks[holder];
            let place = holder.name.as_ref().map(|_| task_place(snapshot, holder));
            let name = task_name(snapshot, holder);
            format!(", held by {name}{}", place.unwrap_or_default())
        }
    };
    format!("{:indent$}  waits for {}{holder}\n", "", wait.name)
}

/// The same as data; null if there is nothing.
#[must_use]
pub fn task_to_json(tasks: &Tasks, task: &Task) -> Value {
    let Some(wait) = &task.waits_for else {
        return Value::Null;
    };
    let (holder, index) = match wait.holder {
        TaskHolder::Nobody => (None, None),
        TaskHolder::Unknown => (Some(UNKNOWN_HOLDER), None),
        TaskHolder::Task(at) => (tasks.tasks[at].name.as_deref(), Some(at)),
    };
    json!({ "name": wait.name, "holder": holder, "holder_index": index })
}

#[cfg(test)]
mod tests {
    use super::around;

    #[test]
    fn circles_are_found_once_and_without_what_leads_there() {
        // 0 -> 1 -> 2 -> 0; 3 leads there; 4 is its own; 5 -> 6, which leads nowhere.
        let next = [Some(1), Some(2), Some(0), Some(1), Some(4), Some(6), None];
        assert_eq!(around(&next), [vec![0, 1, 2], vec![4]]);
        // Come by from outside.
        let next = [Some(2), Some(2), Some(3), Some(2)];
        assert_eq!(around(&next), [[2, 3]]);
        assert!(around(&[]).is_empty());
    }
}
