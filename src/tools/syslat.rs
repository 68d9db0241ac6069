//! `syslat`: system-call latency by command.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::histogram_tool::{self, HistogramTool};
use super::hooks::{self, Need, Shape, Way};
use super::kernel_side::ReportKey;
use super::session::Context;
use super::{Tool, ToolRow, syscalls};
use crate::bpf::{Global, Hook};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "syslat",
    about: "System-call latency by command, as histograms",
    histogram: true,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    /// Only this system call; repeatable
    #[arg(long = "syscall", value_name = "NAME")]
    calls: Vec<String>,

    /// Leave out calls that sleep by design (nanosleep, poll, futex, wait4, …)
    #[arg(long, conflicts_with = "calls")]
    no_sleep: bool,

    /// Milliseconds instead of microseconds
    #[arg(short, long)]
    milliseconds: bool,
}

static CALLS: Need = Need {
    what: "system calls",
    ways: &[Way {
        attach: &[
            ("enter", Hook::TpBtf("sys_enter")),
            ("leave", Hook::TpBtf("sys_exit")),
        ],
        shape: Shape::Parameters(2),
        since: "5.10 and later",
    }],
    instead: "use a kernel built with CONFIG_HAVE_SYSCALL_TRACEPOINTS and CONFIG_DEBUG_INFO_BTF, \
              or `perf trace -s`",
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let wanted: Option<Vec<u32>> = if options.no_sleep {
        Some(syscalls::not_sleeping().collect())
    } else if options.calls.is_empty() {
        None
    } else {
        let numbers = options.calls.iter().map(|name| syscalls::number(name));
        Some(numbers.collect::<Result<_, _>>()?)
    };
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let settings = context
        .settings()
        .global("unit_ns", Global::U64(unit_ns))
        .global("filter_calls", Global::Bool(wanted.is_some()));
    let mut bpf = context.load(ROW.name, &settings)?;
    for number in wanted.unwrap_or_default() {
        bpf.set_array("calls", number, 1_u8)?;
    }
    let used = hooks::attach(&mut bpf, &context.kernel, &[&CALLS])?;
    let section_of = |key: &ReportKey| vec![("comm", key.comm())];
    Ok(Box::new(HistogramTool::new(
        bpf,
        used,
        unit,
        Box::new(section_of),
    )))
}
