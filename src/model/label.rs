//! Labels: key and value pairs on a sample.

use std::sync::Arc;

/// Key of the kernel thread id (a number).
pub const THREAD_ID: &str = "thread id";
/// Key of the thread's name (a string).
pub const THREAD_NAME: &str = "thread name";

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LabelValue {
    /// Text.
    Text(Arc<str>),
    /// A number with its unit (empty: none).
    Number(i64, Arc<str>),
}

/// One label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// The key, for example `thread id`.
    pub key: Arc<str>,
    /// The value.
    pub value: LabelValue,
}

/// The labels of one sample, in the order they are written.
pub type LabelSet = Vec<Label>;

/// An index into a profile's label sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSetId(pub u32);

/// The labels that name a thread.
#[must_use]
pub fn thread_labels(thread_id: u64, thread_name: &str) -> LabelSet {
    vec![
        Label {
            key: Arc::from(THREAD_ID),
            value: LabelValue::Number(i64::try_from(thread_id).unwrap_or(i64::MAX), Arc::from("")),
        },
        Label {
            key: Arc::from(THREAD_NAME),
            value: LabelValue::Text(Arc::from(thread_name)),
        },
    ]
}

/// The thread id and name among `labels`; 0 and `""` where absent.
#[must_use]
pub fn thread_of(labels: &[Label]) -> (i64, &str) {
    let mut id = 0;
    let mut name = "";
    for label in labels {
        match (&*label.key, &label.value) {
            (THREAD_ID, LabelValue::Number(number, _)) => id = *number,
            (THREAD_NAME, LabelValue::Text(text)) => name = text,
            _ => {}
        }
    }
    (id, name)
}
