//! `pagealloc`: page allocations by command.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::comm_table::{self, Columns, TopArgs};
use super::hooks::{self, Need, Shape, Way};
use super::interval::Rhythm;
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Tool, ToolRow};
use crate::bpf::Hook;

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "pagealloc",
    about: "Page allocations by command: count and pages",
    histogram: false,
    options: TopArgs::augment_args,
    start,
};

static COLUMNS: Columns = Columns {
    count: "ALLOCS",
    amount: ("PAGES", "pages", 1),
    extra: None,
};

static PAGE_ALLOC: Need = Need {
    what: "page allocations",
    ways: &[Way {
        attach: &[("page_alloc", Hook::TpBtf("mm_page_alloc"))],
        shape: Shape::Parameters(4),
        since: "5.10 and later",
    }],
    instead: "use a kernel built with CONFIG_DEBUG_INFO_BTF; /proc/vmstat (pgalloc_*) has totals",
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let top = TopArgs::from_arg_matches(matches)?;
    let mut bpf = context.load(ROW.name, &context.settings())?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&PAGE_ALLOC])?;
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::EverySecond,
        comm_table::renderer(&COLUMNS, &top, |_| None),
    )))
}
