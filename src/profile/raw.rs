//! What comes out of the kernel: addresses and counts, nothing named yet.

use super::unwind::abi::Outcome;

/// A stack's place in [`RawProfile::stacks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StackId(pub u32);

/// One address space's identity: a process id alone is reused, and an exec replaces everything
/// under the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey {
    /// Thread group id in the initial PID namespace.
    pub tgid: u32,
    /// Low half of the group leader's start time: tells a reused id from its former owner.
    pub start_time_low: u32,
    /// Counts the execs of the process (`task_struct::self_exec_id`).
    pub exec_id: u32,
}

/// Equal samples, counted in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawSample {
    /// The address space the user stack belongs to.
    pub image: ImageKey,
    /// Thread id; 0 unless threads are kept apart.
    pub tid: u32,
    /// CPU; `None` unless CPUs are kept apart.
    pub cpu: Option<u32>,
    /// The thread's name (`task_struct::comm`), up to the first NUL. Untrusted bytes.
    pub comm: [u8; 16],
    /// Kernel stack, leaf first; `None` when the sample hit in user mode.
    pub kernel_stack: Option<StackId>,
    /// User stack, leaf first; `None` for kernel threads.
    pub user_stack: Option<StackId>,
    /// How the walk of the user stack by call frame information ended; `None` for a walk by
    /// frame pointers, which cannot tell.
    pub outcome: Option<Outcome>,
    /// Number of samples.
    pub count: u64,
    /// `CLOCK_MONOTONIC` time of the first of them, in nanoseconds.
    pub first_ns: u64,
    /// `CLOCK_MONOTONIC` time of the last of them, in nanoseconds.
    pub last_ns: u64,
}

/// Everything the kernel side gathered in one run.
#[derive(Debug, Clone, Default)]
pub struct RawProfile {
    /// Unique stacks, leaf first.
    pub stacks: Vec<Box<[u64]>>,
    /// Counted samples.
    pub samples: Vec<RawSample>,
}
