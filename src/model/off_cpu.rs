//! Why a thread is on no CPU.

/// Key of the label that says so, on samples of wall time.
pub const OFF: &str = "off";

/// Why a thread is on no CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OffCpu {
    /// It waits for another thread: for a lock, a queue, an event, the end of a thread.
    Lock,
    /// It waits for the GIL.
    Gil,
    /// It could go on, and others have the CPUs.
    CpuQueue,
    /// It waits for a socket, or for any of several descriptors.
    Network,
    /// It waits for a file or a file system.
    Disk,
    /// It waits for a time.
    Sleep,
    /// It waits for a child process.
    Child,
    /// It waits for memory that has to be fetched first.
    PageFault,
    /// It waits for something else: a pipe, a terminal, a signal, a device.
    Other,
}

impl OffCpu {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Lock,
        Self::Gil,
        Self::CpuQueue,
        Self::Network,
        Self::Disk,
        Self::Sleep,
        Self::Child,
        Self::PageFault,
        Self::Other,
    ];

    /// What the label says.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Gil => "gil",
            Self::CpuQueue => "cpu-queue",
            Self::Network => "network",
            Self::Disk => "disk",
            Self::Sleep => "sleep",
            Self::Child => "child",
            Self::PageFault => "page-fault",
            Self::Other => "other",
        }
    }
}
