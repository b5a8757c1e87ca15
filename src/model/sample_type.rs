//! Sample types: what each value of a sample measures, and in which unit.

use std::sync::Arc;

/// The name and unit of one value of every sample, as pprof's `ValueType`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SampleType {
    /// For example `wall`.
    pub name: Arc<str>,
    /// For example `nanoseconds`.
    pub unit: Arc<str>,
}

impl SampleType {
    /// A sample type from its two words.
    #[must_use]
    pub fn new(name: &str, unit: &str) -> Self {
        Self {
            name: Arc::from(name),
            unit: Arc::from(unit),
        }
    }
}

/// Column of `samples/count`.
pub const SAMPLES: usize = 0;
/// Column of `wall/nanoseconds`.
pub const WALL: usize = 1;
/// Column of `cpu/nanoseconds`.
pub const CPU: usize = 2;

/// Column of `gil/nanoseconds`: time with the GIL held.
pub const GIL: usize = 3;
/// Column of `gil_wait/nanoseconds`: time spent waiting for the GIL.
pub const GIL_WAIT: usize = 4;

/// Columns there may be.
pub const MAX_SAMPLED: usize = 5;

/// What the sampler records, in column order, with or without the GIL; `wall` is what a reader
/// shows first.
#[must_use]
pub fn sampled(knows_gil: bool) -> Vec<SampleType> {
    let mut types = vec![
        SampleType::new("samples", "count"),
        SampleType::new("wall", "nanoseconds"),
        SampleType::new("cpu", "nanoseconds"),
    ];
    if knows_gil {
        types.push(SampleType::new("gil", "nanoseconds"));
        types.push(SampleType::new(GIL_WAIT_NAME, "nanoseconds"));
    }
    types
}

/// Names have no dash: Pyroscope refuses a profile in which one has (`ValidateProfile`,
/// `pkg/validation/validate.go`, 2.2).
const GIL_WAIT_NAME: &str = "gil_wait";
/// What it was called before.
const OLD_GIL_WAIT_NAME: &str = "gil-wait";

/// What a sample type of ours is called now, by a name that it may have had before.
#[must_use]
pub fn present_name(name: &str) -> &str {
    if name == OLD_GIL_WAIT_NAME {
        GIL_WAIT_NAME
    } else {
        name
    }
}

/// Of each of `types`, its place in `among`; the second of two that are equal is the second there.
#[must_use]
pub fn places(types: &[SampleType], among: &[SampleType]) -> Vec<Option<usize>> {
    let before = |at: usize| {
        types[..at]
            .iter()
            .filter(|kind| **kind == types[at])
            .count()
    };
    types
        .iter()
        .enumerate()
        .map(|(at, kind)| {
            let mut equal = (0..among.len()).filter(|place| among[*place] == *kind);
            equal.nth(before(at))
        })
        .collect()
}

/// All of `known` and of `more`: those of the sampler first, in its order, then the others as they
/// came. `known` itself where it has them all.
///
/// # Errors
/// A name that stands for two units, and the two.
pub fn union<'kind>(
    known: &'kind [SampleType],
    more: &'kind [SampleType],
) -> Result<Vec<SampleType>, (&'kind SampleType, &'kind SampleType)> {
    let mut all = known.to_vec();
    for (kind, place) in more.iter().zip(places(more, known)) {
        if place.is_some() {
            continue;
        }
        let has_other_unit =
            |other: &&SampleType| other.name == kind.name && other.unit != kind.unit;
        if let Some(other) = known.iter().find(has_other_unit) {
            return Err((other, kind));
        }
        all.push(kind.clone());
    }
    if all.len() > known.len() {
        let ours = sampled(true);
        all.sort_by_key(|kind| {
            ours.iter()
                .position(|own| own == kind)
                .unwrap_or(ours.len())
        });
    }
    Ok(all)
}

/// The sample type that readers open on.
pub const DEFAULT: &str = "wall";
