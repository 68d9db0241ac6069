//! The latency tools: rows of one table.
//!
//! A tool is `ebpf/<tool>.bpf.c`, `src/tools/<tool>.rs` with its row, `samples/<tool>.txt` and
//! `docs/<tool>.md`; a test fails when one is missing. What they share stands once: the
//! [`interval`] rule, [`hooks`] probed on this kernel, [`kernel_side`]'s keys and counts, the
//! [`histogram`] and its [`heatmap`], and the [`session`] that runs any of them.

mod args;
mod biocount;
mod biolatency;
mod biotop;
mod block;
mod cachestat;
mod clock;
mod comm_table;
mod funccount;
mod function_hooks;
mod functions;
pub mod heatmap;
pub mod histogram;
mod histogram_tool;
pub mod hooks;
pub mod interval;
pub mod kernel_side;
mod kmalloc;
mod pagealloc;
mod runqlat;
pub mod session;
mod syscalls;
mod syslat;
mod tally_tool;
pub mod tcp;
mod tcplife;
mod tcpretrans;
mod tracefs;
mod vfslat;
mod zfs;
mod zfs_arc;
mod zfs_metaslab;
pub mod zfs_txg;
mod zfs_zio;

use std::os::fd::BorrowedFd;

use anyhow::Result;
use clap::{ArgMatches, Args};
use serde_json::{Map, Value};

use crate::bpf::Bpf;
use args::CommonArgs;
use histogram::ROWS;
use hooks::HookUse;
use interval::Rhythm;
use session::Context;

/// One row of the table of tools.
pub struct ToolRow {
    /// What the user types; also the name of its object, its sample and its page.
    pub name: &'static str,
    /// One line for `--help`.
    pub about: &'static str,
    /// Whether it makes histograms, and so takes `--heatmap`.
    pub histogram: bool,
    /// Adds the tool's own options.
    pub options: fn(clap::Command) -> clap::Command,
    /// Loads its object and attaches it.
    pub start: fn(&ArgMatches, &Context) -> Result<Box<dyn Tool>>,
}

impl std::fmt::Debug for ToolRow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

/// Every tool.
pub static TOOLS: &[&ToolRow] = &[
    &biolatency::ROW,
    &biotop::ROW,
    &biocount::ROW,
    &cachestat::ROW,
    &runqlat::ROW,
    &funccount::ROW,
    &syslat::ROW,
    &vfslat::ROW,
    &tcplife::ROW,
    &tcpretrans::ROW,
    &kmalloc::ROW,
    &pagealloc::ROW,
    &zfs_arc::ROW,
    &zfs_zio::ROW,
    &zfs_txg::ROW,
    &zfs_metaslab::ROW,
];

/// The tool of this name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static ToolRow> {
    TOOLS.iter().copied().find(|row| row.name == name)
}

/// A tool's command line: its own options, then those that all share.
#[must_use]
pub fn command(row: &ToolRow) -> clap::Command {
    let mut command = (row.options)(clap::Command::new(row.name));
    command = CommonArgs::augment_args(command);
    if row.histogram {
        command = args::with_heatmap(command);
    }
    // Last: each set of options brings a text about itself.
    command.about(row.about).long_about(None).after_help(
        "INTERVAL alone is one report over that time; COUNT makes it more; -T goes on until \
         Ctrl-C, which always prints what was gathered.",
    )
}

/// A tool at work: attached, counting.
pub trait Tool {
    /// What it does when no interval is given.
    fn rhythm(&self) -> Rhythm;

    /// Its loaded object; none where the kernel itself keeps the counts.
    fn bpf(&self) -> Option<&Bpf>;

    /// The hooks it is attached to.
    fn hooks(&self) -> &[HookUse];

    /// Takes from the kernel what was counted since the last call, and keeps it.
    fn collect(&mut self) -> Result<()>;

    /// What was collected since the last report. Forgets it.
    fn report(&mut self) -> Report;

    /// What the last `collect` added, by log2 row, and the unit: a column of the heat map.
    fn heat(&mut self) -> Option<([u64; ROWS], &'static str)> {
        None
    }

    /// Readable when `events` has something.
    fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The line above the first event.
    fn events_header(&self) -> Option<String> {
        None
    }

    /// Takes the events that happened, each a line of its own.
    fn events(&mut self) -> Vec<Report> {
        Vec::new()
    }
}

/// A report, or an event, in both forms.
#[derive(Debug, Default)]
pub struct Report {
    /// For people. Ends with a line feed unless empty.
    pub text: String,
    /// For `--json`; the session adds the tool, the time and the losses.
    pub json: Map<String, Value>,
}
