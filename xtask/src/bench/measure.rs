//! What the kernel says a process and a BPF program cost.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Lets the kernel time BPF programs while it lives (`kernel.bpf_stats_enabled`).
#[derive(Debug)]
pub struct BpfStats {
    before: String,
}

const BPF_STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl BpfStats {
    /// Switches the timing on.
    pub fn enable() -> Result<Self> {
        let before = fs::read_to_string(BPF_STATS).context(BPF_STATS)?;
        fs::write(BPF_STATS, "1").context("switching BPF statistics on needs root")?;
        Ok(Self { before })
    }
}

impl Drop for BpfStats {
    fn drop(&mut self) {
        fs::write(BPF_STATS, self.before.trim()).ok();
    }
}

/// The BPF programs that one profiler loaded: those that were not there before it.
#[derive(Debug)]
pub struct BpfPrograms {
    before: BTreeSet<u64>,
}

/// What a profiler's BPF programs took so far.
#[derive(Debug, Clone, Copy)]
pub struct BpfCost {
    /// All of its programs together.
    pub run_time_ns: u64,
    /// Runs of the program that takes the samples.
    pub samples: u64,
}

/// What one BPF program took so far.
#[derive(Debug, Clone)]
pub struct ProgramCost {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// As bpftool calls it.
    pub kind: String,
    /// How often it ran.
    pub runs: u64,
    /// For how long in all.
    pub run_time_ns: u64,
}

impl BpfPrograms {
    /// Remembers what is loaded before the profiler starts.
    pub fn before() -> Result<Self> {
        let before = loaded_programs()?
            .iter()
            .filter_map(|program| program["id"].as_u64())
            .collect();
        Ok(Self { before })
    }

    /// The cost so far; `None` when nothing new took a sample.
    pub fn cost(&self) -> Result<Option<BpfCost>> {
        let programs = self.each()?;
        let samplers = programs
            .iter()
            .filter(|program| program.kind == "perf_event");
        let cost = BpfCost {
            run_time_ns: programs.iter().map(|program| program.run_time_ns).sum(),
            samples: samplers.map(|program| program.runs).max().unwrap_or(0),
        };
        Ok((cost.samples > 0).then_some(cost))
    }

    /// What each new program cost so far.
    pub fn each(&self) -> Result<Vec<ProgramCost>> {
        let programs = loaded_programs()?;
        let number = |program: &Value, field: &str| program[field].as_u64().unwrap_or(0);
        let new = programs
            .iter()
            .filter(|program| !self.before.contains(&number(program, "id")));
        Ok(new
            .map(|program| ProgramCost {
                name: program["name"].as_str().unwrap_or_default().to_owned(),
                kind: program["type"].as_str().unwrap_or_default().to_owned(),
                runs: number(program, "run_cnt"),
                run_time_ns: number(program, "run_time_ns"),
            })
            .collect())
    }
}

fn loaded_programs() -> Result<Vec<Value>> {
    let output = Command::new("bpftool")
        .args(["prog", "show", "-j"])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// CPU time of a process's living threads so far, in nanoseconds (`schedstat`: the usual clock
/// ticks of 10 ms are too coarse for a profiler that takes less than 1 % of a CPU).
pub fn cpu_ns(pid: u32) -> Result<u64> {
    let mut total_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        total_ns += text
            .split(' ')
            .next()
            .and_then(|ns| ns.parse::<u64>().ok())
            .unwrap_or(0);
    }
    Ok(total_ns)
}

/// Waits for a child's end; its peak resident memory in bytes. Takes the child away from its
/// owner: once waited for, its id is no longer its own.
#[allow(clippy::needless_pass_by_value)]
pub fn wait_for_peak_rss(child: Child) -> Result<u64> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let pid = child.id() as libc::pid_t;
    // SAFETY: both pointers are to live values of the types that wait4 fills in.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    ensure!(
        waited == pid,
        "waiting for process {pid}: {}",
        io::Error::last_os_error()
    );
    // perf ends itself by the signal that it was told to stop with.
    let interrupted = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGINT;
    ensure!(
        interrupted || libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        "process {pid} ended with wait status {status:#x}"
    );
    // SAFETY: wait4 succeeded and filled it in; before that it was all zeros, which is valid too.
    let peak_kib = unsafe { usage.assume_init() }.ru_maxrss;
    Ok(peak_kib as u64 * 1024)
}

/// Ends a profiler's sampling, as Ctrl-C does.
pub fn interrupt(child: &Child) -> Result<()> {
    // SAFETY: no memory is involved; the child was not waited for, so the id is still its own.
    let result = unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    ensure!(
        result == 0,
        "interrupting process {}: {}",
        child.id(),
        io::Error::last_os_error()
    );
    Ok(())
}
