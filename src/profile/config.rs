//! What one `profile` run is asked to do: plain data, resolved from the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::render::{FormatRow, PictureOptions};

/// Everything a `profile` run needs to know. Built by `cli`, read by `session`.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct ProfileConfig {
    /// Whose stacks are taken.
    pub targets: Targets,
    /// How long to sample; `None` until Ctrl-C, the command's exit or the end of all targets.
    pub duration: Option<Duration>,
    /// Samples per second and CPU. For hardware events the kernel adapts its period to it.
    pub frequency_hz: u64,
    /// The perf event's name as the user gave it (`cpu-clock`, `cycles`, `page-faults`, …).
    pub event: String,
    /// Take user stacks (`-K` switches them off).
    pub user_stacks: bool,
    /// Take kernel stacks (`-U` switches them off).
    pub kernel_stacks: bool,
    /// Mark kernel frames with `_[k]` in folded output (`-a`).
    pub annotate_kernel: bool,
    /// Where results go. Never empty.
    pub outputs: Vec<Output>,
    /// Sample this CPU only (`-C`).
    pub cpu: Option<u32>,
    /// Sample the tasks of this cgroup (and those below it) only.
    pub cgroup: Option<PathBuf>,
    /// Keep threads apart.
    pub per_thread: bool,
    /// Keep CPUs apart.
    pub per_cpu: bool,
    /// Count the idle task too (`-I`).
    pub include_idle: bool,
    /// Follow children forked after the start.
    pub inherit: bool,
    /// How user stacks are walked.
    pub unwind: Unwind,
    /// Read DWARF for inlined frames.
    pub inline: bool,
    /// Write the quality block as JSON here.
    pub stats: Option<PathBuf>,
    /// Fail (exit 4) when fewer than this percentage of user stacks is rooted and named.
    pub min_quality_pct: Option<f64>,
    /// How pictures look.
    pub picture: PictureOptions,
    /// Results only, no progress and no summary.
    pub quiet: bool,
    /// The command line as typed, for the picture's title.
    pub command_line: String,
}

/// Whose stacks are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every process on the machine.
    System,
    /// These processes (thread group ids), and their later children unless `inherit` is off.
    Pids(Vec<u32>),
    /// A command that `flame` starts itself.
    Command(Vec<OsString>),
}

/// How user stacks are walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Unwind {
    /// Decide by region: call frame information where there is some, frame pointers elsewhere.
    Auto,
    /// Frame pointers only.
    Fp,
    /// Call frame information only.
    Dwarf,
}

/// One result: a format and where it goes.
#[derive(Debug, Clone)]
pub struct Output {
    /// The row of the table of formats.
    pub format: &'static FormatRow,
    /// The place it is written to.
    pub destination: Destination,
}

/// The place a result is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Standard output (`-o -`, `-f`).
    Stdout,
    /// A file, written to a temporary name beside it and renamed.
    File(PathBuf),
}
