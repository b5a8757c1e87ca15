//! What the session tells its sampler; the only thing that flows backwards.
#![forbid(unsafe_code)]

use crossbeam_channel::Sender;

use super::recording::Recording;
use crate::fold::profile::Profile;

/// Names a recording for as long as the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordingId(pub u64);

/// A thread that the sampler has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The kernel's id.
    pub thread_id: u64,
    /// Its CPU clock in ns.
    pub cpu_ns: Option<u64>,
    /// When that was last seen to move, in ns.
    pub since_ns: u64,
}

/// A message to the sampler.
#[derive(Debug)]
pub enum Control {
    /// Begin; the sender is dropped once the recording has its first snapshot.
    Start(Box<Recording>, Sender<()>),
    /// End and return the open window.
    Stop(RecordingId, Sender<Box<Profile>>),
    /// Return the open window and go on with an empty one.
    Rotate(RecordingId, Sender<Box<Profile>>),
    /// Record nothing until resumed; the sender is dropped once that holds.
    Pause(RecordingId, Sender<()>),
    /// Go on recording.
    Resume(RecordingId),
    /// Tell how long threads have been where they are.
    Standing(Sender<Vec<Standing>>),
}
