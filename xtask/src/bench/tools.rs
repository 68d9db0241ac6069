//! The latency tools against libbpf-tools': time in BPF programs per event, on the same load.
//!
//! Both are attached in turn while one load runs throughout. The kernel times each program
//! (`kernel.bpf_stats_enabled`); the sum over all programs of a tool is divided by the runs of the
//! one that sees each event once.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::measure::{BpfPrograms, ProgramCost, interrupt};
use super::table::median;
use super::tool_loads::{Load, Running};

/// What must be installed.
pub const NEEDED: &[&str] = &[
    "/usr/sbin/biolatency",
    "/usr/sbin/runqlat",
    "/usr/sbin/syscount",
    "/usr/sbin/tcplife",
    "bpftool",
    "losetup",
    "unshare",
];

/// A tool: its command line, and the program that sees each event once.
type Contestant = (&'static [&'static str], &'static str);

struct Contest {
    load: Load,
    /// What is counted, with the load that makes it.
    event: &'static str,
    ours: Contestant,
    theirs: Contestant,
}

const CONTESTS: &[Contest] = &[
    Contest {
        load: Load::BlockReads,
        event: "request (direct reads of 4 KiB from a loop device)",
        ours: (&["biolatency"], "complete"),
        theirs: (&["/usr/sbin/biolatency"], "block_rq_complet"),
    },
    Contest {
        load: Load::Switches,
        event: "context switch (two threads pass a byte)",
        ours: (&["runqlat"], "switched"),
        theirs: (&["/usr/sbin/runqlat"], "sched_switch"),
    },
    Contest {
        load: Load::SystemCalls,
        event: "system call (getppid)",
        ours: (&["syslat"], "leave"),
        theirs: (&["/usr/sbin/syscount", "-L", "-P"], "sys_exit"),
    },
    Contest {
        load: Load::Connections,
        event: "change of a socket's state (connections over loopback)",
        ours: (&["tcplife"], "set_state"),
        theirs: (&["/usr/sbin/tcplife"], "inet_sock_set_s"),
    },
];

/// Runs every contest; the table as Markdown.
pub fn run(flame: &Path, rounds: usize, time: Duration) -> Result<String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut table = format!(
        "Medians of {rounds} interleaved runs of {} s each, {cpus} CPUs, Linux {}.\n\n\
         | one | flame | median (range) | libbpf-tools | median (range) |\n|---|---|---|---|---|\n",
        time.as_secs(),
        kernel.trim()
    );
    for contest in CONTESTS {
        let _load = Running::start(contest.load)?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            eprintln!("round {round} of {rounds}: {}", contest.ours.0[0]);
            ours.push(ns_per_event(flame, contest.ours.0, contest.ours.1, time)?);
            let (program, arguments) = contest.theirs.0.split_first().context("no command")?;
            let peer = Path::new(program);
            theirs.push(ns_per_event(peer, arguments, contest.theirs.1, time)?);
        }
        // Writing to a String cannot fail.
        writeln!(
            table,
            "| {} | `{}` | {} | `{}` | {} |",
            contest.event,
            contest.ours.0.join(" "),
            cell(&ours),
            contest.theirs.0.join(" ").trim_start_matches("/usr/sbin/"),
            cell(&theirs)
        )
        .ok();
    }
    Ok(table)
}

/// The median, and between which values it lies.
fn cell(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let middle = median(values.iter().copied()).unwrap_or_default();
    format!("**{middle:.0} ns** ({least:.0} – {most:.0})")
}

/// Attaching, and what comes with it, is over by then.
const SETTLING: Duration = Duration::from_millis(500);
/// How long a tool may take until its programs run.
const PATIENCE: Duration = Duration::from_mins(1);

fn ns_per_event(tool: &Path, arguments: &[&str], event: &str, time: Duration) -> Result<f64> {
    let programs = BpfPrograms::before()?;
    let mut child = start(tool, arguments)?;
    let costs = watch(&programs, &mut child, event, time);
    let interrupted = interrupt(&child);
    if interrupted.is_err() || costs.is_err() {
        child.kill().ok();
    }
    child.wait()?;
    let (before, after) = costs.with_context(|| format!("running {}", tool.display()))?;
    let total_ns = |costs: &[ProgramCost]| costs.iter().map(|cost| cost.run_time_ns).sum::<u64>();
    let events = runs_of(&after, event) - runs_of(&before, event);
    ensure!(events > 0, "{} saw no event", tool.display());
    Ok((total_ns(&after) - total_ns(&before)) as f64 / events as f64)
}

/// In a mount namespace with tracefs, which tools of libbpf attach through; for both, so that both
/// choose their hooks alike.
fn start(tool: &Path, arguments: &[&str]) -> Result<Child> {
    let script = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
                  exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(tool).args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
        .spawn()
        .with_context(|| format!("starting {command:?}"))
}

fn watch(
    programs: &BpfPrograms,
    child: &mut Child,
    event: &str,
    time: Duration,
) -> Result<(Vec<ProgramCost>, Vec<ProgramCost>)> {
    let started = Instant::now();
    while runs_of(&programs.each()?, event) == 0 {
        ensure!(
            child.try_wait()?.is_none(),
            "it ended before it saw an event"
        );
        ensure!(
            started.elapsed() < PATIENCE,
            "it saw no event in {PATIENCE:?}"
        );
        sleep(Duration::from_millis(100));
    }
    sleep(SETTLING);
    let before = programs.each()?;
    sleep(time);
    Ok((before, programs.each()?))
}

fn runs_of(costs: &[ProgramCost], event: &str) -> u64 {
    let sees_event = |cost: &&ProgramCost| cost.name.starts_with(event);
    costs.iter().filter(sees_event).map(|cost| cost.runs).sum()
}
