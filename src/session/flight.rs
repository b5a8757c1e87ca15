//! The flight recorder: the windows of the last minutes, for what proves interesting afterwards.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fold::merge::Merge;
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::memory::reserve::Provision;
use crate::model::label::{LabelSet, LabelValue, REQUEST_NUMBER};

/// Which samples are wanted of the past.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// Those not older than this, by the monotonic clock in ns: the system's clock may be set while
    /// the windows are kept.
    pub since_ns: u64,
    /// Only those of these requests; all if empty.
    pub requests: Vec<u64>,
}

impl Pick {
    fn takes(&self, labels: &LabelSet) -> bool {
        self.requests.is_empty()
            || labels.iter().any(|label| {
                &*label.key == REQUEST_NUMBER
                    && matches!(&label.value, LabelValue::Number(number, _)
                        if u64::try_from(*number).is_ok_and(|n| self.requests.contains(&n)))
            })
    }
}

/// The samples of `profiles` that are wanted, whatever request they are of. The profiles follow each
/// other.
///
/// # Errors
/// When there is no profile, or no memory for the result.
pub fn pick(profiles: &[Arc<Profile>], pick: &Pick) -> Result<Profile> {
    /// One profile is copied whole, and the tables of the result may be doubled as they grow.
    const COPIES: usize = 6;
    let bytes: usize = profiles.iter().map(|profile| profile.bytes()).sum();
    let Some(_provision) = Provision::of((COPIES * bytes).max(1 << 20)) else {
        return Err(Error::memory("put the last minutes together"));
    };
    let mut merge = Merge::bounded(Limits::default());
    let mut duration_ns = 0_i64;
    for profile in profiles {
        let mut chosen = profile.filtered(|labels| pick.takes(labels));
        for labels in &mut chosen.label_sets {
            labels.retain(|label| &*label.key != REQUEST_NUMBER);
        }
        merge.add(&chosen)?;
        duration_ns = duration_ns.saturating_add(chosen.meta.duration_ns.max(0));
    }
    let mut merged = merge
        .finish()
        .map_err(|_| Error::state("nothing was recorded in that time"))?;
    // A merge goes by the times of day, which overlap or leave a hole where the clock was set.
    merged.meta.duration_ns = duration_ns;
    if let Some(first) = profiles.first() {
        merged.meta.time_ns = first.meta.time_ns;
    }
    Ok(merged)
}

#[derive(Debug)]
struct Kept {
    profile: Arc<Profile>,
    /// When it ended, by the monotonic clock in ns.
    ended_ns: u64,
    bytes: usize,
}

/// The windows kept, bounded in time and in bytes.
///
/// Ages go by the monotonic clock. On Linux it stands still while the machine is suspended, as all
/// samples do: a minute is a minute in which the program could run.
#[derive(Debug)]
pub struct Ring {
    keep_ns: u64,
    max_bytes: usize,
    state: Mutex<(VecDeque<Kept>, usize)>,
}

impl Ring {
    /// An empty one.
    #[must_use]
    pub fn new(keep_ns: u64, max_bytes: usize) -> Self {
        Self {
            keep_ns,
            max_bytes,
            state: Mutex::new((VecDeque::new(), 0)),
        }
    }

    /// Adds a window that ends now, `now_ns` of the monotonic clock; what has become too old or too
    /// much goes.
    pub fn push(&self, profile: Arc<Profile>, now_ns: u64) {
        let kept = Kept {
            bytes: profile.bytes(),
            ended_ns: now_ns,
            profile,
        };
        let mut state = self.state.lock();
        let (windows, bytes) = &mut *state;
        *bytes += kept.bytes;
        windows.push_back(kept);
        while let Some(oldest) = windows.front() {
            let is_old = oldest.ended_ns < now_ns.saturating_sub(self.keep_ns);
            if !is_old && *bytes <= self.max_bytes {
                break;
            }
            *bytes -= oldest.bytes;
            windows.pop_front();
        }
    }

    /// The windows that end after this time, in ns of the monotonic clock, oldest first.
    #[must_use]
    pub fn since(&self, since_ns: u64) -> Vec<Arc<Profile>> {
        let state = self.state.lock();
        let wanted = state.0.iter().filter(|kept| kept.ended_ns > since_ns);
        wanted.map(|kept| kept.profile.clone()).collect()
    }

    /// Memory held in bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().1
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Pick, Ring, pick};
    use crate::fold::profile::Profile;

    const SECOND: u64 = 1_000_000_000;
    const YEAR: i64 = 366 * 86_400 * SECOND as i64;

    fn window(unix_ns: i64, values: usize) -> Arc<Profile> {
        let mut profile = Profile::default();
        profile.meta.time_ns = unix_ns;
        profile.meta.duration_ns = SECOND as i64;
        profile.values = vec![1; values];
        Arc::new(profile)
    }

    #[test]
    fn old_windows_go() {
        let ring = Ring::new(10 * SECOND, usize::MAX);
        for second in 1..=100 {
            ring.push(window(YEAR, 10), second * SECOND);
        }
        assert_eq!(ring.since(0).len(), 11);
        assert_eq!(ring.since(98 * SECOND).len(), 2);
    }

    /// What the system's clock says while windows are kept changes neither which of them are kept
    /// nor which are picked.
    #[test]
    fn a_stepped_clock_changes_no_cut() -> crate::error::Result<()> {
        type Clock = fn(u64) -> i64;
        let clocks: [(&str, Clock); 5] = [
            ("right", |second| YEAR + (second * SECOND) as i64),
            ("frozen", |_| YEAR),
            (
                "set forward",
                |second| {
                    if second < 95 { YEAR } else { 2 * YEAR }
                },
            ),
            (
                "set back",
                |second| if second < 95 { 2 * YEAR } else { YEAR },
            ),
            ("backwards", |second| YEAR - (second * SECOND) as i64),
        ];
        for (name, clock) in clocks {
            let ring = Ring::new(10 * SECOND, usize::MAX);
            for second in 1..=100 {
                ring.push(window(clock(second), 10), second * SECOND);
            }
            let wanted = Pick {
                since_ns: 96 * SECOND,
                requests: Vec::new(),
            };
            let found = pick(&ring.since(wanted.since_ns), &wanted)?;
            assert_eq!(ring.since(0).len(), 11, "{name}");
            assert_eq!(found.meta.duration_ns, 4 * SECOND as i64, "{name}");
            assert_eq!(found.meta.time_ns, clock(97), "{name}");
        }
        Ok(())
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let limit = 100_000;
        let ring = Ring::new(u64::MAX, limit);
        for second in 0..1_000 {
            ring.push(window(YEAR, 100), second);
            assert!(ring.bytes() <= limit);
        }
        let kept = ring.since(0);
        assert!(kept.len() > 10);
        assert_eq!(ring.bytes(), kept.iter().map(|p| p.bytes()).sum::<usize>());
        // One window alone that is too large is not kept either.
        ring.push(window(YEAR, limit), 2_000);
        assert_eq!((ring.since(0).len(), ring.bytes()), (0, 0));
    }
}
