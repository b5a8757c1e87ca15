//! A directory by its path, for systems without directory handles. Untested: no such machine was
//! at hand.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file's name, when it was last written (seconds, ns), and its bytes.
pub type Listed = (String, (i64, i64), u64);

/// A directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Opens a directory, made with its parents if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        Self::open_or_make(path)
    }

    /// The same.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open_or_make(path: &Path) -> Result<Self> {
        let context = || format!("cannot make the output directory {}", path.display());
        fs::create_dir_all(path).map_err(|error| Error::os(context(), &error))?;
        Self::open(path)
    }

    /// Opens a directory that exists.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(path: &Path) -> Result<Self> {
        let context = || format!("cannot open the output directory {}", path.display());
        fs::read_dir(path).map_err(|error| Error::os(context(), &error))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Writes a file under a temporary name and gives it its name.
    ///
    /// # Errors
    /// When any of that fails; no part of the file is then visible.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = self.path.join(format!("{name}.{}.tmp", std::process::id()));
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, self.path.join(name)))
            .map_err(|error| {
                // Nothing more can be done about a temporary that cannot be removed either.
                let _: std::io::Result<()> = fs::remove_file(&temporary);
                let context = format!("cannot write {name} in {}", self.path.display());
                Error::os(context, &error)
            })
    }

    /// As [`Self::write`], unless there is something of that name; returns whether it was written.
    ///
    /// # Errors
    /// As for that.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        if self.contains(name) {
            return Ok(false);
        }
        self.write(name, bytes).map(|()| true)
    }

    /// Shows that a file can be made here.
    ///
    /// # Errors
    /// When it cannot.
    pub fn probe(&self) -> Result<()> {
        self.write(".rprof-probe", b"")?;
        self.remove(".rprof-probe");
        Ok(())
    }

    /// Left-overs cannot be told from live temporaries without locks, and are left.
    pub fn remove_leftovers(&self) {}

    /// Removes a file; it does not matter whether it was there.
    pub fn remove(&self, name: &str) {
        let _: std::io::Result<()> = fs::remove_file(self.path.join(name));
    }

    /// The files in this directory; empty when it cannot be read.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let Ok(entries) = fs::read_dir(&self.path) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let about = entry.metadata().ok()?;
                let written = about
                    .modified()
                    .ok()?
                    .duration_since(std::time::UNIX_EPOCH)
                    .ok()?;
                let written = (
                    i64::try_from(written.as_secs()).ok()?,
                    i64::from(written.subsec_nanos()),
                );
                Some((entry.file_name().into_string().ok()?, written, about.len()))
            })
            .collect()
    }

    /// Whether there is an entry of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// The size of a file in bytes; 0 when it is not there.
    #[must_use]
    pub fn size(&self, name: &str) -> u64 {
        fs::metadata(self.path.join(name)).map_or(0, |about| about.len())
    }

    /// Other processes cannot be asked after here: all count as alive, their files as theirs.
    #[must_use]
    pub fn is_alive(_pid: u32) -> bool {
        true
    }
}
