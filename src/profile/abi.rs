//! What `ebpf/profile_abi.h` says, on this side of the kernel boundary. A test compares both
//! through the object's BTF.

#[cfg(doc)]
use super::unwind::abi::Outcome;
use super::unwind::walk::Registers;
use crate::bpf::Pod;

/// Frames one stack can hold (`MAX_FRAMES`).
pub const MAX_FRAMES: usize = 127;

/// User frames that a [`ShortStack`] holds (`SHORT_FRAMES`).
pub const SHORT_FRAMES: usize = 63;

/// Where the user stack of a sample is (`enum user_stack_place`).
pub mod user_stack_place {
    /// `user_stacks`, by id: walked by frame pointers.
    pub const BY_ID: u32 = 1;
    /// `short_stacks`, by hash: walked by call frame information.
    pub const SHORT: u32 = 2;
    /// `deep_stacks`, by hash: walked by call frame information.
    pub const DEEP: u32 = 3;
}

/// `struct sample_key`: samples with equal keys are counted together.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SampleKey {
    /// Thread group id.
    pub tgid: u32,
    /// Thread id, 0 unless threads are kept apart.
    pub tid: u32,
    /// Low half of the process's start time.
    pub start_time_low: u32,
    /// Number of execs.
    pub exec_id: u32,
    /// CPU, 0 unless CPUs are kept apart.
    pub cpu: u32,
    /// Id in `kernel_stacks`; negative without one.
    pub kernel_stack_id: i32,
    /// One of [`user_stack_place`]; 0 without a user stack.
    pub user_stack_place: u32,
    /// Makes the next field's alignment visible.
    pub reserved: u32,
    /// Id or hash of the user stack.
    pub user_stack: u64,
    /// The thread's name.
    pub comm: [u8; 16],
}

/// `struct short_stack` and `struct deep_stack`: a user stack walked by call frame information.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WalkedStack<const FRAMES: usize> {
    /// How the walk ended, an [`Outcome`]'s number.
    pub outcome: u32,
    /// Addresses that count.
    pub count: u32,
    /// Leaf first.
    pub addresses: [u64; FRAMES],
}

/// `struct sample_count`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SampleCount {
    /// Number of samples.
    pub count: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the first.
    pub first_ns: u64,
    /// `CLOCK_MONOTONIC` nanoseconds of the last.
    pub last_ns: u64,
}

impl SampleCount {
    /// A single sample.
    #[must_use]
    pub fn one(time_ns: u64) -> Self {
        Self {
            count: 1,
            first_ns: time_ns,
            last_ns: time_ns,
        }
    }
}

/// `struct whole_sample` without its frames, which follow it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WholeSampleHeader {
    /// As in the map, both stacks without meaning.
    pub key: SampleKey,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// Kernel frames that follow.
    pub kernel_frames: u32,
    /// User frames that follow those.
    pub user_frames: u32,
    /// How the walk by call frame information ended; 0 for one by frame pointers.
    pub outcome: u32,
    /// Makes the frames' alignment visible.
    pub reserved: u32,
}

/// `struct stack_snapshot` without the stack's bytes, which follow it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SnapshotHeader {
    /// As in the map, both stacks without meaning.
    pub key: SampleKey,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// Kernel frames in `frames`.
    pub kernel_frames: u32,
    /// Bytes of user stack that follow, from the stack pointer upwards.
    pub stack_bytes: u32,
    /// Where the program's arguments begin on its stack.
    pub start_stack: u64,
    /// User registers, `struct pt_regs`.
    pub registers: Registers,
    /// The kernel stack, leaf first.
    pub frames: [u64; MAX_FRAMES],
}

/// `struct counters`, one per CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Events that fired.
    pub taken: u64,
    /// … in the idle task.
    pub idle: u64,
    /// … in tasks or modes not asked for.
    pub filtered: u64,
    /// Counted in the maps.
    pub counted: u64,
    /// Sent whole: another stack holds the slot.
    pub rescued_collision: u64,
    /// Sent whole: a map is full.
    pub rescued_map_full: u64,
    /// Sent whole: a bucket was locked.
    pub rescued_map_busy: u64,
    /// Lost: the ring was full.
    pub lost_ring_full: u64,
    /// Kept without a kernel stack that should be there.
    pub no_kernel_stack: u64,
    /// Kept without a user stack that should be there.
    pub no_user_stack: u64,
    /// Children that could not be followed: the table of targets was full.
    pub untracked_children: u64,
    /// Samples whose user stack was sent as bytes, to be walked in user space.
    pub snapshots: u64,
    /// … that the ring had no room for: their stacks stay as far as they were walked.
    pub snapshots_unsent: u64,
}

// SAFETY: plain integers without padding: `reserved` makes it explicit.
unsafe impl Pod for SampleKey {}
// SAFETY: plain integers without padding.
unsafe impl Pod for SampleCount {}
// SAFETY: plain integers without padding.
unsafe impl<const FRAMES: usize> Pod for WalkedStack<FRAMES> {}
// SAFETY: plain integers without padding: `reserved` makes it explicit.
unsafe impl Pod for WholeSampleHeader {}
// SAFETY: plain integers without padding.
unsafe impl Pod for SnapshotHeader {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Counters {}
