//! Fault-safe reads of this process's own memory.
//!
//! Another thread's memory may be unmapped at any moment, so it is never dereferenced here: the
//! kernel copies it and reports a fault instead of raising one. No signal handler is involved. A
//! copy of many pieces by `pwritev` into a memory file is the fastest, because the kernel pins no
//! pages for it (`lib/iov_iter.c`, against `mm/process_vm_access.c`).
#![allow(unsafe_code)]

mod lasting;
mod mapped;
mod pipe;

pub use lasting::Lasting;

use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, OwnedFd};

use self::mapped::{Mapped, memory_file, unlinked_file};
use self::pipe::Pipe;
use super::{Range, ReadMemory};

/// Bytes one batch may copy. A pipe, the last resort, takes less.
const CAPACITY: usize = 1 << 20;
/// `UIO_MAXIOV` of `include/uapi/linux/uio.h`.
const MAX_RANGES: usize = 1024;

/// The means, best first.
pub const TRANSPORTS: [&str; 4] = ["memfd", "file", "process_vm_readv", "pipe"];

/// The one that needs no call but those of the groups that every interpreter needs: to open a file,
/// to seek, to write and to map it. systemd has what the others need in `@ipc`.
const UNDER_A_FILTER: &[&str] = &["file"];

/// Where memory is to be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Circumstances {
    /// Whether a system call may be answered by a filter, which may kill the process for it.
    pub may_be_filtered: bool,
    /// Whether others may close our descriptors, and open theirs under the same numbers.
    pub shares_descriptors: bool,
}

/// Opens the first means that passes its probe: it must copy what can be read, and refuse what
/// cannot.
///
/// # Errors
/// Why each of them failed.
pub fn open(circumstances: Circumstances) -> Result<Box<dyn ReadMemory>, String> {
    let Circumstances {
        may_be_filtered,
        shares_descriptors,
    } = circumstances;
    if may_be_filtered {
        open_one_of(UNDER_A_FILTER, shares_descriptors).map_err(|reason| {
            format!("a filter of system calls may be in force, under which only a file is tried: {reason}")
        })
    } else {
        open_one_of(&TRANSPORTS, shares_descriptors)
    }
}

fn open_one_of(names: &[&'static str], is_shared: bool) -> Result<Box<dyn ReadMemory>, String> {
    let mut reasons = Vec::new();
    for &name in names {
        let opened: Result<Box<dyn ReadMemory>, std::io::Error> = match name {
            "memfd" => memory_file()
                .and_then(|file| Mapped::new(file, is_shared, name))
                .map(|mapped| Box::new(mapped) as _),
            "file" => unlinked_file()
                .and_then(|file| Mapped::new(file, is_shared, name))
                .map(|mapped| Box::new(mapped) as _),
            "process_vm_readv" => Ok(Box::new(VmReadv::new())),
            _ => Pipe::new(is_shared).map(|pipe| Box::new(pipe) as _),
        };
        match opened {
            Ok(mut memory) => {
                if passes_probe(memory.as_mut()) {
                    return Ok(memory);
                }
                reasons.push(format!("{name} does not copy"));
            }
            Err(error) => reasons.push(format!("{name}: {error}")),
        }
    }
    Err(reasons.join("; "))
}

/// A descriptor in a table that may be shared with the application. A program that closes whatever
/// it finds open may have opened a file of its own under the same number since: that is neither
/// written to nor closed.
struct Descriptor {
    descriptor: ManuallyDrop<OwnedFd>,
    /// Device and number of what was opened; `None` in a table of our own.
    identity: Option<(u64, u64)>,
}

impl Descriptor {
    fn new(descriptor: OwnedFd, is_shared: bool) -> Self {
        Self {
            identity: is_shared.then(|| identity(&descriptor)).flatten(),
            descriptor: ManuallyDrop::new(descriptor),
        }
    }

    /// The number, if it still is what was opened.
    #[inline]
    fn number(&self) -> Option<libc::c_int> {
        let is_ours = self.identity.is_none() || self.identity == identity(&self.descriptor);
        is_ours.then(|| self.descriptor.as_raw_fd())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.number().is_some() {
            // SAFETY: it is not used any more.
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        }
    }
}

/// By the call that CPython makes for a path.
#[inline(never)]
fn identity(descriptor: &OwnedFd) -> Option<(u64, u64)> {
    use rustix::fs::{AtFlags, statat};
    let about = statat(descriptor, c"", AtFlags::EMPTY_PATH).ok()?;
    Some((about.st_dev, about.st_ino))
}

/// A read that must succeed, one that must fail, and one that must fail half-way.
fn passes_probe(memory: &mut dyn ReadMemory) -> bool {
    static KNOWN: [u8; 24] = *b"what can be read, is rea";
    // The first page is never mapped: Linux' `vm.mmap_min_addr`, for root by convention.
    let good = Range::new(KNOWN.as_ptr() as usize, KNOWN.len());
    let bad = Range::new(16, 8);
    memory.read_batch(&[good]) == 1
        && memory.bytes()[..KNOWN.len()] == KNOWN
        && memory.read_batch(&[bad]) == 0
        && memory.read_batch(&[good, bad, good]) == 1
        && memory.read_batch(&[good, good]) == 2
        && memory.bytes()[KNOWN.len()..2 * KNOWN.len()] == KNOWN
}

/// The ranges as the kernel wants them, no more than it takes and `capacity` holds.
fn vectors(ranges: &[Range], capacity: usize, vectors: &mut Vec<libc::iovec>) {
    vectors.clear();
    let mut total = 0_usize;
    for range in ranges.iter().take(MAX_RANGES) {
        total = total.saturating_add(range.length);
        if total > capacity {
            break;
        }
        vectors.push(libc::iovec {
            iov_base: range.address as *mut libc::c_void,
            iov_len: range.length,
        });
    }
}

/// How many ranges, from the first, lie whole within `copied` bytes.
fn whole(ranges: &[Range], vectors: usize, copied: isize) -> usize {
    let mut left = usize::try_from(copied).unwrap_or(0);
    let mut count = 0;
    for range in &ranges[..vectors] {
        if range.length > left {
            break;
        }
        left -= range.length;
        count += 1;
    }
    count
}

/// Copies by `process_vm_readv` of this very process.
struct VmReadv {
    buffer: Vec<u8>,
    vectors: Vec<libc::iovec>,
}

// SAFETY: the vectors hold addresses that only the kernel looks at, within one call.
unsafe impl Send for VmReadv {}

impl VmReadv {
    fn new() -> Self {
        Self {
            buffer: vec![0; CAPACITY],
            vectors: Vec::new(),
        }
    }
}

impl ReadMemory for VmReadv {
    fn read_batch(&mut self, ranges: &[Range]) -> usize {
        vectors(ranges, CAPACITY, &mut self.vectors);
        let local = libc::iovec {
            iov_base: self.buffer.as_mut_ptr().cast(),
            iov_len: self.buffer.len(),
        };
        // SAFETY: the kernel writes at most as many bytes as the remote vectors have, which
        // `vectors` keeps within the buffer, and reports a fault as a short count.
        let copied = unsafe {
            libc::process_vm_readv(
                libc::getpid(),
                &raw const local,
                1,
                self.vectors.as_ptr(),
                self.vectors.len() as libc::c_ulong,
                0,
            )
        };
        whole(ranges, self.vectors.len(), copied)
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn name(&self) -> &'static str {
        "process_vm_readv"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    use super::mapped::{Mapped, memory_file, unlinked_file};
    use super::pipe::Pipe;
    use super::{TRANSPORTS, open_one_of};
    use crate::memory::{Range, ReadMemory, read, read_word};

    /// Pages that come and go while they are read by every means; `RPROF_CI_LONG` is the long run.
    #[test]
    fn memory_that_vanishes_does_no_harm() {
        const LENGTH: usize = 4096;
        let is_long = std::env::var_os("RPROF_CI_LONG").is_some();
        let reads = if is_long { 100_000_000 } else { 100_000 } / TRANSPORTS.len();
        let place = AtomicUsize::new(0);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    // SAFETY: a new anonymous mapping, anywhere, which nobody has a reference to.
                    unsafe {
                        let page = libc::mmap(
                            std::ptr::null_mut(),
                            LENGTH,
                            libc::PROT_READ | libc::PROT_WRITE,
                            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                            -1,
                            0,
                        );
                        place.store(page as usize, Ordering::Relaxed);
                        page.cast::<u8>().write(1);
                        libc::munmap(page, LENGTH);
                    }
                }
            });
            let (mut whole, mut partial) = (0, 0);
            // On a busy machine it takes a while until the pages are met both ways.
            let mut turns = (0..1000).flat_map(|_| TRANSPORTS).enumerate();
            while let Some((turn, name)) = turns.next()
                && (turn < TRANSPORTS.len() || whole == 0 || partial == 0)
            {
                let mut memory =
                    open_one_of(&[name], false).unwrap_or_else(|why| unreachable!("{why}"));
                let safe = &raw const reads as usize;
                for _ in 0..reads / 10 {
                    let page = place.load(Ordering::Relaxed);
                    let mut ranges = [Range::new(safe, 8); 10];
                    for range in &mut ranges[4..8] {
                        *range = Range::new(page + LENGTH / 2, 64);
                    }
                    match memory.read_batch(&ranges) {
                        10 => whole += 1,
                        4..=7 => partial += 1,
                        other => unreachable!("{name}: {other} of what can always be read"),
                    }
                }
            }
            is_done.store(true, Ordering::Relaxed);
            assert!(whole > 0 && partial > 0, "{whole} {partial}");
        });
    }

    /// Closes what was opened in a table that all share and opens another file under its number:
    /// neither a read nor the end touches that.
    fn check_replaced(mut memory: impl ReadMemory, numbers: &[i32], name: &str) {
        let text = *b"not for others";
        let range = Range::new(text.as_ptr() as usize, text.len());
        assert_eq!(memory.read_batch(&[range]), 1, "{name}");
        let file = unlinked_file().unwrap_or_else(|why| unreachable!("{why}"));
        for number in numbers {
            // SAFETY: both are open, and belong to this test.
            let replaced = unsafe { libc::dup2(file.as_raw_fd(), *number) };
            assert_eq!(replaced, *number, "{name}");
        }
        assert_eq!(memory.read_batch(&[range]), 0, "{name}");
        drop(memory);
        let length = file.metadata().map(|about| about.len());
        assert_eq!(length.ok(), Some(0), "{name}");
        for number in numbers {
            // SAFETY: it is this test's own since the call above.
            let still = unsafe { OwnedFd::from_raw_fd(*number) };
            assert!(super::identity(&still).is_some(), "{name}");
        }
    }

    #[test]
    fn what_others_opened_under_the_same_number_is_left_alone() {
        for (name, opened) in [("memfd", memory_file()), ("file", unlinked_file())] {
            let memory = opened
                .and_then(|file| Mapped::new(file, true, name))
                .unwrap_or_else(|why| unreachable!("{why}"));
            let number = memory.file.number().unwrap_or(-1);
            check_replaced(memory, &[number], name);
        }
        let pipe = Pipe::new(true).unwrap_or_else(|why| unreachable!("{why}"));
        let numbers = [&pipe.reader, &pipe.writer].map(|end| end.number().unwrap_or(-1));
        check_replaced(pipe, &numbers, "pipe");
    }

    #[test]
    fn every_means_copies_in_order_and_stops_at_a_fault() {
        for name in TRANSPORTS {
            let mut memory =
                open_one_of(&[name], false).unwrap_or_else(|why| unreachable!("{why}"));
            assert_eq!(memory.name(), name);
            let text = *b"one two three";
            let at = text.as_ptr() as usize;
            let ranges = [
                Range::new(at + 4, 3),
                Range::new(at, 3),
                Range::new(24, 1),
                Range::new(at, 1),
            ];
            assert_eq!(memory.read_batch(&ranges), 2, "{name}");
            assert_eq!(&memory.bytes()[..6], b"twoone", "{name}");
            assert_eq!(read(memory.as_mut(), at, 13), Some(&text[..]), "{name}");
            assert_eq!(read_word(memory.as_mut(), 0), None, "{name}");
            assert_eq!(memory.read_batch(&[]), 0, "{name}");
            let large = memory.capacity() + 1;
            assert_eq!(memory.read_batch(&[Range::new(at, large)]), 0, "{name}");
        }
    }
}
