//! Files: complete or not there at all, private, and never more than is to be kept.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use super::file_name::{self, Fields, SUFFIX, WINDOW_PATTERN, expand, names_several, numbered};
use super::{Delivery, Receipt, Sink};
use crate::error::{Error, Result};
use crate::fold::profile::Profile;
use crate::pprof::encode::encode;

#[cfg(unix)]
use super::directory::{Directory, Listed};
#[cfg(not(unix))]
use super::directory_plain::{Directory, Listed};

/// Where files go and how many stay.
#[derive(Clone, Debug)]
pub struct FileConfig {
    /// A directory, or a path ending in `.pb.gz`, with fields.
    pub output: PathBuf,
    /// The program's name.
    pub program: String,
    /// This process.
    pub pid: u32,
    /// Files kept: of this process, and of all its dead predecessors together; those of others that
    /// live are theirs.
    pub keep_files: usize,
    /// Bytes kept, of all processes of this program.
    pub keep_bytes: u64,
    /// Start of the recording, in ns since the Unix epoch.
    pub start_unix_ns: i64,
    /// The ending of names in a directory: of windows, or of heaps.
    pub suffix: &'static str,
    /// Length of a window in ns; 0 if there is one file alone.
    pub window_ns: u64,
}

/// Windows after which a process that has written none is taken for dead, if it is not seen here:
/// it may live in another container.
const SILENT_WINDOWS: u64 = 3;
/// Files of this process that are remembered, at most.
const MAX_REMEMBERED: usize = 1 << 20;
/// How many names in a row may be taken.
const MAX_TAKEN: u64 = 1_000_000;

/// The files that this process has written, whatever became of them; a forked child's have another
/// process id in their names. Replicas in containers may have the same ids.
static WRITTEN_HERE: Mutex<Option<FxHashSet<PathBuf>>> = Mutex::new(None);

/// Whether `output` makes a file for each window rather than one at the end.
#[must_use]
pub fn rotates(output: &str) -> bool {
    !output.ends_with(SUFFIX) || output.contains("{seq}")
}

/// Fills the fields of `output` in.
///
/// # Errors
/// When it has an unknown field.
pub fn expand_output(output: &Path, fields: &Fields<'_>) -> Result<PathBuf> {
    if let Some(text) = output.to_str() {
        return expand(text, fields).map(PathBuf::from);
    }
    let (parent, pattern) = split(output)?;
    Ok(parent.join(expand(&pattern, fields)?))
}

/// Writes one file at `path`, whole or not at all, with a number where that is taken; returns where.
///
/// # Errors
/// As [`write_file`].
pub fn write_new_file(path: &Path, bytes: &[u8]) -> Result<PathBuf> {
    let (parent, name) = split(path)?;
    let directory = Directory::open(&parent)?;
    for number in 1..=MAX_TAKEN {
        let name = numbered(&name, number);
        if directory.write_new(&name, bytes)? {
            return Ok(parent.join(name));
        }
    }
    Err(all_taken(path))
}

/// Which names [`write_output`] may use, where those of its pattern are several.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'path> {
    /// The one that may be replaced.
    pub own: Option<&'path Path>,
    /// The number after which to look for a free one, if the first is taken.
    pub after: u64,
}

/// Writes one file at what `output` says, and returns where and with which number. If the names that
/// it makes are several, none of another process or run is replaced.
///
/// # Errors
/// When it has an unknown field, or the directory does not exist or refuses.
pub fn write_output(
    output: &Path,
    fields: &Fields<'_>,
    names: Names<'_>,
    bytes: &[u8],
) -> Result<(PathBuf, u64)> {
    let pattern = output.to_string_lossy();
    if !names_several(&pattern) {
        let path = expand_output(output, fields)?;
        write_file(&path, bytes)?;
        return Ok((path, fields.seq));
    }
    let counts = pattern.contains("{seq}");
    for number in 1..=MAX_TAKEN {
        let seq = match number {
            1 => fields.seq,
            _ if counts => fields.seq.max(names.after) + number - 1,
            _ => fields.seq,
        };
        let fields = Fields {
            seq,
            ..fields.clone()
        };
        let (parent, name) = split(&expand_output(output, &fields)?)?;
        let name = if counts {
            name
        } else {
            numbered(&name, number)
        };
        let path = parent.join(&name);
        let directory = Directory::open(&parent)?;
        if names.own == Some(path.as_path()) {
            directory.write(&name, bytes)?;
        } else if !directory.write_new(&name, bytes)? {
            continue;
        }
        return Ok((path, seq));
    }
    Err(all_taken(output))
}

#[cold]
fn all_taken(output: &Path) -> Error {
    Error::os(
        format!("cannot write {}", output.display()),
        &"all names that it could have are taken",
    )
}

/// Writes one file at `path`, whole or not at all.
///
/// # Errors
/// When the directory does not exist or refuses.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let (parent, name) = split(path)?;
    Directory::open(&parent)?.write(&name, bytes)
}

/// The same, in a directory that is made if it is not there.
///
/// # Errors
/// When the directory cannot be made, or refuses.
pub fn write_file_making_directory(path: &Path, bytes: &[u8]) -> Result<()> {
    let (parent, name) = split(path)?;
    Directory::open_or_make(&parent)?.write(&name, bytes)
}

/// Reads a file of at most `max_bytes`.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let error = |source: &dyn Display| Error::os(format!("cannot read {}", path.display()), source);
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
        .map_err(|source| error(&source))?;
    if bytes.len() as u64 > max_bytes {
        return Err(error(&format!("it has more than {max_bytes} bytes")));
    }
    Ok(bytes)
}

/// A directory that receives profiles.
pub struct FileSink {
    config: FileConfig,
    path: PathBuf,
    pattern: String,
    /// Whether other processes of this program write into the same directory by design.
    is_shared: bool,
    seq: u64,
    written: Vec<PathBuf>,
}

/// Whose a file is; `keep_bytes` bounds them all together, `keep_files` not those of the living.
enum Writer {
    This,
    Living,
    Dead,
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
            (
                config.output.clone(),
                format!("{WINDOW_PATTERN}{}", config.suffix),
            )
        } else {
            split(&config.output)?
        };
        // Absolute, because a program may change its directory, and a daemon does; unless only the
        // path as given can be reached, as after a change of user.
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let (path, directory) = match Directory::create(&absolute) {
            Ok(directory) => (absolute, directory),
            Err(_) => {
                let directory = Directory::create(&path)?;
                (path, directory)
            }
        };
        let sink = Self {
            config,
            path,
            pattern,
            is_shared,
            seq: 0,
            written: Vec::new(),
        };
        sink.name(1)?;
        directory.remove_leftovers();
        directory.probe()?;
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

    /// Writes the next file. A name that is taken belongs to another recording that this process
    /// began in the same second, or to another process.
    fn write_next(&mut self, directory: &Directory, encoded: &[u8]) -> Result<String> {
        let counts = self.pattern.contains("{seq}");
        if !counts && let Some(own) = self.written.last().and_then(|path| path.file_name()) {
            // The one file of this recording, as far as it has come.
            let name = own.to_string_lossy().into_owned();
            directory.write(&name, encoded)?;
            return Ok(name);
        }
        if !names_several(&self.pattern) {
            let name = self.name(self.seq + 1)?;
            directory.write(&name, encoded)?;
            return Ok(name);
        }
        for number in 1..=MAX_TAKEN {
            let name = if counts {
                self.name(self.seq + 1)?
            } else {
                numbered(&self.name(1)?, number)
            };
            if directory.write_new(&name, encoded)? {
                return Ok(name);
            }
            if counts {
                self.seq += 1;
            }
        }
        Err(all_taken(&self.config.output))
    }

    fn remember(&self, path: &Path, listed: Option<&[Listed]>) {
        let Some(mut written) = WRITTEN_HERE.try_lock() else {
            return;
        };
        let written = written.get_or_insert_default();
        if let Some(listed) = listed {
            // Those of this directory that are not there any more.
            let there: FxHashSet<&str> = listed.iter().map(|entry| entry.0.as_str()).collect();
            written.retain(|known| {
                known.parent() != Some(self.path.as_path())
                    || (known.file_name().and_then(|name| name.to_str()))
                        .is_some_and(|name| there.contains(name))
            });
        }
        if written.len() >= MAX_REMEMBERED {
            written.clear();
        }
        written.insert(path.to_owned());
    }

    fn is_written_here(&self, name: &str) -> bool {
        let path = self.path.join(name);
        self.written.contains(&path)
            || WRITTEN_HERE
                .try_lock()
                .is_some_and(|written| written.as_ref().is_some_and(|known| known.contains(&path)))
    }

    /// What is known of the recordings that these files are windows of: whether they write no more.
    /// The newest file here tells what time it is to the file system.
    fn silent_recordings<'names>(&self, listed: &'names [Listed]) -> FxHashMap<&'names str, bool> {
        let mut last: FxHashMap<&str, (i64, i64)> = FxHashMap::default();
        for (name, written, _) in listed {
            if let Some(recording) =
                file_name::recording_of_window(name, &self.config.program, self.config.suffix)
            {
                let known = last.entry(recording).or_insert(*written);
                *known = (*known).max(*written);
            }
        }
        let nanoseconds =
            |(seconds, ns): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let now = last.values().copied().max().map_or(0, nanoseconds);
        let patience = i128::from(self.config.window_ns) * i128::from(SILENT_WINDOWS);
        last.into_iter()
            .map(|(recording, written)| (recording, now - nanoseconds(written) >= patience))
            .collect()
    }

    /// Brings the files of this recording into the order in which they were written: where the
    /// system's clock has been set back, the newest seem to be the oldest.
    fn put_own_in_order(&self, listed: &mut [Listed]) {
        let ranks: FxHashMap<&str, usize> = (self.written.iter())
            .enumerate()
            .filter_map(|(rank, path)| Some((path.file_name()?.to_str()?, rank)))
            .collect();
        let rank = |entry: &Listed| ranks.get(entry.0.as_str()).copied();
        let indexes: Vec<usize> = (0..listed.len())
            .filter(|index| rank(&listed[*index]).is_some())
            .collect();
        let mut own: Vec<Listed> = indexes.iter().map(|index| listed[*index].clone()).collect();
        own.sort_by_key(rank);
        for (index, entry) in indexes.into_iter().zip(own) {
            listed[index] = entry;
        }
    }

    /// Removes the oldest files beyond what is to be kept. A file that cannot be removed, perhaps
    /// because another process was faster, is simply left.
    fn prune(&mut self, directory: &Directory, newest: &str) {
        if !self.pattern.contains("{seq}") {
            return;
        }
        // Oldest first.
        let mut files: Vec<(Writer, String, u64)> = Vec::new();
        if self.is_shared {
            let mut listed = directory.list();
            listed.sort_by(|left, right| (left.1, &left.0).cmp(&(right.1, &right.0)));
            self.put_own_in_order(&mut listed);
            self.remember(&self.path.join(newest), Some(&listed));
            let silent = self.silent_recordings(&listed);
            for (name, _, bytes) in &listed {
                let Some(pid) =
                    file_name::pid_of_window(name, &self.config.program, self.config.suffix)
                else {
                    continue;
                };
                let recording =
                    file_name::recording_of_window(name, &self.config.program, self.config.suffix);
                let is_silent =
                    recording.and_then(|recording| silent.get(recording)) == Some(&true);
                let writer = if pid == self.config.pid && self.is_written_here(name) {
                    Writer::This
                } else if !is_silent || (pid != self.config.pid && Directory::is_alive(pid)) {
                    Writer::Living
                } else {
                    Writer::Dead
                };
                files.push((writer, name.clone(), *bytes));
            }
        } else {
            let own_names = self
                .written
                .iter()
                .filter_map(|path| path.file_name()?.to_str());
            for name in own_names {
                files.push((Writer::This, name.to_owned(), directory.size(name)));
            }
        }
        let (mut of_this, mut of_dead) = (0_usize, 0_usize);
        let mut total = directory.size(newest);
        for (writer, name, bytes) in files.iter().rev() {
            let count = match writer {
                Writer::This => &mut of_this,
                Writer::Dead => &mut of_dead,
                // A living process counts its own.
                Writer::Living => &mut 0,
            };
            *count += 1;
            if name == newest {
                continue;
            }
            if *count > self.config.keep_files {
                directory.remove(name);
                continue;
            }
            total = total.saturating_add(*bytes);
            if total > self.config.keep_bytes {
                directory.remove(name);
            }
        }
        self.written.retain(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| directory.size(name) > 0)
        });
    }
}

impl FileSink {
    /// Stores one complete file and says where.
    ///
    /// # Errors
    /// When the directory refuses.
    pub fn write(&mut self, encoded: &[u8]) -> Result<PathBuf> {
        // Opened for each file: a descriptor that is kept would stand in the way of a program that
        // counts or closes them, and a directory that was deleted or replaced is found anew.
        let directory = Directory::create(&self.path)?;
        let name = self.write_next(&directory, encoded)?;
        self.seq += 1;
        let path = self.path.join(&name);
        if self.written.last() != Some(&path) {
            self.written.push(path.clone());
        }
        self.prune(&directory, &name);
        Ok(path)
    }
}

impl Sink for FileSink {
    fn deliver(&mut self, profile: &Profile) -> Result<Delivery> {
        let encoded = encode(profile)?;
        Ok(Delivery::file(self.write(&encoded)?, &encoded))
    }

    fn kept(&self) -> Vec<Receipt> {
        self.written.iter().cloned().map(Receipt::File).collect()
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
