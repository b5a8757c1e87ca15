//! All threads' stacks at one moment, as text and as JSON.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{held_up, tasks};
use crate::clock::cpu::is_main_thread;
use crate::model::label::{ActiveLabels, LabelValue, MAIN_THREAD_NAME, thread_title};
use crate::model::snapshot::{Snapshot, ThreadSample, ThreadState};
use crate::model::task::Tasks;

/// What a thread does, in words; empty if unknown.
#[must_use]
pub fn doing(state: ThreadState) -> &'static str {
    match state {
        ThreadState::Unknown => "",
        ThreadState::Running | ThreadState::Ready => "running without the GIL",
        ThreadState::HoldsGil => "holds the GIL",
        ThreadState::WaitsForGil => "waits for the GIL",
        ThreadState::WaitsForLock => "waits for a lock",
        ThreadState::Blocked => "blocked",
    }
}

/// Every thread by itself, the innermost call first, then the tasks, then who waits for each other.
#[must_use]
pub fn by_thread(snapshot: &Snapshot, tasks: &Tasks) -> String {
    threads(snapshot) + &rest(snapshot, tasks)
}

/// The same, with threads that stand at the same place as one entry.
#[must_use]
pub fn by_place(snapshot: &Snapshot, tasks: &Tasks) -> String {
    places(snapshot) + &rest(snapshot, tasks)
}

/// What is told after the threads.
#[must_use]
pub fn rest(snapshot: &Snapshot, tasks: &Tasks) -> String {
    tasks::text(tasks, snapshot) + &held_up::deadlocks(snapshot, tasks)
}

fn threads(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for thread in &snapshot.threads {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{} (most recent call first):",
            heading(snapshot, thread)
        );
        text.push_str(&stack(snapshot, thread));
        text.push('\n');
    }
    text
}

/// Threads that stand at the same place are one entry, with their number, the largest first.
fn places(snapshot: &Snapshot) -> String {
    let mut places: Vec<(String, Vec<&ThreadSample>)> = Vec::new();
    for thread in &snapshot.threads {
        let stack = stack(snapshot, thread);
        match places.iter_mut().find(|(known, _)| *known == stack) {
            Some((_, threads)) => threads.push(thread),
            None => places.push((stack, vec![thread])),
        }
    }
    places.sort_by_key(|(_, threads)| std::cmp::Reverse(threads.len()));
    let mut text = format!("threads: {}\n\n", snapshot.threads.len());
    for (stack, threads) in places {
        let _ = writeln!(
            text,
            "{} thread{}:",
            threads.len(),
            if threads.len() == 1 { "" } else { "s" }
        );
        for thread in threads {
            let _ = writeln!(text, "# {}", heading(snapshot, thread));
        }
        text.push_str(&stack);
        text.push('\n');
    }
    text
}

/// The same as data: a list of threads, frames innermost first.
#[must_use]
pub fn to_json(snapshot: &Snapshot, tasks: &Tasks) -> Value {
    let threads: Vec<Value> = snapshot
        .threads
        .iter()
        .map(|thread| {
            let frames: Vec<Value> = frames(snapshot, thread)
                .map(|(function, file, line)| {
                    json!({ "function": function, "file": file, "line": line })
                })
                .collect();
            json!({
                "id": thread.thread_id,
                "name": thread_title(thread.thread_id, &thread.name),
                "main": is_main_thread(thread.thread_id),
                "state": doing(thread.state),
                "cpu_ns": thread.cpu_ns,
                "standing_seconds": standing(snapshot, thread),
                "lock": held_up::to_json(snapshot, thread),
                "labels": thread.labels.as_ref().map_or_else(Map::new, |labels| {
                    texts(labels)
                        .map(|(key, value)| (key.to_owned(), Value::from(value)))
                        .collect()
                }),
                "request": thread.labels.as_ref().map(|labels| labels.request),
                "incomplete": thread.stack.incomplete,
                "frames": frames,
            })
        })
        .collect();
    json!({
        "threads": threads,
        "tasks": tasks::to_json(tasks, snapshot),
        "omitted_tasks": tasks.omitted,
        "deadlocks": held_up::deadlocks_to_json(snapshot, tasks),
    })
}

/// Seconds since it was last seen to compute, if that is long enough to be known.
fn standing(snapshot: &Snapshot, thread: &ThreadSample) -> Option<f64> {
    let passed_ns = snapshot.at_ns.saturating_sub(thread.since_ns);
    (thread.since_ns > 0 && passed_ns > 0 && !thread.state.uses_cpu())
        .then_some(passed_ns as f64 / 1e9)
}

/// Keys and values of what the application has set.
pub fn texts(labels: &ActiveLabels) -> impl Iterator<Item = (&str, &str)> {
    labels.set.iter().filter_map(|label| match &label.value {
        LabelValue::Text(text) => Some((&*label.key, &**text)),
        LabelValue::Number(..) => None,
    })
}

fn heading(snapshot: &Snapshot, thread: &ThreadSample) -> String {
    let title = thread_title(thread.thread_id, &thread.name);
    let mut text = format!("Thread {} \"{title}\"", thread.thread_id);
    let is_main = is_main_thread(thread.thread_id);
    if is_main && &*thread.name != MAIN_THREAD_NAME {
        text.push_str(" (the main thread)");
    }
    let state = doing(thread.state);
    if !state.is_empty() {
        let _ = write!(text, ", {state}");
    }
    if let Some(seconds) = standing(snapshot, thread) {
        let _ = write!(text, " for {seconds:.3} s");
    }
    if let Some(cpu_ns) = thread.cpu_ns {
        let _ = write!(text, ", {:.3} s of CPU", cpu_ns as f64 / 1e9);
    }
    if let Some(labels) = &thread.labels {
        let labels: Vec<String> = texts(labels)
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let _ = write!(text, " [{}]", labels.join(", "));
    }
    text
}

fn stack(snapshot: &Snapshot, thread: &ThreadSample) -> String {
    let mut text = String::new();
    if thread.stack.incomplete {
        text.push_str("  <incomplete>\n");
    }
    for (function, file, line) in frames(snapshot, thread) {
        let _ = writeln!(text, "  File \"{file}\", line {line}, in {function}");
    }
    text.push_str(&held_up::line(snapshot, thread));
    text
}

/// Function, file and line of each frame, innermost first.
pub fn frames<'a>(
    snapshot: &'a Snapshot,
    thread: &'a ThreadSample,
) -> impl Iterator<Item = (&'a str, &'a str, u32)> {
    thread.stack.frames.iter().filter_map(|frame| {
        let function = snapshot.function(frame.function)?;
        Some((&*function.name, &*function.file, frame.line))
    })
}
