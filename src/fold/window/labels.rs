//! The label sets of a window: those of threads, with what the application said and why they were on
//! no CPU.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Window;
use crate::model::function::OTHER;
use crate::model::label::{
    ActiveLabels, Label, LabelSet, LabelSetId, LabelValue, REQUEST_NUMBER, REQUEST_TASK,
    THREAD_CLASS, THREAD_NAME, thread_labels,
};
use crate::model::lock::{LOCK, LockName};
use crate::model::off_cpu::{OFF, OffCpu};
use crate::model::task::RequestPart;

/// Distinct label sets of the application in one window; of more, the values are `<other>`.
const MAX_ACTIVE_LABEL_SETS: usize = 1_000;

/// What some of a thread's samples are marked with besides its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Mark {
    /// Why it was on no CPU.
    Reason(OffCpu),
    /// The serial of the name of a lock.
    Lock(u32),
    /// Which part a task has in its request.
    Part(RequestPart),
}

/// What the labels of a thread's sample are made of.
#[derive(Clone, Copy, Debug)]
pub struct ThreadLabels<'thread> {
    /// The kernel's id.
    pub id: u64,
    /// Its name.
    pub name: &'thread str,
    /// What the application said.
    pub active: Option<&'thread ActiveLabels>,
    /// `request` or `background`, where there are requests.
    pub class: Option<&'static str>,
    /// Whether samples of different requests are kept apart.
    pub with_request: bool,
}

impl Window {
    /// The id of a thread's labels and of those it works under; `<other>` when there are too many.
    pub fn thread(&mut self, thread: &ThreadLabels<'_>) -> LabelSetId {
        let labels = self.labels_of(thread);
        self.labels(&labels)
    }

    /// Calls the thread of these labels by its name, which was not known.
    pub fn call_thread(&mut self, labels: LabelSetId, name: &str) -> LabelSetId {
        let called = self.call(labels, name);
        for (task, id) in self.take_tasks(labels) {
            let id = self.call(id, name);
            self.put_task(called, task, id);
        }
        called
    }

    fn call(&mut self, labels: LabelSetId, name: &str) -> LabelSetId {
        let called = self.rename(labels, name);
        let marked = self.marked.keys().filter(|(of, _)| *of == labels);
        let marks: Vec<Mark> = marked.map(|(_, mark)| *mark).collect();
        for mark in marks {
            // A reason may be marked with a lock.
            if let Some(id) = self.marked.remove(&(labels, mark)) {
                let id = self.call(id, name);
                self.marked.insert((called, mark), id);
            }
        }
        called
    }

    fn rename(&mut self, labels: LabelSetId, name: &str) -> LabelSetId {
        let mut better = self.interner.label_set(labels).clone();
        let said = better.iter_mut().find(|label| &*label.key == THREAD_NAME);
        if let Some(said) = said {
            said.value = LabelValue::Text(Arc::from(name));
        }
        self.interner.relabel(labels, better)
    }

    /// Adds up what was told apart by a name that was not known, and is the same by now: an event may have
    /// named the thread before it was looked at.
    pub(super) fn unite(&mut self) {
        let width = self.columns.len();
        if self.interner.same().is_empty() || width == 0 {
            return;
        }
        let samples = std::mem::take(&mut self.samples);
        let values = std::mem::take(&mut self.values);
        self.sample_rows.clear();
        for (sample, values) in samples.into_iter().zip(values.chunks_exact(width)) {
            let same = self.interner.same().get(&sample.labels);
            let labels = same.copied().unwrap_or(sample.labels);
            let to = self.values_of(sample.node, labels);
            for (to, from) in self.values[to].iter_mut().zip(values) {
                *to = to.saturating_add(*from);
            }
        }
    }

    /// The id of these labels and the reason why the thread was on no CPU. Where there are many
    /// labels already the reason is left out: it must not take the room of what the application says.
    #[inline]
    pub fn with_reason(&mut self, labels: LabelSetId, reason: Option<OffCpu>) -> LabelSetId {
        match reason {
            None => labels,
            Some(reason) => self.mark(labels, Mark::Reason(reason), OFF, || {
                Arc::from(reason.label())
            }),
        }
    }

    /// The id of these labels and the name of a lock; as with reasons, that may be left out.
    #[inline]
    pub fn with_lock(&mut self, labels: LabelSetId, lock: Option<&LockName>) -> LabelSetId {
        match lock {
            None => labels,
            Some(lock) => {
                let mark = Mark::Lock(lock.serial);
                self.mark(labels, mark, LOCK, || lock.text.clone())
            }
        }
    }

    /// The id of these labels and the part that the task has in its request; as with reasons, that may be
    /// left out.
    pub fn with_part(&mut self, labels: LabelSetId, part: Option<RequestPart>) -> LabelSetId {
        match part {
            None => labels,
            Some(part) => self.mark(labels, Mark::Part(part), REQUEST_TASK, || {
                Arc::from(part.label())
            }),
        }
    }

    #[inline]
    fn mark(
        &mut self,
        labels: LabelSetId,
        mark: Mark,
        key: &str,
        value: impl Fn() -> Arc<str>,
    ) -> LabelSetId {
        match self.marked.get(&(labels, mark)) {
            Some(known) => *known,
            None => self.add_mark(labels, mark, key, value()),
        }
    }

    #[cold]
    fn add_mark(
        &mut self,
        labels: LabelSetId,
        mark: Mark,
        key: &str,
        value: Arc<str>,
    ) -> LabelSetId {
        if self.interner.label_set_count() >= self.max_label_sets / 2 || !self.has_room() {
            return labels;
        }
        let mut set = self.interner.label_set(labels).clone();
        set.push(Label {
            key: Arc::from(key),
            value: LabelValue::Text(value),
        });
        let id = self.interner.labels(&set);
        self.marked.insert((labels, mark), id);
        id
    }

    /// The labels of a sample of a thread: its own, its class, and what the application set.
    fn labels_of(&mut self, thread: &ThreadLabels<'_>) -> LabelSet {
        let mut labels = thread_labels(thread.id, thread.name);
        let mut add = |key: &str, value: LabelValue| {
            let key = Arc::from(key);
            labels.push(Label { key, value });
        };
        if let Some(class) = thread.class {
            add(THREAD_CLASS, LabelValue::Text(Arc::from(class)));
        }
        if let Some(active) = thread.active {
            if thread.with_request && active.request != 0 {
                let number = i64::try_from(active.request).unwrap_or(i64::MAX);
                add(REQUEST_NUMBER, LabelValue::Number(number, Arc::from("")));
            }
            let is_known = self.active_sets.contains(&active.set);
            let has_room = is_known || self.active_sets.len() < MAX_ACTIVE_LABEL_SETS;
            if has_room && !is_known {
                self.active_sets.insert(active.set.clone());
            }
            for label in active.set.iter() {
                let value = if has_room {
                    label.value.clone()
                } else {
                    LabelValue::Text(Arc::from(OTHER))
                };
                labels.push(Label {
                    key: label.key.clone(),
                    value,
                });
            }
        }
        labels
    }

    /// The id of `labels`, or of `<other>` when there are too many.
    pub fn labels(&mut self, labels: &LabelSet) -> LabelSetId {
        if self.interner.label_set_count() >= self.max_label_sets || !self.has_room() {
            return self.interner.labels(&thread_labels(0, OTHER));
        }
        self.interner.labels(labels)
    }
}
