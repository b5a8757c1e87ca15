//! Sinks: where finished profiles go.
#![deny(unsafe_code)]

#[cfg(unix)]
pub mod directory;
#[cfg(not(unix))]
pub mod directory_plain;
pub mod file;
pub mod file_name;
pub mod growing_file;
pub mod heap_beside;
#[cfg(unix)]
mod lock;

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::fold::profile::Profile;

/// A destination for finished profiles, in the form that it takes.
pub trait Sink: Send {
    /// Delivers one complete profile; on failure nothing half-written is visible.
    ///
    /// # Errors
    /// When the destination refuses; the caller keeps the profile and may try again.
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery>;

    /// Whether each profile takes the place of the one before, and so has to hold it.
    fn replaces(&self) -> bool {
        false
    }

    /// Where this sink's earlier profiles are, as far as they are kept, oldest first.
    fn kept(&self) -> Vec<Receipt>;
}

/// A profile that has been delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where it is.
    pub receipt: Receipt,
    /// Its size in the form that was delivered.
    pub bytes: u64,
}

impl Delivery {
    /// One that is in a file.
    fn file(path: PathBuf, encoded: &[u8]) -> Self {
        Self {
            receipt: Receipt::File(path),
            bytes: encoded.len() as u64,
        }
    }
}

/// Where a delivered profile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// In this file.
    File(PathBuf),
}

impl Receipt {
    /// The file, if it is in one of this machine.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
        }
    }
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(formatter),
        }
    }
}
