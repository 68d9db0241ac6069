//! The kernel side's walk, on programs whose stacks are known exactly. Needs root.

mod recorder;

use std::time::Duration;

use flame::profile::unwind::abi::Outcome;
use recorder::{Record, Recorder, Workload};

const NO_FRAME_POINTERS: [&str; 3] = ["-O2", "-fomit-frame-pointer", "-pthread"];

/// Loading BPF needs root; say so and pass without, but never in CI.
fn permitted() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("skipped: loading BPF programs needs root");
    }
    root
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
            "{:?}",
            recorder.names(record)
        );
        assert_eq!(walk.outcome as u32, record.outcome);
        assert_eq!(walk.addresses, record.addresses);
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
            ["interrupted"] => {}
            // Debian's C library has no symbol for the signal return.
            ["interrupted", _, "handler"] => handled += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(handled > 10, "{handled} samples in the handler");
}

/// Not a test of speed on a shared machine, only of its order of magnitude. The kernel keeps
/// the time if `kernel.bpf_stats_enabled` is set.
#[test]
fn a_frame_costs_less_than_a_microsecond() {
    if !permitted() {
        return;
    }
    let workload = Workload::start("deep", &NO_FRAME_POINTERS, "user");
    let mut recorder = Recorder::start(&workload, false);
    recorder.record(Duration::from_secs(1));
    let (time, runs) = recorder.run_time();
    let per_run = time / runs.max(1) as u32;
    eprintln!(
        "{per_run:?} a run, {runs} runs, {} bytes of tables",
        recorder.memory_bytes()
    );
    assert!(per_run < Duration::from_micros(DEPTH as u64));
}
