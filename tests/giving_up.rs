//! Signals: one ends the sampling, one more while the profile is written gives up. Needs root.

// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Signal;
use tempfile::TempDir;

use support::run::Process;
use support::workload::Workload;
use support::{can_sample, sampling_turn, succeed};

const PATIENCE: Duration = Duration::from_mins(1);

/// The binary under test, with signals as in a terminal: whoever runs the tests may ignore some.
fn flame() -> Command {
    let mut command = Command::new("env");
    command.args([
        "--default-signal=HUP,INT,TERM,PIPE",
        env!("CARGO_BIN_EXE_flame"),
    ]);
    command
}

fn load() -> Process {
    Process::start(Command::new(Workload::new("three_functions.c").build()).arg("60"))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A folder with a FIFO that nobody reads: writing a result to it takes for ever.
fn folder_with_fifo() -> TempDir {
    let folder = TempDir::new().unwrap();
    let fifo = folder.path().join("fifo.folded");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    folder
}

#[test]
fn a_signal_while_writing_gives_up_at_once_and_leaves_nothing() {
    if !can_sample("a_signal_while_writing_gives_up_at_once_and_leaves_nothing") {
        return;
    }
    let target = load();
    let _turn = sampling_turn();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let folder = folder_with_fifo();
        let run = Process::start(
            flame()
                .args(["-p", &target.id().to_string(), "1", "-o"])
                .arg(folder.path().join("fifo.folded"))
                .arg("-o")
                .arg(folder.path().join("never.svg")),
        );
        sleep(Duration::from_secs(4));
        run.signal(signal);
        let signalled = Instant::now();
        let finished = run.finish_within(PATIENCE);
        assert!(signalled.elapsed() < Duration::from_secs(2));
        assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
        assert!(
            finished.stderr.contains("interrupted"),
            "{}",
            finished.stderr
        );
        assert_eq!(names_in(folder.path()), ["fifo.folded"]);
    }
}

#[test]
fn two_signals_at_once_are_one() {
    if !can_sample("two_signals_at_once_are_one") {
        return;
    }
    let target = load();
    let _turn = sampling_turn();
    let folder = TempDir::new().unwrap();
    let run = Process::start(
        flame()
            .args(["-p", &target.id().to_string(), "30", "-o"])
            .arg(folder.path().join("a.svg")),
    );
    sleep(Duration::from_secs(3));
    run.signal(Signal::TERM);
    run.signal(Signal::INT);
    let finished = run.finish_within(PATIENCE);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert_eq!(names_in(folder.path()), ["a.svg"]);
}

#[test]
fn a_hangup_that_nohup_ignores_ends_nothing() {
    if !can_sample("a_hangup_that_nohup_ignores_ends_nothing") {
        return;
    }
    let target = load();
    let _turn = sampling_turn();
    let started = Instant::now();
    let run = Process::start(
        Command::new("nohup")
            .arg(env!("CARGO_BIN_EXE_flame"))
            .args(["-f", "-p", &target.id().to_string(), "5"]),
    );
    sleep(Duration::from_secs(3));
    run.signal(Signal::HUP);
    let finished = run.finish_within(PATIENCE);
    assert!(finished.status.success(), "{}", finished.stderr);
    assert!(started.elapsed() > Duration::from_secs(5));
}

#[test]
fn a_command_starts_with_default_signals() {
    if !can_sample("a_command_starts_with_default_signals") {
        return;
    }
    let _turn = sampling_turn();
    let folder = TempDir::new().unwrap();
    let script = format!(
        r#"while read -r line; do case $line in Sig[BI]*) echo "$line";; esac; done \
           < /proc/self/status > {0}/signals; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"#,
        folder.path().display()
    );
    succeed(flame().args(["-q", "-f", "--", "sh", "-c", &script]));
    let signals = fs::read_to_string(folder.path().join("signals")).unwrap();
    // Signals 32 and up are the C library's own, and whoever started the test may ignore some.
    let hexadecimal = |line: &str| u64::from_str_radix(line.rsplit('\t').next()?, 16).ok();
    let masks: Vec<_> = signals.lines().filter_map(hexadecimal).collect();
    let of_signals = [Signal::INT, Signal::TERM, Signal::HUP, Signal::PIPE];
    let bits = of_signals.map(|signal| 1 << (signal.as_raw() - 1));
    assert_eq!(masks.len(), 2, "{signals}");
    for mask in masks {
        assert!(bits.iter().all(|bit: &u64| mask & bit == 0), "{signals}");
    }
}
