//! Where a thread was seen computing last.
#![forbid(unsafe_code)]

use super::Spot;

/// In how many parts, at the most, CPU time that no stack was seen spending is charged.
const MAX_SPOTS: usize = 16;

/// Where a thread was seen computing last, and the CPU time that it was charged with each time.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecentSpots {
    spots: [(Option<Spot>, u32); MAX_SPOTS],
    /// How often it was seen computing.
    count: usize,
}

impl Default for RecentSpots {
    fn default() -> Self {
        Self {
            spots: [(None, 0); MAX_SPOTS],
            count: 0,
        }
    }
}

impl RecentSpots {
    /// It was seen computing at `spot` as well, and was charged with `cpu_ns` for it.
    pub(super) fn push(&mut self, spot: Option<Spot>, cpu_ns: u64) {
        let weight = u32::try_from(cpu_ns).unwrap_or(u32::MAX);
        self.spots[self.count % MAX_SPOTS] = (spot, weight);
        self.count += 1;
    }

    /// The last of them, if there was any.
    pub(super) fn last(&self) -> Option<Option<Spot>> {
        let last = self.count.checked_sub(1)?;
        Some(self.spots[last % MAX_SPOTS].0)
    }

    /// Divides `cpu_ns` among them; what cannot be divided is left.
    pub(super) fn parts(&self, cpu_ns: u64) -> impl Iterator<Item = (Option<Spot>, u64)> {
        let spots = &self.spots[..self.count.min(MAX_SPOTS)];
        let charged_ns: u64 = spots.iter().map(|&(_, weight)| u64::from(weight)).sum();
        spots.iter().map(move |&(spot, weight)| {
            let part = u128::from(cpu_ns) * u128::from(weight) / u128::from(charged_ns.max(1));
            (spot, u64::try_from(part).unwrap_or(0))
        })
    }
}
