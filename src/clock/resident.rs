//! The memory of this process.
#![forbid(unsafe_code)]

/// Bytes of this process that are in memory; `None` where the system does not tell.
///
/// `VmRSS` of `/proc/self/status` (Linux, `fs/proc/task_mmu.c`, `task_mem`).
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    use std::io::Read as _;
    // Not by `read_to_string` of a path, which asks for the file's size first, by statx.
    let mut text = String::new();
    let mut file = std::fs::File::open("/proc/self/status").ok()?;
    file.by_ref().take(1 << 16).read_to_string(&mut text).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_process_has_memory() {
        assert!(super::resident_bytes().is_some_and(|bytes| bytes > 100 << 10));
    }
}
