//! A benchmark, not a timed test: `flame`, `perf` and `bpftrace` on the same `PostgreSQL` load.
//!
//! Each profiler samples the whole machine in turn, round after round, while one `pgbench -S` runs
//! throughout; the table shows medians. Every profiler is stopped by SIGINT, so "from the end of
//! sampling to the finished file" is the same stretch for all: from that signal to the last byte.

mod bpftrace;
mod measure;
mod profilers;
mod table;
mod tool_loads;
mod tools;

// Tests use the rest of it.
#[allow(dead_code)]
#[path = "../../../tests/support/postgres.rs"]
mod postgres;

use std::fs;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use inferno::collapse::Collapse;

use postgres::Postgres;
use profilers::{Profiler, Run};

/// How the comparison is run.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Compare the latency tools with libbpf-tools' instead of the profilers.
    #[arg(long)]
    tools: bool,
    /// Rounds; each runs every profiler once.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Seconds that each profiler samples.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Samples per second and CPU.
    #[arg(long, default_value_t = 99)]
    frequency_hz: u64,
    /// Clients of pgbench.
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// Scale of pgbench's tables, 15 MB each.
    #[arg(long, default_value_t = 10)]
    scale: u32,
    /// The binary to measure; a release build of this repository when not given.
    #[arg(long)]
    flame: Option<PathBuf>,
    /// Write the table here too.
    #[arg(short, long)]
    output: Option<PathBuf>,
}

/// Longest expected total: the load outlives every run, however slow a profiler's end is.
const LOAD_LIMIT: Duration = Duration::from_hours(2);

/// Runs the comparison and prints its table.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let (needed, packages) = if options.tools {
        (tools::NEEDED, "libbpf-tools bpftool mount util-linux")
    } else {
        (
            &["perf", "bpftrace", "bpftool"][..],
            "linux-perf bpftrace bpftool",
        )
    };
    for tool in needed {
        let found = Command::new(tool).arg("--version").output().is_ok();
        ensure!(
            found,
            "{tool} is not installed\n  remedy: apt-get install {packages}"
        );
    }
    let flame = match &options.flame {
        Some(path) => path
            .canonicalize()
            .with_context(|| path.display().to_string())?,
        None => build_flame(root)?,
    };
    let _stats = measure::BpfStats::enable()?;
    if options.tools {
        let table = tools::run(&flame, options.runs, Duration::from_secs(options.seconds))?;
        return publish(&table, options);
    }
    let postgres = Postgres::start(options.scale)?;
    let _load = postgres.load(options.clients, LOAD_LIMIT)?;
    let mut columns: Vec<(Profiler, Vec<Run>)> = Profiler::ALL
        .into_iter()
        .map(|profiler| (profiler, Vec::new()))
        .collect();
    let plan = profilers::Plan {
        flame,
        frequency_hz: options.frequency_hz,
        sampling: Duration::from_secs(options.seconds),
    };
    for round in 1..=options.runs {
        for (profiler, runs) in &mut columns {
            eprintln!("round {round} of {}: {}", options.runs, profiler.name());
            let run = profilers::run(*profiler, &plan);
            runs.push(run.with_context(|| format!("running {}", profiler.name()))?);
        }
    }
    publish(&table::markdown(&columns, options), options)
}

fn publish(table: &str, options: &Options) -> Result<()> {
    print!("{table}");
    if let Some(output) = &options.output {
        fs::write(output, table).with_context(|| output.display().to_string())?;
    }
    Ok(())
}

/// `cargo build --release`; where the binary is.
fn build_flame(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    let status = build
        .args(["build", "--release", "--bin", "flame"])
        .current_dir(root)
        .status()?;
    ensure!(status.success(), "{build:?}: {status}");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    Ok(root.join(target).join("release/flame"))
}

/// The tail of perf's pipeline: `perf script | inferno-collapse-perf | inferno-flamegraph > SVG`,
/// in one process.
pub fn perf_script_to_svg(svg: &Path) -> Result<()> {
    let mut folded = Vec::new();
    inferno::collapse::perf::Folder::default()
        .collapse(BufReader::new(io::stdin().lock()), &mut folded)?;
    let picture = BufWriter::new(fs::File::create(svg)?);
    let mut options = inferno::flamegraph::Options::default();
    inferno::flamegraph::from_reader(&mut options, folded.as_slice(), picture)?;
    Ok(())
}
