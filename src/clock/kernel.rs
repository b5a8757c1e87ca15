//! What a sampler asks of the kernel at every tick: the time, the CPU clocks of others, and to be
//! woken.
//!
//! Between two ticks the CPU forgets all there is of the sampler, so that each page of code or data
//! it touches costs a good part of a microsecond. The C library's wrappers of these calls are on
//! six (the functions themselves, `errno`, two tables of the linker, the vDSO and its data): where
//! the calls are known they are made without them, the time by the vDSO alone.
#![allow(unsafe_code)]

pub use imp::{Bell, find_time};
#[cfg(target_os = "linux")]
pub(in crate::clock) use imp::{clock_ns, monotonic_ns};

#[cfg(target_os = "linux")]
const SECOND_NS: u64 = 1_000_000_000;

/// What a clock shows, in ns; `None` if there is no such clock. The C library asks the kernel only
/// for those that the vDSO does not know.
#[cfg(target_os = "linux")]
pub(in crate::clock) fn clock_by_library_ns(clock: libc::clockid_t) -> Option<u64> {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid, writable timespec for the length of the call; an unknown clock id
    // makes the call fail with EINVAL and nothing else.
    let result = unsafe { libc::clock_gettime(clock, &raw mut now) };
    (result == 0).then(|| now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64)
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
))]
mod imp {
    use std::ffi::CStr;
    use std::ptr;
    use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
    use std::sync::atomic::{AtomicPtr, AtomicU32};

    use super::{SECOND_NS, clock_by_library_ns};

    type ReadClock =
        unsafe extern "C" fn(clock: libc::clockid_t, now: *mut libc::timespec) -> libc::c_int;

    /// The kernel's [`ReadClock`] in the vDSO (`vdso(7)`), once it has been found.
    static READ_CLOCK: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());

    /// Looks for the vDSO, once, so that the time need not be asked for by way of the C library. Not
    /// to be called where the linker must not be waited for.
    pub fn find_time() {
        if !READ_CLOCK.load(Relaxed).is_null() {
            return;
        }
        const NAME: &CStr = if cfg!(target_arch = "x86_64") {
            c"__vdso_clock_gettime"
        } else {
            c"__kernel_clock_gettime"
        };
        // SAFETY: the names are C strings, and nothing is loaded: glibc lists the vDSO among the
        // libraries that are there. It stays until the process ends. Elsewhere there is no handle,
        // and dlsym is not called.
        let found = unsafe {
            let vdso = libc::dlopen(
                c"linux-vdso.so.1".as_ptr(),
                libc::RTLD_LAZY | libc::RTLD_NOLOAD,
            );
            if vdso.is_null() {
                return;
            }
            libc::dlsym(vdso, NAME.as_ptr())
        };
        READ_CLOCK.store(found, Relaxed);
    }

    /// Nanoseconds of `CLOCK_MONOTONIC`.
    #[inline(always)]
    pub(in crate::clock) fn monotonic_ns() -> u64 {
        const CLOCK: libc::clockid_t = libc::CLOCK_MONOTONIC;
        let found = READ_CLOCK.load(Relaxed);
        if found.is_null() {
            return clock_by_library_ns(CLOCK).unwrap_or(0);
        }
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: `found` is the kernel's function of this type, and `now` a valid, writable
        // timespec. This clock is always there.
        unsafe {
            let read_clock = std::mem::transmute::<*mut libc::c_void, ReadClock>(found);
            read_clock(CLOCK, &raw mut now);
        }
        now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64
    }

    /// What the kernel answers; negative for an error.
    ///
    /// # Safety
    /// As for the call of this number.
    #[inline(always)]
    unsafe fn system_call(number: libc::c_long, arguments: [usize; 6]) -> isize {
        let answer: isize;
        let [first, second, third, fourth, fifth, sixth] = arguments;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the registers are those of `syscall(2)`, which keeps all but those named here.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") number as isize => answer,
                in("rdi") first,
                in("rsi") second,
                in("rdx") third,
                in("r10") fourth,
                in("r8") fifth,
                in("r9") sixth,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "svc 0",
                in("x8") number,
                inlateout("x0") first as isize => answer,
                in("x1") second,
                in("x2") third,
                in("x3") fourth,
                in("x4") fifth,
                in("x5") sixth,
                options(nostack),
            );
        }
        answer
    }

    /// What a clock shows, in ns; `None` if there is no such clock.
    #[inline(always)]
    pub(in crate::clock) fn clock_ns(clock: libc::clockid_t) -> Option<u64> {
        let mut now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let arguments = [clock as usize, &raw mut now as usize, 0, 0, 0, 0];
        // SAFETY: `now` is a valid, writable timespec for the length of the call; an unknown clock
        // makes the call fail and nothing else.
        let answer = unsafe { system_call(libc::SYS_clock_gettime, arguments) };
        (answer == 0).then(|| now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64)
    }

    /// One thread sleeps by it, others wake it.
    #[derive(Debug, Default)]
    pub struct Bell {
        /// 1 once it was rung, until the sleeper has heard it.
        rung: AtomicU32,
    }

    impl Bell {
        /// Wakes the sleeper, or has its next sleep end at once.
        pub fn ring(&self) {
            // Not a store: what another wrote before it rang must be seen as well.
            self.rung.swap(1, Release);
            self.futex(libc::FUTEX_WAKE, 1, ptr::null());
        }

        /// Sleeps until it is rung or the monotonic clock shows `deadline_ns`; may end early. Returns
        /// whether it was rung.
        #[inline(always)]
        pub fn sleep_until(&self, deadline_ns: u64) -> bool {
            let deadline = libc::timespec {
                tv_sec: (deadline_ns / SECOND_NS) as libc::time_t,
                tv_nsec: (deadline_ns % SECOND_NS) as libc::c_long,
            };
            if self.rung.load(Acquire) == 0 {
                self.futex(libc::FUTEX_WAIT_BITSET, 0, &raw const deadline);
            }
            self.rung.load(Acquire) != 0 && self.rung.swap(0, Acquire) != 0
        }

        /// `futex(2)`; `FUTEX_WAIT_BITSET` takes an absolute time of `CLOCK_MONOTONIC`.
        #[inline(always)]
        fn futex(&self, operation: libc::c_int, value: usize, deadline: *const libc::timespec) {
            let arguments = [
                self.rung.as_ptr() as usize,
                (operation | libc::FUTEX_PRIVATE_FLAG) as usize,
                value,
                deadline as usize,
                0,
                libc::FUTEX_BITSET_MATCH_ANY as u32 as usize,
            ];
            // SAFETY: the word lives as long as `self`, and the time, if any, for the length of the
            // call. Whatever it fails by, the sleep ends early, which it may.
            unsafe { system_call(libc::SYS_futex, arguments) };
        }
    }
}

/// Elsewhere the C library knows best how its calls are made.
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
)))]
mod imp {
    use std::time::Duration;

    use parking_lot::{Condvar, Mutex};

    #[cfg(target_os = "linux")]
    pub(in crate::clock) use super::clock_by_library_ns as clock_ns;

    /// There is nothing to look for.
    pub fn find_time() {}

    /// Nanoseconds of `CLOCK_MONOTONIC`.
    #[cfg(target_os = "linux")]
    pub(in crate::clock) fn monotonic_ns() -> u64 {
        clock_ns(libc::CLOCK_MONOTONIC).unwrap_or(0)
    }

    /// One thread sleeps by it, others wake it.
    #[derive(Debug, Default)]
    pub struct Bell {
        rung: Mutex<bool>,
        ringing: Condvar,
    }

    impl Bell {
        /// Wakes the sleeper, or has its next sleep end at once.
        pub fn ring(&self) {
            *self.rung.lock() = true;
            self.ringing.notify_one();
        }

        /// Sleeps until it is rung or the monotonic clock shows `deadline_ns`; may end early. Returns
        /// whether it was rung.
        pub fn sleep_until(&self, deadline_ns: u64) -> bool {
            let mut rung = self.rung.lock();
            if !*rung {
                let now_ns = crate::clock::cpu::monotonic_ns();
                let left_ns = deadline_ns.saturating_sub(now_ns);
                self.ringing
                    .wait_for(&mut rung, Duration::from_nanos(left_ns));
            }
            std::mem::take(&mut *rung)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::Bell;
    use crate::clock::cpu::monotonic_ns;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_is_the_same_wherever_it_is_asked_for() {
        let by_library_ns = || super::clock_by_library_ns(libc::CLOCK_MONOTONIC).unwrap_or(0);
        for _ in 0..2 {
            let before_ns = by_library_ns();
            let now_ns = monotonic_ns();
            let after_ns = by_library_ns();
            assert!(0 < before_ns && before_ns <= now_ns && now_ns <= after_ns);
            super::find_time();
        }
    }

    #[test]
    fn a_sleep_ends_at_its_deadline() {
        let bell = Bell::default();
        let deadline_ns = monotonic_ns() + 2_000_000;
        while monotonic_ns() < deadline_ns {
            assert!(!bell.sleep_until(deadline_ns));
        }
        // Long past.
        assert!(!bell.sleep_until(1));
    }

    #[test]
    fn whoever_is_rung_wakes_whenever_that_was() {
        let bell = Arc::new(Bell::default());
        bell.ring();
        assert!(bell.sleep_until(monotonic_ns() + 60_000_000_000));
        let (sender, receiver) = channel();
        let sleeper = std::thread::spawn({
            let bell = bell.clone();
            move || {
                for message in 0..10_000 {
                    loop {
                        match receiver.try_recv() {
                            Ok(received) => break assert_eq!(received, message),
                            Err(_) => drop(bell.sleep_until(monotonic_ns() + 60_000_000_000)),
                        }
                    }
                }
            }
        });
        for message in 0..10_000 {
            sender.send(message).ok();
            bell.ring();
        }
        assert!(sleeper.join().is_ok());
    }
}
