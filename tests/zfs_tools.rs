//! The ZFS tools where there is no ZFS. With it they run in a guest: `cargo xtask guest --zfs`.
//!
//! They need root. Without it they say so and pass, except where `CI` is set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use flame::bpf::{Bpf, Hook, Settings};
use flame::tools::TOOLS;

fn is_privileged() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI must run these tests as root"
    );
    eprintln!("skipped: needs root");
    false
}

#[test]
fn without_zfs_they_exit_3_and_say_so() {
    if !is_privileged() {
        return;
    }
    if Path::new("/sys/module/zfs").exists() {
        eprintln!("skipped: this machine has ZFS");
        return;
    }
    let tools = TOOLS.iter().filter(|row| row.name.starts_with("zfs-"));
    let mut seen = 0;
    for row in tools {
        for more in [
            &["1", "1"][..],
            &["--explain-hooks"],
            &["-p", "1", "--json"],
        ] {
            let output = Command::new(env!("CARGO_BIN_EXE_flame"))
                .arg(row.name)
                .args(more)
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(
                output.status.code(),
                Some(3),
                "{} {more:?}: {stderr}",
                row.name
            );
            assert!(
                stderr.contains("ZFS is not loaded") && stderr.contains("remedy: "),
                "{stderr}"
            );
            assert!(output.stdout.is_empty());
        }
        seen += 1;
    }
    assert_eq!(seen, 4);
}

/// OpenZFS has `metaslab_alloc_range` or has not: the program then goes to another function. Where
/// the kernel permits no kprobe at all, that must be what the second attempt says, too.
#[test]
fn a_program_can_be_tried_on_a_second_function() {
    if !is_privileged() {
        return;
    }
    let mut bpf = Bpf::load("zfs-metaslab", &Settings::default()).unwrap();
    let mut attach = |function| bpf.attach("alloc", Hook::Kprobe(function));
    assert!(attach("no_such_function_at_all").is_err());
    if let Err(error) = attach("vfs_read") {
        let causes = format!("{error:#}");
        assert!(!causes.contains("already loaded"), "{causes}");
    }
}
