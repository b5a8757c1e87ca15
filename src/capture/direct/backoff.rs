//! Threads that have long stood still, whose CPU clocks need not be read at every tick.
//!
//! A thread has to take the GIL before it runs Python code. While nobody has taken it but who had it
//! last, every other thread is in the call of C code where it was seen, under the same stack, and
//! one that has long stood still there may be left alone for a while. If that call goes on to
//! compute without the GIL, its CPU time is found a little later, and charged to the same stack.
#![forbid(unsafe_code)]

use crate::layout::GilLayout;
use crate::memory::own::Lasting;

/// A thread that has stood still for less is not left alone.
const MIN_STILL_NS: u64 = 200_000_000;
/// It is left alone for this part of the time for which it has stood still,
const BACKOFF_PART: u64 = 4;
/// and no longer than this.
pub(super) const MAX_BACKOFF_NS: u64 = 100_000_000;

/// Whose turn with the GIL it is or was last. Two equal ones: nobody else had a turn in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GilTurn {
    /// Address of the thread state.
    pub(super) holder: usize,
    /// How often the GIL has gone from one thread to another.
    pub(super) switches: usize,
}

impl GilTurn {
    /// Looks at the GIL at `gil`, if that lies in `lasting`.
    pub(super) fn read(lasting: Lasting, layout: &GilLayout, gil: usize) -> Option<Self> {
        // `take_gil` changes both, under a lock that is not taken here (Python/ceval_gil.h of
        // CPython 3.10 and 3.11, ceval_gil.c of 3.12-3.15). Whichever of them is seen changed makes
        // this turn another than the one before or the one after.
        Some(Self {
            holder: lasting.word(gil.checked_add(layout.holder)?)?,
            switches: lasting.word(gil.checked_add(layout.switches)?)?,
        })
    }
}

/// For how long a thread may be left alone that has stood still for `still_ns`, both in ns.
pub(super) fn backoff_ns(still_ns: u64) -> u64 {
    if still_ns < MIN_STILL_NS {
        0
    } else {
        (still_ns / BACKOFF_PART).min(MAX_BACKOFF_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::backoff_ns;

    #[test]
    fn who_has_stood_still_for_longer_is_left_alone_for_longer() {
        assert_eq!(backoff_ns(0), 0);
        assert_eq!(backoff_ns(199_999_999), 0);
        assert_eq!(backoff_ns(200_000_000), 50_000_000);
        assert_eq!(backoff_ns(300_000_000), 75_000_000);
        assert_eq!(backoff_ns(u64::MAX), 100_000_000);
    }
}
