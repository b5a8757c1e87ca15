//! A directory held by its handle: whatever is renamed or linked meanwhile, files land in it.
#![forbid(unsafe_code)]

use std::fs::{DirBuilder, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHasher;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::file_name::{TEMPORARY_PREFIX, TEMPORARY_SUFFIX};
use super::lock::{self, Lock};
use crate::clock::filter;
use crate::error::{Error, Result};

/// How many new files in a row may be lost to another process's removal of left-overs.
const MAX_LOST_FILES: usize = 16;

/// A file's name, when it was last written (seconds, ns), and its bytes.
pub type Listed = (String, (i64, i64), u64);

/// What became of a new file.
enum Made {
    File(File),
    /// There is one of that name.
    Taken,
    /// Another process took it for a left-over.
    Lost,
}

/// An open directory of this user.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// Opens a directory, made with its parents for this user alone if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or is no directory.
    pub fn open_or_make(path: &Path) -> Result<Self> {
        Self::open(path).or_else(|_| {
            make(path).map_err(|error| {
                Error::os(
                    format!("cannot make the output directory {}", path.display()),
                    &error,
                )
            })?;
            Self::open(path)
        })
    }

    /// The same for what may come for months, and so for no directory of somebody else.
    ///
    /// # Errors
    /// When it cannot be made, is no directory, or belongs to somebody else.
    pub fn create(path: &Path) -> Result<Self> {
        let directory = Self::open_or_make(path)?;
        // By its own handle, with the call that CPython makes for a path.
        let owner = statat(&directory.handle, c"", AtFlags::EMPTY_PATH)
            .map_err(|error| directory.error("inspect", &error))?;
        let user = rustix::process::geteuid().as_raw();
        if owner.st_uid != user && owner.st_uid != 0 {
            return Err(Error::os(
                format!("refusing the output directory {}", path.display()),
                &format!(
                    "it belongs to user {}, who could read or replace what user {user} writes; \
                     choose a directory of your own",
                    owner.st_uid
                ),
            ));
        }
        Ok(directory)
    }

    /// Opens a directory that exists.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let handle = openat(
            CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|error| {
            Error::os(
                format!("cannot open the output directory {}", path.display()),
                &error,
            )
        })?;
        Ok(Self {
            path: path.to_owned(),
            handle: File::from(handle),
        })
    }

    /// Writes a file under a temporary name, makes it durable, and gives it its name.
    ///
    /// # Errors
    /// When any of that fails; no part of the file is then visible.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        // A directory that was deleted still takes no files, but says so only as "not found".
        let (temporary, file) = self.new_file()?;
        self.complete(&temporary, file, name, bytes)
    }

    /// As [`Self::write`], unless there is something of that name; returns whether it was written.
    ///
    /// The temporary's name is made of the file's own, and only one process can have it: between its
    /// look and the renaming nobody else who writes in this way gives that name away.
    ///
    /// # Errors
    /// When it can be made under no name.
    pub fn write_new(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        let mut hasher = FxHasher::default();
        name.hash(&mut hasher);
        let temporary = format!("{TEMPORARY_PREFIX}{:x}{TEMPORARY_SUFFIX}", hasher.finish());
        let Some(file) = self.make_own_file(&temporary)? else {
            return Ok(false);
        };
        if self.contains(name) {
            self.remove(&temporary);
            return Ok(false);
        }
        self.complete(&temporary, file, name, bytes).map(|()| true)
    }

    fn complete(&self, temporary: &str, mut file: File, name: &str, bytes: &[u8]) -> Result<()> {
        let written = file
            .write_all(bytes)
            .map_err(|error| self.error(&format!("write {name}"), &error))
            .and_then(|()| {
                renameat(&self.handle, temporary, &self.handle, name)
                    .map_err(|error| self.error(&format!("write {name}"), &error))
            });
        if written.is_err() {
            self.remove(temporary);
        } else if !filter::may_be_there() {
            // The name is in place; that it also survives a power cut is as good as it gets, and
            // some file systems refuse to sync a directory. No call to risk a process for.
            let _: std::result::Result<(), Errno> = fsync(&self.handle);
        }
        written
    }

    /// Shows that a file can be made here.
    ///
    /// # Errors
    /// When it cannot.
    pub fn probe(&self) -> Result<()> {
        let (temporary, _file) = self.new_file()?;
        self.remove(&temporary);
        Ok(())
    }

    /// Removes temporaries whose writer is gone: a live one holds a lock on its file.
    pub fn remove_leftovers(&self) {
        for (name, _, _) in self.list() {
            if !name.starts_with(TEMPORARY_PREFIX) || !name.ends_with(TEMPORARY_SUFFIX) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(file) = openat(&self.handle, name.as_str(), flags, Mode::empty()) else {
                continue;
            };
            if lock::share(file.as_fd()) == Lock::Held {
                self.remove(&name);
            }
        }
    }

    /// Removes a file; it does not matter whether it was there.
    pub fn remove(&self, name: &str) {
        let _: std::result::Result<(), Errno> = unlinkat(&self.handle, name, AtFlags::empty());
    }

    /// The regular files in this directory; empty when it cannot be read.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let Ok(entries) = rustix::fs::Dir::read_from(&self.handle) else {
            return Vec::new();
        };
        entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().to_str().ok()?.to_owned();
                let about = self.stat(&name)?;
                let is_file = rustix::fs::FileType::from_raw_mode(about.st_mode)
                    == rustix::fs::FileType::RegularFile;
                #[allow(
                    clippy::cast_lossless,
                    clippy::unnecessary_cast,
                    reason = "as libc has it"
                )]
                let written = (about.st_mtime as i64, about.st_mtime_nsec as i64);
                is_file.then(|| (name, written, u64::try_from(about.st_size).unwrap_or(0)))
            })
            .collect()
    }

    /// Whether there is an entry of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.stat(name).is_some()
    }

    /// The size of a file in bytes; 0 when it is not there.
    #[must_use]
    pub fn size(&self, name: &str) -> u64 {
        self.stat(name)
            .map_or(0, |about| u64::try_from(about.st_size).unwrap_or(0))
    }

    /// Whether a process with this id exists, as far as can be known.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn is_alive(pid: u32) -> bool {
        // Not by a signal: that is a call which a filter might kill for.
        let is_there = |path: &str| statat(CWD, path, AtFlags::empty()).is_ok();
        is_there(&format!("/proc/{pid}")) || !is_there("/proc/self")
    }

    /// Whether a process with this id exists.
    #[cfg(not(target_os = "linux"))]
    #[must_use]
    pub fn is_alive(pid: u32) -> bool {
        i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(Errno::SRCH))
    }

    fn stat(&self, name: &str) -> Option<rustix::fs::Stat> {
        statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// A new, locked file and its name.
    fn new_file(&self) -> Result<(String, File)> {
        for _ in 0..MAX_LOST_FILES {
            let name = temporary_name();
            if let Made::File(file) = self.make_file(&name)? {
                return Ok((name, file));
            }
        }
        Err(self.all_lost())
    }

    /// A new, locked file of that name; none if another process has it.
    fn make_own_file(&self, name: &str) -> Result<Option<File>> {
        for _ in 0..MAX_LOST_FILES {
            match self.make_file(name)? {
                Made::File(file) => return Ok(Some(file)),
                Made::Taken => return Ok(None),
                Made::Lost => {}
            }
        }
        Err(self.all_lost())
    }

    fn all_lost(&self) -> Error {
        self.error("make a file", &"something removes each one at once")
    }

    /// A new, locked file that only this user can read, whatever the umask. What is written to it is
    /// durable at once, so that no other call is needed for that.
    fn make_file(&self, name: &str) -> Result<Made> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::SYNC;
        let file = match openat(&self.handle, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => return Ok(Made::Taken),
            made => made.map_err(|error| self.error("make a file", &error))?,
        };
        if !self.lock_new(&file, name) {
            self.remove(name);
            return Ok(Made::Lost);
        }
        // A umask that takes away the owner's own rights is rare, and the file is ours all the same.
        if !filter::may_be_there()
            && let Err(error) = rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)
        {
            self.remove(name);
            return Err(self.error("make a file", &error));
        }
        Ok(Made::File(File::from(file)))
    }

    /// Locks a file just made; false if another process took it for a left-over before that.
    ///
    /// Where locks are not to be had, nobody else can get one either.
    fn lock_new(&self, file: &OwnedFd, name: &str) -> bool {
        lock::exclude(file.as_fd()) != Lock::Refused && self.contains(name)
    }

    fn error(&self, doing: &str, source: &dyn std::fmt::Display) -> Error {
        Error::os(format!("cannot {doing} in {}", self.path.display()), source)
    }
}

/// Makes a directory and its parents. The standard library does it as well, but then asks by statx
/// whether what is there already is a directory; here the next call finds that out.
fn make(path: &Path) -> std::io::Result<()> {
    let made = DirBuilder::new().mode(0o700).create(path);
    match made.as_ref().map_err(std::io::Error::kind) {
        Err(std::io::ErrorKind::AlreadyExists) => Ok(()),
        Err(std::io::ErrorKind::NotFound) => match path.parent() {
            Some(parent) if parent != Path::new("") => {
                make(parent)?;
                match DirBuilder::new().mode(0o700).create(path) {
                    // Another process was faster.
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
                    done => done,
                }
            }
            _ => made,
        },
        _ => made,
    }
}

fn temporary_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    // The time keeps a process apart from an earlier one of the same id.
    let time = crate::clock::cpu::monotonic_ns();
    format!("{TEMPORARY_PREFIX}{pid}-{time:x}-{number}{TEMPORARY_SUFFIX}")
}
