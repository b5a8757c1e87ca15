//! The flight recorder: the windows of the last minutes, for what proves interesting afterwards.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fold::merge::Merge;
use crate::fold::profile::Profile;
use crate::fold::window::Limits;
use crate::model::label::{LabelSet, LabelValue, REQUEST_NUMBER};

/// Which samples are wanted of the past.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// Those not older than this, in ns since the Unix epoch.
    pub since_unix_ns: i64,
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

/// The samples of `profiles` that are wanted, whatever request they are of.
///
/// # Errors
/// When there is no profile.
pub fn pick(profiles: &[Arc<Profile>], pick: &Pick) -> Result<Profile> {
    let mut merge = Merge::bounded(Limits::default());
    for profile in profiles {
        let mut chosen = profile.filtered(|labels| pick.takes(labels));
        for labels in &mut chosen.label_sets {
            labels.retain(|label| &*label.key != REQUEST_NUMBER);
        }
        merge.add(&chosen)?;
    }
    merge
        .finish()
        .map_err(|_| Error::state("nothing was recorded in that time"))
}

#[derive(Debug)]
struct Kept {
    profile: Arc<Profile>,
    bytes: usize,
}

/// The windows kept, bounded in time and in bytes.
#[derive(Debug)]
pub struct Ring {
    keep_ns: i64,
    max_bytes: usize,
    state: Mutex<(VecDeque<Kept>, usize)>,
}

impl Ring {
    /// An empty one.
    #[must_use]
    pub fn new(keep_ns: i64, max_bytes: usize) -> Self {
        Self {
            keep_ns,
            max_bytes,
            state: Mutex::new((VecDeque::new(), 0)),
        }
    }

    /// Adds a window; what has become too old or too much goes.
    pub fn push(&self, profile: Arc<Profile>) {
        let kept = Kept {
            bytes: profile.bytes(),
            profile,
        };
        let now_ns = end_of(&kept.profile);
        let mut state = self.state.lock();
        let (windows, bytes) = &mut *state;
        *bytes += kept.bytes;
        windows.push_back(kept);
        while let Some(oldest) = windows.front() {
            let is_old = end_of(&oldest.profile) < now_ns.saturating_sub(self.keep_ns);
            if !is_old && *bytes <= self.max_bytes {
                break;
            }
            *bytes -= oldest.bytes;
            windows.pop_front();
        }
    }

    /// The windows that end after this time, in ns since the Unix epoch, oldest first.
    #[must_use]
    pub fn since(&self, unix_ns: i64) -> Vec<Arc<Profile>> {
        let state = self.state.lock();
        let wanted = state
            .0
            .iter()
            .filter(|kept| end_of(&kept.profile) > unix_ns);
        wanted.map(|kept| kept.profile.clone()).collect()
    }

    /// Memory held in bytes, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.lock().1
    }
}

fn end_of(profile: &Profile) -> i64 {
    profile
        .meta
        .time_ns
        .saturating_add(profile.meta.duration_ns)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Ring;
    use crate::fold::profile::Profile;

    fn window(second: i64, values: usize) -> Arc<Profile> {
        let mut profile = Profile::default();
        profile.meta.time_ns = second * 1_000_000_000;
        profile.meta.duration_ns = 1_000_000_000;
        profile.values = vec![1; values];
        Arc::new(profile)
    }

    #[test]
    fn old_windows_go() {
        let ring = Ring::new(10_000_000_000, usize::MAX);
        for second in 0..100 {
            ring.push(window(second, 10));
        }
        assert_eq!(ring.since(0).len(), 11);
        assert_eq!(ring.since(98_000_000_000).len(), 2);
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let limit = 100_000;
        let ring = Ring::new(i64::MAX, limit);
        for second in 0..1_000 {
            ring.push(window(second, 100));
            assert!(ring.bytes() <= limit);
        }
        let kept = ring.since(0);
        assert!(kept.len() > 10);
        assert_eq!(ring.bytes(), kept.iter().map(|p| p.bytes()).sum::<usize>());
        // One window alone that is too large is not kept either.
        ring.push(window(2_000, limit));
        assert_eq!((ring.since(0).len(), ring.bytes()), (0, 0));
    }
}
