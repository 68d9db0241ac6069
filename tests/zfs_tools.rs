//! The ZFS tools where there is no ZFS. With it they run in a guest: `cargo xtask guest --zfs`.
//!
//! They need root. Without it they say so and pass, except where `CI` is set.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use flame::tools::TOOLS;

#[test]
fn without_zfs_they_exit_3_and_say_so() {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must run these tests as root"
        );
        eprintln!("skipped: needs root");
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
