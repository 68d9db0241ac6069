//! The finished profile: named stacks, counts, and the account of what is missing.
//!
//! This is what renderers and exporters read; it knows nothing of BPF or of processes.

use std::time::Duration;

use serde::Serialize;

/// A frame's place in [`Profile::frames`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrameId(pub u32);

/// Where a frame's code comes from; drives colours and the `_[k]`, `_[i]`, `_[j]` marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// The root of a stack: command, thread or CPU.
    Task,
    /// Kernel text, modules, BPF programs.
    Kernel,
    /// A function of an ELF file or the vDSO.
    User,
    /// A function inlined into its caller.
    Inlined,
    /// Code a JIT compiler wrote, named by a perf map.
    Jit,
    /// An address without a name: `[module+0xoffset]` or `[unknown]`.
    Unknown,
}

/// One frame of a flame graph. Names are already demangled but still untrusted text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Display name without any `_[k]`-like mark.
    pub name: Box<str>,
    /// Where the code comes from.
    pub kind: FrameKind,
}

/// Equal stacks and how often they were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Root (task) first, leaf last.
    pub frames: Box<[FrameId]>,
    /// Number of samples.
    pub count: u64,
}

/// A finished profile.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Unique frames.
    pub frames: Vec<Frame>,
    /// Unique stacks, in the order of their first appearance.
    pub stacks: Vec<Stack>,
    /// Circumstances of the run.
    pub meta: Meta,
    /// The account of every sample.
    pub quality: Quality,
}

impl Profile {
    /// Samples in the picture.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.stacks.iter().map(|stack| stack.count).sum()
    }

    /// The frame behind an id.
    #[must_use]
    pub fn frame(&self, id: FrameId) -> &Frame {
        &self.frames[id.0 as usize]
    }
}

/// Circumstances of a run, as the picture's title and subtitle tell them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Meta {
    /// The command line as typed.
    pub command_line: String,
    /// Host name.
    pub host: String,
    /// Kernel release, as `uname -r` prints it.
    pub kernel: String,
    /// Time sampled, as measured.
    pub duration: Duration,
    /// Samples per second and CPU asked for.
    pub frequency_hz: u64,
    /// The perf event.
    pub event: String,
    /// CPUs sampled.
    pub cpus: u32,
}

/// The account of every sample: nothing is lost silently.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Samples the clock should have delivered on all CPUs; `None` for events without a clock.
    pub expected: Option<u64>,
    /// Samples delivered on all CPUs: in the picture, idle, filtered and lost together.
    pub taken: u64,
    /// Of those, in the picture.
    pub recorded: u64,
    /// Of those, hit the idle task and were left out.
    pub idle: u64,
    /// Of those, belonged to processes, cgroups or modes that were not asked for.
    pub filtered: u64,
    /// Lost, by cause. Only causes with a non-zero count are listed.
    pub lost: Vec<(&'static str, u64)>,
    /// Samples kept by a fallback (not lost), by cause: stack-map collisions, full maps.
    pub rescued: Vec<(&'static str, u64)>,
    /// Other things than samples that were missed, by what: names may lack because of them.
    pub missed: Vec<(&'static str, u64)>,
    /// Samples with a user stack.
    pub user_stacks: u64,
    /// Of those, reached the outermost frame.
    pub rooted: u64,
    /// Of those, rooted and every frame named.
    pub rooted_and_named: u64,
    /// Samples whose stack is not whole, by cause.
    pub truncated: Vec<(&'static str, u64)>,
    /// Frames without a name, by module, most frequent first.
    pub unknown: Vec<UnknownModule>,
}

/// Frames of one module that could not be named, and what would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownModule {
    /// File name, or a class such as `[anonymous]`.
    pub module: String,
    /// Frames without a name, weighted by their samples.
    pub frames: u64,
    /// Which package or file would help.
    pub remedy: String,
}
