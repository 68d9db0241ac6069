//! Whole stacks from programs without frame pointers: each must have its exact chain from the
//! program's start on, by call frame information alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

mod support;

use support::folded::Folded;
use support::run::{FlameRun, Process, Recorded};
use support::workload::Workload;
use support::{can_sample, can_sample_with, sampling_turn};

const NO_FRAME_POINTERS: &[&str] = &["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls"];
/// How glibc starts a program.
const START: [&str; 3] = ["_start", "__libc_start_main_impl", "__libc_start_call_main"];

fn without_frame_pointers(source: &str, more: &[&str]) -> Workload {
    Workload::new(source).flags(NO_FRAME_POINTERS).flags(more)
}

fn chain<'a>(calls: &[&'a str]) -> Vec<&'a str> {
    START.into_iter().chain(calls.iter().copied()).collect()
}

/// Stacks that reach the outermost frame, in percent of all user stacks.
fn rooted_pct(recorded: &Recorded) -> f64 {
    100.0 * recorded.stat("rooted") as f64 / recorded.stat("user_stacks").max(1) as f64
}

fn assert_rooted(recorded: &Recorded, at_least_pct: f64) {
    let rooted = rooted_pct(recorded);
    assert!(
        rooted >= at_least_pct,
        "{rooted:.2} % rooted: {:?}\n{}",
        recorded.pairs("truncated"),
        recorded.folded
    );
}

fn of_command(program: &Workload, seconds: &str) -> Recorded {
    let program = program.build();
    FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args([seconds])
        .run()
}

#[test]
fn links_by_bfd_and_by_lld() {
    if !can_sample_with("links_by_bfd_and_by_lld", &["ld.lld"]) {
        return;
    }
    let _turn = sampling_turn();
    for link in [
        &["-fuse-ld=bfd"][..],
        &["-fuse-ld=lld"],
        &["-no-pie"],
        &["-fuse-ld=lld", "-no-pie"],
    ] {
        let recorded = of_command(&without_frame_pointers("three_functions.c", link), "1");
        recorded
            .folded
            .assert_chain(&chain(&["main", "work", "costly"]));
        assert_rooted(&recorded, 99.0);
    }
}

#[test]
fn rust_and_cpp() {
    if !can_sample("rust_and_cpp") {
        return;
    }
    let _turn = sampling_turn();
    let rust = Workload::new("rust_generic.rs").flags(&["-C", "force-frame-pointers=no"]);
    for program in [rust, without_frame_pointers("cpp_inline.cpp", &[])] {
        assert_rooted(&of_command(&program, "1"), 99.0);
    }
}

#[test]
fn a_stripped_static_program() {
    if !can_sample("a_stripped_static_program") {
        return;
    }
    let _turn = sampling_turn();
    let program = without_frame_pointers("three_functions.c", &["-static", "-s"]);
    let recorded = of_command(&program, "1");
    assert_rooted(&recorded, 99.0);
    // No names, but one frame for each function: three leaves under one caller.
    let costliest = recorded
        .folded
        .lines
        .iter()
        .map(|line| (line.count, line.user_frames().len()))
        .max()
        .unwrap();
    assert!(costliest.1 >= 6, "{}", recorded.folded);
}

/// musl is built without call frame information, and its functions use the frame pointer's register
/// as they like: the walk ends in the one that called `main`.
#[test]
fn a_static_musl_program() {
    if !can_sample_with("a_static_musl_program", &["musl-gcc"]) {
        return;
    }
    let _turn = sampling_turn();
    let program = without_frame_pointers("three_functions.c", &["-static"]).compiler("musl-gcc");
    let recorded = of_command(&program, "2");
    let costly = recorded.folded.count_frame("costly");
    let calls = ["libc_start_main_stage2", "main", "work", "costly"];
    let whole = recorded.folded.count(|line| line.called()[1..] == calls);
    assert!(
        costly > 20 && whole * 100 >= costly * 99,
        "{whole} of {costly}\n{}",
        recorded.folded
    );
    // In musl's own functions, such as clock_gettime, the walk is lost.
    assert_rooted(&recorded, 95.0);
}

/// Go's compiler keeps frame pointers; its call frame information goes with the symbols.
#[test]
fn a_goroutine_with_and_without_call_frame_information() {
    let name = "a_goroutine_with_and_without_call_frame_information";
    if !can_sample_with(name, &["go"]) {
        return;
    }
    let _turn = sampling_turn();
    let program = Workload::new("goroutine.go");
    let recorded = of_command(&program, "2");
    let costly = recorded.folded.count_frame("main.costly");
    let calls = ["runtime.goexit", "main.worker", "main.work", "main.costly"];
    let whole = recorded.folded.count(|line| line.called()[1..] == calls);
    assert!(
        costly > 50 && whole * 100 >= costly * 99,
        "{whole} of {costly}\n{}",
        recorded.folded
    );
    assert_rooted(&recorded, 95.0);

    // Without names: the goroutine's four functions. The runtime's own stacks keep none.
    let recorded = of_command(&program.flags(&["-ldflags=-s -w"]), "2");
    assert_rooted(&recorded, 95.0);
    let total = recorded.folded.total();
    let whole = recorded
        .folded
        .count(|line| line.called().len() == 1 + calls.len());
    assert!(
        whole * 100 >= total * 90,
        "{whole} of {total}\n{}",
        recorded.folded
    );
}

/// Code without call frame information ends the stack, in the kernel and in copied stacks alike.
#[test]
fn frame_pointers_can_be_ruled_out() {
    if !can_sample("frame_pointers_can_be_ruled_out") {
        return;
    }
    let _turn = sampling_turn();
    let program = without_frame_pointers("jit_callback.c", &[]).build();
    let recorded = FlameRun::new()
        .args(["--unwind", "dwarf", "--"])
        .args([program.as_os_str(), "1".as_ref()])
        .run();
    let called = recorded.folded.count_frame("callback");
    let through = recorded.folded.count(|line| {
        let has = |name: &str| line.frames.iter().any(|frame| frame == name);
        has("call_made") && has("callback")
    });
    assert!(
        called > 20 && through == 0,
        "{through} of {called}\n{}",
        recorded.folded
    );
}

#[test]
fn system_calls_keep_their_user_callers() {
    if !can_sample("system_calls_keep_their_user_callers") {
        return;
    }
    let _turn = sampling_turn();
    let recorded = of_command(&without_frame_pointers("kernel_loop.c", &[]), "1");
    recorded
        .folded
        .assert_chain(&chain(&["main", "work", "read_zeros"]));
    assert_rooted(&recorded, 99.0);
}

#[test]
fn an_object_loaded_after_the_start() {
    if !can_sample("an_object_loaded_after_the_start") {
        return;
    }
    let host = without_frame_pointers("dlopen.c", &[]).build();
    let plugin = without_frame_pointers("plugin.c", &["-shared", "-fPIC"]).build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&host).arg("3").arg(&plugin));
    let recorded = FlameRun::new()
        .args(["-p", &target.id().to_string(), "10"])
        .run();
    let calls = chain(&["main", "call_plugin", "plugin_work", "plugin_inner"]);
    recorded.folded.assert_chain(&calls);
    assert_rooted(&recorded, 99.0);
}

#[test]
fn workers_that_a_shell_forks() {
    if !can_sample("workers_that_a_shell_forks") {
        return;
    }
    let program = without_frame_pointers("three_functions.c", &[]).build();
    let _turn = sampling_turn();
    let script = format!("{0} 1 & {0} 1 & wait", program.display());
    let recorded = FlameRun::new().args(["--", "sh", "-c", &script]).run();
    recorded
        .folded
        .assert_chain(&chain(&["main", "work", "costly"]));
    assert_rooted(&recorded, 99.0);
}

#[test]
fn a_signal_handler_stands_on_what_it_interrupted() {
    if !can_sample("a_signal_handler_stands_on_what_it_interrupted") {
        return;
    }
    let _turn = sampling_turn();
    let recorded = of_command(&without_frame_pointers("signals.c", &[]), "2");
    let handled = recorded.folded.count_frame("handler_work");
    let on_interrupted = recorded.folded.count(|line| {
        let called = line.called();
        let at = |name: &str| called.iter().position(|frame| *frame == name);
        at("main")
            .zip(at("handler_work"))
            .is_some_and(|(main, work)| main < work)
    });
    assert!(
        handled > 50 && on_interrupted * 100 >= handled * 99,
        "{on_interrupted} of {handled}\n{}",
        recorded.folded
    );
    assert_rooted(&recorded, 99.0);
}

#[test]
fn made_code_that_calls_back_into_compiled_code() {
    if !can_sample("made_code_that_calls_back_into_compiled_code") {
        return;
    }
    let program = without_frame_pointers("jit_callback.c", &[]).build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("4"));
    sleep(Duration::from_millis(200));
    let recorded = FlameRun::new()
        .args(["-p", &target.id().to_string(), "2"])
        .run();
    let called = recorded.folded.count_frame("callback");
    let whole = recorded.folded.count(|line| {
        line.frames.windows(4).any(|w| {
            w[0] == "main"
                && w[1] == "call_made"
                && w[2].starts_with("made_code")
                && w[3] == "callback"
        })
    });
    assert!(
        called > 100 && whole * 100 >= called * 99,
        "{whole} of {called}\n{}",
        recorded.folded
    );
    assert_rooted(&recorded, 99.0);
}

#[test]
fn both_programs_of_an_exec_in_mid_run() {
    if !can_sample("both_programs_of_an_exec_in_mid_run") {
        return;
    }
    let before = without_frame_pointers("exec_midrun.c", &[]).build();
    let after = without_frame_pointers("three_functions.c", &[]).build();
    let _turn = sampling_turn();
    let recorded = FlameRun::new()
        .args(["--".as_ref(), before.as_os_str()])
        .args(["3"])
        .args([&after])
        .run();
    let task = |name: &str| -> Folded { recorded.folded.of_task(name) };
    task("exec_midrun").assert_chain(&chain(&["main", "before_exec"]));
    task("three_functions").assert_chain(&chain(&["main", "work", "costly"]));
    assert_rooted(&recorded, 99.0);
}

#[test]
fn a_library_of_over_a_million_rows() {
    if !can_sample_with("a_library_of_over_a_million_rows", &["clang-19"]) {
        return;
    }
    let _turn = sampling_turn();
    let source = support::repository().join("ebpf/profile.bpf.c");
    let include = support::repository().join("ebpf/include");
    let script = format!(
        "for i in 1 2 3; do clang-19 -target bpf -O2 -g -I {} -c {} -o /dev/null; done",
        include.display(),
        source.display()
    );
    let recorded = FlameRun::new().args(["--", "sh", "-c", &script]).run();
    let compiler =
        recorded.folded.of_task("clang-19").total() + recorded.folded.of_task("clang").total();
    assert!(compiler > 200, "{}", recorded.folded);
    assert_rooted(&recorded, 97.0);
}

/// More return addresses than the kernel side remembers rules for, met in ever another order.
#[test]
fn more_callers_than_are_remembered() {
    if !can_sample("more_callers_than_are_remembered") {
        return;
    }
    let _turn = sampling_turn();
    let recorded = of_command(&without_frame_pointers("many_callers.c", &["-g0"]), "3");
    assert_rooted(&recorded, 99.0);
    let mut seen = std::collections::HashSet::new();
    for line in &recorded.folded.lines {
        let called = line.called();
        let number = |name: &&str| u32::from_str_radix(name.strip_prefix("f_")?, 8).ok();
        let numbers: Vec<u32> = called.iter().filter_map(number).collect();
        // A sample may hit between the calls, or before the first.
        if called.last() == Some(&"leaf") {
            assert_eq!(numbers.len(), 61, "{called:?}");
        }
        for (depth, pair) in (1..=60).rev().zip(numbers.windows(2)) {
            assert_eq!(pair[1], (pair[0] * 5 + depth) % 4096, "{called:?}");
        }
        seen.extend(numbers);
    }
    assert!(seen.len() > 2048, "only {} callers", seen.len());
}

#[test]
fn another_mount_and_pid_namespace() {
    let name = "another_mount_and_pid_namespace";
    if !can_sample_with(name, &["unshare", "mount"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let program = without_frame_pointers("three_functions.c", &[]).build();
    let _turn = sampling_turn();
    let script = r#"mount -t tmpfs none "$1" && cp "$2" "$1/hidden" && exec "$1/hidden" 2"#;
    let recorded = FlameRun::new()
        .args([
            "--",
            "unshare",
            "-m",
            "-p",
            "-f",
            "--propagation",
            "private",
        ])
        .args(["sh", "-c", script, "sh"])
        .args([folder.path(), &program])
        .run();
    let hidden = recorded.folded.of_task("hidden");
    hidden.assert_chain(&chain(&["main", "work", "costly"]));
}

#[test]
fn a_thousand_processes_that_live_for_milliseconds() {
    if !can_sample("a_thousand_processes_that_live_for_milliseconds") {
        return;
    }
    let tiny = without_frame_pointers("tiny.c", &[]).build();
    let _turn = sampling_turn();
    // 5 to 50 ms each, four at a time, a thousand in all; descriptor 3 takes their reports.
    let script = format!(
        "exec 3>/dev/null; i=0; while [ $i -lt 250 ]; do \
         for life in 5 10 20 50; do {} $life & done; wait; i=$((i+1)); done",
        tiny.display()
    );
    let recorded = FlameRun::at_hz(499).args(["--", "sh", "-c", &script]).run();
    let tiny = recorded.folded.of_task("tiny");
    let whole = tiny.count(|line| {
        let called = line.called();
        called.len() > 3 && (called[1] == START[0]) && !called.contains(&"[unknown]")
    });
    assert!(tiny.total() > 1000, "{} samples", tiny.total());
    assert!(
        whole * 100 >= tiny.total() * 95,
        "{whole} of {} whole and named; {:?}\n{tiny}",
        tiny.total(),
        recorded.pairs("truncated")
    );
}
