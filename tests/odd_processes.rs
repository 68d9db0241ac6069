//! Processes unlike most: without a first thread, with tens of thousands of mappings, gone before
//! they could be followed. Needs root.

// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::run::{FlameRun, Process, Recorded};
use support::workload::Workload;
use support::{can_sample, sampling_turn};

/// Runs a workload for some seconds, and a profile once it is under way.
fn profile_of(workload: &str, arguments: &[&str]) -> Recorded {
    let program = Workload::new(workload).build();
    let target = Process::start(Command::new(&program).arg("20"));
    sleep(Duration::from_secs(1));
    FlameRun::new()
        .args(["-p", &target.id().to_string(), "2"])
        .args(arguments)
        .run()
}

#[test]
fn a_process_lives_on_without_its_first_thread() {
    if !can_sample("a_process_lives_on_without_its_first_thread") {
        return;
    }
    let _turn = sampling_turn();
    let recorded = profile_of("leader_exits.c", &[]);
    recorded
        .folded
        .assert_chain(&["start_thread", "survivor", "survivor_work"]);
}

#[test]
fn a_process_with_very_many_mappings_keeps_its_names_and_costs_little() {
    if !can_sample("a_process_with_very_many_mappings_keeps_its_names_and_costs_little") {
        return;
    }
    let _turn = sampling_turn();
    let recorded = profile_of("many_mappings.c", &[]);
    recorded.folded.assert_chain(&["main", "first_mapped_work"]);
    let cpu_ns = recorded.stats["cost"]["cpu_ns"].as_u64().unwrap();
    assert!(cpu_ns < 2_000_000_000, "{cpu_ns} ns of CPU");
}

#[test]
fn no_stack_goes_past_the_start_of_a_static_program() {
    if !can_sample("no_stack_goes_past_the_start_of_a_static_program") {
        return;
    }
    let _turn = sampling_turn();
    let program = Workload::new("three_functions.c")
        .flags(&["-static"])
        .build();
    let recorded = FlameRun::new()
        .args(["--unwind", "fp", "--", program.to_str().unwrap(), "2"])
        .run();
    let costly = recorded
        .folded
        .lines
        .iter()
        .filter(|line| line.frames.iter().any(|frame| frame == "costly"));
    let mut count = 0;
    for line in costly {
        assert_eq!(line.frames[1..3], ["__libc_start_call_main", "main"]);
        count += line.count;
    }
    assert!(count > 100, "{}", recorded.folded);
}

#[test]
fn targets_that_end_while_the_profile_is_set_up_are_not_waited_for() {
    if !can_sample("targets_that_end_while_the_profile_is_set_up_are_not_waited_for") {
        return;
    }
    let _turn = sampling_turn();
    // Ends before, while and after its end is watched for; the run must never last its hour.
    for lifetime_ms in (0..400).step_by(25) {
        let seconds = format!("0.{lifetime_ms:03}");
        let target = Process::start(Command::new("sleep").arg(seconds));
        let started = Instant::now();
        let (_, _) = FlameRun::new()
            .args(["-p", &target.id().to_string(), "3600"])
            .start()
            .finish();
        assert!(started.elapsed() < Duration::from_secs(10));
        drop(target);
    }
}

/// As when one of `pgrep`'s list ends before `flame` looks.
#[test]
fn a_list_is_profiled_without_the_one_that_has_ended() {
    if !can_sample("a_list_is_profiled_without_the_one_that_has_ended") {
        return;
    }
    let _turn = sampling_turn();
    let mut ended = Command::new("true").spawn().unwrap();
    ended.wait().unwrap();
    let program = Workload::new("three_functions.c").build();
    let target = Process::start(Command::new(&program).arg("20"));
    let list = format!("{},{}", ended.id(), target.id());
    let recorded = FlameRun::new().args(["-p", &list, "1"]).run();
    recorded.folded.assert_chain(&["main", "work", "costly"]);
    let warning = format!("process {} has ended", ended.id());
    assert!(recorded.stderr.contains(&warning), "{}", recorded.stderr);
}
