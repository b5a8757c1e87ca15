//! Files: complete or not there at all, private, and never more than is to be kept.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::Sink;
use super::file_name::{self, Fields, SUFFIX, WINDOW_PATTERN, expand};
use crate::error::{Error, Result};

#[cfg(unix)]
use super::directory::Directory;
#[cfg(not(unix))]
use super::directory_plain::Directory;

/// Where files go and how many stay.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// A directory, or a path ending in `.pb.gz`, with fields.
    pub output: PathBuf,
    /// The program's name.
    pub program: String,
    /// This process.
    pub pid: u32,
    /// Files kept: of this process, and of all its dead predecessors together.
    pub keep_files: usize,
    /// Bytes kept, of all processes of this program.
    pub keep_bytes: u64,
    /// Start of the recording, in ns since the Unix epoch.
    pub start_unix_ns: i64,
}

/// Whether `output` makes a file for each window rather than one at the end.
#[must_use]
pub fn rotates(output: &str) -> bool {
    !output.ends_with(SUFFIX) || output.contains("{seq}")
}

/// Fills the fields of `output` in.
///
/// # Errors
/// When it has an unknown field.
pub fn expand_output(output: &str, fields: &Fields<'_>) -> Result<PathBuf> {
    expand(output, fields).map(PathBuf::from)
}

/// Writes one file at `path`, whole or not at all.
///
/// # Errors
/// When the directory does not exist or refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let (parent, name) = split(path)?;
    Directory::open(&parent)?.write(&name, bytes)
}

/// A directory that receives profiles.
pub struct FileSink {
    config: FileConfig,
    path: PathBuf,
    pattern: String,
    /// Whether other processes of this program write into the same directory by design.
    is_shared: bool,
    directory: Directory,
    seq: u64,
    written: Vec<PathBuf>,
}

impl FileSink {
    /// Makes the directory if need be, and shows that a file can be written there.
    ///
    /// # Errors
    /// When that is not so; the message names the path.
    pub fn open(config: FileConfig) -> Result<Self> {
        let output = config.output.to_string_lossy().into_owned();
        let is_shared = !output.ends_with(SUFFIX);
        let (path, pattern) = if is_shared {
            (config.output.clone(), WINDOW_PATTERN.to_owned())
        } else {
            split(&config.output)?
        };
        let sink = Self {
            directory: Directory::create(&path)?,
            config,
            path,
            pattern,
            is_shared,
            seq: 0,
            written: Vec::new(),
        };
        sink.name(1)?;
        sink.directory.remove_leftovers();
        sink.directory.probe()?;
        Ok(sink)
    }

    fn name(&self, seq: u64) -> Result<String> {
        expand(
            &self.pattern,
            &Fields {
                program: &self.config.program,
                pid: self.config.pid,
                start_unix_ns: self.config.start_unix_ns,
                seq,
            },
        )
    }

    /// Removes the oldest files beyond what is to be kept. A file that cannot be removed, perhaps
    /// because another process was faster, is simply left.
    fn prune(&mut self, newest: &str) {
        if !self.pattern.contains("{seq}") {
            return;
        }
        // (is own, name, bytes), oldest first.
        let mut files: Vec<(bool, String, u64)> = Vec::new();
        let own_names = self
            .written
            .iter()
            .filter_map(|path| path.file_name()?.to_str());
        if self.is_shared {
            let mut listed = self.directory.list();
            listed.sort_by(|left, right| (left.1, &left.0).cmp(&(right.1, &right.0)));
            for (name, _, bytes) in listed {
                match file_name::pid_of_window(&name, &self.config.program) {
                    Some(pid) if pid == self.config.pid => files.push((true, name, bytes)),
                    Some(pid) if !Directory::is_alive(pid) => files.push((false, name, bytes)),
                    _ => {}
                }
            }
        } else {
            for name in own_names {
                let bytes = self.directory.size(name);
                files.push((true, name.to_owned(), bytes));
            }
        }
        let mut counts = [0_usize; 2];
        let mut bytes = 0_u64;
        for (is_own, name, size) in files.iter().rev() {
            let count = &mut counts[usize::from(*is_own)];
            *count += 1;
            bytes = bytes.saturating_add(*size);
            if name != newest && (*count > self.config.keep_files || bytes > self.config.keep_bytes)
            {
                self.directory.remove(name);
            }
        }
        let directory = &self.directory;
        self.written.retain(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| directory.size(name) > 0)
        });
    }
}

impl Sink for FileSink {
    fn write(&mut self, encoded: &[u8]) -> Result<PathBuf> {
        let name = self.name(self.seq + 1)?;
        if let Err(first) = self.directory.write(&name, encoded) {
            // The directory may have been deleted or replaced: look for it anew, once.
            self.directory = Directory::create(&self.path).map_err(|_| first)?;
            self.directory.write(&name, encoded)?;
        }
        self.seq += 1;
        let path = self.path.join(&name);
        if self.written.last() != Some(&path) {
            self.written.push(path.clone());
        }
        self.prune(&name);
        Ok(path)
    }

    fn kept(&self) -> Vec<PathBuf> {
        self.written.clone()
    }
}

fn split(path: &Path) -> Result<(PathBuf, String)> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::value(format!("{} does not name a file", path.display())))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Ok((parent, name.to_owned()))
}
