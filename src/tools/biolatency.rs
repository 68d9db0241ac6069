//! `biolatency`: block I/O latency as a histogram.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::histogram_tool::{self, HistogramTool, Section};
use super::session::Context;
use super::{Tool, ToolRow, block, hooks};
use crate::bpf::Global;

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "biolatency",
    about: "Block I/O latency as a histogram",
    histogram: true,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "switches of the command line"
)]
struct Options {
    /// A histogram per disk
    #[arg(short = 'D', long = "disks", conflicts_with = "flags")]
    disks: bool,

    /// A histogram per set of request flags
    #[arg(short = 'F', long)]
    flags: bool,

    /// Include the time in the kernel's queue
    #[arg(short = 'Q', long)]
    queued: bool,

    /// Milliseconds instead of microseconds
    #[arg(short, long)]
    milliseconds: bool,

    /// Only this disk
    #[arg(short, long, value_name = "DISK")]
    disk: Option<String>,
}

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let owners_known = context.filters_tasks;
    let settings = block::disk_filter(context.settings(), options.disk.as_deref())?
        .global("owners_known", Global::Bool(owners_known))
        .global("with_queue_time", Global::Bool(options.queued))
        .global("per_disk", Global::Bool(options.disks))
        .global("per_flags", Global::Bool(options.flags));
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let mut bpf = context.load(ROW.name, &settings.global("unit_ns", Global::U64(unit_ns)))?;
    let mut needs = vec![&block::COMPLETE, &block::ISSUE];
    if owners_known {
        needs.push(&block::OWNER);
    }
    let used = hooks::attach(&mut bpf, &context.kernel, &needs)?;
    let (disks, flags) = (options.disks, options.flags);
    let section_of = move |key: &super::kernel_side::ReportKey| -> Section {
        if disks {
            vec![("disk", block::disk_name(key.id))]
        } else if flags {
            vec![("flags", block::flags_name(key.detail))]
        } else {
            Section::new()
        }
    };
    Ok(Box::new(HistogramTool::new(
        bpf,
        used,
        unit,
        Box::new(section_of),
    )))
}
