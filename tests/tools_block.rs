//! The block I/O tools against requests of known number, size and duration on a loop device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;

use support::disk::{LoopDevice, SlowFile};
use support::tool::{Cgroup, Running, alone_with, list, number, own_pid, sum_of};

const READS: u64 = 100;
const READ_BYTES: usize = 4096;
const WRITES: u64 = 60;
const WRITE_BYTES: usize = 16384;

fn known_io(device: &LoopDevice) {
    device.transfer(READS, READ_BYTES, false);
    device.transfer(WRITES, WRITE_BYTES, true);
}

#[test]
fn biolatency_counts_each_request_once() {
    let Some(_alone) = alone_with(&["losetup"]) else {
        return;
    };
    let device = LoopDevice::new();
    let pid = own_pid();
    for extra in [&[][..], &["-Q"], &["-m"], &["-p", &pid]] {
        let tool = Running::start(&[&["biolatency", "-d", device.name()], extra].concat());
        known_io(&device);
        let report = tool.report();
        let histograms = list(&report, "histograms");
        assert_eq!(histograms.len(), 1, "{extra:?}: {report}");
        assert_eq!(number(&histograms[0], "count"), READS + WRITES, "{report}");
        let unit = if extra == ["-m"] { "msecs" } else { "usecs" };
        assert_eq!(histograms[0]["unit"], unit);
    }
}

#[test]
fn biolatency_tells_disks_apart_and_reads_from_writes() {
    let Some(_alone) = alone_with(&["losetup"]) else {
        return;
    };
    let (device, other) = (LoopDevice::new(), LoopDevice::new());
    let disks = Running::start(&["biolatency", "-D"]);
    let flags = Running::start(&["biolatency", "-F", "-d", device.name()]);
    known_io(&device);
    other.transfer(7, READ_BYTES, false);
    let (disks, flags) = (disks.report(), flags.report());
    let of_disk = |name: &str| sum_of(list(&disks, "histograms"), "count", |h| h["disk"] == name);
    assert_eq!(of_disk(device.name()), READS + WRITES);
    assert_eq!(of_disk(other.name()), 7);
    let of_operation = |operation: &str| {
        let ends = |h: &Value| h["flags"].as_str().unwrap().ends_with(operation);
        sum_of(list(&flags, "histograms"), "count", ends)
    };
    assert_eq!(
        (of_operation("Read"), of_operation("Write")),
        (READS, WRITES)
    );
}

#[test]
fn biolatency_agrees_with_a_disk_of_known_slowness() {
    let Some(_alone) = alone_with(&["losetup", "umount"]) else {
        return;
    };
    const DELAY: Duration = Duration::from_millis(40);
    const SLOW_READS: u64 = 12;
    let file = SlowFile::new(DELAY);
    let device = LoopDevice::over(&file.path);
    let issued = Running::start(&["biolatency", "-d", device.name()]);
    let queued = Running::start(&["biolatency", "-Q", "-m", "-d", device.name()]);
    let start = Instant::now();
    device.transfer(SLOW_READS, READ_BYTES, false);
    let wall_us = start.elapsed().as_micros() as u64;
    for (tool, unit_us) in [(issued, 1), (queued, 1000)] {
        let report = tool.report();
        println!("{report}, {wall_us} us in all");
        let histogram = &list(&report, "histograms")[0];
        assert_eq!(number(histogram, "count"), SLOW_READS);
        // One after the other: no less than the delays, and no more than all of it took.
        let delay_us = DELAY.as_micros() as u64;
        let sum_us = number(histogram, "sum") * unit_us;
        assert!((SLOW_READS * delay_us..=wall_us).contains(&sum_us));
        let lowest_us = number(&list(histogram, "rows")[0], "high") * unit_us;
        assert!(lowest_us >= delay_us, "{histogram}");
        // Percentiles are within an eighth.
        assert!(number(histogram, "p50") * unit_us * 8 / 7 >= delay_us);
    }
}

#[test]
fn biotop_and_biocount_know_bytes_direction_and_owner() {
    let Some(_alone) = alone_with(&["losetup"]) else {
        return;
    };
    let device = LoopDevice::new();
    let start =
        |arguments: &[&str]| Running::start(&[arguments, &["60", "-d", device.name()]].concat());
    let (top, count) = (start(&["biotop"]), start(&["biocount"]));
    let (reads, writes) = (start(&["biotop", "-R"]), start(&["biotop", "-W"]));
    let (one, by_io) = (
        start(&["biotop", "-r", "1"]),
        start(&["biotop", "-s", "io"]),
    );
    let (by_time, first) = (
        start(&["biotop", "-s", "time"]),
        start(&["biocount", "-n", "1"]),
    );
    known_io(&device);
    let (top, count) = (top.report(), count.report());
    let expected = [
        ("R", "Read", READS, READS * READ_BYTES as u64),
        ("W", "Write", WRITES, WRITES * WRITE_BYTES as u64),
    ];
    assert_eq!(
        (list(&top, "rows").len(), list(&count, "rows").len()),
        (2, 2)
    );
    for (letter, operation, requests, bytes) in expected {
        let rows = list(&top, "rows");
        let row = rows
            .iter()
            .find(|row| row["operation"] == operation)
            .unwrap();
        assert_eq!((number(row, "io"), number(row, "bytes")), (requests, bytes));
        assert_eq!(row["pid"], std::process::id());
        assert_eq!(row["disk"], device.name());
        let rows = list(&count, "rows");
        let row = rows.iter().find(|row| row["d"] == letter).unwrap();
        assert_eq!(
            (number(row, "count"), number(row, "bytes")),
            (requests, bytes)
        );
    }
    let operations = |tool: Running| -> Vec<String> {
        let report = tool.report();
        let name = |row: &Value| row["operation"].as_str().unwrap().to_owned();
        list(&report, "rows").iter().map(name).collect()
    };
    assert_eq!(operations(reads), ["Read"]);
    assert_eq!(operations(writes), ["Write"]);
    // The busiest by bytes wrote; the busiest by requests read.
    assert_eq!(operations(one), ["Write"]);
    assert_eq!(operations(by_io), ["Read", "Write"]);
    let by_time = by_time.report();
    let times: Vec<u64> = list(&by_time, "rows")
        .iter()
        .map(|row| number(row, "time_ns"))
        .collect();
    assert!(times[0] >= times[1] && times[1] > 0, "{times:?}");
    let first = first.report();
    assert_eq!(list(&first, "rows").len(), 1);
    assert_eq!(number(&list(&first, "rows")[0], "count"), READS);
}

#[test]
fn a_cgroups_requests_are_told_from_the_others() {
    let Some(_alone) = alone_with(&["losetup", "dd"]) else {
        return;
    };
    let Some(cgroup) = Cgroup::new("block") else {
        eprintln!("skipped: no cgroup v2 is mounted");
        return;
    };
    let device = LoopDevice::new();
    let path = cgroup.path.to_str().unwrap();
    let filter = ["60", "-d", device.name(), "--cgroup", path];
    let latency = Running::start(&[&["biolatency"], &filter[1..]].concat());
    let top = Running::start(&[&["biotop"], &filter[..]].concat());
    let count = Running::start(&[&["biocount"], &filter[..]].concat());
    known_io(&device);
    let dd = format!(
        "dd if={} of=/dev/null bs=4k count=77 iflag=direct",
        device.path
    );
    support::succeed(&mut cgroup.command(&dd));
    known_io(&device);
    let (latency, top, count) = (latency.report(), top.report(), count.report());
    assert_eq!(number(&list(&latency, "histograms")[0], "count"), 77);
    for (report, name) in [(&top, "io"), (&count, "count")] {
        assert_eq!(list(report, "rows").len(), 1, "{report}");
        let row = &list(report, "rows")[0];
        assert_eq!((&row["comm"], number(row, name)), (&"dd".into(), 77));
    }
}
