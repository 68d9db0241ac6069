//! What the end-to-end tests share: known workloads, runs of `flame`, folded stacks.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod disk;
pub mod folded;
pub mod postgres;
pub mod run;
pub mod symbols;
pub mod tool;
pub mod truth;
pub mod workload;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Whether `test` can run here; says why not. In CI a skip is a failure: nothing would be proved.
pub fn can_sample(test: &str) -> bool {
    let mut needs = vec![(
        rustix::process::geteuid().is_root(),
        "it needs root".to_string(),
    )];
    needs.push((
        PathBuf::from("/sys/kernel/btf/vmlinux").exists(),
        "the kernel has no BTF (/sys/kernel/btf/vmlinux)".to_string(),
    ));
    skip_unless(test, &needs)
}

/// Like [`can_sample`], for tests that need programs of the system too.
pub fn can_sample_with(test: &str, tools: &[&str]) -> bool {
    let needs: Vec<_> = tools
        .iter()
        .map(|tool| (is_installed(tool), format!("{tool} is not installed")))
        .collect();
    can_sample(test) && skip_unless(test, &needs)
}

/// Reports the first unmet need of `test`; panics instead when `CI=true`.
fn skip_unless(test: &str, needs: &[(bool, String)]) -> bool {
    let Some((_, reason)) = needs.iter().find(|(met, _)| !met) else {
        return true;
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} must not be skipped: {reason}"
    );
    eprintln!("skipped {test}: {reason}");
    false
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// One sampling test at a time, in this test binary and in every other: shares measured on a
/// crowded machine are noisy, and two CPUs are soon crowded.
pub fn sampling_turn() -> File {
    let file = File::create(target_folder().join("sampling.lock")).expect("creating the lock file");
    file.lock().expect("waiting for the turn to sample");
    file
}

/// The build's `target` folder.
pub fn target_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("target/tmp has a parent")
        .into()
}

/// The repository's top folder.
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Time that the hypervisor has taken from all of this machine's CPUs so far, in seconds
/// (`steal` of `/proc/stat`, in ticks of 1/100 s).
pub fn stolen_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("reading /proc/stat");
    let ticks = stat
        .lines()
        .next()
        .and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    ticks.map_or(0.0, |ticks: f64| ticks / 100.0)
}

/// Runs a short helper command to its end; its failure is the test's.
pub fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
