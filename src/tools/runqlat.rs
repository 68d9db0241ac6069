//! `runqlat`: how long tasks that can run wait for a CPU.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::histogram_tool::{self, HistogramTool, Section};
use super::hooks::{self, Need, Shape, Way};
use super::kernel_side::{ReportKey, printable_comm};
use super::session::Context;
use super::{Tool, ToolRow};
use crate::bpf::{Global, Hook};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "runqlat",
    about: "Run-queue latency (waiting for a CPU) as a histogram",
    histogram: true,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    /// A histogram per process
    #[arg(short = 'P', long = "processes", conflicts_with = "threads")]
    processes: bool,

    /// A histogram per thread
    #[arg(short = 'L', long = "threads")]
    threads: bool,

    /// Milliseconds instead of microseconds
    #[arg(short, long)]
    milliseconds: bool,
}

static WAITS: Need = Need {
    what: "waits for a CPU",
    ways: &[Way {
        attach: &[
            ("switched", Hook::TpBtf("sched_switch")),
            ("wakeup", Hook::TpBtf("sched_wakeup")),
            ("wakeup_new", Hook::TpBtf("sched_wakeup_new")),
            ("freed", Hook::TpBtf("sched_process_free")),
        ],
        shape: Shape::Any,
        since: "5.10 and later",
    }],
    instead: "use a kernel built with CONFIG_DEBUG_INFO_BTF and tracepoints; /proc/PID/schedstat \
              has each task's total wait",
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let settings = context
        .settings()
        .global("unit_ns", Global::U64(unit_ns))
        .global("per_process", Global::Bool(options.processes))
        .global("per_thread", Global::Bool(options.threads));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&WAITS])?;
    let what = match (options.processes, options.threads) {
        (true, _) => Some("pid"),
        (_, true) => Some("tid"),
        _ => None,
    };
    let section_of = move |key: &ReportKey| -> Section {
        what.map(|what| (what, with_comm(key.id)))
            .into_iter()
            .collect()
    };
    Ok(Box::new(HistogramTool::new(
        bpf,
        used,
        unit,
        Box::new(section_of),
    )))
}

/// `15 rcu_preempt`, or the number alone when the task is gone.
fn with_comm(id: u32) -> String {
    match std::fs::read(format!("/proc/{id}/comm")) {
        Ok(comm) => format!("{id} {}", printable_comm(comm.trim_ascii_end())),
        Err(_) => id.to_string(),
    }
}
