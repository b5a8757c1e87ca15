//! Why a thread is on no CPU, by the system call or the function of the kernel that it waits in.
#![forbid(unsafe_code)]

use crate::clock::thread_state::SystemCall;
use crate::model::off_cpu::OffCpu;

/// What a system call says of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is for this.
    Is(OffCpu),
    /// It depends on what is open under this descriptor.
    OnDescriptor(u64),
    /// It depends on what is open under the descriptor that is stored at this address: the first
    /// of those that are polled.
    OnDescriptorAt(usize),
}

/// What the kernel has a system call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lock,
    Network,
    Disk,
    Sleep,
    Child,
    /// Reads or writes its first argument.
    Descriptor,
    /// Waits for some of the descriptors whose number is its first argument: `select`.
    Select,
    /// Waits for some of the descriptors in an array: `poll`.
    Poll,
    /// Waits for the lock of a file, if its second argument says so: `fcntl`.
    Control,
}

/// Numbers of x86-64 (Linux, `arch/x86/entry/syscalls/syscall_64.tbl`) and of all architectures that came
/// later, aarch64 among them (`include/uapi/asm-generic/unistd.h`); -1: not there. Calls that are not
/// listed wait for something else.
const CALLS: &[(i16, i16, Kind)] = &[
    // futex, futex_waitv, futex_wait
    (202, 98, Kind::Lock),
    (449, 449, Kind::Lock),
    (455, 455, Kind::Lock),
    // semop, semtimedop, flock
    (65, 193, Kind::Lock),
    (220, 192, Kind::Lock),
    (73, 32, Kind::Lock),
    // nanosleep, clock_nanosleep
    (35, 101, Kind::Sleep),
    (230, 115, Kind::Sleep),
    // wait4, waitid; the parent waits in these until its child runs a program: vfork, clone, clone3
    (61, 260, Kind::Child),
    (247, 95, Kind::Child),
    (58, -1, Kind::Child),
    (56, 220, Kind::Child),
    (435, 435, Kind::Child),
    // select, pselect6, poll, ppoll
    (23, -1, Kind::Select),
    (270, 72, Kind::Select),
    (7, -1, Kind::Poll),
    (271, 73, Kind::Poll),
    // epoll_wait, epoll_pwait, epoll_pwait2
    (232, -1, Kind::Network),
    (281, 22, Kind::Network),
    (441, 441, Kind::Network),
    // accept, accept4, connect
    (43, 202, Kind::Network),
    (288, 242, Kind::Network),
    (42, 203, Kind::Network),
    // recvfrom, recvmsg, recvmmsg, sendto, sendmsg, sendmmsg
    (45, 207, Kind::Network),
    (47, 212, Kind::Network),
    (299, 243, Kind::Network),
    (44, 206, Kind::Network),
    (46, 211, Kind::Network),
    (307, 269, Kind::Network),
    // read, write, readv, writev, sendfile, close
    (0, 63, Kind::Descriptor),
    (1, 64, Kind::Descriptor),
    (19, 65, Kind::Descriptor),
    (20, 66, Kind::Descriptor),
    (40, 71, Kind::Descriptor),
    (3, 57, Kind::Descriptor),
    // fcntl
    (72, 25, Kind::Control),
    // pread64, pwrite64, preadv, pwritev, preadv2, pwritev2
    (17, 67, Kind::Disk),
    (18, 68, Kind::Disk),
    (295, 69, Kind::Disk),
    (296, 70, Kind::Disk),
    (327, 286, Kind::Disk),
    (328, 287, Kind::Disk),
    // fsync, fdatasync, sync, syncfs, sync_file_range, msync
    (74, 82, Kind::Disk),
    (75, 83, Kind::Disk),
    (162, 81, Kind::Disk),
    (306, 267, Kind::Disk),
    (277, 84, Kind::Disk),
    (26, 227, Kind::Disk),
    // truncate, ftruncate, fallocate, copy_file_range
    (76, 45, Kind::Disk),
    (77, 46, Kind::Disk),
    (285, 47, Kind::Disk),
    (326, 285, Kind::Disk),
    // open, openat, openat2, creat
    (2, -1, Kind::Disk),
    (257, 56, Kind::Disk),
    (437, 437, Kind::Disk),
    (85, -1, Kind::Disk),
    // stat, fstat, lstat, newfstatat, statx, statfs, fstatfs
    (4, -1, Kind::Disk),
    (5, 80, Kind::Disk),
    (6, -1, Kind::Disk),
    (262, 79, Kind::Disk),
    (332, 291, Kind::Disk),
    (137, 43, Kind::Disk),
    (138, 44, Kind::Disk),
    // access, faccessat, faccessat2, readlink, readlinkat
    (21, -1, Kind::Disk),
    (269, 48, Kind::Disk),
    (439, 439, Kind::Disk),
    (89, -1, Kind::Disk),
    (267, 78, Kind::Disk),
    // rename, renameat, renameat2
    (82, -1, Kind::Disk),
    (264, 38, Kind::Disk),
    (316, 276, Kind::Disk),
    // unlink, unlinkat, rmdir, mkdir, mkdirat
    (87, -1, Kind::Disk),
    (263, 35, Kind::Disk),
    (84, -1, Kind::Disk),
    (83, -1, Kind::Disk),
    (258, 34, Kind::Disk),
    // link, linkat, symlink, symlinkat
    (86, -1, Kind::Disk),
    (265, 37, Kind::Disk),
    (88, -1, Kind::Disk),
    (266, 36, Kind::Disk),
    // getdents64, chdir, fchdir
    (217, 61, Kind::Disk),
    (80, 49, Kind::Disk),
    (81, 50, Kind::Disk),
    // chmod, fchmod, fchmodat, chown, fchown, fchownat, utimensat
    (90, -1, Kind::Disk),
    (91, 52, Kind::Disk),
    (268, 53, Kind::Disk),
    (92, -1, Kind::Disk),
    (93, 55, Kind::Disk),
    (260, 54, Kind::Disk),
    (280, 88, Kind::Disk),
    // getxattr, lgetxattr, fgetxattr, setxattr, lsetxattr, fsetxattr
    (191, 8, Kind::Disk),
    (192, 9, Kind::Disk),
    (193, 10, Kind::Disk),
    (188, 5, Kind::Disk),
    (189, 6, Kind::Disk),
    (190, 7, Kind::Disk),
];

/// `F_SETLKW` and `F_OFD_SETLKW` (Linux, `include/uapi/asm-generic/fcntl.h`), which wait.
const WAITS_FOR_FILE_LOCK: [usize; 2] = [7, 38];

/// The system call numbers of an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Of x86-64.
    X86_64,
    /// Of aarch64, and of all that use the generic table.
    Generic,
}

impl Numbers {
    /// Of this architecture.
    pub const NATIVE: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else {
        Self::Generic
    };

    fn kind(self, number: i64) -> Option<Kind> {
        let number = i16::try_from(number).ok().filter(|number| *number >= 0)?;
        CALLS
            .iter()
            .find(|(x86, generic, _)| {
                number
                    == match self {
                        Self::X86_64 => *x86,
                        Self::Generic => *generic,
                    }
            })
            .map(|(_, _, kind)| *kind)
    }
}

/// What a thread waits for that the kernel has stopped in `call`.
#[must_use]
pub fn of_call(call: &SystemCall, numbers: Numbers) -> Verdict {
    let [first, second, ..] = call.arguments;
    if call.number == SystemCall::NONE {
        return Verdict::Is(OffCpu::PageFault);
    }
    let reason = match numbers.kind(call.number) {
        None => OffCpu::Other,
        Some(Kind::Lock) => OffCpu::Lock,
        Some(Kind::Network) => OffCpu::Network,
        Some(Kind::Disk) => OffCpu::Disk,
        Some(Kind::Sleep) => OffCpu::Sleep,
        Some(Kind::Child) => OffCpu::Child,
        Some(Kind::Descriptor) => return Verdict::OnDescriptor(first as u64),
        Some(Kind::Select) if first == 0 => OffCpu::Sleep,
        Some(Kind::Select) => OffCpu::Network,
        Some(Kind::Poll) if second == 0 => OffCpu::Sleep,
        Some(Kind::Poll) => return Verdict::OnDescriptorAt(first),
        Some(Kind::Control) if WAITS_FOR_FILE_LOCK.contains(&second) => OffCpu::Lock,
        Some(Kind::Control) => OffCpu::Other,
    };
    Verdict::Is(reason)
}

/// What an open descriptor is, by the target of its link in `/proc`; `None` for a path, which may be
/// that of a file, a device or a pipe.
#[must_use]
pub fn of_descriptor(link: &[u8]) -> Option<OffCpu> {
    if link.starts_with(b"socket:") {
        Some(OffCpu::Network)
    } else if link.starts_with(b"/") && !link.starts_with(b"/dev/") {
        None
    } else {
        Some(OffCpu::Other)
    }
}

/// What functions of the kernel, by what their names begin with, let threads wait for (Linux 5.4 to
/// 6.18).
const CHANNELS: &[(&str, OffCpu)] = &[
    ("futex_", OffCpu::Lock),
    ("flock_", OffCpu::Lock),
    ("locks_", OffCpu::Lock),
    ("fcntl_", OffCpu::Lock),
    ("posix_lock", OffCpu::Lock),
    ("hrtimer_nanosleep", OffCpu::Sleep),
    ("do_nanosleep", OffCpu::Sleep),
    ("do_wait", OffCpu::Child),
    ("kernel_wait", OffCpu::Child),
    ("kernel_clone", OffCpu::Child),
    ("wait_for_vfork", OffCpu::Child),
    ("do_epoll_wait", OffCpu::Network),
    ("ep_poll", OffCpu::Network),
    // Any of several descriptors, or a time (`select` without any).
    ("poll_schedule_timeout", OffCpu::Network),
    // TCP; terminals as well.
    ("wait_woken", OffCpu::Network),
    ("anon_pipe_", OffCpu::Other),
    ("pipe_", OffCpu::Other),
    ("inet_", OffCpu::Network),
    ("tcp_", OffCpu::Network),
    ("udp_", OffCpu::Network),
    ("unix_", OffCpu::Network),
    ("sk_", OffCpu::Network),
    ("sock_", OffCpu::Network),
    ("__skb_", OffCpu::Network),
    ("skb_", OffCpu::Network),
    ("vsock_", OffCpu::Network),
    ("folio_", OffCpu::Disk),
    ("__folio_", OffCpu::Disk),
    ("wait_on_page", OffCpu::Disk),
    ("__wait_on_buffer", OffCpu::Disk),
    ("__wait_on_bit", OffCpu::Disk),
    ("wait_on_bit", OffCpu::Disk),
    ("io_schedule", OffCpu::Disk),
    ("__iomap_", OffCpu::Disk),
    ("iomap_", OffCpu::Disk),
    ("blk", OffCpu::Disk),
    ("submit_bio", OffCpu::Disk),
    ("bio_", OffCpu::Disk),
    ("rq_qos_", OffCpu::Disk),
    ("jbd2_", OffCpu::Disk),
    ("ext4_", OffCpu::Disk),
    ("xfs_", OffCpu::Disk),
    ("xlog_", OffCpu::Disk),
    ("btrfs_", OffCpu::Disk),
    ("nfs", OffCpu::Disk),
    ("fuse_", OffCpu::Disk),
    ("request_wait_answer", OffCpu::Disk),
    ("balance_dirty_", OffCpu::Disk),
];

/// What a thread waits for in this function of the kernel; `None` if it is not known.
#[must_use]
pub fn of_channel(name: &[u8]) -> Option<OffCpu> {
    CHANNELS
        .iter()
        .find(|(start, _)| name.starts_with(start.as_bytes()))
        .map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::{CALLS, Numbers, Verdict, of_call, of_channel, of_descriptor};
    use crate::clock::thread_state::SystemCall;
    use crate::model::off_cpu::OffCpu;

    fn call(number: i64, first: usize, second: usize) -> SystemCall {
        SystemCall {
            number,
            arguments: [first, second, 0, 0],
        }
    }

    #[test]
    fn a_system_call_tells_what_is_waited_for() {
        use OffCpu::{Child, Disk, Lock, Network, Other, PageFault, Sleep};
        use Verdict::{Is, OnDescriptor, OnDescriptorAt};
        // By both tables of numbers, the first two arguments, what it means.
        let table = [
            ("futex", 202, 98, (0x7f00, 0x189), Is(Lock)),
            ("clock_nanosleep", 230, 115, (1, 1), Is(Sleep)),
            ("pselect6 of nothing", 270, 72, (0, 0), Is(Sleep)),
            ("pselect6", 270, 72, (5, 0x7f00), Is(Network)),
            ("ppoll of nothing", 271, 73, (0, 0), Is(Sleep)),
            ("ppoll", 271, 73, (0x7f00, 2), OnDescriptorAt(0x7f00)),
            ("epoll_pwait", 281, 22, (4, 0x7f00), Is(Network)),
            ("accept4", 288, 242, (4, 0), Is(Network)),
            ("recvfrom", 45, 207, (4, 0), Is(Network)),
            ("read", 0, 63, (4, 0x7f00), OnDescriptor(4)),
            ("write", 1, 64, (2, 0x7f00), OnDescriptor(2)),
            ("pread64", 17, 67, (4, 0x7f00), Is(Disk)),
            ("fsync", 74, 82, (4, 0), Is(Disk)),
            ("openat", 257, 56, (4, 0), Is(Disk)),
            ("wait4", 61, 260, (4, 0), Is(Child)),
            ("fcntl(F_SETLKW)", 72, 25, (4, 7), Is(Lock)),
            ("fcntl(F_SETFL)", 72, 25, (4, 4), Is(Other)),
            ("flock", 73, 32, (4, 2), Is(Lock)),
            ("ioctl", 16, 29, (4, 2), Is(Other)),
            ("rt_sigtimedwait", 128, 137, (4, 2), Is(Other)),
            ("none", -1, -1, (0x7ffc, 5), Is(PageFault)),
            (
                "a number that there may be one day",
                70_000,
                70_000,
                (0, 0),
                Is(Other),
            ),
        ];
        for (name, x86, generic, (first, second), expected) in table {
            for (numbers, number) in [(Numbers::X86_64, x86), (Numbers::Generic, generic)] {
                let found = of_call(&call(number, first, second), numbers);
                assert_eq!(found, expected, "{name}, {numbers:?}");
            }
        }
        // What only x86-64 has, and what has these numbers elsewhere (io_cancel, mknodat).
        let poll = of_call(&call(7, 0x7f00, 1), Numbers::X86_64);
        assert_eq!(poll, OnDescriptorAt(0x7f00));
        assert_eq!(of_call(&call(33, 0, 0), Numbers::Generic), Is(Other));
        assert_eq!(of_call(&call(232, 4, 0), Numbers::X86_64), Is(Network));
        assert_eq!(of_call(&call(232, 4, 0), Numbers::Generic), Is(Other));
    }

    #[test]
    fn every_call_stands_in_the_table_once() {
        for numbers in [Numbers::X86_64, Numbers::Generic] {
            let mut listed: Vec<i16> = CALLS
                .iter()
                .map(|(x86, generic, _)| match numbers {
                    Numbers::X86_64 => *x86,
                    Numbers::Generic => *generic,
                })
                .filter(|number| *number >= 0)
                .collect();
            let count = listed.len();
            listed.sort_unstable();
            listed.dedup();
            assert_eq!(listed.len(), count, "{numbers:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn numbers_are_those_of_this_system() {
        use OffCpu::{Child, Disk, Lock, Network, Sleep};
        let table = [
            (libc::SYS_futex, Lock),
            (libc::SYS_flock, Lock),
            (libc::SYS_clock_nanosleep, Sleep),
            (libc::SYS_nanosleep, Sleep),
            (libc::SYS_epoll_pwait, Network),
            (libc::SYS_accept4, Network),
            (libc::SYS_connect, Network),
            (libc::SYS_recvmsg, Network),
            (libc::SYS_sendto, Network),
            (libc::SYS_fdatasync, Disk),
            (libc::SYS_newfstatat, Disk),
            (libc::SYS_statx, Disk),
            (libc::SYS_renameat2, Disk),
            (libc::SYS_unlinkat, Disk),
            (libc::SYS_getdents64, Disk),
            (libc::SYS_fallocate, Disk),
            (libc::SYS_pwritev2, Disk),
            (libc::SYS_utimensat, Disk),
            (libc::SYS_fgetxattr, Disk),
            (libc::SYS_waitid, Child),
            (libc::SYS_wait4, Child),
        ];
        for (number, expected) in table {
            let found = of_call(&call(number, 4, 4), Numbers::NATIVE);
            assert_eq!(found, Verdict::Is(expected), "{number}");
        }
        for number in [
            libc::SYS_read,
            libc::SYS_writev,
            libc::SYS_sendfile,
            libc::SYS_close,
        ] {
            let found = of_call(&call(number, 4, 4), Numbers::NATIVE);
            assert_eq!(found, Verdict::OnDescriptor(4), "{number}");
        }
    }

    #[test]
    fn the_target_of_a_descriptor_tells_what_it_is() {
        let table: [(&[u8], Option<OffCpu>); 6] = [
            (b"socket:[4711]", Some(OffCpu::Network)),
            (b"pipe:[4711]", Some(OffCpu::Other)),
            (b"anon_inode:[eventfd]", Some(OffCpu::Other)),
            (b"/dev/pts/3", Some(OffCpu::Other)),
            (b"/srv/data/rows.csv", None),
            (b"", Some(OffCpu::Other)),
        ];
        for (link, expected) in table {
            assert_eq!(of_descriptor(link), expected, "{link:?}");
        }
    }

    #[test]
    fn the_kernels_function_tells_what_is_waited_for() {
        // As Linux 6.18 writes them.
        let table: [(&[u8], Option<OffCpu>); 14] = [
            (b"futex_do_wait", Some(OffCpu::Lock)),
            (b"hrtimer_nanosleep", Some(OffCpu::Sleep)),
            (b"do_wait", Some(OffCpu::Child)),
            (b"do_epoll_wait", Some(OffCpu::Network)),
            (b"inet_csk_accept", Some(OffCpu::Network)),
            (b"unix_stream_read_generic", Some(OffCpu::Network)),
            (b"__skb_wait_for_more_packets", Some(OffCpu::Network)),
            (b"wait_woken", Some(OffCpu::Network)),
            (b"poll_schedule_timeout.constprop.0", Some(OffCpu::Network)),
            (b"folio_wait_bit_common", Some(OffCpu::Disk)),
            (b"__iomap_dio_rw", Some(OffCpu::Disk)),
            (b"anon_pipe_read", Some(OffCpu::Other)),
            (b"pipe_read", Some(OffCpu::Other)),
            (b"drm_wait_vblank", None),
        ];
        for (name, expected) in table {
            let name_shown = String::from_utf8_lossy(name);
            assert_eq!(of_channel(name), expected, "{name_shown}");
        }
    }
}
