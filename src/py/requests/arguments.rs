//! What a request is made of, checked.
#![forbid(unsafe_code)]

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyFloat, PyInt, PyString};

use crate::error::Error;
use crate::session::requests::SlowLimit;

/// The longest time that can be asked for, in seconds.
const MAX_SECONDS: f64 = 1e8;
const DEFAULT_REPEAT_NS: u64 = 1_000_000_000;

/// What was given for `repeat`.
pub(super) enum Repeat<'py> {
    Default,
    Given(Bound<'py, PyAny>),
}

impl<'py> FromPyObject<'_, 'py> for Repeat<'py> {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self::Given(value.to_owned()))
    }
}

/// When a request counts as slow, if it ever does.
pub(super) fn slow_limit(
    after: Option<&Bound<'_, PyAny>>,
    repeat: &Repeat<'_>,
) -> PyResult<Option<SlowLimit>> {
    let Some(after) = after else {
        return Ok(None);
    };
    Ok(Some(SlowLimit {
        after_ns: nanoseconds("slow_after", after)?,
        repeat_ns: match repeat {
            Repeat::Default => DEFAULT_REPEAT_NS,
            Repeat::Given(repeat) => nanoseconds("repeat", repeat)?,
        },
    }))
}

pub(super) fn exact_text(value: &Bound<'_, PyAny>) -> Option<Py<PyString>> {
    let text = value.cast_exact::<PyString>().ok()?;
    Some(text.clone().unbind())
}

fn nanoseconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let is_number = (value.is_instance_of::<PyInt>() || value.is_instance_of::<PyFloat>())
        && !value.is_instance_of::<PyBool>();
    let text = value.repr()?;
    if !is_number {
        return Err(
            Error::argument(format!("{name} must be a number of seconds, not {text}")).into(),
        );
    }
    // Whole numbers beyond any float are out of range as well.
    let seconds: f64 = value.extract().unwrap_or(f64::INFINITY);
    if !(0.0..=MAX_SECONDS).contains(&seconds) {
        return Err(Error::value(format!(
            "{name}={text} is out of range; choose for example {name}=2.0"
        ))
        .into());
    }
    Ok((seconds * 1e9).round() as u64)
}
