//! Measured shares against the CPU time that the workloads really took, by their own clocks; and
//! their exact call chains. Needs root.

// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::Command;
use std::time::Duration;

use support::run::{FlameRun, Process, Recorded, assert_share};
use support::truth::Truth;
use support::workload::{Workload, comm};
use support::{can_sample, sampling_turn};

#[test]
fn three_functions_of_a_command() {
    if !can_sample("three_functions_of_a_command") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let recorded = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["3"])
        .run();
    let functions = ["cheap", "medium", "costly"];
    recorded.assert_shares(&functions, &recorded.truth());
    for function in functions {
        recorded.folded.assert_chain(&["main", "work", function]);
    }
    let named_by_command = recorded.folded.of_task(&comm(&program)).total();
    assert!(
        named_by_command * 100 >= recorded.folded.total() * 99,
        "{}",
        recorded.folded
    );
}

#[test]
fn three_functions_of_a_running_process() {
    if !can_sample("three_functions_of_a_running_process") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("5"));
    let pid = target.id().to_string();
    let recorded = FlameRun::new().args(["-p", &pid, "3"]).run();
    let finished = target.finish_within(Duration::from_secs(30));
    recorded.assert_shares(
        &["cheap", "medium", "costly"],
        &Truth::parse(&finished.stdout),
    );
    recorded.folded.assert_chain(&["main", "work", "costly"]);
    // Nobody else's stacks: every sample in the picture is the target's.
    assert_eq!(
        recorded.folded.of_task(&comm(&program)).total(),
        recorded.folded.total()
    );
    assert_eq!(recorded.folded.total(), recorded.stat("recorded"));
}

#[test]
fn kernel_frames_stand_on_their_user_callers() {
    if !can_sample("kernel_frames_stand_on_their_user_callers") {
        return;
    }
    let program = Workload::new("kernel_loop.c").build();
    let _turn = sampling_turn();
    let recorded = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["3"])
        .run();
    recorded.assert_shares(&["read_zeros", "think"], &recorded.truth());
    recorded
        .folded
        .assert_chain(&["main", "work", "read_zeros"]);
    let in_kernel = recorded.folded.count(|line| {
        let user = line.user_frames();
        line.called().last() == Some(&"read_zeros")
            && line
                .frames
                .get(user.len())
                .is_some_and(|entry| entry.contains("SYSCALL_64"))
    });
    let reading = recorded.folded.count_frame("read_zeros");
    assert!(
        in_kernel * 100 >= reading * 97,
        "{in_kernel} of {reading}\n{}",
        recorded.folded
    );
}

#[test]
fn user_only_and_kernel_only_leave_the_other_out() {
    if !can_sample("user_only_and_kernel_only_leave_the_other_out") {
        return;
    }
    let program = Workload::new("kernel_loop.c").build();
    let _turn = sampling_turn();
    let user = FlameRun::new()
        .args(["-U", "--"])
        .args([&program])
        .args(["1"])
        .run()
        .folded;
    assert!(user.count_frame("think") > 0, "{user}");
    assert_eq!(
        user.count(|line| line.frames.iter().any(|frame| frame.ends_with("_[k]"))),
        0
    );
    let kernel = FlameRun::new()
        .args(["-K", "--"])
        .args([&program])
        .args(["1"])
        .run()
        .folded;
    let has_kernel = |line: &support::folded::Line| line.frames.len() > line.user_frames().len();
    assert!(kernel.count(has_kernel) > 0, "{kernel}");
    assert_eq!(
        kernel.count_frame("main") + kernel.count_frame("think"),
        0,
        "{kernel}"
    );
}

#[test]
fn threads_have_their_own_shares() {
    if !can_sample("threads_have_their_own_shares") {
        return;
    }
    let program = Workload::new("threads.c").build();
    let _turn = sampling_turn();
    let run = FlameRun::new()
        .args(["--per-thread", "--"])
        .args([&program])
        .args(["3"]);
    let recorded = run.run();
    let truth = recorded.truth();
    for name in ["light", "middle", "heavy"] {
        let samples = recorded.folded.of_task(name).total();
        let measured = 100.0 * samples as f64 / recorded.folded.total() as f64;
        assert_share(name, measured, truth.share_pct(name), &recorded.folded);
        recorded
            .folded
            .assert_chain(&["thread_main", &format!("spin_{name}")]);
    }
}

#[test]
fn children_forked_after_the_start_belong_to_their_parent() {
    if !can_sample("children_forked_after_the_start_belong_to_their_parent") {
        return;
    }
    let program = Workload::new("forks.c").build();
    let _turn = sampling_turn();
    let recorded = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["3"])
        .run();
    let truth = recorded.truth();
    for name in ["fork-parent", "fork-child", "fork-grandchild"] {
        let samples = recorded.folded.of_task(name).total();
        let measured = 100.0 * samples as f64 / recorded.folded.total() as f64;
        assert_share(name, measured, truth.share_pct(name), &recorded.folded);
    }
    recorded
        .folded
        .assert_chain(&["main", "run_until", "grandchild_work"]);
}

#[test]
fn children_are_left_out_on_request() {
    if !can_sample("children_are_left_out_on_request") {
        return;
    }
    let program = Workload::new("forks.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("3"));
    let pid = target.id().to_string();
    let followed = FlameRun::new()
        .args(["-p", &pid, "--no-inherit", "2"])
        .run()
        .folded;
    assert!(followed.count_frame("parent_work") > 0, "{followed}");
    let of_children = followed.count_frame("child_work") + followed.count_frame("grandchild_work");
    assert_eq!(of_children, 0, "{followed}");
}

#[test]
fn cpp_names_are_demangled_and_inlines_marked() {
    if !can_sample("cpp_names_are_demangled_and_inlines_marked") {
        return;
    }
    let program = Workload::new("cpp_inline.cpp").build();
    let _turn = sampling_turn();
    let recorded = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["3"])
        .run();
    let truth = recorded.truth();
    let steps = [
        "physics::Integrator<float>::step",
        "physics::Integrator<double>::step",
    ];
    assert_shares_by_prefix(&recorded.folded, &steps, |step| truth.ns(step));
    assert_inlined_in(&recorded.folded, steps[1], &["square_units", "spin"]);
}

#[test]
fn rust_names_are_demangled_and_inlines_marked() {
    if !can_sample("rust_names_are_demangled_and_inlines_marked") {
        return;
    }
    let program = Workload::new("rust_generic.rs").build();
    let _turn = sampling_turn();
    let recorded = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["3"])
        .run();
    let truth = recorded.truth();
    let turns = [
        "<rust_generic::Engine<rust_generic::Light>>::turn",
        "<rust_generic::Engine<rust_generic::Heavy>>::turn",
    ];
    let ns = |turn: &str| {
        truth.ns(if turn.contains("Light") {
            "light"
        } else {
            "heavy"
        })
    };
    assert_shares_by_prefix(&recorded.folded, &turns, ns);
    assert_inlined_in(&recorded.folded, turns[1], &["spin"]);
    recorded
        .folded
        .assert_frame_follows("rust_generic::main", "rust_generic::drive");
}

#[test]
fn no_inline_leaves_inlined_frames_out() {
    if !can_sample("no_inline_leaves_inlined_frames_out") {
        return;
    }
    let program = Workload::new("cpp_inline.cpp").build();
    let _turn = sampling_turn();
    let run = FlameRun::new()
        .args(["--no-inline", "--"])
        .args([&program])
        .args(["1"]);
    let folded = run.run().folded;
    assert!(folded.total() > 0);
    assert_eq!(
        folded.count(|line| line.frames.iter().any(|name| name.ends_with("_[i]"))),
        0
    );
}

#[test]
fn a_hundred_levels_of_recursion_are_all_there() {
    if !can_sample("a_hundred_levels_of_recursion_are_all_there") {
        return;
    }
    let program = Workload::new("recursion.c").build();
    let _turn = sampling_turn();
    let run = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["1", "100"]);
    let recorded = run.run();
    let chain: Vec<_> = ["main"]
        .into_iter()
        .chain(["descend"; 100])
        .chain(["bottom"])
        .collect();
    recorded.folded.assert_chain(&chain);
}

#[test]
fn four_hundred_levels_of_recursion_are_all_there_by_call_frame_information() {
    if !can_sample("four_hundred_levels_of_recursion_are_all_there_by_call_frame_information") {
        return;
    }
    let program = Workload::new("recursion.c")
        .flags(&["-fomit-frame-pointer"])
        .build();
    let _turn = sampling_turn();
    let run = FlameRun::new()
        .args(["--".as_ref(), program.as_os_str()])
        .args(["1", "400"]);
    let chain: Vec<_> = [
        "_start",
        "__libc_start_main_impl",
        "__libc_start_call_main",
        "main",
    ]
    .into_iter()
    .chain(["descend"; 400])
    .chain(["bottom"])
    .collect();
    run.run().folded.assert_chain(&chain);
}

#[test]
fn a_stack_deeper_than_the_limit_is_said_to_be_cut() {
    if !can_sample("a_stack_deeper_than_the_limit_is_said_to_be_cut") {
        return;
    }
    let program = Workload::new("recursion.c").build();
    let _turn = sampling_turn();
    // Frame pointers reach 127 frames, call frame information 512.
    for (unwind, levels) in [("fp", "400"), ("auto", "600")] {
        let run = FlameRun::new()
            .args(["--unwind", unwind])
            .args(["--".as_ref(), program.as_os_str()])
            .args(["1", levels]);
        assert_cut(&run.run());
    }
}

fn assert_cut(recorded: &Recorded) {
    let at_bottom = recorded.folded.count_frame("bottom");
    assert!(at_bottom > 0, "{}", recorded.folded);
    let truncated: u64 = recorded
        .pairs("truncated")
        .iter()
        .map(|(_, count)| count)
        .sum();
    assert!(
        truncated * 100 >= at_bottom * 95,
        "{truncated} of {at_bottom}: {}",
        recorded.stats
    );
}

#[test]
fn nearly_every_sample_that_the_clock_owes_is_taken() {
    if !can_sample("nearly_every_sample_that_the_clock_owes_is_taken") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    for frequency_hz in [99, 997] {
        // One for each CPU: the clock of an idle one may stand still.
        let cpus = std::thread::available_parallelism().unwrap().get();
        let targets: Vec<Process> = (0..cpus)
            .map(|_| Process::start(Command::new(&program).arg("10")))
            .collect();
        let pid = targets[0].id().to_string();
        let run = FlameRun::at_hz(frequency_hz).args(["-p", &pid, "4"]);
        let stolen_s = support::stolen_seconds();
        let recorded = run.run();
        // While the hypervisor runs others, a CPU of ours takes no samples: not the profiler's loss.
        let stolen = (support::stolen_seconds() - stolen_s) * f64::from(frequency_hz);
        // Each CPU's clock starts and stops at a moment of its own: a sample more or less.
        let edges = recorded.stats["meta"]["cpus"].as_f64().unwrap();
        let (expected, taken) = (recorded.stat("expected"), recorded.stat("taken"));
        assert!(
            expected >= u64::from(frequency_hz) * 4,
            "{}",
            recorded.stats
        );
        assert!(
            taken as f64 >= 0.995 * expected as f64 - stolen - edges
                && taken as f64 <= 1.005 * expected as f64 + edges,
            "{frequency_hz} Hz: {taken} of {expected}, {stolen:.0} stolen: {}",
            recorded.stats
        );
        recorded.assert_every_sample_has_its_account();
    }
}

#[test]
fn the_whole_machine_includes_a_known_load() {
    if !can_sample("the_whole_machine_includes_a_known_load") {
        return;
    }
    let program = Workload::new("three_functions.c").build();
    let _turn = sampling_turn();
    let target = Process::start(Command::new(&program).arg("7"));
    let recorded = FlameRun::new().args(["5"]).run();
    let finished = target.finish_within(Duration::from_secs(30));
    let ours = Recorded {
        folded: recorded.folded.of_task("three_fun"),
        ..recorded
    };
    ours.assert_shares(
        &["cheap", "medium", "costly"],
        &Truth::parse(&finished.stdout),
    );
    ours.assert_every_sample_has_its_account();
}

/// Shares of functions whose printed names may carry argument lists: `f(int)`, `f::<T>`.
fn assert_shares_by_prefix(
    folded: &support::folded::Folded,
    functions: &[&str],
    truth_ns: impl Fn(&str) -> u64,
) {
    let count = |function: &str| {
        folded.count(|line| line.frames.iter().any(|frame| frame.starts_with(function)))
    };
    let all: u64 = functions.iter().map(|function| count(function)).sum();
    let all_ns: u64 = functions.iter().map(|function| truth_ns(function)).sum();
    assert!(all > 0, "none of {functions:?}\n{folded}");
    for function in functions {
        let measured = 100.0 * count(function) as f64 / all as f64;
        let expected = 100.0 * truth_ns(function) as f64 / all_ns as f64;
        assert_share(function, measured, expected, folded);
    }
}

/// Asserts that a function's samples go on into functions inlined there, each marked `_[i]`.
fn assert_inlined_in(folded: &support::folded::Folded, function: &str, inlined: &[&str]) {
    let total = folded.count(|line| line.frames.iter().any(|frame| frame.starts_with(function)));
    let marked = folded.count(|line| {
        let mut frames = line
            .frames
            .iter()
            .skip_while(|frame| !frame.starts_with(function));
        frames.next();
        inlined.iter().all(|name| {
            frames
                .next()
                .is_some_and(|frame| frame.contains(name) && frame.ends_with("_[i]"))
        })
    });
    assert!(
        marked * 100 >= total * 95,
        "{marked} of {total} in {function}\n{folded}"
    );
}
