//! `profile`: its options as clap sees them, and the plain configuration they mean.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{ArgAction, Args};
use inferno::flamegraph::color::Palette;

use super::surroundings::Surroundings;
use super::{outputs, targets};
use crate::error::Error;
use crate::profile::config::{ProfileConfig, Unwind};
use crate::profile::event::{self, Sampling};
use crate::render::PictureOptions;

/// Not 100: a rate that no timer of the machine shares, so that samples do not fall in step.
const DEFAULT_FREQUENCY_HZ: u64 = 99;

/// A sample takes some 5 to 30 µs of its CPU. At 10 kHz that is up to a third of the machine; at
/// 50 kHz a virtual machine did nothing else any more, not even end the profile.
const FREQUENCY_HZ_MAX: u64 = 10_000;

/// About one pixel of a full-screen picture.
const DEFAULT_MIN_WIDTH_PCT: &str = "0.1";

/// How the command line of `profile` is written.
pub const USAGE: &str = "flame [profile] [OPTIONS] [PID]... [DURATION] [-- COMMAND [ARG]...]";

/// The end of `--help`.
pub const EXAMPLES: &str = "\
Examples:
  flame 10                                    the whole machine for 10 seconds, to flame.svg
  flame -p $(pgrep postgres) 30 -o out.svg    all PostgreSQL processes for 30 seconds
  flame -o make.svg -- make -j2               a command and all its children, until it exits
  flame profile -af 30 > stacks.folded        folded stacks, kernel frames marked _[k]
  flame 10 -o a.svg -o a.folded               two formats from one run
  flame -e page-faults -p 4711 30             where memory is touched first
  flame -d 30 -p 4711,4712                    duration by name: every bare number is a PID

The last bare number is the duration, the others are PIDs. Without a duration sampling ends with
Ctrl-C, the command's exit or the end of all target processes.

Exit status: 0 done, 1 failed, 2 usage, 3 not permitted or not available on this kernel,
4 a gate (--min-quality) failed.";

/// The options of `profile`. Conflicts that clap can express stand here, the rest in `resolve`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct ProfileArgs {
    /// PIDs, then the duration in seconds; a single number is the duration
    #[arg(value_name = "NUMBER", allow_negative_numbers = true)]
    numbers: Vec<String>,

    /// Command to start and profile with all its children
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,

    /// Processes to profile: a PID or a comma list, repeatable
    ///
    /// All their threads are sampled, and the children they fork later. Bare numbers after it are
    /// more PIDs, the last one is the duration, so that `-p $(pgrep NAME) 30` works.
    #[arg(short, long = "pid", value_name = "PID", allow_negative_numbers = true)]
    #[arg(help_heading = "What to profile")]
    pids: Vec<String>,

    /// How long to sample: seconds or 500ms, 5m, 2h; every bare number is then a PID
    #[arg(short, long, value_name = "DURATION", allow_negative_numbers = true)]
    #[arg(help_heading = "What to profile")]
    duration: Option<String>,

    /// Only tasks of this cgroup (v2) and those below it
    #[arg(long, value_name = "PATH", help_heading = "What to profile")]
    cgroup: Option<PathBuf>,

    /// Only this CPU
    #[arg(
        short = 'C',
        long,
        value_name = "CPU",
        help_heading = "What to profile"
    )]
    cpu: Option<u32>,

    /// Only user stacks
    #[arg(
        short = 'U',
        long,
        conflicts_with = "kernel_only",
        help_heading = "What to profile"
    )]
    user_only: bool,

    /// Only kernel stacks
    #[arg(short = 'K', long, help_heading = "What to profile")]
    kernel_only: bool,

    /// Do not follow children forked after the start
    #[arg(long, help_heading = "What to profile")]
    no_inherit: bool,

    /// Leave the idle task out (the default)
    #[arg(
        long,
        overrides_with = "include_idle",
        help_heading = "What to profile"
    )]
    exclude_idle: bool,

    /// Count the idle task too
    #[arg(
        short = 'I',
        long,
        overrides_with = "exclude_idle",
        help_heading = "What to profile"
    )]
    include_idle: bool,

    /// Samples per second and CPU [default: 99]
    #[arg(short = 'F', long, value_name = "HZ", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..), help_heading = "How to sample")]
    frequency: Option<u64>,

    /// Event that triggers samples: cpu-clock, cycles, page-faults, …
    ///
    /// Hardware events and clocks are sampled -F times a second, rare software events (faults,
    /// context switches, migrations) at every occurrence. rHEX is a raw event of this CPU.
    #[arg(short, long, value_name = "EVENT", default_value = event::DEFAULT_EVENT)]
    #[arg(help_heading = "How to sample")]
    event: String,

    /// How user stacks are walked: by frame pointers, call frame information, or as fits
    #[arg(long, value_enum, value_name = "METHOD", default_value_t = Unwind::Auto)]
    #[arg(help_heading = "How to sample")]
    unwind: Unwind,

    /// Do not read DWARF for inlined functions
    #[arg(long, help_heading = "How to sample")]
    no_inline: bool,

    /// Keep threads apart
    #[arg(long, help_heading = "How to sample")]
    per_thread: bool,

    /// Keep CPUs apart
    #[arg(long, help_heading = "How to sample")]
    per_cpu: bool,

    /// File to write, - for standard output; repeatable, the extension selects the format
    ///
    /// Without -o and -f: flame.svg when standard output is a terminal, folded stacks on standard
    /// output when it is not.
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    output: Vec<OsString>,

    /// Format of all -o files, whatever their extensions
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    format: Option<String>,

    /// Folded stacks on standard output
    #[arg(short, long, help_heading = "Output")]
    folded: bool,

    /// Mark kernel frames with `_[k]` in text formats
    #[arg(short, long, help_heading = "Output")]
    annotate: bool,

    /// Write the account of all samples (taken, lost, truncated, unnamed) as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    stats: Option<PathBuf>,

    /// Exit with 4 when fewer user stacks than this percentage are whole and named
    #[arg(long, value_name = "PCT", value_parser = percentage, allow_negative_numbers = true)]
    #[arg(help_heading = "Output")]
    min_quality: Option<f64>,

    /// Results only: no progress, no summary
    #[arg(short, long, help_heading = "Output")]
    quiet: bool,

    /// Say what is being done on standard error; -vv and -vvv say more
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    #[arg(help_heading = "Output")]
    verbose: u8,

    /// Title [default: the command line]
    #[arg(long, value_name = "TEXT", help_heading = "Picture")]
    title: Option<String>,

    /// Palette instead of one colour each for kernel, user, inlined and JIT frames
    #[arg(long, value_name = "PALETTE", help_heading = "Picture")]
    #[arg(value_parser = PossibleValuesParser::new(Palette::VARIANTS))]
    colors: Option<String>,

    /// Roots on top (an icicle graph)
    #[arg(long, help_heading = "Picture")]
    inverted: bool,

    /// Leave out frames narrower than this percentage of the picture
    #[arg(long, value_name = "PCT", value_parser = percentage, allow_negative_numbers = true)]
    #[arg(default_value = DEFAULT_MIN_WIDTH_PCT, help_heading = "Picture")]
    min_width: f64,
}

fn percentage(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(pct) if (0.0..=100.0).contains(&pct) => Ok(pct),
        _ => Err("not a percentage from 0 to 100".to_string()),
    }
}

impl ProfileArgs {
    /// How many times `-v` was given.
    pub fn verbosity(&self) -> u8 {
        self.verbose
    }

    /// The plain configuration, or a usage error for what clap could not see.
    pub fn resolve(
        self,
        command_line: String,
        surroundings: &Surroundings,
    ) -> Result<ProfileConfig, Error> {
        let words = targets::Words {
            pid_lists: &self.pids,
            bare: &self.numbers,
            duration: self.duration.as_deref(),
            command: &self.command,
        };
        let (targets, duration) = targets::resolve(&words, surroundings.executable_of)?;
        let words = outputs::Words {
            files: &self.output,
            format: self.format.as_deref(),
            folded: self.folded,
            stats: self.stats.as_deref(),
        };
        let outputs = outputs::resolve(&words, surroundings.stdout_is_terminal)?;
        Ok(ProfileConfig {
            targets,
            duration,
            frequency_hz: self.frequency_hz(surroundings)?,
            event: self.event,
            user_stacks: !self.kernel_only,
            kernel_stacks: !self.user_only,
            annotate_kernel: self.annotate,
            outputs,
            cpu: self.cpu,
            cgroup: self.cgroup,
            per_thread: self.per_thread,
            per_cpu: self.per_cpu,
            include_idle: self.include_idle,
            inherit: !self.no_inherit,
            unwind: self.unwind,
            inline: !self.no_inline,
            stats: self.stats,
            min_quality_pct: self.min_quality,
            picture: PictureOptions {
                title: self.title,
                colors: self.colors,
                inverted: self.inverted,
                min_width_pct: self.min_width,
                annotate_kernel: self.annotate,
            },
            quiet: self.quiet,
            command_line,
        })
    }

    fn frequency_hz(&self, surroundings: &Surroundings) -> Result<u64, Error> {
        let event = event::by_name(&self.event)?;
        let Some(frequency_hz) = self.frequency else {
            return Ok(DEFAULT_FREQUENCY_HZ);
        };
        if let Sampling::Every(_) = event.sampling {
            return Err(Error::Usage(format!(
                "-F has no meaning for {}: every occurrence is taken",
                self.event
            )));
        }
        if frequency_hz > FREQUENCY_HZ_MAX {
            return Err(Error::Usage(format!(
                "-F {frequency_hz} would leave the machine no time for anything else: use \
                 {FREQUENCY_HZ_MAX} at most, and sample longer for more samples"
            )));
        }
        match surroundings.max_sample_rate_hz {
            Some(max_hz) if frequency_hz > max_hz => Err(Error::Usage(format!(
                "-F {frequency_hz} is more than the kernel's limit of {max_hz} samples per second \
                 (/proc/sys/kernel/perf_event_max_sample_rate)"
            ))),
            _ => Ok(frequency_hz),
        }
    }
}
