//! What the kernel says a thread is doing.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
use std::fs::File;
#[cfg(target_os = "linux")]
use std::os::fd::IntoRawFd as _;
#[cfg(target_os = "linux")]
use std::os::unix::fs::FileExt;

#[cfg(target_os = "linux")]
use super::descriptors;

/// What a thread does, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// On a CPU, or waiting for one.
    Running,
    /// In a system call, or stopped.
    Blocked {
        /// The futex it waits on, or 0.
        futex: usize,
    },
    /// It waits on a futex, but the kernel does not say which.
    BlockedOnSomeFutex,
    /// It waits for something else.
    BlockedElsewhere,
}

/// Asks the kernel about one thread again and again.
///
/// `/proc/self/task/<id>/syscall` (Linux, `fs/proc/base.c`, `proc_pid_syscall`) says `running`, or
/// the number and the arguments of the system call that the thread is blocked in. Once a process has
/// changed its user, the file belongs to root (`task_dump_owner`), and only what was opened before can
/// be read. `wchan`, which everybody may open, then says at least in which function of the kernel the
/// thread waits, and a process may ask that of its own threads (`__ptrace_may_access`).
#[derive(Debug)]
pub struct ThreadActivity {
    /// There until the end.
    #[cfg(target_os = "linux")]
    file: Option<File>,
    /// What was opened, in a table of descriptors in which others may close it and open a file of
    /// theirs under its number.
    #[cfg(target_os = "linux")]
    identity: Option<(u64, u64)>,
    #[cfg(target_os = "linux")]
    is_whole: bool,
}

#[cfg(target_os = "linux")]
impl ThreadActivity {
    /// `None` where the kernel tells nothing.
    #[must_use]
    pub fn open(thread_id: u64) -> Option<Self> {
        let open = |name: &str| File::open(format!("/proc/self/task/{thread_id}/{name}"));
        let (file, is_whole) = match open("syscall") {
            Ok(file) => (file, true),
            Err(_) => (open("wchan").ok()?, false),
        };
        let identity = if descriptors::are_own() {
            None
        } else {
            identity(&file)
        };
        Some(Self {
            file: Some(file),
            identity,
            is_whole,
        })
    }

    fn is_ours(&self) -> bool {
        self.identity.is_none() || self.identity == self.file.as_ref().and_then(identity)
    }

    /// Whether it can be read again; if not, another has to be opened.
    #[must_use]
    pub fn can_be_kept(&self) -> bool {
        self.is_ours()
    }

    /// Whether the kernel says which futex a thread waits on.
    #[must_use]
    pub fn tells_futex(&self) -> bool {
        self.is_whole
    }

    /// What the thread does now; `None` if it has ended, or the kernel does not say.
    #[must_use]
    pub fn read(&self) -> Option<Activity> {
        let mut buffer = [0; 64];
        let length = self.file.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = buffer.get(..length)?;
        if self.is_whole {
            parse(text)
        } else {
            parse_channel(text)
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for ThreadActivity {
    fn drop(&mut self) {
        if !self.is_ours()
            && let Some(file) = self.file.take()
        {
            // The number is somebody else's by now, and stays open.
            let _ = file.into_raw_fd();
        }
    }
}

/// By the call that CPython makes for a path; the standard library's makes another, statx.
#[cfg(target_os = "linux")]
fn identity(file: &File) -> Option<(u64, u64)> {
    use rustix::fs::{AtFlags, statat};
    let about = statat(file, c"", AtFlags::EMPTY_PATH).ok()?;
    Some((about.st_dev, about.st_ino))
}

#[cfg(not(target_os = "linux"))]
impl ThreadActivity {
    /// Unknown on this system.
    #[must_use]
    pub fn open(_thread_id: u64) -> Option<Self> {
        None
    }

    /// Unknown on this system.
    #[must_use]
    pub fn can_be_kept(&self) -> bool {
        false
    }

    /// Unknown on this system.
    #[must_use]
    pub fn tells_futex(&self) -> bool {
        false
    }

    /// Unknown on this system.
    #[must_use]
    pub fn read(&self) -> Option<Activity> {
        None
    }
}

#[cfg(target_os = "linux")]
fn parse(text: &[u8]) -> Option<Activity> {
    let text = std::str::from_utf8(text).ok()?;
    if text.starts_with("running") {
        return Some(Activity::Running);
    }
    let mut words = text.split_ascii_whitespace();
    let number: i64 = words.next()?.parse().ok()?;
    let first = words.next();
    let is_futex = number == libc::SYS_futex;
    let futex = first
        .filter(|_| is_futex)
        .and_then(|word| usize::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        .unwrap_or(0);
    Some(Activity::Blocked { futex })
}

/// The name of the kernel's function, `futex_do_wait` or `futex_wait_queue` among them; 0 for a thread
/// that does not wait, or for all of them where the kernel does not know its functions' names.
#[cfg(target_os = "linux")]
fn parse_channel(text: &[u8]) -> Option<Activity> {
    match text {
        b"" | b"0" => None,
        name if name.starts_with(b"futex_") => Some(Activity::BlockedOnSomeFutex),
        _ => Some(Activity::BlockedElsewhere),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Activity, ThreadActivity, parse, parse_channel};
    use crate::clock::cpu::thread_id;

    #[test]
    fn what_the_kernel_writes() {
        assert_eq!(parse(b"running\n"), Some(Activity::Running));
        let futex = format!("{} 0x7f0010 0x189 0x0 0x7ffc 0x5", libc::SYS_futex);
        assert_eq!(
            parse(futex.as_bytes()),
            Some(Activity::Blocked { futex: 0x7f_0010 })
        );
        assert_eq!(
            parse(b"-1 0x7ffc 0x5"),
            Some(Activity::Blocked { futex: 0 })
        );
        assert_eq!(parse(b""), None);
        assert_eq!(parse_channel(b"0"), None);
        assert_eq!(
            parse_channel(b"futex_do_wait"),
            Some(Activity::BlockedOnSomeFutex)
        );
        assert_eq!(
            parse_channel(b"hrtimer_nanosleep"),
            Some(Activity::BlockedElsewhere)
        );
    }

    #[test]
    fn a_thread_that_waits_is_blocked() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            sender.send(thread_id()).ok();
            finished.recv().ok();
        });
        let activity = ThreadActivity::open(receiver.recv().unwrap_or_default());
        let blocked = || {
            matches!(
                activity.as_ref().and_then(ThreadActivity::read),
                Some(Activity::Blocked { .. })
            )
        };
        while !blocked() {
            std::thread::yield_now();
        }
        finish.send(()).ok();
        worker.join().ok();
        // The kernel forgets it a moment after it was joined.
        while activity.as_ref().and_then(ThreadActivity::read).is_some() {
            std::thread::yield_now();
        }
    }
}
