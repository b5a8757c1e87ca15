//! Fault-safe reads of this process's own memory.
//!
//! Another thread's memory may be unmapped at any moment, so it is never dereferenced here: the
//! kernel copies it and reports a fault instead of raising one. No signal handler is involved. A
//! copy of many pieces by `pwritev` into a memory file is the fastest, because the kernel pins no
//! pages for it (`lib/iov_iter.c`, against `mm/process_vm_access.c`).
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::{Range, ReadMemory};

/// Bytes one batch may copy. A pipe, the last resort, takes less.
const CAPACITY: usize = 1 << 20;
/// Bytes that a file keeps once they were written. Copies are larger where recursion is deep.
const KEPT: usize = 64 << 10;
/// Copies in a row that need no more, after which what is beyond is given back.
const CALM_COPIES: u32 = 1_000;
/// Linux' default size of a pipe (`include/linux/pipe_fs_i.h`, 16 pages).
const PIPE_CAPACITY: usize = 64 << 10;
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

fn memory_file() -> std::io::Result<File> {
    // SAFETY: the name is a C string; the call returns a new descriptor or -1.
    let descriptor = unsafe { libc::memfd_create(c"rprof".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and owned by nobody else.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn unlinked_file() -> std::io::Result<File> {
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

/// Memory that stays where it is for as long as the process runs, so that it may be read as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lasting {
    begin: usize,
    length: usize,
}

impl Lasting {
    /// What lies between `begin` and the end of the word at `last`, if that is all one variable of
    /// a loaded library.
    #[must_use]
    pub fn variable(begin: usize, last: usize) -> Option<Self> {
        let mut said = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: the address is only compared with those of the loaded objects; the answer is
        // initialised, if only with zeroes.
        let said = unsafe {
            if libc::dladdr(last as *const libc::c_void, said.as_mut_ptr()) == 0 {
                return None;
            }
            said.assume_init()
        };
        // A symbol that has a size is only named for addresses within it.
        (said.dli_saddr as usize == begin && last >= begin).then_some(Self {
            begin,
            length: last - begin + size_of::<usize>(),
        })
    }

    /// The word at `address`, if it belongs to this memory.
    #[must_use]
    pub fn word(self, address: usize) -> Option<usize> {
        let end = address.checked_add(size_of::<usize>())?;
        let is_within = address >= self.begin && end <= self.begin + self.length;
        if !is_within || !address.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        // SAFETY: `variable` has shown that this is part of a variable of a loaded library, and the
        // interpreter's stays loaded while our code runs. Others write it meanwhile: an aligned
        // word is read whole on every architecture, and volatile keeps it one read.
        Some(unsafe { ptr::read_volatile(address as *const usize) })
    }
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

/// A file that the kernel copies into, mapped to be read here.
struct Mapped {
    file: Descriptor,
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
    fn new(mut file: File, is_shared: bool, name: &'static str) -> std::io::Result<Self> {
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

/// Copies through a pipe: two calls, small batches, but allowed wherever Python itself runs.
struct Pipe {
    reader: Descriptor,
    writer: Descriptor,
    buffer: Vec<u8>,
    vectors: Vec<libc::iovec>,
}

// SAFETY: as for VmReadv.
unsafe impl Send for Pipe {}

impl Pipe {
    fn new(is_shared: bool) -> std::io::Result<Self> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    use super::{Circumstances, Lasting, Mapped, Pipe, TRANSPORTS, open, open_one_of};
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

    #[test]
    fn only_variables_of_a_library_last() {
        // SAFETY: `environ` is a variable of the C library, or of the program in its stead.
        let variable = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"environ".as_ptr()) } as usize;
        let expected = read_word(
            open(Circumstances::default())
                .unwrap_or_else(|why| unreachable!("{why}"))
                .as_mut(),
            variable,
        );
        let lasting = Lasting::variable(variable, variable).unwrap_or_default();
        assert_eq!(lasting.word(variable), expected);
        assert_eq!(lasting.word(variable + 1), None);
        assert_eq!(lasting.word(variable + 8), None);
        assert_eq!(lasting.word(usize::MAX), None);
        let on_heap = Box::new(1_usize);
        let address = &raw const *on_heap as usize;
        assert!(Lasting::variable(address, address).is_none());
        assert!(Lasting::variable(variable, variable + (1 << 20)).is_none());
        assert_eq!(Lasting::default().word(variable), None);
    }

    /// Closes what was opened in a table that all share and opens another file under its number:
    /// neither a read nor the end touches that.
    fn check_replaced(mut memory: impl ReadMemory, numbers: &[i32], name: &str) {
        let text = *b"not for others";
        let range = Range::new(text.as_ptr() as usize, text.len());
        assert_eq!(memory.read_batch(&[range]), 1, "{name}");
        let file = super::unlinked_file().unwrap_or_else(|why| unreachable!("{why}"));
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
        for (name, opened) in [
            ("memfd", super::memory_file()),
            ("file", super::unlinked_file()),
        ] {
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
