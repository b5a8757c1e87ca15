//! Whether the calling thread's system calls are filtered.
#![forbid(unsafe_code)]

/// Whether a seccomp filter may answer the calls of this thread, perhaps by killing the process
/// (`SECCOMP_RET_KILL_PROCESS`, which systemd's `SystemCallFilter=` takes unless told otherwise).
/// What a filter does with a call cannot be asked without making the call, so that where there is
/// one, only those are made that an interpreter makes by itself, or that are of the same group as
/// such a one (`docs/reference/system-calls.md`).
///
/// `Seccomp` of `/proc/thread-self/status` is 0 without a filter (Linux, `fs/proc/array.c`,
/// `task_seccomp`). The files of `/proc` are read by means that every interpreter uses; `prctl` would
/// tell as well, but may itself be forbidden. Where the kernel does not tell, there may be a filter.
#[must_use]
pub fn may_be_there() -> bool {
    !cfg!(target_os = "linux") || status().is_none_or(|text| is_filtered(&text))
}

fn status() -> Option<String> {
    use std::io::Read as _;
    // Not `read_to_string` of a path: that asks for the file's size first, by statx.
    let mut file = std::fs::File::open("/proc/thread-self/status").ok()?;
    let mut bytes = [0; 4096];
    let mut length = 0;
    loop {
        match file.read(bytes.get_mut(length..)?) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(_) => return None,
        }
    }
    // The first line is the program's name, in whatever encoding.
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

fn is_filtered(status: &str) -> bool {
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    // A kernel that knows no filters has no such line.
    mode.is_some_and(|mode| mode.trim() != "0")
}

#[cfg(test)]
mod tests {
    use super::is_filtered;

    #[test]
    fn what_the_kernel_writes() {
        assert!(!is_filtered(
            "Name:\tx\nNoNewPrivs:\t1\nSeccomp:\t0\nSeccomp_filters:\t0\n"
        ));
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(is_filtered("Seccomp:\t1\n"));
        assert!(!is_filtered("Name:\tx\n"));
    }
}
