//! `cargo xtask guest`: flame on Debian's kernels, in virtual machines.
//!
//! A guest is a kernel from Debian's archive and a file system in memory; it runs the table of
//! checks ([`checks::all`]), reports over a serial line, and powers off. All that is downloaded
//! or built stays under `target/guest/`; docs/guests.md says what.

mod apt;
mod checks;
mod command;
mod initramfs;
mod kernels;
mod machine;
mod modules;
mod report;
mod tools;
mod zfs;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use checks::Check;
use initramfs::Programs;
use kernels::{KERNELS, Kernel};
use machine::Machine;
use report::{Outcome, Report};
use zfs::Zfs;

/// Options of `cargo xtask guest`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Kernels to run on, as 6.12; all of them when none is named.
    versions: Vec<String>,
    /// Where Debian's archive is; apt's own configuration says it otherwise.
    #[arg(long, value_name = "URI")]
    mirror: Option<String>,
    /// Download and build what is missing; start no guest.
    #[arg(long)]
    fetch_only: bool,
    /// Check the ZFS tools instead, on 6.12; builds ZFS once, in twenty minutes.
    #[arg(long, conflicts_with = "versions")]
    zfs: bool,
}

/// A column of the table.
struct Column {
    version: &'static str,
    result: Result<Guest>,
}

/// What came of a guest that ran to its end.
struct Guest {
    kernel: String,
    /// From power-on to power-off, on the host's clock.
    took: Duration,
    /// By check.
    cells: Vec<Result<String>>,
}

/// Runs the guests and prints the table.
///
/// # Errors
/// When a kernel cannot be had or a check failed; the others are run all the same.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let (wanted, checks): (_, Vec<&Check>) = if options.zfs {
        (
            vec![kernel(zfs::KERNEL)?],
            zfs::checks::CHECKS.iter().collect(),
        )
    } else {
        (wanted(&options.versions)?, checks::all().collect())
    };
    let guest = root.join("target/guest");
    let programs = Programs::build(root, &guest)?;
    let mut columns = Vec::new();
    for kernel in wanted {
        let version = kernel.version;
        let result = run_one(kernel, &checks, &guest, &programs, options)
            .with_context(|| format!("kernel {version}"));
        if let Err(error) = &result {
            eprintln!("{error:#}");
        }
        columns.push(Column { version, result });
    }
    if !options.fetch_only {
        print!("{}", table(&checks, &columns));
    }
    conclude(&columns)
}

fn wanted(versions: &[String]) -> Result<Vec<&'static Kernel>> {
    if versions.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    versions.iter().map(|version| kernel(version)).collect()
}

fn kernel(version: &str) -> Result<&'static Kernel> {
    KERNELS
        .iter()
        .find(|kernel| kernel.version == version)
        .ok_or_else(|| {
            let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.version).collect();
            anyhow!("no kernel {version}; there are {}", known.join(", "))
        })
}

fn run_one(
    kernel: &Kernel,
    checks: &[&Check],
    guest: &Path,
    programs: &Programs,
    options: &Options,
) -> Result<Guest> {
    let mirror = options.mirror.as_deref();
    let unpacked = kernel.obtain(guest, mirror)?;
    let zfs = options
        .zfs
        .then(|| Zfs::obtain(guest, &unpacked, mirror))
        .transpose()?;
    let name = if options.zfs { "zfs" } else { kernel.version };
    let run = guest.join("runs").join(name);
    if run.exists() {
        fs::remove_dir_all(&run)?;
    }
    fs::create_dir_all(&run)?;
    let initramfs = run.join("initramfs.cpio");
    programs.pack(&unpacked, zfs.as_ref(), checks, &initramfs)?;
    if options.fetch_only {
        return Ok(Guest {
            kernel: unpacked.release,
            took: Duration::ZERO,
            cells: Vec::new(),
        });
    }
    let machine = Machine {
        image: &unpacked.image,
        initramfs: &initramfs,
        // Half of it can be ZFS' cache.
        memory_mib: if options.zfs { 2048 } else { 1024 },
        run: &run,
    };
    let start = Instant::now();
    let mut report = machine.boot()?;
    let took = start.elapsed();
    ensure!(
        report.kernel == unpacked.release,
        "the guest runs {}, not {}",
        report.kernel,
        unpacked.release
    );
    ensure!(
        report.failed_modules.is_empty(),
        "modules do not load: {}",
        report.failed_modules.join(", ")
    );
    let cells = judge(kernel, checks, &mut report, &run);
    eprintln!(
        "{}: {:.1} s, of which {:.1} s by the guest's clock",
        kernel.version,
        took.as_secs_f64(),
        report.uptime_seconds
    );
    Ok(Guest {
        kernel: report.kernel,
        took,
        cells,
    })
}

/// Looks at what the checks printed, and keeps it in the folder `run`.
fn judge(
    kernel: &Kernel,
    checks: &[&Check],
    report: &mut Report,
    run: &Path,
) -> Vec<Result<String>> {
    let mut cells = Vec::new();
    for (number, check) in checks.iter().enumerate() {
        let name = format!("{number:02}-{}", check.name);
        let outcome = report.outcomes.remove(&name).unwrap_or_default();
        let cell = keep(&outcome, run, &name).and_then(|()| (check.judge)(&outcome));
        if let Err(error) = &cell {
            eprintln!("{}: {} FAILED: {error:#}", kernel.version, check.name);
            eprintln!("  all of its output: {}", run.join(&name).display());
        }
        cells.push(cell);
    }
    cells
}

/// Leaves a check's whole output on disk: a verifier's log is long.
fn keep(outcome: &Outcome, run: &Path, name: &str) -> Result<()> {
    fs::write(run.join(format!("{name}.out")), &outcome.stdout)?;
    fs::write(run.join(format!("{name}.err")), &outcome.stderr)?;
    Ok(())
}

/// The table in Markdown: a row for each check, a column for each kernel.
fn table(checks: &[&Check], columns: &[Column]) -> String {
    let mut header = vec!["check".to_owned()];
    let mut times = vec!["time".to_owned()];
    for column in columns {
        let (kernel, time) = match &column.result {
            Ok(guest) => (
                guest.kernel.as_str(),
                format!("{:.0} s", guest.took.as_secs_f64()),
            ),
            Err(_) => (column.version, "–".to_owned()),
        };
        header.push(kernel.trim_end_matches("-cloud-amd64").to_owned());
        times.push(time);
    }
    let mut text = row(&header) + &row(&vec!["---".to_owned(); header.len()]);
    for (number, check) in checks.iter().enumerate() {
        let mut cells = vec![check.title.to_owned()];
        for column in columns {
            cells.push(cell(column, number));
        }
        text += &row(&cells);
    }
    text + &row(&times)
}

fn cell(column: &Column, check: usize) -> String {
    let Ok(guest) = &column.result else {
        return "no guest".to_owned();
    };
    match guest.cells.get(check) {
        Some(Ok(cell)) => cell.clone(),
        _ => "**FAILED**".to_owned(),
    }
}

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn conclude(columns: &[Column]) -> Result<()> {
    let has_failed = |column: &&Column| match &column.result {
        Ok(guest) => guest.cells.iter().any(Result::is_err),
        Err(_) => true,
    };
    let failed: Vec<_> = columns
        .iter()
        .filter(has_failed)
        .map(|column| column.version)
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed on {}", failed.join(", "))
}
