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

/// What the sampler records, in column order; `wall` is what a reader shows first.
#[must_use]
pub fn sampled() -> Vec<SampleType> {
    vec![
        SampleType::new("samples", "count"),
        SampleType::new("wall", "nanoseconds"),
        SampleType::new("cpu", "nanoseconds"),
    ]
}

/// The sample type that readers open on.
pub const DEFAULT: &str = "wall";
