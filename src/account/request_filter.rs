//! Which samples a recording takes by the requests that they are of.
#![forbid(unsafe_code)]

use crate::model::label::ActiveLabels;

/// Which requests a recording takes, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestFilter {
    /// Only samples of requests with one of these bits in [`ActiveLabels::captures`]; 0: all
    /// samples, whether of a request or not.
    pub captures: u64,
    /// Whether samples of different requests are kept apart.
    pub keep_apart: bool,
}

impl RequestFilter {
    /// Whether a sample under these labels is taken.
    #[must_use]
    pub fn accept(self, labels: Option<&ActiveLabels>) -> bool {
        self.captures == 0 || labels.is_some_and(|labels| labels.captures & self.captures != 0)
    }
}
