//! Captures: wishes for the next so many requests, and only they.
#![forbid(unsafe_code)]

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Requests, State};
use crate::error::{Error, Result};
use crate::session::control::RecordingId;

/// Captures at a time, one bit each of `ActiveLabels::captures`.
const MAX_CAPTURES: u32 = 16;
/// Requests one capture may want.
pub const MAX_WANTED: u32 = 1_000_000;

/// A wish for the next so many requests.
#[derive(Debug)]
pub struct Capture {
    /// Its bit in `ActiveLabels::captures`.
    pub bit: u64,
    /// Disconnected when all have ended.
    pub done: Receiver<()>,
    /// The recording that takes them.
    pub recording: Option<RecordingId>,
}

#[derive(Debug)]
pub(super) struct CaptureState {
    bit: u64,
    route: Option<String>,
    wanted: u32,
    begun: u32,
    durations: Vec<(u64, u64)>,
    /// Dropped when all have ended.
    done: Option<Sender<()>>,
}

impl Requests {
    /// Makes room for a capture. Requests are counted from [`Self::open`] on.
    ///
    /// # Errors
    /// When there are too many captures.
    pub fn capture(&self) -> Result<Capture> {
        let mut state = self.state.lock();
        let taken = state.captures.iter().fold(0, |bits, c| bits | c.bit);
        let bit = (0..MAX_CAPTURES)
            .map(|number| 1_u64 << number)
            .find(|bit| taken & bit == 0)
            .ok_or_else(|| {
                Error::state(format!(
                    "{MAX_CAPTURES} captures are waiting for requests already; close one first"
                ))
            })?;
        let (sender, done) = bounded(0);
        state.captures.push(CaptureState {
            bit,
            route: None,
            wanted: 0,
            begun: 0,
            durations: Vec::new(),
            done: Some(sender),
        });
        Ok(Capture {
            bit,
            done,
            recording: None,
        })
    }

    /// From now on requests are taken.
    pub fn open(&self, bit: u64, wanted: u32, route: Option<String>) {
        let mut state = self.state.lock();
        if let Some(capture) = state.captures.iter_mut().find(|c| c.bit == bit) {
            capture.wanted = wanted;
            capture.route = route;
        }
    }

    /// How many requests a capture has: begun and ended.
    #[must_use]
    pub fn progress(&self, bit: u64) -> (u32, u32) {
        let state = self.state.lock();
        let capture = state.captures.iter().find(|c| c.bit == bit);
        capture.map_or((0, 0), |capture| {
            let ended = u32::try_from(capture.durations.len()).unwrap_or(u32::MAX);
            (capture.begun, ended)
        })
    }

    /// Ends a capture; returns number and duration of each request that has ended.
    pub fn close(&self, bit: u64) -> Vec<(u64, u64)> {
        let mut state = self.state.lock();
        let index = state.captures.iter().position(|c| c.bit == bit);
        index.map_or_else(Vec::new, |at| state.captures.swap_remove(at).durations)
    }
}

impl State {
    /// Counts a request of this route for all captures that want it.
    pub(super) fn claim(&mut self, route: &str, allowed: u64) -> u64 {
        let mut captures = 0;
        for capture in &mut self.captures {
            let is_wanted = capture
                .route
                .as_deref()
                .is_none_or(|wanted| wanted == route);
            if is_wanted && capture.begun < capture.wanted && allowed & capture.bit != 0 {
                capture.begun += 1;
                captures |= capture.bit;
            }
        }
        captures
    }

    /// Counts a request that has ended for the captures that had taken it.
    pub(super) fn count_captured(&mut self, captures: u64, number: u64, duration_ns: u64) {
        for capture in &mut self.captures {
            if captures & capture.bit != 0 {
                capture.durations.push((number, duration_ns));
                if capture.durations.len() >= capture.wanted as usize {
                    capture.done = None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::TryRecvError;

    use crate::session::requests::Requests;

    #[test]
    fn exactly_as_many_requests_are_captured_as_are_wanted() -> crate::error::Result<()> {
        let requests = Requests::default();
        let capture = requests.capture()?;
        assert_eq!(requests.begin("/a", None, u64::MAX).captures, 0);
        requests.open(capture.bit, 3, Some("/a".to_owned()));
        let mut taken = Vec::new();
        for turn in 0..20 {
            let route = if turn % 2 == 0 { "/a" } else { "/b" };
            let begun = requests.begin(route, None, u64::MAX);
            if begun.captures != 0 {
                assert_eq!(route, "/a");
                taken.push(begun.number);
            }
            assert!(requests.begin("/a", None, 0).captures == 0);
        }
        assert_eq!(taken.len(), 3);
        assert_eq!(requests.progress(capture.bit), (3, 0));
        for number in &taken {
            assert_eq!(capture.done.try_recv(), Err(TryRecvError::Empty));
            assert!(requests.end(*number, None).is_some());
        }
        assert_eq!(capture.done.try_recv(), Err(TryRecvError::Disconnected));
        let ended: Vec<u64> = requests.close(capture.bit).iter().map(|r| r.0).collect();
        assert_eq!(ended, taken);
        Ok(())
    }
}
