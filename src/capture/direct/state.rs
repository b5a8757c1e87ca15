//! What a thread is doing, out of what the interpreter and the kernel say of it.
#![forbid(unsafe_code)]

use crate::clock::thread_state::{Activity, RunQueueWaits, ThreadActivity};
use crate::layout::GIL_BYTES;
use crate::model::snapshot::ThreadState;

/// Files of `/proc` kept open; beyond, each is opened when it is needed.
const MAX_OPEN: usize = 256;

/// Who has the GIL, as one thread sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GilHolder {
    ThisThread,
    Another,
    Nobody,
}

/// What a thread is doing, and whether it has a CPU as far as that can be told.
///
/// `gil` is the address of its GIL, or 0. `activity` is what the kernel says, which is not asked of a
/// thread that holds the GIL. `has_run` tells whether the thread's CPU clock has moved since the look
/// at it began: reading the clock costs a system call, so it is called only where it decides.
pub(super) fn state_of(
    holder: GilHolder,
    gil: usize,
    activity: Option<Activity>,
    has_run: impl Fn() -> bool,
) -> (ThreadState, bool) {
    if holder == GilHolder::ThisThread {
        return (ThreadState::HoldsGil, has_run());
    }
    let state = match activity {
        Some(Activity::Running) if has_run() => ThreadState::Running,
        // A thread on a CPU would have used more of it meanwhile.
        Some(Activity::Running) => ThreadState::Ready,
        Some(Activity::Blocked(call)) if call.futex().wrapping_sub(gil) < GIL_BYTES => {
            ThreadState::WaitsForGil
        }
        Some(Activity::Blocked(call)) if call.futex() != 0 => ThreadState::WaitsForLock,
        Some(Activity::BlockedIn(channel)) if channel.is_futex() => match holder {
            // Nobody waits for a GIL that nobody has.
            GilHolder::Nobody => ThreadState::WaitsForLock,
            _ => ThreadState::Blocked,
        },
        // It was on a CPU when the look at it began, and has gone to wait since.
        Some(Activity::Blocked(_) | Activity::BlockedIn(_)) if has_run() => ThreadState::Running,
        Some(Activity::Blocked(_) | Activity::BlockedIn(_)) => ThreadState::Blocked,
        None if has_run() => ThreadState::Running,
        None => ThreadState::Blocked,
    };
    (state, true)
}

/// Whether a thread has computed for all of the last `passed_ns`, but for what a look at it and an
/// interrupt take: then it does so now as well, and the kernel need not be asked.
pub(super) fn has_run_throughout(clock: Option<u64>, before: Option<u64>, passed_ns: u64) -> bool {
    const ASIDE_PART: u64 = 64;
    const ASIDE_NS: u64 = 10_000;
    clock.zip(before).is_some_and(|(now, before)| {
        let cpu_ns = now.saturating_sub(before);
        cpu_ns + passed_ns / ASIDE_PART + ASIDE_NS >= passed_ns && passed_ns > 2 * ASIDE_NS
    })
}

/// What the kernel says of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KernelAnswer {
    /// What it does; `None` if the thread has ended, or the kernel does not say.
    pub activity: Option<Activity>,
    /// Whether it says which futex threads wait on.
    pub tells_futex: bool,
    /// Whether it says anything about threads that wait.
    pub tells_waits: bool,
}

/// The files by which the kernel is asked about threads: how many of them are open. Each lies in the
/// track of its thread.
#[derive(Debug, Default)]
pub(super) struct ThreadFiles {
    open: usize,
}

impl ThreadFiles {
    /// What a thread is doing.
    pub(super) fn ask(
        &mut self,
        file: &mut Option<ThreadActivity>,
        thread_id: u64,
    ) -> KernelAnswer {
        let answer = |file: &ThreadActivity| KernelAnswer {
            activity: file.read(),
            tells_futex: file.tells_futex(),
            tells_waits: true,
        };
        if let Some(open) = file {
            if open.can_be_kept() {
                return answer(open);
            }
            self.close(file);
        }
        let Some(open) = ThreadActivity::open(thread_id) else {
            return KernelAnswer::default();
        };
        let answer = answer(&open);
        self.keep(file, open);
        answer
    }

    /// For how long a thread has been ready without a CPU so far, in ns.
    pub(super) fn read_run_queue(
        &mut self,
        file: &mut Option<RunQueueWaits>,
        thread_id: u64,
    ) -> Option<u64> {
        if let Some(open) = file {
            if open.can_be_kept() {
                return open.read();
            }
            self.close(file);
        }
        let open = RunQueueWaits::open(thread_id)?;
        let answer = open.read();
        self.keep(file, open);
        answer
    }

    fn keep<T>(&mut self, file: &mut Option<T>, open: T) {
        if self.open < MAX_OPEN {
            self.open += 1;
            *file = Some(open);
        }
    }

    /// Closes a file of one thread.
    pub(super) fn close<T>(&mut self, file: &mut Option<T>) {
        self.open -= usize::from(file.take().is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::{GilHolder, has_run_throughout, state_of};
    use crate::clock::thread_state::{Activity, Channel, SystemCall};
    use crate::layout::GIL_BYTES;
    use crate::model::snapshot::ThreadState;

    const GIL: usize = 0x5000;

    /// Blocked on this futex, or in another system call.
    fn on(futex: usize) -> Option<Activity> {
        Some(Activity::Blocked(SystemCall {
            number: if futex == 0 { 0 } else { libc::SYS_futex },
            arguments: [futex, 0, 0, 0],
        }))
    }

    fn in_channel(name: &[u8]) -> Option<Activity> {
        Some(Activity::BlockedIn(Channel::new(name)))
    }

    #[test]
    fn what_a_thread_does_follows_from_the_gil_the_kernel_and_its_clock() {
        use Activity::Running;
        use GilHolder::{Another, Nobody, ThisThread};
        use ThreadState as State;
        // Who has the GIL, what the kernel says, and the state of a thread that has run since the
        // look began and of one that has not.
        let table = [
            (Another, Some(Running), State::Running, State::Ready),
            (Nobody, Some(Running), State::Running, State::Ready),
            // The words of the GIL, from the first to the last, and those beside it.
            (Another, on(GIL), State::WaitsForGil, State::WaitsForGil),
            (Nobody, on(GIL), State::WaitsForGil, State::WaitsForGil),
            (
                Another,
                on(GIL + GIL_BYTES - 1),
                State::WaitsForGil,
                State::WaitsForGil,
            ),
            (
                Another,
                on(GIL + GIL_BYTES),
                State::WaitsForLock,
                State::WaitsForLock,
            ),
            (
                Another,
                on(GIL - 1),
                State::WaitsForLock,
                State::WaitsForLock,
            ),
            (Another, on(0), State::Running, State::Blocked),
            (
                Another,
                in_channel(b"hrtimer_nanosleep"),
                State::Running,
                State::Blocked,
            ),
            // Which futex is not known: it may be the GIL's, if somebody has that.
            (
                Another,
                in_channel(b"futex_do_wait"),
                State::Blocked,
                State::Blocked,
            ),
            (
                Nobody,
                in_channel(b"futex_do_wait"),
                State::WaitsForLock,
                State::WaitsForLock,
            ),
            // The kernel says nothing: only the clock is left.
            (Another, None, State::Running, State::Blocked),
            (Nobody, None, State::Running, State::Blocked),
        ];
        for (holder, activity, has_run, has_not) in table {
            let shown = (holder, activity);
            assert_eq!(
                state_of(holder, GIL, activity, || true),
                (has_run, true),
                "{shown:?}"
            );
            assert_eq!(
                state_of(holder, GIL, activity, || false),
                (has_not, true),
                "{shown:?}"
            );
        }
        // Who holds the GIL is not asked for anything else, and may have been pushed off its CPU.
        for has_cpu in [true, false] {
            let found = state_of(ThisThread, GIL, None, || has_cpu);
            assert_eq!(found, (State::HoldsGil, has_cpu));
        }
    }

    #[test]
    fn a_clock_is_read_only_where_it_decides() {
        for activity in [on(GIL), on(GIL - 8), in_channel(b"futex_do_wait")] {
            let is_read = Cell::new(false);
            state_of(GilHolder::Another, GIL, activity, || is_read.replace(true));
            assert!(!is_read.get(), "{activity:?}");
        }
    }

    #[test]
    fn a_thread_that_has_computed_all_the_time_needs_no_second_look() {
        const MS: u64 = 1_000_000;
        let after =
            |cpu_ns: u64, passed_ns| has_run_throughout(Some(MS + cpu_ns), Some(MS), passed_ns);
        assert!(after(10 * MS, 10 * MS));
        assert!(after(10 * MS - 150_000, 10 * MS));
        // It stood still for some of the time, which may be now.
        assert!(!after(9 * MS, 10 * MS));
        assert!(!after(0, 10 * MS));
        // Too little to tell.
        assert!(!after(15_000, 15_000));
        assert!(!has_run_throughout(None, Some(MS), MS));
        assert!(!has_run_throughout(Some(MS), None, MS));
    }
}
