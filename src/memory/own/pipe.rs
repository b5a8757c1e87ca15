//! Copies through a pipe: the last resort.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd as _, OwnedFd};

use super::{Descriptor, vectors};
use crate::memory::{Range, ReadMemory};

/// Linux' default size of a pipe (`include/linux/pipe_fs_i.h`, 16 pages).
const PIPE_CAPACITY: usize = 64 << 10;

/// Copies through a pipe: two calls, small batches, but allowed wherever Python itself runs.
pub(super) struct Pipe {
    pub(super) reader: Descriptor,
    pub(super) writer: Descriptor,
    buffer: Vec<u8>,
    vectors: Vec<libc::iovec>,
}

// SAFETY: as for VmReadv.
unsafe impl Send for Pipe {}

impl Pipe {
    pub(super) fn new(is_shared: bool) -> std::io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: `ends` has room for the two descriptors.
        let result = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) };
        if result != 0 {
            return Err(std::io::Error::last_os_error());
        }
        let [reader, writer] = ends.map(|end| {
            // SAFETY: both descriptors are new and owned by nobody else.
            let end = unsafe { OwnedFd::from_raw_fd(end) };
            Descriptor::new(end, is_shared)
        });
        Ok(Self {
            reader,
            writer,
            buffer: vec![0; PIPE_CAPACITY],
            vectors: Vec::new(),
        })
    }
}

impl Pipe {
    /// Copies the ranges behind `begin` bytes of the buffer, all or none: a pipe loses what
    /// precedes a fault within a page (`fs/pipe.c`, `pipe_write`).
    fn copy(&mut self, ranges: &[Range], begin: usize) -> Option<usize> {
        vectors(ranges, PIPE_CAPACITY - begin, &mut self.vectors);
        if self.vectors.len() < ranges.len() {
            return None;
        }
        let (reader, writer) = (self.reader.number()?, self.writer.number()?);
        // SAFETY: the kernel checks every address it reads; neither end blocks, and the pipe is
        // empty before. What is read fits into the buffer, because `vectors` saw to it.
        unsafe {
            let written = libc::writev(
                writer,
                self.vectors.as_ptr(),
                self.vectors.len() as libc::c_int,
            );
            let mut copied = 0_isize;
            while copied < written {
                let at = begin + copied as usize;
                let got = libc::read(
                    reader,
                    self.buffer.as_mut_ptr().add(at).cast(),
                    self.buffer.len() - at,
                );
                if got <= 0 {
                    return None;
                }
                copied += got;
            }
            let total: usize = ranges.iter().map(|range| range.length).sum();
            (copied == total as isize).then_some(total)
        }
    }
}

impl ReadMemory for Pipe {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        if !ranges.is_empty() && self.copy(ranges, 0).is_some() {
            return ranges.len();
        }
        let mut begin = 0;
        for (index, range) in ranges.iter().enumerate() {
            match self.copy(std::slice::from_ref(range), begin) {
                Some(length) => begin += length,
                None => return index,
            }
        }
        ranges.len()
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    fn capacity(&self) -> usize {
        PIPE_CAPACITY
    }

    fn name(&self) -> &'static str {
        "pipe"
    }
}
