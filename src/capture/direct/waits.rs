//! Why a thread waits: by its state, or else by what the kernel says.
#![forbid(unsafe_code)]

use crate::capture::off_cpu::{Numbers, Verdict, of_call, of_channel, of_descriptor};
use crate::clock::thread_state::{Activity, channel, descriptor_link};
use crate::memory::{ReadMemory, int32, read};
use crate::model::off_cpu::OffCpu;
use crate::model::snapshot::{ThreadSample, ThreadState};

/// What a thread's state and the kernel say of its wait; `None` if it is on a CPU, or nobody tells.
/// `sleeps_by_select` as in CPython 3.10.
pub(super) fn verdict(
    state: ThreadState,
    on_cpu: bool,
    activity: Option<Activity>,
    sleeps_by_select: bool,
) -> Option<Verdict> {
    let reason = match (state, activity?) {
        (ThreadState::Running | ThreadState::Unknown, _) => return None,
        (ThreadState::HoldsGil, _) if on_cpu => return None,
        (ThreadState::WaitsForGil, _) => OffCpu::Gil,
        (ThreadState::WaitsForLock, _) => OffCpu::Lock,
        (_, Activity::Running) => OffCpu::CpuQueue,
        (_, Activity::Blocked(call)) => return Some(of_call(&call, Numbers::NATIVE)),
        // It may be the GIL's.
        (ThreadState::Blocked, Activity::BlockedIn(channel)) if channel.is_futex() => return None,
        (_, Activity::BlockedIn(channel)) => match of_channel(channel.name()) {
            Some(OffCpu::Network) if sleeps_by_select && channel.name().starts_with(b"poll_") => {
                OffCpu::Other
            }
            reason => reason.unwrap_or(OffCpu::Other),
        },
    };
    Some(Verdict::Is(reason))
}

/// What a thread was last found waiting for by a descriptor: while it stands where it stood, the
/// number means the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DescriptorWait {
    descriptor: u64,
    stack_version: u64,
    reason: OffCpu,
}

/// What `verdict` means for a thread; `known` is kept with it.
pub(super) fn resolve(
    verdict: Verdict,
    sample: &ThreadSample,
    known: &mut Option<DescriptorWait>,
    memory: &mut dyn ReadMemory,
) -> OffCpu {
    let descriptor = match verdict {
        Verdict::Is(reason) => return reason,
        Verdict::OnDescriptor(descriptor) => descriptor,
        Verdict::OnDescriptorAt(address) => {
            let bytes = read(memory, address, 4);
            let number = bytes.and_then(|bytes| u64::try_from(int32(bytes, 0)).ok());
            match number {
                Some(descriptor) => descriptor,
                None => return OffCpu::Network,
            }
        }
    };
    let stack_version = sample.stack_version;
    let is_known = |known: &&DescriptorWait| {
        (known.descriptor, known.stack_version) == (descriptor, stack_version)
    };
    if let Some(known) = known.as_ref().filter(is_known) {
        return known.reason;
    }
    let reason = reason_of_descriptor(sample.thread_id, descriptor);
    *known = Some(DescriptorWait {
        descriptor,
        stack_version,
        reason,
    });
    reason
}

fn reason_of_descriptor(thread_id: u64, descriptor: u64) -> OffCpu {
    let Some(link) = descriptor_link(thread_id, descriptor) else {
        return OffCpu::Other;
    };
    of_descriptor(&link).unwrap_or_else(|| {
        // A path is that of a file, most often; the kernel's function tells of a pipe.
        let name = channel(thread_id).and_then(|channel| of_channel(channel.name()));
        match name {
            Some(reason @ (OffCpu::Other | OffCpu::Network)) => reason,
            _ => OffCpu::Disk,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::verdict;
    use crate::capture::off_cpu::Verdict;
    use crate::clock::thread_state::{Activity, Channel, SystemCall};
    use crate::model::off_cpu::OffCpu;
    use crate::model::snapshot::ThreadState;

    #[test]
    fn the_reason_follows_from_the_state_and_from_what_the_kernel_says() {
        use OffCpu::{CpuQueue, Gil, Lock, Network, Other, PageFault, Sleep};
        use ThreadState::{Blocked, HoldsGil, Ready, Running, WaitsForGil, WaitsForLock};
        let call = |number| {
            Activity::Blocked(SystemCall {
                number,
                arguments: [0; 4],
            })
        };
        let none = call(SystemCall::NONE);
        let in_channel = |name: &str| Activity::BlockedIn(Channel::new(name.as_bytes()));
        let table = [
            (Running, true, Activity::Running, None),
            (HoldsGil, true, Activity::Running, None),
            (HoldsGil, true, none, None),
            (Ready, true, Activity::Running, Some(CpuQueue)),
            (HoldsGil, false, Activity::Running, Some(CpuQueue)),
            // Memory that is not there is fetched by whoever holds the GIL as well.
            (HoldsGil, false, none, Some(PageFault)),
            (Blocked, true, none, Some(PageFault)),
            (WaitsForGil, true, none, Some(Gil)),
            (WaitsForLock, true, none, Some(Lock)),
            (WaitsForLock, true, in_channel("futex_do_wait"), Some(Lock)),
            (Blocked, true, in_channel("futex_do_wait"), None),
            (HoldsGil, false, in_channel("futex_do_wait"), Some(Lock)),
            (Blocked, true, in_channel("hrtimer_nanosleep"), Some(Sleep)),
            (Blocked, true, in_channel("drm_wait_vblank"), Some(Other)),
        ];
        for (state, on_cpu, activity, expected) in table {
            let found = verdict(state, on_cpu, Some(activity), false);
            assert_eq!(found, expected.map(Verdict::Is), "{state:?}, {activity:?}");
            assert_eq!(verdict(state, on_cpu, None, false), None);
        }
        let polls = Some(in_channel("poll_schedule_timeout.constprop.0"));
        for (sleeps_by_select, expected) in [(false, Network), (true, Other)] {
            let found = verdict(Blocked, true, polls, sleeps_by_select);
            assert_eq!(found, Some(Verdict::Is(expected)));
        }
    }
}
