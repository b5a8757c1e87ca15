//! The system's clocks: monotonic, real time, and the CPU clock of any thread of this process.
#![allow(unsafe_code)]

pub use imp::{monotonic_ns, own_cpu_ns, process_cpu_ns, thread_cpu_ns, thread_id};

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn unix_time_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| {
            i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX)
        })
}

#[cfg(target_os = "linux")]
mod imp {
    use crate::clock::kernel::{self, clock_ns};

    /// Nanoseconds of `CLOCK_MONOTONIC`.
    #[must_use]
    #[inline]
    pub fn monotonic_ns() -> u64 {
        kernel::monotonic_ns()
    }

    /// CPU time of the calling thread in ns.
    #[must_use]
    pub fn own_cpu_ns() -> u64 {
        clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).unwrap_or(0)
    }

    /// CPU time of the whole process in ns.
    #[must_use]
    pub fn process_cpu_ns() -> u64 {
        clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID).unwrap_or(0)
    }

    /// CPU time in ns of a thread of this process; `None` once it has ended.
    ///
    /// The clock id is built from the kernel's thread id as in `include/linux/posix-timers.h`
    /// (`make_thread_cpuclock`, `CPUCLOCK_SCHED`). `pthread_getcpuclockid` must not be used: it
    /// reads the memory of a `pthread_t`, which is gone once the thread has ended.
    #[must_use]
    pub fn thread_cpu_ns(thread_id: u64) -> Option<u64> {
        // `PID_MAX_LIMIT` of include/linux/threads.h. Zero would mean the calling thread.
        const LARGEST: u64 = 4 << 20;
        if !(1..=LARGEST).contains(&thread_id) {
            return None;
        }
        let thread_id = libc::clockid_t::try_from(thread_id).ok()?;
        // 4 selects a thread's clock rather than a process's, 2 its scheduler time in ns.
        clock_ns((!thread_id << 3) | 4 | 2)
    }

    /// The kernel's id of the calling thread.
    #[must_use]
    pub fn thread_id() -> u64 {
        // SAFETY: gettid takes no argument and always succeeds.
        unsafe { libc::syscall(libc::SYS_gettid) as u64 }
    }
}

/// Untested: no macOS machine was at hand. Threads are named by their Mach port, which is what
/// `threading.get_native_id` cannot give there, so other threads' clocks stay unknown.
#[cfg(target_os = "macos")]
mod imp {
    fn read(clock: libc::clockid_t) -> u64 {
        // SAFETY: clock_gettime_nsec_np takes a clock id by value and touches no memory.
        unsafe { libc::clock_gettime_nsec_np(clock) }
    }

    /// Nanoseconds of the monotonic clock.
    #[must_use]
    pub fn monotonic_ns() -> u64 {
        read(libc::CLOCK_UPTIME_RAW)
    }

    /// CPU time of the calling thread in ns.
    #[must_use]
    pub fn own_cpu_ns() -> u64 {
        read(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    /// CPU time of the whole process in ns.
    #[must_use]
    pub fn process_cpu_ns() -> u64 {
        read(libc::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// CPU time in ns of the thread with this Mach port (`pthread_mach_thread_np`).
    #[must_use]
    pub fn thread_cpu_ns(thread_id: u64) -> Option<u64> {
        let port = libc::mach_port_t::try_from(thread_id).ok()?;
        let mut info = std::mem::MaybeUninit::<libc::thread_basic_info>::zeroed();
        let mut count = libc::THREAD_BASIC_INFO_COUNT;
        // SAFETY: `info` and `count` are valid for writing and `count` tells the size of `info`
        // in words; a dead port makes the call fail.
        let result = unsafe {
            libc::thread_info(
                port,
                libc::THREAD_BASIC_INFO as u32,
                info.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        if result != 0 {
            return None;
        }
        // SAFETY: the call succeeded and zeroed memory is a valid thread_basic_info anyway.
        let info = unsafe { info.assume_init() };
        let seconds = info.user_time.seconds as u64 + info.system_time.seconds as u64;
        let micros = info.user_time.microseconds as u64 + info.system_time.microseconds as u64;
        Some(seconds * 1_000_000_000 + micros * 1_000)
    }

    /// The Mach port of the calling thread.
    #[must_use]
    pub fn thread_id() -> u64 {
        // SAFETY: pthread_self is always valid for the calling thread.
        unsafe { u64::from(libc::pthread_mach_thread_np(libc::pthread_self())) }
    }
}

/// Untested: no Windows machine was at hand.
#[cfg(windows)]
mod imp {
    use std::sync::OnceLock;
    use std::time::Instant;

    type Handle = *mut core::ffi::c_void;

    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetCurrentThread() -> Handle;
        fn GetCurrentThreadId() -> u32;
        fn OpenThread(access: u32, inherit: i32, thread_id: u32) -> Handle;
        fn CloseHandle(handle: Handle) -> i32;
        fn GetCurrentProcess() -> Handle;
        fn GetProcessTimes(
            process: Handle,
            created: *mut u64,
            exited: *mut u64,
            kernel: *mut u64,
            user: *mut u64,
        ) -> i32;
        fn GetThreadTimes(
            thread: Handle,
            created: *mut u64,
            exited: *mut u64,
            kernel: *mut u64,
            user: *mut u64,
        ) -> i32;
    }

    const THREAD_QUERY_LIMITED_INFORMATION: u32 = 0x0800;

    fn times_ns(thread: Handle) -> Option<u64> {
        let (mut created, mut exited, mut kernel, mut user) = (0_u64, 0_u64, 0_u64, 0_u64);
        // SAFETY: the four pointers are valid for writing one FILETIME (64 bits) each.
        let ok = unsafe {
            GetThreadTimes(
                thread,
                &raw mut created,
                &raw mut exited,
                &raw mut kernel,
                &raw mut user,
            )
        };
        // A FILETIME counts units of 100 ns.
        (ok != 0).then(|| (kernel + user) * 100)
    }

    /// Nanoseconds of the monotonic clock.
    #[must_use]
    pub fn monotonic_ns() -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
    }

    /// CPU time of the calling thread in ns.
    #[must_use]
    pub fn own_cpu_ns() -> u64 {
        // SAFETY: GetCurrentThread returns a pseudo-handle that needs no closing.
        times_ns(unsafe { GetCurrentThread() }).unwrap_or(0)
    }

    /// CPU time of the whole process in ns.
    #[must_use]
    pub fn process_cpu_ns() -> u64 {
        let (mut created, mut exited, mut kernel, mut user) = (0_u64, 0_u64, 0_u64, 0_u64);
        // SAFETY: as in `times_ns`; the pseudo-handle of the process needs no closing.
        let ok = unsafe {
            GetProcessTimes(
                GetCurrentProcess(),
                &raw mut created,
                &raw mut exited,
                &raw mut kernel,
                &raw mut user,
            )
        };
        if ok == 0 { 0 } else { (kernel + user) * 100 }
    }

    /// CPU time in ns of a thread of this process; `None` once it has ended.
    #[must_use]
    pub fn thread_cpu_ns(thread_id: u64) -> Option<u64> {
        let thread_id = u32::try_from(thread_id).ok()?;
        // SAFETY: an unknown id yields a null handle, which is checked.
        let handle = unsafe { OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, thread_id) };
        if handle.is_null() {
            return None;
        }
        let times = times_ns(handle);
        // SAFETY: the handle was opened above and is closed once.
        unsafe { CloseHandle(handle) };
        times
    }

    /// The system's id of the calling thread.
    #[must_use]
    pub fn thread_id() -> u64 {
        // SAFETY: takes no argument and always succeeds.
        u64::from(unsafe { GetCurrentThreadId() })
    }
}

/// The kernel's id of the main thread, whatever that is called: of a forked child it is the thread
/// that called fork. Linux gives it the id of the process (gettid(2)); elsewhere it is unknown.
#[must_use]
pub fn main_thread_id() -> Option<u64> {
    cfg!(target_os = "linux").then(|| u64::from(std::process::id()))
}

/// Whether this is the main thread; false where that is unknown.
#[must_use]
pub fn is_main_thread(thread_id: u64) -> bool {
    main_thread_id() == Some(thread_id)
}

#[cfg(test)]
mod tests {
    use super::{own_cpu_ns, thread_cpu_ns, thread_id};

    #[test]
    fn another_threads_clock_advances_with_its_work_and_ends_with_it() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let (finish, finished) = std::sync::mpsc::channel::<()>();
        let worker = std::thread::spawn(move || {
            while own_cpu_ns() < 20_000_000 {
                std::hint::spin_loop();
            }
            sender.send((thread_id(), own_cpu_ns())).ok();
            finished.recv().ok();
        });
        let (id, own) = receiver.recv().unwrap_or_default();
        let seen = thread_cpu_ns(id).unwrap_or_default();
        assert!(seen >= own && seen < own + 5_000_000, "{own} {seen}");
        finish.send(()).ok();
        worker.join().ok();
    }

    #[test]
    fn an_impossible_thread_has_no_clock() {
        assert_eq!(thread_cpu_ns(u64::MAX), None);
        assert_eq!(thread_cpu_ns(1 << 30), None);
        assert_eq!(thread_cpu_ns(0), None);
    }
}
