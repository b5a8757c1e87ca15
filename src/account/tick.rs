//! A tick of the sampler, as the accounts see it.
#![forbid(unsafe_code)]

/// Ticks that were left out on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicksLeftOut {
    /// How many.
    pub ticks: u64,
    /// Whether nothing has happened since the last one that was served: then they are known all the
    /// same, else late.
    pub is_idle: bool,
}

impl TicksLeftOut {
    /// The same, but no more than these.
    #[must_use]
    pub fn at_most(self, ticks: u64) -> Self {
        Self {
            ticks: self.ticks.min(ticks),
            ..self
        }
    }
}

/// When a snapshot was taken, and what it stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Monotonic time in ns.
    pub at_ns: u64,
    /// The same without the time in which the process stood still.
    pub wall_ns: u64,
    /// How often each thread was seen: 1, or 0 where only clocks were read.
    pub count: i64,
    /// Ticks before this one that were left out.
    pub left_out: TicksLeftOut,
    /// Whether it came later after its deadline than most do. Such a tick comes when the kernel has
    /// ended the turn of another thread, and that is not at any moment: the turn is found to be over
    /// where a thread asks for its CPU clock or something else that has the kernel look
    /// (`update_curr`, `kernel/sched/fair.c`, Linux 6.18).
    pub is_overdue: bool,
}
