//! A file that grows with its recording.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::file::{write_file, write_new_file};
use super::{Delivery, Receipt, Sink};
use crate::error::Result;
use crate::fold::profile::Profile;
use crate::pprof::encode::encode;

/// One file that is always there as a whole, and is written again with all that came since.
pub struct GrowingFile {
    path: PathBuf,
    /// Whether it may take the place of what was there before.
    is_to_replace: bool,
    is_written: bool,
}

impl GrowingFile {
    /// A file at `path`, which has no fields; its directory exists. If it is not `is_to_replace` and
    /// there is one of that name, it gets a number.
    #[must_use]
    pub fn new(path: PathBuf, is_to_replace: bool) -> Self {
        Self {
            path,
            is_to_replace,
            is_written: false,
        }
    }

    /// Stores all that there is so far, whole, and says where.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn write(&mut self, encoded: &[u8]) -> Result<PathBuf> {
        if self.is_written || self.is_to_replace {
            write_file(&self.path, encoded)?;
        } else {
            self.path = write_new_file(&self.path, encoded)?;
        }
        self.is_written = true;
        Ok(self.path.clone())
    }
}

impl Sink for GrowingFile {
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery> {
        let encoded = encode(profile)?;
        Ok(Delivery::file(self.write(&encoded)?, &encoded))
    }

    fn replaces(&self) -> bool {
        true
    }

    fn kept(&self) -> Vec<Receipt> {
        let receipt = Receipt::File(self.path.clone());
        self.is_written.then_some(receipt).into_iter().collect()
    }
}
