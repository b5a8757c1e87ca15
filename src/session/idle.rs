//! How often a program is looked at in which nothing happens.
//!
//! Where no CPU clock has moved between two looks, no thread has run, and all had the same stacks at
//! the ticks in between: those need not be served to be known. Only the first ticks after such a
//! time may be missed, and programs that often begin anew are not treated so.
#![forbid(unsafe_code)]

/// A program is at rest once nothing has happened in it for this long,
const LEAST_PATIENCE_NS: u64 = 500_000_000;
/// and for twice as long after each rest that ended by something happening, up to this.
const MOST_PATIENCE_NS: u64 = 64_000_000_000;
/// Of the ticks of a rest, every such one is served.
const TICKS_AT_REST: u64 = 4;

/// Decides it by what the looks have found.
#[derive(Clone, Debug)]
pub struct IdleBackoff {
    patience_ns: u64,
    is_at_rest: bool,
}

impl Default for IdleBackoff {
    fn default() -> Self {
        Self {
            patience_ns: LEAST_PATIENCE_NS,
            is_at_rest: false,
        }
    }
}

impl IdleBackoff {
    /// How many ticks may pass unserved after a look that found that nothing has happened for
    /// `still_ns`.
    pub fn ticks_to_skip(&mut self, still_ns: u64) -> u64 {
        if still_ns >= self.patience_ns {
            self.is_at_rest = true;
            return TICKS_AT_REST - 1;
        }
        if std::mem::take(&mut self.is_at_rest) {
            self.patience_ns = (2 * self.patience_ns).min(MOST_PATIENCE_NS);
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::IdleBackoff;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_rest_begins_when_nothing_has_happened_for_long() {
        let mut idle = IdleBackoff::default();
        assert_eq!(idle.ticks_to_skip(0), 0);
        assert_eq!(idle.ticks_to_skip(499 * MS), 0);
        assert_eq!(idle.ticks_to_skip(500 * MS), 3);
        assert_eq!(idle.ticks_to_skip(u64::MAX), 3);
    }

    #[test]
    fn whoever_was_disturbed_waits_longer_and_longer_up_to_a_limit() {
        let mut idle = IdleBackoff::default();
        let mut patience_ms = 500;
        for _ in 0..20 {
            assert_eq!(idle.ticks_to_skip((patience_ms - 1) * MS), 0);
            assert_eq!(idle.ticks_to_skip(patience_ms * MS), 3);
            // Disturbed once, however long it goes on.
            assert_eq!(idle.ticks_to_skip(0), 0);
            assert_eq!(idle.ticks_to_skip(0), 0);
            patience_ms = (2 * patience_ms).min(64_000);
        }
    }
}
