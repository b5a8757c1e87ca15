//! Sinks: where finished profiles go.
#![deny(unsafe_code)]

#[cfg(unix)]
pub mod directory;
#[cfg(not(unix))]
pub mod directory_plain;
pub mod file;
pub mod file_name;
#[cfg(unix)]
mod lock;

use std::path::PathBuf;

use crate::error::Result;

/// A destination for encoded profiles.
pub trait Sink: Send {
    /// Stores one complete profile and says where; on failure nothing half-written is visible.
    ///
    /// # Errors
    /// When the destination refuses; the caller keeps the profile and may try again.
    fn write(&mut self, encoded: &[u8]) -> Result<PathBuf>;

    /// Whether each profile takes the place of the one before, and so has to hold it.
    fn replaces(&self) -> bool {
        false
    }

    /// What of this sink's earlier profiles is still kept, oldest first.
    fn kept(&self) -> Vec<PathBuf>;
}
