//! What the kernel says a thread is doing.
#![forbid(unsafe_code)]

#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStringExt as _;

#[cfg(target_os = "linux")]
use super::proc_file::ProcFile;

/// The system call that a thread is blocked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemCall {
    /// Its number, or [`Self::NONE`].
    pub number: i64,
    /// Its first four arguments.
    pub arguments: [usize; 4],
}

impl SystemCall {
    /// The number of none: the thread is blocked outside of system calls.
    pub const NONE: i64 = -1;

    /// The futex that the thread waits on, or 0.
    #[must_use]
    pub fn futex(&self) -> usize {
        #[cfg(target_os = "linux")]
        if self.number == libc::SYS_futex {
            return self.arguments[0];
        }
        0
    }

    /// Whether a wait on a futex ends after some time.
    #[must_use]
    pub fn has_timeout(&self) -> bool {
        self.futex() != 0 && self.arguments[3] != 0
    }
}

/// Bytes of a function's name that are kept.
const CHANNEL_BYTES: usize = 31;

/// The function of the kernel that a thread is blocked in, as much of its name as tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    name: [u8; CHANNEL_BYTES],
    length: u8,
}

impl Channel {
    /// The one of this name.
    #[must_use]
    pub fn new(name: &[u8]) -> Self {
        let mut kept = [0; CHANNEL_BYTES];
        let length = name.len().min(CHANNEL_BYTES);
        kept[..length].copy_from_slice(&name[..length]);
        Self {
            name: kept,
            length: length as u8,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name[..usize::from(self.length)]
    }

    /// Whether the thread waits on a futex: `futex_do_wait`, `futex_wait_queue` and others.
    #[must_use]
    pub fn is_futex(&self) -> bool {
        self.name().starts_with(b"futex_")
    }
}

/// What a thread does, as the kernel sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// On a CPU, or waiting for one.
    Running,
    /// Blocked, or stopped.
    Blocked(SystemCall),
    /// Blocked, and the kernel says no more than the function that it is in.
    BlockedIn(Channel),
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
    #[cfg(target_os = "linux")]
    file: ProcFile,
    #[cfg(target_os = "linux")]
    is_whole: bool,
}

#[cfg(target_os = "linux")]
impl ThreadActivity {
    /// `None` where the kernel tells nothing.
    #[must_use]
    pub fn open(thread_id: u64) -> Option<Self> {
        let (file, is_whole) = match ProcFile::open(thread_id, "syscall") {
            Some(file) => (file, true),
            None => (ProcFile::open(thread_id, "wchan")?, false),
        };
        Some(Self { file, is_whole })
    }

    /// Whether it can be read again; if not, another has to be opened.
    #[must_use]
    pub fn can_be_kept(&self) -> bool {
        self.file.is_ours()
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
        let text = self.file.read(&mut buffer)?;
        if self.is_whole {
            parse(text)
        } else {
            parse_channel(text).map(Activity::BlockedIn)
        }
    }
}

/// How long a thread was ready for a CPU that others had, asked again and again.
///
/// The second word of `/proc/self/task/<id>/schedstat` (Linux, `fs/proc/base.c`,
/// `proc_pid_schedstat`), in ns. A wait is added when it is over.
#[derive(Debug)]
pub struct RunQueueWaits {
    #[cfg(target_os = "linux")]
    file: ProcFile,
}

#[cfg(target_os = "linux")]
impl RunQueueWaits {
    /// `None` where the kernel does not tell.
    #[must_use]
    pub fn open(thread_id: u64) -> Option<Self> {
        let file = ProcFile::open(thread_id, "schedstat")?;
        Some(Self { file })
    }

    /// Whether it can be read again; if not, another has to be opened.
    #[must_use]
    pub fn can_be_kept(&self) -> bool {
        self.file.is_ours()
    }

    /// All of its waits so far, in ns.
    #[must_use]
    pub fn read(&self) -> Option<u64> {
        let mut buffer = [0; 64];
        parse_run_queue(self.file.read(&mut buffer)?)
    }
}

/// In which function of the kernel a thread waits, asked once.
#[cfg(target_os = "linux")]
#[must_use]
pub fn channel(thread_id: u64) -> Option<Channel> {
    let mut buffer = [0; 64];
    let file = ProcFile::open(thread_id, "wchan")?;
    parse_channel(file.read(&mut buffer)?)
}

/// What is open under this number in a thread's table of descriptors, as the kernel describes it:
/// `socket:[123]`, or a path. Asks no file system.
#[cfg(target_os = "linux")]
#[must_use]
pub fn descriptor_link(thread_id: u64, descriptor: u64) -> Option<Vec<u8>> {
    let path = format!("/proc/self/task/{thread_id}/fd/{descriptor}");
    // By the call that CPython makes; rustix makes another, readlinkat.
    let link = std::fs::read_link(path).ok()?;
    Some(link.into_os_string().into_vec())
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

#[cfg(not(target_os = "linux"))]
impl RunQueueWaits {
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
    pub fn read(&self) -> Option<u64> {
        None
    }
}

/// Unknown on this system.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn channel(_thread_id: u64) -> Option<Channel> {
    None
}

/// Unknown on this system.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn descriptor_link(_thread_id: u64, _descriptor: u64) -> Option<Vec<u8>> {
    None
}

#[cfg(target_os = "linux")]
fn parse(text: &[u8]) -> Option<Activity> {
    let text = std::str::from_utf8(text).ok()?;
    if text.starts_with("running") {
        return Some(Activity::Running);
    }
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut argument = || {
        let word = words.next().and_then(|word| word.strip_prefix("0x"));
        word.and_then(|word| usize::from_str_radix(word, 16).ok())
            .unwrap_or(0)
    };
    Some(Activity::Blocked(SystemCall {
        number,
        arguments: [argument(), argument(), argument(), argument()],
    }))
}

/// The name of the kernel's function; 0 for a thread that does not wait, or for all of them where the
/// kernel does not know its functions' names.
#[cfg(target_os = "linux")]
fn parse_channel(text: &[u8]) -> Option<Channel> {
    match text {
        b"" | b"0" => None,
        name => Some(Channel::new(name)),
    }
}

/// The second word; a kernel that does not measure writes zeros (`kernel/sched/stats.h`,
/// `sched_info_on`), for the first as well.
#[cfg(target_os = "linux")]
fn parse_run_queue(text: &[u8]) -> Option<u64> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let cpu_ns: u64 = words.next()?.parse().ok()?;
    let waited_ns = words.next()?.parse().ok()?;
    let turns: u64 = words.next()?.parse().ok()?;
    (cpu_ns | waited_ns | turns > 0).then_some(waited_ns)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::fd::AsRawFd as _;

    use super::{
        Activity, Channel, RunQueueWaits, SystemCall, ThreadActivity, descriptor_link, parse,
        parse_channel, parse_run_queue,
    };
    use crate::clock::cpu::thread_id;

    #[test]
    fn what_the_kernel_writes() {
        assert_eq!(parse(b"running\n"), Some(Activity::Running));
        let blocked_in = |text: &str| match parse(text.as_bytes()) {
            Some(Activity::Blocked(call)) => Some((
                call.number,
                call.arguments,
                call.futex(),
                call.has_timeout(),
            )),
            _ => None,
        };
        let number = libc::SYS_futex;
        assert_eq!(
            blocked_in(&format!("{number} 0x7f0010 0x189 0x0 0x7ffc 0x5")),
            Some((number, [0x7f_0010, 0x189, 0, 0x7ffc], 0x7f_0010, true))
        );
        assert_eq!(
            blocked_in("-1 0x7ffc 0x5"),
            Some((SystemCall::NONE, [0x7ffc, 5, 0, 0], 0, false))
        );
        assert_eq!(blocked_in("34"), Some((34, [0; 4], 0, false)));
        assert_eq!(parse(b""), None);
        assert_eq!(parse_channel(b"0"), None);
        let is_futex = |name| parse_channel(name).map(|channel| channel.is_futex());
        assert_eq!(is_futex(b"futex_do_wait"), Some(true));
        assert_eq!(is_futex(b"hrtimer_nanosleep"), Some(false));
        assert_eq!(Channel::new(&[b'x'; 90]).name(), &[b'x'; 31]);
        assert_eq!(parse_run_queue(b"52799 65526 5\n"), Some(65526));
        assert_eq!(parse_run_queue(b"52799 0 5\n"), Some(0));
        assert_eq!(parse_run_queue(b"0 0 0\n"), None);
        assert_eq!(parse_run_queue(b""), None);
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
                Some(Activity::Blocked(_))
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

    #[test]
    fn what_is_open_under_a_number_can_be_told() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let number = u64::try_from(socket.as_raw_fd()).unwrap();
        let link = descriptor_link(thread_id(), number).unwrap();
        assert!(link.starts_with(b"socket:["), "{link:?}");
        assert_eq!(descriptor_link(thread_id(), u64::MAX), None);
    }

    #[test]
    fn waits_for_a_cpu_only_grow() {
        let waits = RunQueueWaits::open(thread_id()).unwrap();
        let before = waits.read();
        std::thread::yield_now();
        assert!(before.is_some() && waits.read() >= before);
    }
}
