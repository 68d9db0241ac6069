//! Runs that do not go to plan: a killed target, Ctrl-C at any moment, nothing to see, nowhere to
//! write. Needs root.

// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use support::run::{FlameRun, Process, flame};
use support::workload::Workload;
use support::{can_sample, can_sample_with, sampling_turn};

const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn a_target_killed_in_mid_run_still_gives_a_profile() {
    if !can_sample("a_target_killed_in_mid_run_still_gives_a_profile") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("30"));
    let run = FlameRun::new()
        .args(["-p", &target.id().to_string(), "20"])
        .start();
    sleep(Duration::from_secs(2));
    target.signal(Signal::KILL);
    target.finish_within(PATIENCE);
    let killed = Instant::now();
    let recorded = run.record();
    assert!(
        killed.elapsed() < Duration::from_secs(10),
        "the run must end with its last target"
    );
    recorded.folded.assert_chain(&["main", "work", "costly"]);
}

#[test]
fn a_command_killed_in_mid_run_still_gives_a_profile() {
    if !can_sample("a_command_killed_in_mid_run_still_gives_a_profile") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let script = r#""$0" 30 & sleep 2; kill -KILL $!; wait; kill -KILL $$"#;
    let run = FlameRun::new()
        .args(["--", "sh", "-c", script])
        .args([&program]);
    let recorded = run.run();
    recorded.folded.assert_chain(&["main", "work", "costly"]);
}

#[test]
fn ctrl_c_at_any_moment_leaves_a_whole_file_or_none() {
    if !can_sample("ctrl_c_at_any_moment_leaves_a_whole_file_or_none") {
        return;
    }
    let program = Workload::new("rust_generic.rs").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("120"));
    let pid = target.id().to_string();
    // Before the first sample, among the first, in the middle, about the end, while naming.
    for delay_ms in [
        0, 2, 5, 10, 20, 40, 80, 160, 320, 640, 990, 1000, 1010, 1030, 1060, 1100,
    ] {
        let run = FlameRun::new().args(["-p", &pid, "1"]).start();
        sleep(Duration::from_millis(delay_ms));
        run.process.signal(Signal::INT);
        let (finished, written) = run.finish();
        let by_signal = finished.status.code().is_none();
        assert!(
            (finished.status.code() == Some(0)) == written,
            "after {delay_ms} ms: {}, file written: {written}: {}",
            finished.status,
            finished.stderr
        );
        // A signal may kill it only before it could set up to listen to it.
        assert!(
            !by_signal || delay_ms < 640,
            "after {delay_ms} ms: {}",
            finished.status
        );
        assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
    }
}

#[test]
fn ctrl_c_ends_an_endless_run_with_its_profile() {
    if !can_sample("ctrl_c_ends_an_endless_run_with_its_profile") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("60"));
    let run = FlameRun::new()
        .args(["-p", &target.id().to_string()])
        .start();
    sleep(Duration::from_secs(2));
    run.process.signal(Signal::INT);
    let recorded = run.record();
    recorded.folded.assert_chain(&["main", "work", "costly"]);
    assert!(recorded.folded.total() > 100, "{}", recorded.folded);
}

#[test]
fn an_idle_process_is_no_success_and_the_reason_is_said() {
    if !can_sample("an_idle_process_is_no_success_and_the_reason_is_said") {
        return;
    }
    let _turn = sampling_turn();
    let target = Process::start(Command::new("sleep").arg("60"));
    sleep(Duration::from_millis(200));
    let run = FlameRun::at_hz(99)
        .args(["-p", &target.id().to_string(), "1"])
        .start();
    let (finished, written) = run.finish();
    assert_eq!(finished.status.code(), Some(1), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("no samples"),
        "{}",
        finished.stderr
    );
    assert!(!written, "an empty graph is not a result");
}

#[test]
fn an_unwritable_output_is_refused_before_sampling() {
    if !can_sample("an_unwritable_output_is_refused_before_sampling") {
        return;
    }
    let start = Instant::now();
    for output in ["/nonexistent-folder/out.svg", "/proc/out.svg"] {
        let mut command = flame();
        let finished = Process::start(command.args(["-o", output, "30"])).finish_within(PATIENCE);
        assert_eq!(
            finished.status.code(),
            Some(1),
            "{output}: {}",
            finished.stderr
        );
        assert!(finished.stderr.contains(output), "{}", finished.stderr);
    }
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "it sampled first"
    );
}

#[test]
fn a_full_disk_fails_and_leaves_the_old_file_alone() {
    let name = "a_full_disk_fails_and_leaves_the_old_file_alone";
    if !can_sample_with(name, &["unshare", "mount"]) {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let folder = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, so that nothing stays mounted. The picture is larger than
    // what is left of the tmpfs; the old file is there before and after.
    let script = r#"
        mount -t tmpfs -o size=64k none "$1" || exit 90
        echo old > "$1/out.svg"
        head -c 1000000 /dev/zero > "$1/ballast" 2>/dev/null
        "$2" -q -o "$1/out.svg" -- "$3" 1
        echo "status $?"
        cat "$1/out.svg"
        ls -A "$1"
    "#;
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
    unshare.args([
        folder.path(),
        Path::new(env!("CARGO_BIN_EXE_flame")),
        &program,
    ]);
    let finished = Process::start(&mut unshare).finish_within(PATIENCE);
    let tail: Vec<_> = finished
        .stdout
        .lines()
        .filter(|line| !line.starts_with('{'))
        .collect();
    assert_eq!(
        tail,
        ["status 1", "old", "ballast", "out.svg"],
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains("out.svg"), "{}", finished.stderr);
}

#[test]
fn nobody_ever_sees_half_a_file() {
    if !can_sample("nobody_ever_sees_half_a_file") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("out.svg");
    fs::write(&svg, "old").unwrap();
    let mut command = flame();
    let mut run = Process::start(
        command
            .args(["-q", "-o"])
            .arg(&svg)
            .arg("--")
            .arg(program)
            .arg("1"),
    );
    while run.is_running() {
        let seen = fs::read_to_string(&svg).unwrap();
        assert!(
            seen == "old" || seen.trim_end().ends_with("</svg>"),
            "half a file"
        );
    }
    assert_eq!(run.finish_within(PATIENCE).status.code(), Some(0));
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["out.svg"], "temporary files were left behind");
}
