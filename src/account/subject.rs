//! Whose time is accounted.
#![forbid(unsafe_code)]

use crate::model::snapshot::ThreadKey;

/// Something that has an account: what it does is observed, and its time is charged to stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A thread of the operating system.
    Thread(ThreadKey),
}
