//! `vfslat`: latency of file reads and writes by command.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::histogram_tool::{self, HistogramTool};
use super::hooks::{self, Need, Shape, Way};
use super::kernel_side::ReportKey;
use super::session::Context;
use super::{Tool, ToolRow};
use crate::bpf::{Global, Hook};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "vfslat",
    about: "File read and write latency by command, as histograms",
    histogram: true,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    /// Milliseconds instead of microseconds
    #[arg(short, long)]
    milliseconds: bool,
}

/// `enum operation` of the kernel side.
const READ: u64 = 1;

static ACCESSES: Need = Need {
    what: "file reads and writes",
    ways: &[
        Way {
            attach: &[
                ("fexit_read", Hook::Fexit("vfs_read")),
                ("fexit_write", Hook::Fexit("vfs_write")),
                ("fentry_read", Hook::Fentry("vfs_read")),
                ("fentry_write", Hook::Fentry("vfs_write")),
            ],
            shape: Shape::Parameters(4),
            since: "5.10 and later, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS",
        },
        Way {
            attach: &[
                ("kretprobe_read", Hook::Kretprobe("vfs_read")),
                ("kretprobe_write", Hook::Kretprobe("vfs_write")),
                ("kprobe_read", Hook::Kprobe("vfs_read")),
                ("kprobe_write", Hook::Kprobe("vfs_write")),
            ],
            shape: Shape::Parameters(4),
            since: "5.10 and later, CONFIG_KPROBES",
        },
        Way {
            attach: &[
                ("call_exit", Hook::TpBtf("sys_exit")),
                ("call_enter", Hook::TpBtf("sys_enter")),
            ],
            shape: Shape::Parameters(2),
            since: "5.10 and later; the whole system calls read, pread64, readv, … on files",
        },
    ],
    instead: "use a kernel with system-call tracepoints and CONFIG_DEBUG_INFO_BTF, or \
              `perf trace -s`",
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let settings = context.settings().global("unit_ns", Global::U64(unit_ns));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&ACCESSES])?;
    let whole_calls = used.iter().any(|used| used.program == "call_exit");
    let level = if whole_calls { "syscall" } else { "vfs" };
    let section_of = move |key: &ReportKey| {
        let operation = if key.detail == READ { "read" } else { "write" };
        vec![
            ("comm", key.comm()),
            ("operation", operation.to_owned()),
            ("level", level.to_owned()),
        ]
    };
    Ok(Box::new(HistogramTool::new(
        bpf,
        used,
        unit,
        Box::new(section_of),
    )))
}
