//! Files of `/proc/self/task/<id>/` that are read again and again.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::IntoRawFd as _;
use std::os::unix::fs::FileExt as _;

use super::descriptors;

/// A file of a thread, kept open.
#[derive(Debug)]
pub(super) struct ProcFile {
    /// There until the end.
    file: Option<File>,
    /// What was opened, in a table of descriptors in which others may close it and open a file of
    /// theirs under its number.
    identity: Option<(u64, u64)>,
}

impl ProcFile {
    /// `None` where there is no such file, or it may not be read.
    #[must_use]
    pub(super) fn open(thread_id: u64, name: &str) -> Option<Self> {
        let file = File::open(format!("/proc/self/task/{thread_id}/{name}")).ok()?;
        let identity = if descriptors::are_own() {
            None
        } else {
            identity(&file)
        };
        Some(Self {
            file: Some(file),
            identity,
        })
    }

    /// Whether it can be read again; if not, another has to be opened.
    #[must_use]
    pub(super) fn is_ours(&self) -> bool {
        self.identity.is_none() || self.identity == self.file.as_ref().and_then(identity)
    }

    /// What it says now, as much of it as fits; `None` if the thread has ended.
    #[must_use]
    pub(super) fn read<'buffer>(&self, buffer: &'buffer mut [u8]) -> Option<&'buffer [u8]> {
        let length = self.file.as_ref()?.read_at(buffer, 0).ok()?;
        buffer.get(..length)
    }
}

impl Drop for ProcFile {
    fn drop(&mut self) {
        if !self.is_ours()
            && let Some(file) = self.file.take()
        {
            // The number is somebody else's by now, and stays open.
            let _ = file.into_raw_fd();
        }
    }
}

/// By the call that CPython makes for a path; the standard library's makes another, statx.
fn identity(file: &File) -> Option<(u64, u64)> {
    use rustix::fs::{AtFlags, statat};
    let about = statat(file, c"", AtFlags::EMPTY_PATH).ok()?;
    Some((about.st_dev, about.st_ino))
}
