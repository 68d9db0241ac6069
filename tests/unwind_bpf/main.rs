//! The kernel side's walk, on programs whose stacks are known exactly. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

mod peer;
mod recorder;

use std::process::Command;
use std::time::Duration;

use flame::profile::unwind::abi::{INTERRUPTED, Outcome};
use recorder::{Record, Recorder, Workload};

/// Bound at once: while the dynamic linker looks a function up, its frame hangs on a register.
const NO_FRAME_POINTERS: [&str; 4] = ["-O2", "-fomit-frame-pointer", "-pthread", "-Wl,-z,now"];

/// Loading BPF needs root; say so and pass without, but never in CI.
fn permitted() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: loading BPF programs needs root");
    }
    root
}

/// Whether a program of the system is there; says so if not, and fails in CI.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        assert!(std::env::var_os("CI").is_none(), "{program} is missing");
        eprintln!("skipped: {program} is missing");
    }
    found
}

/// Records a workload; every walk must be rooted, and the model must do the same.
fn record(workload: &Workload) -> (Recorder, Vec<Record>) {
    let mut recorder = Recorder::start(workload, true);
    let records = recorder.record(Duration::from_secs(1));
    assert!(records.len() > 50, "{} samples", records.len());
    for record in &records {
        let walk = recorder.model(record);
        assert_eq!(
            record.outcome,
            Outcome::Rooted as u32,
            "{:x?} {:?}",
            record.addresses,
            recorder.names(record)
        );
        assert!(
            walk.outcome as u32 == record.outcome && walk.addresses == record.addresses,
            "the model disagrees: {walk:x?} is not {:x?} {:?}; {}",
            record.addresses,
            recorder.names(record),
            record.captured()
        );
    }
    (recorder, records)
}

/// The frames inside of `outermost`; the names outside of it are the C library's affair.
fn inside<'a, 'n>(names: &'a [&'n str], outermost: &str) -> &'a [&'n str] {
    let at = names.iter().position(|name| *name == outermost);
    &names[at.unwrap_or_else(|| panic!("no {outermost} in {names:?}")) + 1..]
}

/// Calls between `fixed(400)` and the leaf of tests/workloads/deep.c, which counts down by one.
const DEPTH: usize = 403;

/// Each of the deep workload's stacks is a prefix of the one chain that it can have.
fn check_deep_chain(names: &[&str]) {
    for (depth, name) in names.iter().enumerate() {
        let expected = match depth {
            ..DEPTH => ["fixed", "variable", "aligned"][depth % 3],
            DEPTH => "leaf",
            _ => "syscall",
        };
        // Stubs of the procedure linkage table have no symbol.
        let stub = depth > DEPTH && *name == "?" && depth + 1 == names.len();
        assert!(
            *name == expected || stub,
            "frame {depth} is {name}, not {expected}: {names:?}"
        );
    }
    assert!(names.len() <= DEPTH + 2, "{:?}", &names[DEPTH..]);
}

fn deep(mode: &str, outermost: &str) {
    if !permitted() {
        return;
    }
    let workload = Workload::start("deep", &NO_FRAME_POINTERS, mode);
    let (recorder, records) = record(&workload);
    let mut whole = 0;
    for record in &records {
        let names = recorder.names(record);
        let chain = inside(&names, outermost);
        check_deep_chain(chain);
        whole += usize::from(chain.len() > DEPTH);
    }
    assert!(
        whole * 10 > records.len() * 8,
        "{whole} of {} reached the leaf",
        records.len()
    );
}

#[test]
fn a_stack_400_frames_deep_is_whole() {
    deep("user", "main");
}

#[test]
fn a_sample_in_the_kernel_keeps_its_user_callers() {
    deep("kernel", "main");
}

#[test]
fn a_system_call_is_of_the_function_that_made_it() {
    if !permitted() {
        return;
    }
    let workload = Workload::start("syscall_end", &NO_FRAME_POINTERS, "");
    let (recorder, records) = record(&workload);
    let leaves = records.iter().map(|record| recorder.names(record));
    let leaves: Vec<_> = leaves.filter_map(|names| names.last().copied()).collect();
    let count = |name: &str| leaves.iter().filter(|leaf| **leaf == name).count();
    let (caller, follower) = (count("yields"), count("follows"));
    // Some samples do hit the instruction behind the call.
    assert!(
        caller * 2 > leaves.len() && caller > 4 * follower,
        "{caller} in the caller, {follower} behind it, of {}",
        leaves.len()
    );
}

#[test]
fn a_thread_ends_at_its_entry_point() {
    deep("thread", "thread");
}

#[test]
fn a_signal_handler_was_called_by_what_it_interrupted() {
    if !permitted() {
        return;
    }
    let workload = Workload::start("deep", &NO_FRAME_POINTERS, "signal");
    let (recorder, records) = record(&workload);
    let mut handled = 0;
    for record in &records {
        let names = recorder.names(record);
        match inside(&names, "main") {
            // Debian's C library has no symbol for the signal return.
            ["interrupted"] | ["interrupted", "?"] => {}
            ["interrupted", _, "handler"] => handled += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(handled > 10, "{handled} samples in the handler");
}

#[test]
fn a_forked_child_has_its_parents_mappings() {
    deep("fork", "main");
}

#[test]
fn after_an_exec_the_old_mappings_are_not_used() {
    if !permitted() {
        return;
    }
    let workload = Workload::start("deep", &NO_FRAME_POINTERS, "exec");
    let mut recorder = Recorder::start(&workload, true);
    let before = recorder.record(Duration::from_secs(1));
    assert!(
        before.len() > 50,
        "{} samples before the exec",
        before.len()
    );
    assert!(
        before
            .iter()
            .all(|record| record.outcome == Outcome::Rooted as u32)
    );
    let pid = rustix::process::Pid::from_raw(workload.pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
    let mut after = recorder.record(Duration::from_secs(1));
    // Within execve there is a moment with the new memory and still the old count of execs.
    let before_or_in_exec = [Outcome::Rooted as u32, Outcome::StackUnreadable as u32];
    let exec = after.partition_point(|record| before_or_in_exec.contains(&record.outcome));
    let after = after.split_off(exec);
    assert!(after.len() > 50, "{} samples after the exec", after.len());
    for record in &after {
        assert_eq!(record.outcome, Outcome::UnknownProcess as u32);
        assert_eq!(record.addresses.len(), 1);
    }
}

/// User space may tell what a process had mapped when it has just called exec. If the new image's
/// first sample took that for its own, all that follow would be walked by the old image's tables.
#[test]
fn mappings_told_too_late_are_not_used_after_an_exec() {
    if !permitted() {
        return;
    }
    let mut workload = Workload::start("deep", &NO_FRAME_POINTERS, "exec");
    let mut recorder = Recorder::start(&workload, true);
    workload.exec();
    recorder.tell_again(&workload);
    recorder.skip();
    let after = recorder.record(Duration::from_millis(500));
    assert!(after.len() > 50, "{} samples after the exec", after.len());
    for record in &after {
        assert_eq!(record.outcome, Outcome::UnknownProcess as u32);
    }
}

fn chains(workload: &Workload, chains: &[&[&str]]) {
    let (recorder, records) = record(workload);
    let mut seen = vec![0; chains.len()];
    for record in &records {
        let names = recorder.names(record);
        let inside = inside(&names, "main");
        let at = chains.iter().position(|chain| *chain == inside);
        seen[at.unwrap_or_else(|| panic!("{names:?}"))] += 1;
    }
    assert!(seen[0] > 20, "{seen:?} of {chains:?}");
}

#[test]
fn made_code_is_crossed_by_its_frame_pointer() {
    if permitted() {
        let workload = Workload::start("jit", &NO_FRAME_POINTERS, "calls");
        chains(
            &workload,
            &[&["outer", "?", "inner"], &["outer", "?"], &["outer"]],
        );
    }
}

#[test]
fn made_code_as_a_leaf_keeps_its_callers() {
    if permitted() {
        let workload = Workload::start("jit", &NO_FRAME_POINTERS, "leaf");
        chains(&workload, &[&["outer", "?"], &["outer"]]);
    }
}

/// Every sample is in `caller` or below it: a stub, `labs`, `atoi` and what that calls, under
/// whichever of its aliases.
fn plt(flags: &[&str], linker: &str) {
    if !permitted() {
        return;
    }
    let common = ["-O1", "-fomit-frame-pointer", "-fno-builtin", "-Wl,-z,lazy"];
    let workload = Workload::start("plt", &[&common, flags].concat(), linker);
    let (recorder, records) = record(&workload);
    let mut stubs = 0;
    for record in &records {
        let names = recorder.names(record);
        let inside = inside(&names, "main");
        assert_eq!(inside.first(), Some(&"caller"), "{names:?}");
        assert!(inside.len() <= 4, "{names:?}");
        stubs += usize::from(inside == ["caller", "?"]);
    }
    eprintln!("{stubs} of {} samples in stubs", records.len());
    assert!(stubs > 0);
}

#[test]
fn stubs_of_the_linkage_table_keep_their_callers() {
    plt(&[], "bfd");
}

#[test]
fn stubs_by_lld_have_no_call_frame_information_and_keep_their_callers() {
    plt(&["-fuse-ld=lld"], "lld");
}

#[test]
fn a_static_program_at_a_fixed_address() {
    if permitted() {
        let flags = [
            "-O1",
            "-fomit-frame-pointer",
            "-static",
            "-no-pie",
            "-pthread",
        ];
        let workload = Workload::start("jit", &flags, "calls");
        chains(
            &workload,
            &[&["outer", "?", "inner"], &["outer", "?"], &["outer"]],
        );
    }
}

/// Not a test of speed on a shared machine, only of its order of magnitude. The kernel keeps
/// the time if `kernel.bpf_stats_enabled` is set.
#[test]
fn a_frame_costs_less_than_a_microsecond() {
    if !permitted() {
        return;
    }
    let workload = Workload::start("deep", &NO_FRAME_POINTERS, "user");
    let recorder = Recorder::start(&workload, false);
    std::thread::sleep(Duration::from_secs(1));
    let (time, runs) = recorder.run_time();
    let per_run = time / runs.max(1) as u32;
    eprintln!(
        "{per_run:?} a run, {runs} runs, {} bytes of tables",
        recorder.memory_bytes()
    );
    assert!(per_run < Duration::from_micros(DEPTH as u64));
}

/// framehop must find the same chain in the same stack, up to the first signal frame: it does not
/// evaluate expressions that read memory, and the C library describes its signal frames by these.
fn agrees_with_framehop(workload: &Workload) {
    let mut recorder = Recorder::start(workload, true);
    let records = recorder.record(Duration::from_secs(2));
    let mut different = Vec::new();
    for record in &records {
        let (theirs, error) = recorder.walk_by_peer(record);
        let interrupted = record.addresses.iter().position(|at| at & INTERRUPTED != 0);
        let comparable = interrupted.unwrap_or(record.addresses.len());
        let same_end = error.is_some() == interrupted.is_some();
        if theirs != record.addresses[..comparable] || !same_end {
            let names = recorder.names(record);
            different.push(format!(
                "{} {:x?} {names:?}, framehop: {error:x?} {theirs:x?}, {}",
                record.outcome,
                record.addresses,
                record.captured()
            ));
        }
    }
    eprintln!("{} of {} stacks differ", different.len(), records.len());
    assert!(records.len() > 100, "{} samples", records.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn framehop_finds_the_same_in_libc_and_a_deep_stack() {
    if permitted() {
        for mode in ["user", "kernel", "thread", "signal"] {
            agrees_with_framehop(&Workload::start("deep", &NO_FRAME_POINTERS, mode));
        }
    }
}

#[test]
fn framehop_finds_the_same_in_libcrypto() {
    if permitted() && is_installed("openssl") {
        let mut command = Command::new("openssl");
        command.args([
            "speed",
            "-seconds",
            "5",
            "rsa2048",
            "ecdhp256",
            "sha256",
            "aes-256-cbc",
        ]);
        agrees_with_framehop(&Workload::of_system(&mut command));
    }
}

#[test]
fn framehop_finds_the_same_in_llvm() {
    if !permitted() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("many.c");
    let function = |i: u32| {
        format!(
            "int f{i}(int *a, int n) {{ int s = {i}; for (int i = 0; i < n; i++) \
             if (a[i] & 1) s += a[i] * {i}; else s ^= a[i]; return s; }}\n"
        )
    };
    let text: String = (0..4000).map(function).collect();
    std::fs::write(&source, text).unwrap();
    let mut command = Command::new("clang-19");
    command.args(["-O3", "-c", "-o", "/dev/null"]).arg(&source);
    agrees_with_framehop(&Workload::of_system(&mut command));
}
