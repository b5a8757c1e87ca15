//! The label sets of a window in which the name of a task is.
#![forbid(unsafe_code)]

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Window;
use crate::model::label::{Label, LabelSetId, LabelValue, TASK};

/// Names of tasks in one window; tasks of other names are told without.
const MAX_TASK_NAMES: usize = 100;

/// Which label sets are those of tasks.
#[derive(Debug, Default)]
pub(super) struct TaskLabels {
    names: FxHashSet<Arc<str>>,
    with: FxHashMap<(LabelSetId, Arc<str>), LabelSetId>,
    /// Back from each to the set without.
    without: FxHashMap<LabelSetId, LabelSetId>,
}

impl TaskLabels {
    /// The set without the name of a task.
    pub(super) fn without(&self, labels: LabelSetId) -> LabelSetId {
        self.without.get(&labels).copied().unwrap_or(labels)
    }
}

impl Window {
    /// The id of these labels and the name of the task; without it where there are too many, or where the
    /// application has a label that is called so.
    #[inline]
    pub fn with_task(&mut self, labels: LabelSetId, task: Option<&Arc<str>>) -> LabelSetId {
        match task {
            None => labels,
            Some(task) => match self.tasks.with.get(&(labels, task.clone())) {
                Some(known) => *known,
                None => self.add_task(labels, task),
            },
        }
    }

    #[cold]
    fn add_task(&mut self, labels: LabelSetId, task: &Arc<str>) -> LabelSetId {
        let set = self.interner.label_set(labels);
        if set.iter().any(|label| &*label.key == TASK) {
            return labels;
        }
        let tasks = &mut self.tasks;
        let has_room = tasks.names.contains(task)
            || tasks.names.len() < MAX_TASK_NAMES && tasks.names.try_reserve(1).is_ok();
        let has_room = has_room
            && tasks.with.try_reserve(1).is_ok()
            && tasks.without.try_reserve(1).is_ok()
            && self.interner.label_set_count() < self.max_label_sets / 2;
        if !has_room || !self.has_room() {
            return labels;
        }
        let mut set = self.interner.label_set(labels).clone();
        set.push(Label {
            key: Arc::from(TASK),
            value: LabelValue::Text(task.clone()),
        });
        let id = self.interner.labels(&set);
        self.tasks.names.insert(task.clone());
        self.tasks.with.insert((labels, task.clone()), id);
        self.tasks.without.insert(id, labels);
        id
    }

    /// The ids of these labels and the name of a task, each with the name.
    pub(super) fn take_tasks(&mut self, labels: LabelSetId) -> Vec<(Arc<str>, LabelSetId)> {
        let with = &mut self.tasks.with;
        let taken = with.extract_if(|(without, _), _| *without == labels);
        let taken = taken.map(|((_, task), id)| (task, id)).collect::<Vec<_>>();
        for (_, id) in &taken {
            self.tasks.without.remove(id);
        }
        taken
    }

    /// What [`Self::take_tasks`] has taken, with other ids.
    pub(super) fn put_task(&mut self, labels: LabelSetId, task: Arc<str>, id: LabelSetId) {
        self.tasks.with.insert((labels, task), id);
        self.tasks.without.insert(id, labels);
    }
}
