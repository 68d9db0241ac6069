//! `biocount`: who issues block I/O.

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};

use super::comm_table::{self, Columns, TopArgs};
use super::interval::Rhythm;
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Tool, ToolRow, block, hooks};
use crate::bpf::Global;

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "biocount",
    about: "Block I/O issued, by command",
    histogram: false,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    #[command(flatten)]
    top: TopArgs,

    /// Only this disk
    #[arg(short, long, value_name = "DISK")]
    disk: Option<String>,
}

static COLUMNS: Columns = Columns {
    count: "I/O",
    amount: ("Kbytes", "bytes", 1024),
    extra: None,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let settings = block::disk_filter(context.settings(), options.disk.as_deref())?
        .global("owners_known", Global::Bool(true));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&block::ISSUE, &block::OWNER])?;
    let render = comm_table::renderer(&COLUMNS, &options.top, |key| {
        Some(("D", block::operation_letter(key.detail).to_string()))
    });
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::EverySecond,
        render,
    )))
}
