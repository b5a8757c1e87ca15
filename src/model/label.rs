//! Labels: key and value pairs on a sample.

use std::borrow::Cow;
use std::sync::Arc;

/// Key of the kernel thread id (a number).
pub const THREAD_ID: &str = "thread id";
/// Key of the thread's name (a string).
pub const THREAD_NAME: &str = "thread name";

/// What `threading` calls the main thread as long as nobody calls it otherwise.
pub const MAIN_THREAD_NAME: &str = "MainThread";

/// Key of the thread's class: [`CLASS_REQUEST`] or [`CLASS_BACKGROUND`].
pub const THREAD_CLASS: &str = "thread class";
/// A thread that works on a request.
pub const CLASS_REQUEST: &str = "request";
/// Any other.
pub const CLASS_BACKGROUND: &str = "background";
/// Key of the kind of request.
pub const ROUTE: &str = "route";
/// A thread of ours.
pub const CLASS_PROFILER: &str = "profiler";
/// What the names of our threads begin with.
pub const OWN_THREADS: &str = "rprof-";
/// Key of the number of the request, in recordings that keep requests apart.
pub const REQUEST_NUMBER: &str = "request number";

/// Key of a task's or greenlet's name: one that somebody gave it; of a greenlet without one its
/// outermost function.
pub const TASK: &str = "task";

/// Key of the part that a task has in its request, in recordings that keep requests apart.
pub const REQUEST_TASK: &str = "request task";

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

/// What the application has said about what it is doing: labels, and the request it works on.
///
/// The object lives in the application's memory, where a sampler finds its bytes; see
/// [`ActiveLabels::encode`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveLabels {
    /// Tells it from all others of this process, past ones included.
    pub serial: u64,
    /// The request that is worked on; 0: none.
    pub request: u64,
    /// Who wants to have this request's samples, one bit each.
    pub captures: u64,
    /// The labels, by key.
    pub set: Arc<LabelSet>,
}

/// Bytes of the longest encoded labels.
pub const MAX_ENCODED_BYTES: usize = 16 << 10;

impl ActiveLabels {
    /// Labels as bytes: each one's key and text after their lengths.
    #[must_use]
    pub fn encode(labels: &[(Arc<str>, Arc<str>)]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        for text in labels.iter().flat_map(|(key, value)| [key, value]) {
            let length = u16::try_from(text.len()).unwrap_or(0);
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&text.as_bytes()[..usize::from(length)]);
        }
        bytes
    }

    /// Whether there is a label of this key.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.set.iter().any(|label| &*label.key == key)
    }

    /// With the labels in `bytes`; `None` if these are damaged.
    #[must_use]
    pub fn decode(serial: u64, request: u64, captures: u64, bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut text = || -> Option<Option<Arc<str>>> {
            if rest.is_empty() {
                return Some(None);
            }
            let (length, after) = rest.split_first_chunk()?;
            let (text, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = after;
            Some(Some(Arc::from(std::str::from_utf8(text).ok()?)))
        };
        let mut set = LabelSet::new();
        while let Some(key) = text()? {
            let value = LabelValue::Text(text()??);
            set.push(Label { key, value });
        }
        Some(Self {
            serial,
            request,
            captures,
            set: Arc::new(set),
        })
    }
}

/// What a thread is called: by its number where it has no name, or none that is known yet.
#[must_use]
pub fn thread_title(thread_id: u64, thread_name: &str) -> Cow<'_, str> {
    if thread_name.is_empty() && thread_id != 0 {
        Cow::Owned(format!("thread {thread_id}"))
    } else {
        Cow::Borrowed(thread_name)
    }
}

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
            value: LabelValue::Text(Arc::from(thread_title(thread_id, thread_name))),
        },
    ]
}

/// The thread id and name among `labels`: 0 where there is no id, its number where there is no
/// name, and `""` where there is neither.
#[must_use]
pub fn thread_of(labels: &[Label]) -> (i64, Cow<'_, str>) {
    let mut id = 0;
    let mut name = "";
    for label in labels {
        match (&*label.key, &label.value) {
            (THREAD_ID, LabelValue::Number(number, _)) => id = *number,
            (THREAD_NAME, LabelValue::Text(text)) => name = text,
            _ => {}
        }
    }
    (id, thread_title(u64::try_from(id).unwrap_or(0), name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{ActiveLabels, LabelValue};

    proptest! {
        #[test]
        fn labels_come_back_as_they_were(
            labels in prop::collection::vec((".{0,20}", ".{0,200}"), 0..10),
        ) {
            let labels: Vec<(Arc<str>, Arc<str>)> = labels
                .into_iter()
                .map(|(key, value)| (Arc::from(key), Arc::from(value)))
                .collect();
            let bytes = ActiveLabels::encode(&labels);
            let back = ActiveLabels::decode(1, 2, 3, &bytes).unwrap_or_default();
            prop_assert_eq!((back.serial, back.request, back.captures), (1, 2, 3));
            let set: Vec<_> = back
                .set
                .iter()
                .filter_map(|label| match &label.value {
                    LabelValue::Text(text) => Some((label.key.clone(), text.clone())),
                    LabelValue::Number(..) => None,
                })
                .collect();
            prop_assert_eq!(set, labels);
        }

        #[test]
        fn damaged_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = ActiveLabels::decode(1, 2, 3, &bytes);
        }
    }
}
