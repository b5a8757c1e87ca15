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
/// Column of `gil-wait/nanoseconds`: time spent waiting for the GIL.
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
        types.push(SampleType::new("gil-wait", "nanoseconds"));
    }
    types
}

/// The sample type that readers open on.
pub const DEFAULT: &str = "wall";
