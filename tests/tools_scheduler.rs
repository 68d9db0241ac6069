//! `runqlat` against busy loops, and against the scheduler's own account of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::tool::{Running, alone_with, list, number};

/// What `/proc/PID/schedstat` says: run-queue wait in nanoseconds, and number of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    waited_ns: u64,
    runs: u64,
}

/// Busy loops that stand still until told to run, each on a CPU.
struct Loops(Vec<Child>);

impl Loops {
    /// One loop for each CPU named.
    fn on(cpus: &[usize]) -> Self {
        Self::running(cpus, &[], "while :; do :; done")
    }

    /// Loops that stop by themselves, and whom only each other can keep from running: the
    /// round-robin class comes before everybody's normal work.
    fn round_robin(cpus: &[usize]) -> Self {
        let counting = "i=0; while [ $i -lt 500000 ]; do i=$((i+1)); done; kill -STOP $$";
        Self::running(cpus, &["chrt", "-r", "1"], counting)
    }

    fn running(cpus: &[usize], class: &[&str], body: &str) -> Self {
        let on = |cpu: &usize| {
            let mut command = Command::new("taskset");
            command.args(["-c", &cpu.to_string()]).args(class);
            command.args(["sh", "-c", &format!("kill -STOP $$; {body}")]);
            command.spawn().unwrap()
        };
        let loops = Self(cpus.iter().map(on).collect());
        loops.settle();
        loops
    }

    fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// `-p`
    fn list(&self) -> String {
        let pids: Vec<_> = self.pids().iter().map(u32::to_string).collect();
        pids.join(",")
    }

    fn signal(&self, signal: Signal) {
        for child in &self.0 {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    fn accounts(&self) -> Vec<Account> {
        let account = |pid| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
            let numbers: Vec<u64> = text
                .split_whitespace()
                .map(|n| n.parse().unwrap())
                .collect();
            Account {
                waited_ns: numbers[1],
                runs: numbers[2],
            }
        };
        self.pids().into_iter().map(account).collect()
    }

    /// Waits until all have stopped, and gives their accounts. A task is shown as stopped before
    /// it has left its CPU, and may wait for it once more: the account has to stand still, too.
    fn settle(&self) -> Vec<Account> {
        let stopped = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") T ")
        };
        let mut last = Vec::new();
        let mut unchanged = 0;
        while unchanged < 3 {
            std::thread::sleep(Duration::from_millis(100));
            let now = self.accounts();
            let all_stopped = self.pids().into_iter().all(stopped);
            unchanged = if all_stopped && now == last {
                unchanged + 1
            } else {
                0
            };
            last = now;
        }
        last
    }

    fn run_for(&self, time: Duration) -> Vec<Account> {
        let before = self.settle();
        self.signal(Signal::CONT);
        std::thread::sleep(time);
        self.signal(Signal::STOP);
        let after = self.settle();
        let difference = |(after, before): (&Account, &Account)| Account {
            waited_ns: after.waited_ns - before.waited_ns,
            runs: after.runs - before.runs,
        };
        after.iter().zip(&before).map(difference).collect()
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The histogram of one process, if it ever waited.
fn histogram_of(report: &Value, pid: u32) -> Option<&Value> {
    let of_pid = |histogram: &&Value| {
        let name = histogram["pid"].as_str().unwrap();
        name.split(' ').next() == Some(&pid.to_string())
    };
    list(report, "histograms").iter().find(of_pid)
}

#[test]
fn runqlat_agrees_with_the_schedulers_own_account() {
    let Some(_alone) = alone_with(&["taskset"]) else {
        return;
    };
    let loops = Loops::on(&[0, 0]);
    let tool = Running::start(&["runqlat", "-P", "-p", &loops.list()]);
    let accounts = loops.run_for(Duration::from_secs(1));
    let report = tool.report();
    // A kernel can hide tasks from tracing, and switches away from them; the tool says how many.
    let not_reported = report["losses"]["not_reported"].as_u64().unwrap_or(0);
    assert_eq!(
        list(&report, "histograms").len(),
        2,
        "both PIDs are counted"
    );
    for (pid, account) in loops.pids().into_iter().zip(accounts) {
        let histogram = histogram_of(&report, pid).unwrap();
        let (count, sum_us) = (number(histogram, "count"), number(histogram, "sum"));
        println!("pid {pid}: {count} waits, {sum_us} us, {not_reported} unseen; {account:?}");
        // The scheduler does not account a wait that began between announcing a stop and stopping
        // (sched_info_depart looks at the state), but it is one; each loop stops once.
        assert!(
            count <= account.runs + 1,
            "{count} waits of {} runs",
            account.runs
        );
        assert!(
            account.runs.saturating_sub(count) <= not_reported,
            "{count} waits of {} runs, and {not_reported} switches were not reported",
            account.runs
        );
        // Two clocks read at two places, some hundred times.
        let waited_us = account.waited_ns / 1000;
        if not_reported == 0 {
            assert!(sum_us.abs_diff(waited_us) <= waited_us / 50 + 10 * count);
        }
    }
}

#[test]
fn two_loops_wait_for_each_other_on_one_cpu_and_not_on_two() {
    let Some(_alone) = alone_with(&["taskset", "chrt"]) else {
        return;
    };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        eprintln!("skipped: one CPU");
        return;
    }
    let slice = std::fs::read_to_string("/proc/sys/kernel/sched_rr_timeslice_ms").unwrap();
    let slice_us = slice.trim().parse::<u64>().unwrap() * 1000;
    let histograms = |cpus: &[usize]| -> Vec<Value> {
        let loops = Loops::round_robin(cpus);
        let tool = Running::start(&["runqlat", "-P", "-p", &loops.list()]);
        loops.signal(Signal::CONT);
        // They take the CPUs from this test, too, until they have done their work.
        std::thread::sleep(Duration::from_millis(50));
        loops.settle();
        let report = tool.report();
        println!("on {cpus:?}: {report}");
        list(&report, "histograms").to_vec()
    };
    let together = histograms(&[0, 0]);
    assert_eq!(together.len(), 2);
    for histogram in &together {
        // Kernels keep some hundredths of each second for normal work, so a wait can be longer.
        let max_us = number(histogram, "max");
        assert!(
            (slice_us * 9 / 10..slice_us * 2).contains(&max_us),
            "a slice is {slice_us} us: {histogram}"
        );
    }
    for histogram in histograms(&[0, 1]) {
        assert!(number(&histogram, "max") < slice_us / 10, "{histogram}");
    }
}
