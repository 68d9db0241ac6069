//! `kmalloc`: kernel allocations by command.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::comm_table::{self, Columns, TopArgs};
use super::hooks::{self, Need, Shape, Way};
use super::interval::Rhythm;
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Tool, ToolRow};
use crate::bpf::{Hook, Parameter};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "kmalloc",
    about: "Kernel allocations by command: count and bytes",
    histogram: false,
    options: TopArgs::augment_args,
    start,
};

static COLUMNS: Columns = Columns {
    count: "ALLOCS",
    amount: ("REQUESTED_KB", "requested_bytes", 1024),
    extra: Some(("ALLOCATED_KB", "allocated_bytes", 1024)),
};

const INSTEAD: &str = "use a kernel built with CONFIG_DEBUG_INFO_BTF; /proc/slabinfo has totals";

static KMALLOC: Need = Need {
    what: "kernel allocations",
    ways: &[
        Way {
            attach: &[("kmalloc", Hook::RawTp("kmalloc"))],
            shape: Shape::Passes(5, 2, Parameter::Scalar),
            since: "5.10 to 5.19, 6.1 and later",
        },
        Way {
            attach: &[("kmalloc_with_cache", Hook::RawTp("kmalloc"))],
            shape: Shape::Passes(6, 2, Parameter::Pointer),
            since: "6.0",
        },
    ],
    instead: INSTEAD,
    optional: false,
};

/// A tracepoint of its own until 6.1 made it part of `kmalloc`.
static KMALLOC_NODE: Need = Need {
    what: "kernel allocations on a chosen node",
    ways: &[
        Way {
            attach: &[("kmalloc_node", Hook::RawTp("kmalloc_node"))],
            shape: Shape::Passes(6, 2, Parameter::Scalar),
            since: "5.10 to 5.19",
        },
        Way {
            attach: &[("kmalloc_node_with_cache", Hook::RawTp("kmalloc_node"))],
            shape: Shape::Passes(7, 2, Parameter::Pointer),
            since: "6.0",
        },
    ],
    instead: INSTEAD,
    optional: true,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let top = TopArgs::from_arg_matches(matches)?;
    let mut bpf = context.load(ROW.name, &context.settings())?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&KMALLOC, &KMALLOC_NODE])?;
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::EverySecond,
        comm_table::renderer(&COLUMNS, &top, |_| None),
    )))
}
