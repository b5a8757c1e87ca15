"""Filters of system calls (seccomp), for programs that tests run: Linux on x86-64."""

import ctypes
import struct

NUMBERS = {
    "read": 0,
    "write": 1,
    "open": 2,
    "close": 3,
    "stat": 4,
    "fstat": 5,
    "lseek": 8,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "ioctl": 16,
    "pread64": 17,
    "writev": 20,
    "pipe": 22,
    "sched_yield": 24,
    "madvise": 28,
    "getpid": 39,
    "clone": 56,
    "exit": 60,
    "wait4": 61,
    "kill": 62,
    "fcntl": 72,
    "flock": 73,
    "fsync": 74,
    "ftruncate": 77,
    "getcwd": 79,
    "mkdir": 83,
    "readlink": 89,
    "fchmod": 91,
    "geteuid": 107,
    "prctl": 157,
    "gettid": 186,
    "futex": 202,
    "getdents64": 217,
    "clock_gettime": 228,
    "clock_nanosleep": 230,
    "openat": 257,
    "newfstatat": 262,
    "unlinkat": 263,
    "renameat": 264,
    "set_robust_list": 273,
    "eventfd2": 290,
    "pipe2": 293,
    "pwritev": 296,
    "process_vm_readv": 310,
    "sched_setattr": 314,
    "sched_getattr": 315,
    "seccomp": 317,
    "getrandom": 318,
    "memfd_create": 319,
    "statx": 332,
    "rseq": 334,
    "close_range": 436,
    "clone3": 435,
}
"""Of `arch/x86/entry/syscalls/syscall_64.tbl`."""

ERRORS = {"EPERM": 1, "ENOSYS": 38, "EAGAIN": 11, "ENOMEM": 12}
ACTIONS = {"kill": 0x80000000, **{name: 0x50000 | number for name, number in ERRORS.items()}}
"""What a filter answers: `SECCOMP_RET_KILL_PROCESS`, or `SECCOMP_RET_ERRNO` with an error."""

ALLOW = 0x7FFF0000


def forbid(calls: list[int], action: int, *, everywhere: bool = False) -> None:
    """Have these calls answered by `action`: those of this thread and of threads it starts.

    With ``everywhere`` those of all threads of the process.
    """
    code = [(0x20, 0, 0, 0)]  # load the number of the call
    for number in calls:
        code += [(0x15, 0, 1, number), (0x06, 0, 0, action)]
    code += [(0x06, 0, 0, ALLOW)]
    filters = b"".join(struct.pack("HBBI", *line) for line in code)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.c_char_p))

    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code), filters)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    flags = 1 if everywhere else 0  # SECCOMP_FILTER_FLAG_TSYNC
    # SECCOMP_SET_MODE_FILTER
    answer = libc.syscall(NUMBERS["seccomp"], 1, flags, ctypes.byref(program))
    assert answer == 0, (answer, ctypes.get_errno())
