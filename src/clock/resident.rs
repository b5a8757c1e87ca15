//! The memory of this process.
#![forbid(unsafe_code)]

/// Bytes of this process that are in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// All of them: the sum of the others.
    pub all: u64,
    /// Of no file: heaps, stacks.
    pub anonymous: u64,
    /// Of files: code, what is mapped.
    pub of_files: u64,
    /// Shared memory.
    pub shared: u64,
}

/// What is in memory; `None` where the system does not tell.
///
/// Lines of `/proc/self/status` (Linux, `fs/proc/task_mmu.c`, `task_mem`).
#[must_use]
pub fn resident() -> Option<Resident> {
    use std::io::Read as _;
    // Not by `read_to_string` of a path, which asks for the file's size first, by statx.
    let mut text = String::new();
    let mut file = std::fs::File::open("/proc/self/status").ok()?;
    file.by_ref().take(1 << 16).read_to_string(&mut text).ok()?;
    let bytes_of = |name: &str| {
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    Some(Resident {
        all: bytes_of("VmRSS")?,
        anonymous: bytes_of("RssAnon").unwrap_or(0),
        of_files: bytes_of("RssFile").unwrap_or(0),
        shared: bytes_of("RssShmem").unwrap_or(0),
    })
}

/// Bytes of this process that are in memory; `None` where the system does not tell.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    resident().map(|resident| resident.all)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_process_has_memory() {
        assert!(super::resident_bytes().is_some_and(|bytes| bytes > 100 << 10));
        let parts = super::resident().unwrap_or_default();
        let sum = parts.anonymous + parts.of_files + parts.shared;
        assert_eq!(parts.all, sum);
        assert!(parts.anonymous > 0 && parts.of_files > 0);
    }
}
