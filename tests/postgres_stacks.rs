//! Whole stacks of `PostgreSQL`, held against `perf record --call-graph dwarf` on the same load at
//! the same time. Needs root, Debian's `postgresql` and `linux-perf`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

mod support;

use support::postgres::Postgres;
use support::run::{FlameRun, Process, Recorded};
use support::{can_sample_with, sampling_turn};

/// High enough for shares that are steady to half a point within some seconds, and no multiple of
/// the scheduler's tick.
const HZ: u32 = 983;
/// Not the same: two clocks in step would sample each other's work.
const PERF_HZ: u32 = 919;
/// Some 25,000 samples a side: at a quarter of them chance is less than half a point.
const SECONDS: u32 = 30;
/// A backend's first seconds are others: it reads the table in and maps its shared memory (a third
/// more time in index scans, measured).
const WARM_UP: Duration = Duration::from_secs(5);

/// A join and a sort over pgbench's tables, again and again.
const ANALYTIC: &str = "select b.bid, count(*), sum(a.abalance), max(a.filler) \
    from pgbench_accounts a join pgbench_branches b using (bid) group by b.bid order by 2; \
    select aid from (select aid, filler, abalance from pgbench_accounts \
    order by abalance desc, md5(filler || aid::text)) s offset 990000";

#[test]
fn stacks_under_pgbench_are_whole_and_agree_with_perf() {
    let name = "stacks_under_pgbench_are_whole_and_agree_with_perf";
    if !can_sample_with(name, &["pgbench", "perf"]) {
        return;
    }
    let _turn = sampling_turn();
    let (postgres, _load) = on_one_cpu(|| {
        let postgres = Postgres::start(10).unwrap();
        let load = postgres.load(4, Duration::from_mins(1)).unwrap();
        (postgres, load)
    });
    compare(&postgres);
}

#[test]
fn stacks_of_an_analytic_query_are_whole_and_agree_with_perf() {
    let name = "stacks_of_an_analytic_query_are_whole_and_agree_with_perf";
    if !can_sample_with(name, &["pgbench", "perf"]) {
        return;
    }
    let _turn = sampling_turn();
    let postgres = Postgres::start(10).unwrap();
    let mut psql = postgres.client("psql");
    // Made code has no call frame information: perf cannot walk through it.
    psql.env("PGOPTIONS", "-c jit=off");
    psql.args(["-q", "-o", "/dev/null", "bench"]);
    for _ in 0..200 {
        psql.args(["-c", ANALYTIC]);
    }
    let _client = Process::start(&mut psql);
    std::thread::sleep(Duration::from_secs(1));
    compare(&postgres);
}

/// Starts something that stays on one CPU, the first that we may use.
///
/// Where the CPUs of a virtual machine wake each other, their clocks come late, by how much depends
/// on who samples which: `perf` alone sees 6 or 19 % of the time in one function, by whether it
/// samples both CPUs or the one that everything it looks at runs on.
fn on_one_cpu<T>(start: impl FnOnce() -> T) -> T {
    let all = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
    let started = start();
    sched_setaffinity(None, &all).unwrap();
    started
}

/// Runs both profilers on the server's processes, during the same time.
fn compare(postgres: &Postgres) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("perf.data");
    std::thread::sleep(WARM_UP);
    let pids = server_pids(postgres.pid());
    // Both see the same seconds: perf begins when flame samples, and flame ends as perf does.
    let flame = FlameRun::at_hz(HZ)
        .args(["--no-inline", "-p", &pids.join(",")])
        .start_sampling();
    let perf = Process::start(
        Command::new("perf")
            .args([
                "record",
                "-q",
                "-e",
                "cpu-clock",
                "--call-graph",
                "dwarf,16384",
            ])
            // Of the whole machine: a clock of a task's own prefers tasks that wait often.
            .args(["-F", &PERF_HZ.to_string(), "-a", "-o"])
            .arg(&data)
            .args(["--", "sleep", &SECONDS.to_string()]),
    );
    std::thread::sleep(Duration::from_secs(SECONDS.into()));
    flame.process.signal(Signal::INT);
    let recorded = flame.record();
    let finished = perf.finish_within(Duration::from_mins(1));
    assert!(finished.status.success(), "{}", finished.stderr);

    let (rooted, stacks) = (recorded.stat("rooted"), recorded.stat("user_stacks"));
    assert!(stacks > 1000, "{stacks} stacks");
    assert!(
        rooted * 1000 >= stacks * 998,
        "{rooted} of {stacks} rooted: {:?}",
        recorded.pairs("truncated")
    );
    assert_same_shares(&shares_of(&recorded), &perf_shares(&data));
}

fn server_pids(server: u32) -> Vec<String> {
    let children = Command::new("pgrep")
        .args(["-P", &server.to_string()])
        .output()
        .unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    children
        .split_whitespace()
        .map(String::from)
        .chain([server.to_string()])
        .collect()
}

/// In how many percent of the samples each function is on the stack.
type Shares = HashMap<String, f64>;

fn shares_of(recorded: &Recorded) -> Shares {
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for line in &recorded.folded.lines {
        let names: HashSet<&str> = line.user_frames()[1..].iter().map(String::as_str).collect();
        for name in names {
            *counts.entry(name).or_default() += line.count;
        }
    }
    in_percent(counts, recorded.folded.total())
}

/// The same from `perf script`: a line `ADDRESS NAME (FILE)` for each frame, samples apart by
/// empty lines. Kernel frames are those in brackets.
fn perf_shares(data: &Path) -> Shares {
    let script = Command::new("perf")
        .args([
            "script",
            "--no-inline",
            "--comms",
            "postgres",
            "-F",
            "ip,sym,dso",
            "-i",
        ])
        .arg(data)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&script.stdout);
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut samples = 0;
    for sample in text
        .split("\n\n")
        .filter(|sample| !sample.trim().is_empty())
    {
        samples += 1;
        let names: HashSet<&str> = sample.lines().filter_map(user_function).collect();
        for name in names {
            *counts.entry(name).or_default() += 1;
        }
    }
    assert!(samples > 1000, "perf took {samples} samples");
    in_percent(counts, samples)
}

fn user_function(line: &str) -> Option<&str> {
    let (_, rest) = line.trim().split_once(' ')?;
    let (name, file) = rest.rsplit_once(" (")?;
    (file.starts_with('/') && name != "[unknown]").then_some(name)
}

fn in_percent(counts: HashMap<&str, u64>, total: u64) -> Shares {
    let share = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
    counts
        .into_iter()
        .map(|(name, count)| (name.to_string(), share(count)))
        .collect()
}

/// Every function that is at least 1 % wide for one of both, and that both can name, is as wide for
/// the other, within 2 points.
fn assert_same_shares(ours: &Shares, theirs: &Shares) {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for (name, perf_pct) in theirs {
        let Some(flame_pct) = ours.get(name) else {
            continue;
        };
        if perf_pct.max(*flame_pct) < 1.0 {
            continue;
        }
        compared += 1;
        if (perf_pct - flame_pct).abs() > 2.0 {
            wrong.push(format!(
                "{name}: flame {flame_pct:.1} %, perf {perf_pct:.1} %"
            ));
        }
    }
    assert!(
        compared >= 10,
        "only {compared} functions are named by both"
    );
    assert!(
        wrong.is_empty(),
        "of {compared} functions:\n{}",
        wrong.join("\n")
    );
}
