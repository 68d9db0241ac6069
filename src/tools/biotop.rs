//! `biotop`: block I/O by process.

use std::fmt::Write as _;
use std::io::{IsTerminal, stdout};

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches, ValueEnum};
use serde_json::{Map, json};

use super::interval::Rhythm;
use super::kernel_side::{ReportKey, Tally};
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Report, Tool, ToolRow, block, clock, hooks};
use crate::bpf::Global;

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "biotop",
    about: "Block I/O by process",
    histogram: false,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    /// Reads only
    #[arg(short = 'R', long, conflicts_with = "writes")]
    reads: bool,

    /// Writes only
    #[arg(short = 'W', long)]
    writes: bool,

    /// Rows of a report
    #[arg(short, long, value_name = "ROWS", default_value_t = 20)]
    rows: usize,

    /// What the busiest is
    #[arg(short, long, value_enum, default_value_t = Sort::Bytes)]
    sort: Sort,

    /// Only this disk
    #[arg(short, long, value_name = "DISK")]
    disk: Option<String>,

    /// Do not clear the terminal between reports
    #[arg(short = 'C', long)]
    noclear: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sort {
    Io,
    Bytes,
    Time,
}

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let operations = match (options.reads, options.writes) {
        (true, _) => 1 << 0,
        (_, true) => 1 << 1,
        _ => u64::MAX,
    };
    let settings = block::disk_filter(context.settings(), options.disk.as_deref())?
        .global("owners_known", Global::Bool(true))
        .global("wanted_operations", Global::U64(operations));
    let mut bpf = context.load(ROW.name, &settings)?;
    let needs = [&block::COMPLETE, &block::ISSUE, &block::OWNER];
    let used = hooks::attach(&mut bpf, &context.kernel, &needs)?;
    let clear = !options.noclear && stdout().is_terminal();
    let render = move |tallies: &[(ReportKey, Tally)]| report(tallies, &options, clear);
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::EverySecond,
        Box::new(render),
    )))
}

fn report(tallies: &[(ReportKey, Tally)], options: &Options, clear: bool) -> Report {
    let mut tallies = tallies.to_vec();
    tallies.sort_by_key(|(_, tally)| {
        std::cmp::Reverse(match options.sort {
            Sort::Io => tally.count,
            Sort::Bytes => tally.amount,
            Sort::Time => tally.extra,
        })
    });
    let mut text = if clear {
        "\x1b[H\x1b[2J".to_owned()
    } else {
        String::new()
    };
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let _ = writeln!(text, "{:<8} loadavg: {}", clock::time_of_day(), load.trim());
    let _ = writeln!(
        text,
        "\n{:<7} {:<16} {:1} {:<3} {:<3} {:<8} {:>5} {:>7} {:>6}",
        "PID", "COMM", "D", "MAJ", "MIN", "DISK", "I/O", "Kbytes", "AVGms"
    );
    let mut rows = Vec::new();
    for (index, (key, tally)) in tallies.iter().enumerate() {
        let (major, minor) = block::numbers(key.detail as u32);
        let disk = block::disk_name(key.detail as u32);
        let operation = key.detail >> 32;
        let average_ms = tally.extra as f64 / tally.count.max(1) as f64 / 1e6;
        if index < options.rows {
            let _ = writeln!(
                text,
                "{:<7} {:<16} {:1} {major:<3} {minor:<3} {disk:<8} {:>5} {:>7} {average_ms:>6.2}",
                key.id,
                key.comm(),
                block::operation_letter(operation),
                tally.count,
                tally.amount / 1024,
            );
        }
        rows.push(json!({
            "pid": key.id,
            "comm": key.comm(),
            "operation": block::operation_name(operation),
            "major": major,
            "minor": minor,
            "disk": disk,
            "io": tally.count,
            "bytes": tally.amount,
            "time_ns": tally.extra,
        }));
    }
    rows.truncate(options.rows);
    Report {
        text,
        json: Map::from_iter([("rows".to_owned(), rows.into())]),
    }
}
