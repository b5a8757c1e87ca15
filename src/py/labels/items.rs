//! Keys and values of labels, checked, and what samplers read of them.
#![forbid(unsafe_code)]

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyString};

use crate::error::Error;
use crate::model::label::{
    ActiveLabels, Label, LabelSet, LabelValue, THREAD_CLASS, THREAD_ID, THREAD_NAME,
};

/// Labels of one object, with those it was entered under.
pub(super) const MAX_LABELS: usize = 32;
/// Characters of a key.
const MAX_KEY: usize = 100;
/// Characters of a value; the rest is cut off.
const MAX_VALUE: usize = 200;
/// Labels by key, sorted.
pub(in crate::py) type Items = Vec<(Arc<str>, Arc<str>)>;

/// Labels, and what samplers read of them.
#[derive(Debug)]
pub(in crate::py) struct Content {
    pub(super) items: Items,
    pub(super) bytes: Box<[u8]>,
    pub(super) set: Arc<LabelSet>,
}

impl Content {
    /// Of sorted labels.
    pub(in crate::py) fn new(items: Items) -> Arc<Self> {
        let bytes = ActiveLabels::encode(&items).into_boxed_slice();
        let label = |(key, value): &(Arc<str>, Arc<str>)| Label {
            key: key.clone(),
            value: LabelValue::Text(value.clone()),
        };
        let set = Arc::new(items.iter().map(label).collect());
        Arc::new(Self { items, bytes, set })
    }
}

/// Checked labels, by key.
pub(in crate::py) fn items(labels: Option<&Bound<'_, PyDict>>) -> PyResult<Items> {
    let mut items = Items::new();
    for (key, value) in labels.into_iter().flat_map(|labels| labels.iter()) {
        let key: String = key.extract()?;
        if [THREAD_ID, THREAD_NAME, THREAD_CLASS].contains(&&*key)
            || key.is_empty()
            || key.chars().count() > MAX_KEY
        {
            return Err(Error::value(format!(
                "{key:?} cannot be a label's name; choose another of at most {MAX_KEY} characters"
            ))
            .into());
        }
        let is_plain = value.is_instance_of::<PyString>()
            || value.is_instance_of::<PyInt>()
            || value.is_instance_of::<PyFloat>()
            || value.is_instance_of::<PyBool>();
        if !is_plain {
            return Err(Error::argument(format!(
                "label {key} must be text or a number, not {}",
                value.get_type().name()?
            ))
            .into());
        }
        items.push((Arc::from(key), self::value(&value.str()?.to_string_lossy())));
    }
    if items.len() > MAX_LABELS {
        return Err(Error::value(format!("more than {MAX_LABELS} labels")).into());
    }
    items.sort_unstable();
    Ok(items)
}

/// A label's value, not too long.
pub(in crate::py) fn value(text: &str) -> Arc<str> {
    let end = if text.len() <= MAX_VALUE {
        text.len()
    } else {
        let cut = text.char_indices().nth(MAX_VALUE);
        cut.map_or(text.len(), |(at, _)| at)
    };
    Arc::from(&text[..end])
}

/// As Python has them.
pub(super) fn dictionary<'py>(py: Python<'py>, items: &Items) -> PyResult<Bound<'py, PyDict>> {
    let labels = PyDict::new(py);
    for (key, value) in items {
        labels.set_item(&**key, &**value)?;
    }
    Ok(labels)
}
