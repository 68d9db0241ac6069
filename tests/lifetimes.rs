//! Names in spite of short lives: children, deleted and replaced files, mount namespaces, `exec`,
//! code written at run time, hostile names. Needs root.

// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use support::folded::Folded;
use support::run::{FlameRun, Process, Recorded, assert_share};
use support::truth::Truth;
use support::workload::Workload;
use support::{can_sample, can_sample_with, sampling_turn};

const FUNCTIONS: [&str; 3] = ["cheap", "medium", "costly"];

/// Longer than any workload's run.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn short_lived_children_are_named_like_the_rest() {
    if !can_sample("short_lived_children_are_named_like_the_rest") {
        return;
    }
    let parent = Workload::new("short_lived.c").build();
    let tiny = Workload::new("tiny.c").build();
    let _turn = sampling_turn();
    let run = FlameRun::new()
        .args(["--".as_ref(), parent.as_os_str()])
        .args(["4"])
        .args([&tiny]);
    let recorded = run.run();
    let truth = recorded.truth();
    // Between fork and exec a child still has its parent's name: hold work against the work of
    // parent and children together.
    let measured =
        100.0 * recorded.folded.count_frame("tiny_work") as f64 / recorded.folded.total() as f64;
    let all_ns = truth.ns("children") + truth.user_ns + truth.system_ns;
    let expected = 100.0 * truth.ns("tiny_work") as f64 / all_ns as f64;
    assert_share("tiny_work", measured, expected, &recorded.folded);
    recorded.folded.assert_chain(&["main", "tiny_work"]);
}

#[test]
fn short_lived_strangers_are_named_in_a_profile_of_the_machine() {
    if !can_sample("short_lived_strangers_are_named_in_a_profile_of_the_machine") {
        return;
    }
    let parent = Workload::new("short_lived.c").build();
    let tiny = Workload::new("tiny.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&parent).arg("5").arg(&tiny));
    let folded = FlameRun::at_hz(997)
        .args(["3"])
        .run()
        .folded
        .of_task("tiny");
    drop(target);
    let named = folded.count_frame("tiny_work");
    assert!(named > 50, "{folded}");
    assert!(
        named * 100 >= folded.total() * 90,
        "{named} of {}\n{folded}",
        folded.total()
    );
}

#[test]
fn a_program_deleted_while_it_runs_keeps_its_names() {
    if !can_sample("a_program_deleted_while_it_runs_keeps_its_names") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("three_functions");
    fs::copy(Workload::new("three_functions.c").build(), &program).unwrap();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("4"));
    sleep(Duration::from_millis(100));
    fs::remove_file(&program).unwrap();
    assert_three_functions(&profile_of(&target, "2"), target);
}

#[test]
fn a_program_replaced_while_it_runs_keeps_its_own_names() {
    if !can_sample("a_program_replaced_while_it_runs_keeps_its_own_names") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("three_functions");
    fs::copy(Workload::new("three_functions.c").build(), &program).unwrap();
    let other = folder.path().join("other");
    fs::copy(Workload::new("kernel_loop.c").build(), &other).unwrap();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("4"));
    sleep(Duration::from_millis(100));
    fs::rename(&other, &program).unwrap();
    let recorded = profile_of(&target, "2");
    let foreign = recorded.folded.count_frame("read_zeros") + recorded.folded.count_frame("think");
    assert_eq!(foreign, 0, "{}", recorded.folded);
    assert_three_functions(&recorded, target);
}

#[test]
fn a_program_that_ended_and_vanished_during_the_run_keeps_its_names() {
    if !can_sample("a_program_that_ended_and_vanished_during_the_run_keeps_its_names") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("three_functions");
    fs::copy(Workload::new("three_functions.c").build(), &program).unwrap();
    let _turn = sampling_turn();
    let flame = FlameRun::new().args(["-d", "5"]).start_sampling();
    let target = Process::start(Command::new(&program).arg("2"));
    let finished = target.finish_within(PATIENCE);
    fs::remove_file(&program).unwrap();
    let mut recorded = flame.record();
    recorded.folded = recorded.folded.of_task("three_functions");
    let truth = Truth::parse(&finished.stdout);
    assert_counted(&recorded.folded, &FUNCTIONS, &truth, 1999);
    recorded.assert_shares(&FUNCTIONS, &truth);
    recorded.folded.assert_chain(&["main", "work", "costly"]);
}

#[test]
fn a_program_that_only_another_mount_namespace_can_see_is_named() {
    let name = "a_program_that_only_another_mount_namespace_can_see_is_named";
    if !can_sample_with(name, &["unshare", "mount"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let script = r#"mount -t tmpfs none "$1" && cp "$2" "$1/hidden" && exec "$1/hidden" 4"#;
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "--propagation", "private", "sh", "-c", script, "sh"]);
    let target = Process::start(unshare.arg(folder.path()).arg(&program));
    sleep(Duration::from_millis(500));
    assert!(
        !folder.path().join("hidden").exists(),
        "the file must be invisible out here"
    );
    let recorded = profile_of(&target, "2");
    assert_eq!(
        recorded.folded.of_task("hidden").total(),
        recorded.folded.total()
    );
    assert_three_functions(&recorded, target);
}

#[test]
fn an_exec_in_mid_run_keeps_both_programs_names() {
    if !can_sample("an_exec_in_mid_run_keeps_both_programs_names") {
        return;
    }
    let before = Workload::new("exec_midrun.c").build();
    let after = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let run = FlameRun::new()
        .args(["--".as_ref(), before.as_os_str()])
        .args(["3"])
        .args([&after]);
    let recorded = run.run();
    let all = ["before_exec", "cheap", "medium", "costly"];
    recorded.assert_shares(&all, &recorded.truth());
    recorded
        .folded
        .of_task("exec_midrun")
        .assert_chain(&["main", "before_exec"]);
    recorded
        .folded
        .of_task("three_functions")
        .assert_chain(&["main", "work", "costly"]);
}

#[test]
fn an_object_loaded_in_mid_run_is_named() {
    if !can_sample("an_object_loaded_in_mid_run_is_named") {
        return;
    }
    let host = Workload::new("dlopen.c").build();
    let plugin = Workload::new("plugin.c")
        .flags(&["-shared", "-fPIC"])
        .build();
    let _turn = sampling_turn();
    // From its first instruction to its end: the truth that it tells is of its whole life.
    let run = FlameRun::new()
        .args(["--".as_ref(), host.as_os_str(), "4.5".as_ref()])
        .args([&plugin]);
    let recorded = run.run();
    let truth = recorded.truth();
    recorded.assert_shares(&["host_work", "plugin_work"], &truth);
    recorded
        .folded
        .assert_chain(&["main", "call_plugin", "plugin_work", "plugin_inner"]);
}

#[test]
fn code_written_at_run_time_is_named_by_its_perf_map() {
    if !can_sample("code_written_at_run_time_is_named_by_its_perf_map") {
        return;
    }
    let program = Workload::new("jit.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("4"));
    let recorded = profile_of(&target, "2");
    let truth = Truth::parse(&target.finish_within(PATIENCE).stdout);
    let jit = |frame: &String| frame.trim_end_matches("_[j]") == "jit_hot_loop";
    let jitted = recorded.folded.count(|line| line.frames.iter().any(jit));
    let interpreted = recorded.folded.count_frame("interpreted");
    let measured = 100.0 * jitted as f64 / (jitted + interpreted).max(1) as f64;
    assert_share(
        "jit_hot_loop",
        measured,
        truth.share_pct("jit_hot_loop"),
        &recorded.folded,
    );
    let called = recorded.folded.count(|line| {
        line.frames
            .windows(3)
            .any(|w| w[0] == "main" && w[1] == "call_jit" && jit(&w[2]))
    });
    assert!(
        called * 100 >= jitted * 99,
        "{called} of {jitted}\n{}",
        recorded.folded
    );
}

#[test]
fn a_perf_map_that_blocks_or_is_a_link_is_not_believed() {
    let name = "a_perf_map_that_blocks_or_is_a_link_is_not_believed";
    if !can_sample_with(name, &["mkfifo"]) {
        return;
    }
    let program = Workload::new("jit.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("20"));
    sleep(Duration::from_millis(200));
    let map = format!("/tmp/perf-{}.map", target.id());
    let truth = fs::read_to_string(&map).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("elsewhere");
    fs::write(&secret, truth).unwrap();
    for plant in [
        &["mkfifo", &map][..],
        &["ln", "-s", secret.to_str().unwrap(), &map],
    ] {
        fs::remove_file(&map).unwrap();
        support::succeed(Command::new(plant[0]).args(&plant[1..]));
        let recorded = profile_of(&target, "1");
        let jitted = recorded
            .folded
            .count(|line| line.frames.join(";").contains("jit_hot_loop"));
        assert_eq!(jitted, 0, "{}", recorded.folded);
        assert!(
            recorded.folded.count_frame("interpreted") > 0,
            "{}",
            recorded.folded
        );
    }
}

#[test]
fn hostile_names_break_neither_format() {
    if !can_sample("hostile_names_break_neither_format") {
        return;
    }
    let program = Workload::new("hostile_name.c").build();
    let _turn = sampling_turn();
    let folder = tempfile::tempdir().unwrap();
    let names: [&[u8]; 5] = [
        b"a;b 7;c",
        b"<script>alert(",
        b"new\nline 5\r\t",
        b"\x1b[31m\x07red",
        b"\xff\xfe\xc3(",
    ];
    for name in names {
        let svg = folder.path().join("out.svg");
        let run = FlameRun::at_hz(997).args(["-o".as_ref(), svg.as_os_str()]);
        let run = run.args(["--".as_ref(), program.as_os_str()]);
        let recorded = run.args([OsStr::new("0.5"), OsStr::from_bytes(name)]).run();
        // The root's name is one frame on one line, or the parser fails or the chain is longer.
        let whole = recorded.folded.count(|line| {
            line.frames
                .get(1..)
                .is_some_and(|below| below.iter().any(|frame| frame == "main"))
                && !line.frames[0].chars().any(char::is_control)
        });
        let working = recorded.folded.count_frame("hostile_work");
        assert!(
            working > 100 && whole >= working,
            "{name:?}: {whole}\n{}",
            recorded.folded
        );
        recorded.folded.assert_chain(&["main", "hostile_work"]);
        let svg = fs::read_to_string(&svg).unwrap();
        assert!(!svg.contains("<script>alert("), "{name:?} is live markup");
        assert!(
            !svg.contains(['\x1b', '\x07']),
            "{name:?}: control characters in the picture"
        );
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}

/// Profiles a running process for some seconds.
fn profile_of(target: &Process, seconds: &str) -> Recorded {
    FlameRun::new()
        .args(["-p", &target.id().to_string(), seconds])
        .run()
}

/// Asserts that functions profiled all their lives were seen as often as their CPU time makes due,
/// give or take a tenth.
fn assert_counted(folded: &Folded, functions: &[&str], truth: &Truth, frequency_hz: u64) {
    let cpu_ns: u64 = functions.iter().map(|function| truth.ns(function)).sum();
    let due = (cpu_ns * frequency_hz) as f64 / 1e9;
    let seen: u64 = functions
        .iter()
        .map(|function| folded.count_frame(function))
        .sum();
    assert!(
        (seen as f64 / due - 1.0).abs() < 0.1,
        "{seen} samples, {due:.0} are due\n{folded}"
    );
}

/// Asserts shares and chain of the three functions against what the target prints at its end.
fn assert_three_functions(recorded: &Recorded, target: Process) {
    let finished = target.finish_within(PATIENCE);
    recorded.assert_shares(&FUNCTIONS, &Truth::parse(&finished.stdout));
    for function in FUNCTIONS {
        recorded.folded.assert_chain(&["main", "work", function]);
    }
}
