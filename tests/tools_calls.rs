//! `funccount`, `syslat` and `vfslat` against calls of known number and duration.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use support::tool::{
    Cgroup, Running, alone_and_privileged, alone_with, list, number, own_pid, sum_of,
};

#[test]
fn syslat_counts_each_call() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    const CALLS: u64 = 12_345;
    let pid = own_pid();
    let calls = Running::start(&["syslat", "--syscall", "getppid", "-p", &pid]);
    for _ in 0..CALLS {
        let _ = std::os::unix::process::parent_id();
    }
    let calls = calls.report();
    assert_eq!(sum_of(list(&calls, "histograms"), "count", |_| true), CALLS);
}

#[test]
fn a_cgroups_calls_are_told_from_the_others() {
    let Some(_alone) = alone_with(&["dd"]) else {
        return;
    };
    let Some(cgroup) = Cgroup::new("calls") else {
        eprintln!("skipped: no cgroup v2 is mounted");
        return;
    };
    let folder = tempfile::tempdir_in(support::tool::disk_folder()).unwrap();
    let path = folder.path().join("written");
    let path = cgroup
        .path
        .to_str()
        .map(|group| (group.to_owned(), path))
        .unwrap();
    let calls = Running::start(&[
        "syslat",
        "--syscall",
        "pwrite64",
        "--syscall",
        "fsync",
        "--cgroup",
        &path.0,
    ]);
    let files = Running::start(&["vfslat", "--cgroup", &path.0]);
    let file = tempfile::tempfile().unwrap();
    for index in 0..50 {
        file.write_all_at(&[7; 512], index * 512).unwrap();
    }
    file.sync_all().unwrap();
    let dd = format!(
        "dd if=/dev/zero of={} bs=4k count=33 conv=fsync",
        path.1.display()
    );
    support::succeed(&mut cgroup.command(&dd));
    let (calls, files) = (calls.report(), files.report());
    // dd writes with write(2), so of the two system calls it makes the one fsync.
    let calls = list(&calls, "histograms");
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(
        (&calls[0]["comm"], number(&calls[0], "count")),
        (&"dd".into(), 1)
    );
    let writes = sum_of(list(&files, "histograms"), "count", |h| {
        h["comm"] == "dd" && h["operation"] == "write"
    });
    assert_eq!(writes, 33, "{files}");
}

#[test]
fn syslat_times_a_known_sleep_and_can_leave_it_out() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    const SLEEPS: u64 = 20;
    const SLEEP: Duration = Duration::from_millis(20);
    let pid = own_pid();
    let sleep = ["--syscall", "clock_nanosleep"];
    let start = |options: &[&str]| Running::start(&[&["syslat", "-p", &pid], options].concat());
    let (slept, milliseconds) = (start(&sleep), start(&[&sleep[..], &["-m"]].concat()));
    let (awake, all) = (start(&["--no-sleep"]), start(&[]));
    // Its own calls are all that is seen of this thread: the test's main thread sleeps, too.
    let wall = std::thread::Builder::new()
        .name("known-sleeper".into())
        .spawn(|| {
            let begin = Instant::now();
            for _ in 0..SLEEPS {
                std::thread::sleep(SLEEP);
            }
            begin.elapsed()
        });
    let wall_us = wall.unwrap().join().unwrap().as_micros() as u64;
    let (all, awake) = (all.report(), awake.report());
    let ours = |h: &serde_json::Value| h["comm"] == "known-sleeper";
    for (tool, unit_us) in [(slept, 1), (milliseconds, 1000)] {
        let report = tool.report();
        let histogram = list(&report, "histograms")
            .iter()
            .find(|h| ours(h))
            .unwrap();
        assert_eq!(number(histogram, "count"), SLEEPS);
        let sum_us = number(histogram, "sum") * unit_us;
        let sleep_us = SLEEP.as_micros() as u64;
        assert!((SLEEPS * sleep_us..=wall_us).contains(&sum_us), "{report}");
        let lowest = &list(histogram, "rows")[0];
        assert!(number(lowest, "high") * unit_us >= sleep_us, "{lowest}");
    }
    let sum = |report: &serde_json::Value| sum_of(list(report, "histograms"), "sum", ours);
    assert!(sum(&all) >= SLEEPS * SLEEP.as_micros() as u64);
    assert!(sum(&awake) < SLEEP.as_micros() as u64, "{awake}");
}

#[test]
fn vfslat_counts_file_reads_and_writes_apart() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let file = tempfile::tempfile().unwrap();
    let (mut pipe_out, mut pipe_in) = std::io::pipe().unwrap();
    let pid = own_pid();
    let micro = Running::start(&["vfslat", "-p", &pid]);
    let milli = Running::start(&["vfslat", "-m", "-p", &pid]);
    for index in 0..300 {
        file.write_all_at(&[7; 512], index * 512).unwrap();
    }
    for index in 0..200 {
        file.read_exact_at(&mut [0; 512], index * 512).unwrap();
    }
    // A pipe is no file of the file system.
    pipe_in.write_all(&[1; 10]).unwrap();
    pipe_out.read_exact(&mut [0; 10]).unwrap();
    for (tool, unit) in [(micro, "usecs"), (milli, "msecs")] {
        let report = tool.report();
        let histograms = list(&report, "histograms");
        let count_of = |name: &str| sum_of(histograms, "count", |h| h["operation"] == name);
        assert_eq!(
            (count_of("write"), count_of("read")),
            (300, 200),
            "{report}"
        );
        assert!(histograms.iter().all(|h| h["unit"] == unit), "{report}");
    }
}
