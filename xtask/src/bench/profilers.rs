//! One run of each profiler, and what it cost.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bpftrace;
use super::measure::{BpfPrograms, cpu_ns, interrupt, wait_for_peak_rss};

/// A contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profiler {
    /// This repository's binary, to an SVG; `--unwind` with this value.
    Flame(&'static str),
    /// `perf record -g`, `perf script`, inferno, to an SVG.
    Perf,
    /// A one-line `profile:hz` script, to its own text: it draws no picture.
    Bpftrace,
}

impl Profiler {
    /// In the order of the table's columns.
    pub const ALL: [Self; 5] = [
        Self::Flame("fp"),
        Self::Flame("dwarf"),
        Self::Flame("auto"),
        Self::Perf,
        Self::Bpftrace,
    ];

    /// The column's title.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flame("fp") => "flame --unwind fp",
            Self::Flame("dwarf") => "flame --unwind dwarf",
            Self::Flame(_) => "flame",
            Self::Perf => "perf record + script + inferno",
            Self::Bpftrace => "bpftrace (text only)",
        }
    }
}

/// What every run has in common.
#[derive(Debug)]
pub struct Plan {
    /// The binary to measure.
    pub flame: PathBuf,
    /// Samples per second and CPU.
    pub frequency_hz: u64,
    /// How long each profiler samples.
    pub sampling: Duration,
}

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Time of all its BPF programs per sample; `None` without any.
    pub bpf_ns_per_sample: Option<f64>,
    /// CPU of the profiler's process while it sampled, in percent of one core.
    pub cpu_pct: f64,
    /// From the start of the process until it says that it samples; `None` where none says so.
    pub start: Option<Duration>,
    /// From SIGINT to the finished file.
    pub finish: Duration,
    /// A run of seconds before, nothing in any cache of its own; `None` without caches.
    pub cold: Option<Cold>,
    /// The largest of its processes.
    pub peak_rss_bytes: u64,
    /// Samples taken, in percent of what the clock owed.
    pub taken_pct: f64,
}

/// A first run's times.
#[derive(Debug, Clone, Copy)]
pub struct Cold {
    /// As [`Run::start`].
    pub start: Duration,
    /// As [`Run::finish`].
    pub finish: Duration,
}

/// Start-up (loading, reading symbols) is over by then and is not counted as sampling.
const SETTLING: Duration = Duration::from_secs(2);

/// Between two looks whether it samples.
const POLL: Duration = Duration::from_millis(5);

/// How long a profiler may take until its BPF program takes samples.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs one profiler on the whole machine.
pub fn run(profiler: Profiler, plan: &Plan) -> Result<Run> {
    let folder = tempfile::tempdir()?;
    let cold = match profiler {
        Profiler::Flame(_) => Some(run_cold(profiler, plan, folder.path())?),
        Profiler::Perf | Profiler::Bpftrace => None,
    };
    let programs = BpfPrograms::before()?;
    let mut child = start(profiler, plan, folder.path())?;
    let watched = watch(profiler, plan, &programs, &mut child, folder.path());
    let interrupted = SystemTime::now();
    let watched = interrupt_after(watched, &mut child, folder.path())?;
    let mut peak_rss_bytes = wait_for_peak_rss(child).with_context(|| stderr_of(folder.path()))?;
    if profiler == Profiler::Perf {
        peak_rss_bytes = peak_rss_bytes.max(draw_perf(folder.path())?);
    }
    let finish = finished(profiler, folder.path())?.duration_since(interrupted)?;
    let (taken, expected) = match profiler {
        Profiler::Flame(_) => flame_samples(folder.path())?,
        Profiler::Perf => perf_samples(folder.path(), plan)?,
        Profiler::Bpftrace => bpftrace_samples(folder.path(), plan)?,
    };
    Ok(Run {
        bpf_ns_per_sample: watched.bpf_ns_per_sample,
        cpu_pct: watched.cpu_pct,
        start: watched.start,
        finish,
        cold,
        peak_rss_bytes,
        taken_pct: 100.0 * taken as f64 / expected,
    })
}

/// A short run of a profiler whose caches are empty: the next one finds what it left in them.
fn run_cold(profiler: Profiler, plan: &Plan, folder: &Path) -> Result<Cold> {
    let started = Instant::now();
    let mut child = start(profiler, plan, folder)?;
    let start = wait_until_it_says_so(&mut child, folder).map(|()| started.elapsed());
    // Else there would be nothing to draw.
    sleep(SETTLING);
    let interrupted = SystemTime::now();
    let start = interrupt_after(start, &mut child, folder)?;
    wait_for_peak_rss(child).with_context(|| stderr_of(folder))?;
    let finish = finished(profiler, folder)?.duration_since(interrupted)?;
    Ok(Cold { start, finish })
}

/// Interrupts a profiler, and ends it for good when something went wrong.
fn interrupt_after<T>(watched: Result<T>, child: &mut Child, folder: &Path) -> Result<T> {
    let watched = watched.and_then(|watched| interrupt(child).map(|()| watched));
    if watched.is_err() {
        child.kill().ok();
        child.wait().ok();
    }
    watched.with_context(|| stderr_of(folder))
}

/// When the last byte was in its place.
fn finished(profiler: Profiler, folder: &Path) -> Result<SystemTime> {
    match profiler {
        // A rename, or the last write, changes it.
        Profiler::Flame(_) | Profiler::Perf => {
            let file = fs::metadata(folder.join("out.svg"))?;
            let since_epoch = Duration::new(file.ctime() as u64, file.ctime_nsec() as u32);
            Ok(SystemTime::UNIX_EPOCH + since_epoch)
        }
        Profiler::Bpftrace => Ok(SystemTime::now()),
    }
}

fn start(profiler: Profiler, plan: &Plan, folder: &Path) -> Result<Child> {
    let frequency = plan.frequency_hz.to_string();
    let mut command = match profiler {
        Profiler::Flame(unwind) => {
            let mut flame = Command::new(&plan.flame);
            flame.args(["-v", "--unwind", unwind, "-F", &frequency]);
            flame.args(["--stats", "stats.json", "-o", "out.svg"]);
            flame.env("XDG_CACHE_HOME", folder);
            flame
        }
        Profiler::Perf => {
            let mut perf = Command::new("perf");
            perf.args([
                "record",
                "-q",
                "-a",
                "-g",
                "-e",
                "cpu-clock",
                "-F",
                &frequency,
            ]);
            perf.args(["-o", "perf.data"]);
            perf
        }
        Profiler::Bpftrace => {
            let mut bpftrace = Command::new("bpftrace");
            bpftrace.args(["-f", "json", "-e", &bpftrace::script(plan.frequency_hz)]);
            bpftrace
        }
    };
    command.current_dir(folder).stdin(Stdio::null());
    command.stdout(File::create(folder.join("stdout"))?);
    command.stderr(File::create(folder.join("stderr"))?);
    command
        .spawn()
        .with_context(|| format!("starting {command:?}"))
}

/// What was seen while a profiler sampled.
struct Watched {
    bpf_ns_per_sample: Option<f64>,
    cpu_pct: f64,
    start: Option<Duration>,
}

/// Lets a profiler sample.
fn watch(
    profiler: Profiler,
    plan: &Plan,
    programs: &BpfPrograms,
    child: &mut Child,
    folder: &Path,
) -> Result<Watched> {
    let started = Instant::now();
    let mut said_so = None;
    match profiler {
        Profiler::Flame(_) => {
            wait_until_it_says_so(child, folder)?;
            said_so = Some(started.elapsed());
        }
        Profiler::Perf => {}
        Profiler::Bpftrace => {
            wait_until(child, "took no sample", || Ok(programs.cost()?.is_some()))?;
        }
    }
    sleep(SETTLING);
    let (start, start_ns) = (Instant::now(), cpu_ns(child.id())?);
    sleep(plan.sampling);
    ensure!(
        child.try_wait()?.is_none(),
        "it ended before it was told to"
    );
    let used_ns = cpu_ns(child.id())?.saturating_sub(start_ns);
    let cost = programs.cost()?;
    Ok(Watched {
        bpf_ns_per_sample: cost.map(|cost| cost.run_time_ns as f64 / cost.samples as f64),
        cpu_pct: 100.0 * used_ns as f64 / start.elapsed().as_nanos() as f64,
        start: said_so,
    })
}

/// Waits for `flame -v` to say that it samples: cheaper to look for than a first sample.
fn wait_until_it_says_so(child: &mut Child, folder: &Path) -> Result<()> {
    wait_until(child, "does not sample", || {
        Ok(stderr_of(folder).contains("sampling"))
    })
}

fn wait_until(child: &mut Child, what_else: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so()? {
        ensure!(child.try_wait()?.is_none(), "it {what_else} and ended");
        ensure!(
            started.elapsed() < PATIENCE,
            "it {what_else} in {PATIENCE:?}"
        );
        sleep(POLL);
    }
    Ok(())
}

/// `perf script | inferno > out.svg`; the peak memory of the larger of the two.
fn draw_perf(folder: &Path) -> Result<u64> {
    let mut script = Command::new("perf");
    script
        .args(["script", "-i", "perf.data"])
        .current_dir(folder);
    let mut script = script
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let text = script.stdout.take().context("perf script has an output")?;
    let mut draw = Command::new(std::env::current_exe()?);
    draw.args(["perf-script-to-svg", "out.svg"])
        .current_dir(folder)
        .stdin(text);
    let draw = draw.spawn();
    let script_rss = wait_for_peak_rss(script)?;
    Ok(script_rss.max(wait_for_peak_rss(draw?)?))
}

/// From the quality block that `--stats` wrote.
fn flame_samples(folder: &Path) -> Result<(u64, f64)> {
    let stats: Value = serde_json::from_slice(&fs::read(folder.join("stats.json"))?)?;
    let quality = stats.get("quality").unwrap_or(&stats);
    let number = |name: &str| {
        quality[name]
            .as_u64()
            .with_context(|| format!("no {name} in flame's statistics"))
    };
    Ok((number("taken")?, number("expected")? as f64))
}

/// One line per sample with its time; the clock owes what fits between the first and the last.
fn perf_samples(folder: &Path, plan: &Plan) -> Result<(u64, f64)> {
    let mut script = Command::new("perf");
    script
        .args(["script", "-i", "perf.data", "--ns", "-G", "-F", "time"])
        .current_dir(folder);
    let output = script.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let times = text
        .lines()
        .filter_map(|line| line.trim().trim_end_matches(':').parse().ok());
    let times: Vec<f64> = times.collect();
    let first = times.iter().copied().fold(f64::INFINITY, f64::min);
    let last = times.iter().copied().fold(0.0, f64::max);
    ensure!(last > first, "perf took no samples");
    Ok((times.len() as u64, owed(plan, last - first)))
}

/// From what bpftrace prints at its end.
fn bpftrace_samples(folder: &Path, plan: &Plan) -> Result<(u64, f64)> {
    let summary = bpftrace::Summary::parse(&fs::read_to_string(folder.join("stdout"))?)?;
    Ok((summary.samples, owed(plan, summary.span_ns as f64 / 1e9)))
}

/// The samples of all CPUs between the first and the last, both included.
fn owed(plan: &Plan, seconds: f64) -> f64 {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    cpus as f64 * (plan.frequency_hz as f64 * seconds + 1.0)
}

fn stderr_of(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
    format!("its messages: {text}")
}
