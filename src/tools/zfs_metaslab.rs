//! `zfs-metaslab`: how long ZFS takes to find room for a block.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::histogram_tool::{self, HistogramTool, Section};
use super::hooks::{self, Need, Shape, Way};
use super::kernel_side::ReportKey;
use super::session::Context;
use super::{Tool, ToolRow, zfs};
use crate::bpf::{Global, Hook};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "zfs-metaslab",
    about: "ZFS metaslab allocation latency as a histogram",
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

/// `detail` of the kernel side.
const FAILED: u64 = 1;

static ALLOCATIONS: Need = Need {
    what: "allocations of blocks",
    ways: &[
        Way {
            attach: &[
                ("alloc_done", Hook::Kretprobe("metaslab_alloc_range")),
                ("alloc", Hook::Kprobe("metaslab_alloc_range")),
            ],
            shape: Shape::OfModule,
            since: "OpenZFS 2.4, CONFIG_KPROBES",
        },
        Way {
            attach: &[
                ("alloc_done", Hook::Kretprobe("metaslab_alloc")),
                ("alloc", Hook::Kprobe("metaslab_alloc")),
            ],
            shape: Shape::OfModule,
            since: "OpenZFS 0.8 to 2.3, CONFIG_KPROBES",
        },
    ],
    instead: zfs::INSTEAD,
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    zfs::require()?;
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let settings = context.settings().global("unit_ns", Global::U64(unit_ns));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&ALLOCATIONS])?;
    let section_of = |key: &ReportKey| -> Section {
        let result = if key.detail == FAILED {
            "failed"
        } else {
            "allocated"
        };
        vec![("result", result.to_owned())]
    };
    Ok(Box::new(HistogramTool::new(
        bpf,
        used,
        unit,
        Box::new(section_of),
    )))
}
