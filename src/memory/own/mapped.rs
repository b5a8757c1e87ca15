//! Copies into a file that is mapped, one of memory or one without a name: the fastest means.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::ptr;

use super::{CAPACITY, Descriptor, vectors, whole};
use crate::memory::{Range, ReadMemory};

/// Bytes that a file keeps once they were written. Copies are larger where recursion is deep.
const KEPT: usize = 64 << 10;
/// Copies in a row that need no more, after which what is beyond is given back.
const CALM_COPIES: u32 = 1_000;

pub(super) fn memory_file() -> std::io::Result<File> {
    // SAFETY: the name is a C string; the call returns a new descriptor or -1.
    let descriptor = unsafe { libc::memfd_create(c"rprof".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

pub(super) fn unlinked_file() -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
    for directory in ["/dev/shm", "/tmp"] {
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_TMPFILE | libc::O_CLOEXEC)
            .mode(0o600)
            .open(directory);
        match opened {
            Ok(file) => return Ok(file),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A file that the kernel copies into, mapped to be read here.
pub(super) struct Mapped {
    pub(super) file: Descriptor,
    map: *mut u8,
    vectors: Vec<libc::iovec>,
    /// The end of what holds memory, if that is beyond what is kept, else 0.
    reached: usize,
    /// Copies since one needed that.
    calm: u32,
    name: &'static str,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for Mapped {}

impl Mapped {
    pub(super) fn new(
        mut file: File,
        is_shared: bool,
        name: &'static str,
    ) -> std::io::Result<Self> {
        // As long as by ftruncate, and only what is written to takes memory.
        file.seek(SeekFrom::Start(CAPACITY as u64 - 1))?;
        file.write_all(&[0])?;
        // SAFETY: a new mapping of a file of this size, at an address the kernel chooses.
        let map = unsafe {
            libc::mmap(
                ptr::null_mut(),
                CAPACITY,
                // Nothing is written by it; but what may not be written cannot be given back.
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // A forked child would share it with us; it makes its own. Best effort.
        // SAFETY: the mapping was made above.
        unsafe { libc::madvise(map, CAPACITY, libc::MADV_DONTFORK) };
        Ok(Self {
            file: Descriptor::new(file.into(), is_shared),
            map: map.cast(),
            vectors: Vec::new(),
            reached: 0,
            calm: 0,
            name,
        })
    }

    /// Gives back what only a large copy has needed, once copies have been small for a while.
    #[inline]
    fn tidy(&mut self, copied: usize) {
        if copied > KEPT {
            self.reached = self.reached.max(copied);
            self.calm = 0;
        } else if self.reached > 0 {
            self.calm += 1;
            if self.calm == CALM_COPIES {
                // Best effort: not every file system can.
                // SAFETY: it is part of the mapping, of whose bytes nobody has a reference.
                unsafe {
                    let tail = self.map.add(KEPT).cast();
                    libc::madvise(tail, self.reached - KEPT, libc::MADV_REMOVE);
                }
                self.reached = 0;
            }
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no slice of it outlives `self`.
        unsafe { libc::munmap(self.map.cast(), CAPACITY) };
    }
}

impl ReadMemory for Mapped {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        let Some(file) = self.file.number() else {
            return 0;
        };
        vectors(ranges, CAPACITY, &mut self.vectors);
        // SAFETY: the kernel checks every address it reads and reports a fault as a short count.
        let copied = unsafe {
            libc::pwritev(
                file,
                self.vectors.as_ptr(),
                self.vectors.len() as libc::c_int,
                0,
            )
        };
        self.tidy(usize::try_from(copied).unwrap_or(0));
        whole(ranges, self.vectors.len(), copied)
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is CAPACITY bytes long and lives as long as `self`; only
        // `read_batch`, which needs `&mut self`, has the kernel write to it.
        unsafe { std::slice::from_raw_parts(self.map, CAPACITY) }
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn name(&self) -> &'static str {
        self.name
    }
}
