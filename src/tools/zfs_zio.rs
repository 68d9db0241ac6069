//! `zfs-zio`: ZIOs created and done, and their latency by type.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Map, json};

use super::histogram::Histogram;
use super::histogram_tool::{self, HistogramTool};
use super::hooks::{self, Need, Shape, Way};
use super::kernel_side::{ReportKey, Tally};
use super::session::Context;
use super::{Report, Tool, ToolRow, zfs};
use crate::bpf::{Global, Hook};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "zfs-zio",
    about: "ZFS I/O steps (ZIOs) created and done, latency by type",
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

/// `enum zio_type`, the same from 0.8 to 2.4; before 2.3 `flush` was called `ioctl`.
const TYPES: [&str; 7] = ["null", "read", "write", "free", "claim", "flush", "trim"];

static CREATED: Need = Need {
    what: "ZIOs created",
    ways: &[Way {
        attach: &[
            ("created", Hook::Kretprobe("zio_create")),
            ("create", Hook::Kprobe("zio_create")),
        ],
        shape: Shape::OfModule,
        since: "OpenZFS 0.8 and later, CONFIG_KPROBES",
    }],
    instead: zfs::INSTEAD,
    optional: false,
};

static DONE: Need = Need {
    what: "ZIOs done",
    ways: &[Way {
        attach: &[("done", Hook::Kprobe("vdev_stat_update"))],
        shape: Shape::OfModule,
        since: "OpenZFS 0.8 and later, CONFIG_KPROBES",
    }],
    instead: zfs::INSTEAD,
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    zfs::require()?;
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let settings = context.settings().global("unit_ns", Global::U64(unit_ns));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&DONE, &CREATED])?;
    let section_of = |key: &ReportKey| vec![("type", type_name(key.id))];
    let tool = HistogramTool::new(bpf, used, unit, Box::new(section_of));
    Ok(Box::new(tool.with_table_above(Box::new(counts))))
}

fn type_name(number: u32) -> String {
    TYPES
        .get(number as usize)
        .map_or_else(|| format!("type {number}"), |name| (*name).to_owned())
}

fn counts(
    tallies: &BTreeMap<ReportKey, Tally>,
    histograms: &BTreeMap<ReportKey, Histogram>,
) -> Report {
    let mut by_type: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for (key, tally) in tallies {
        by_type.entry(key.id).or_default().0 += tally.count;
    }
    for (key, histogram) in histograms {
        by_type.entry(key.id).or_default().1 += histogram.count();
    }
    let mut text = format!("{:<8} {:>10} {:>10}\n", "TYPE", "CREATED", "DONE");
    let mut rows = Vec::new();
    for (number, (created, done)) in by_type {
        let name = type_name(number);
        let _ = writeln!(text, "{name:<8} {created:>10} {done:>10}");
        rows.push(json!({"type": name, "created": created, "done": done}));
    }
    Report {
        text,
        json: Map::from_iter([("types".to_owned(), rows.into())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u32) -> ReportKey {
        ReportKey {
            epoch: 0,
            id,
            detail: 0,
            comm: [0; 16],
        }
    }

    #[test]
    fn created_and_done_stand_side_by_side() {
        let created = |count| Tally {
            count,
            ..Tally::default()
        };
        let mut done = Histogram::default();
        done.slots[5] = 7;
        let report = counts(
            &BTreeMap::from([(key(1), created(9)), (key(5), created(1))]),
            &BTreeMap::from([(key(1), done)]),
        );
        assert_eq!(
            report.text,
            "TYPE        CREATED       DONE\n\
             read              9          7\n\
             flush             1          0\n"
        );
        assert_eq!(type_name(9), "type 9");
    }
}
