//! What `ebpf/profile_abi.h` says, on this side of the kernel boundary. A test compares both
//! through the object's BTF.

use crate::bpf::Pod;

/// Frames one stack can hold (`MAX_FRAMES`).
pub const MAX_FRAMES: usize = 127;

/// `struct sample_key`: samples with equal keys are counted together.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Id in `user_stacks`; negative without one.
    pub user_stack_id: i32,
    /// The thread's name.
    pub comm: [u8; 16],
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

/// `struct whole_sample` without its frames, which follow it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WholeSampleHeader {
    /// As in the map, both stack ids without meaning.
    pub key: SampleKey,
    /// Kernel frames that follow.
    pub kernel_frames: u32,
    /// User frames that follow those.
    pub user_frames: u32,
    /// Makes the next field's alignment visible.
    pub padding: u32,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
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
}

// SAFETY: plain integers without padding (`SampleKey` is 44 bytes of 4-byte fields).
unsafe impl Pod for SampleKey {}
// SAFETY: plain integers without padding.
unsafe impl Pod for SampleCount {}
// SAFETY: plain integers; the padding is a field.
unsafe impl Pod for WholeSampleHeader {}
// SAFETY: plain integers without padding.
unsafe impl Pod for Counters {}
