//! `funccount` against a known number of calls, by every kind of hook that this kernel has.
//!
//! They need root. Without it they say so and pass, except where `CI` is set. The guests of
//! `cargo xtask guest` run them too, on kernels with kprobes and without cookies.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

#[path = "support/tool.rs"]
mod tool;

use tool::{Running, alone_and_privileged, flame, own_pid};

const CALLS: u64 = 12_345;
const OTHER_CALLS: u64 = 678;

/// What the tool counts of this process while it calls.
fn counts(arguments: &[&str], calls: impl FnOnce()) -> BTreeMap<String, u64> {
    let pid = own_pid();
    let tool = Running::start(&[&["funccount", "-p", &pid], arguments].concat());
    calls();
    let reports = tool.finish();
    let functions = reports[0]["functions"].as_array().unwrap();
    functions
        .iter()
        .map(|row| {
            let name = row["func"].as_str().unwrap().to_owned();
            (name, row["count"].as_u64().unwrap())
        })
        .collect()
}

fn known_system_calls() {
    for _ in 0..CALLS {
        let _ = std::os::unix::process::parent_id();
    }
    for _ in 0..OTHER_CALLS {
        // SAFETY: a call without arguments or effects.
        unsafe { libc::syscall(libc::SYS_getpgrp) };
    }
}

/// A function that keeps its name.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn known_function(argument: u64) -> u64 {
    std::hint::black_box(argument + 1)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn known_other_function(argument: u64) -> u64 {
    std::hint::black_box(argument + 2)
}

fn known_user_calls() {
    for _ in 0..CALLS {
        std::hint::black_box(known_function(1));
    }
    for _ in 0..OTHER_CALLS {
        std::hint::black_box(known_other_function(1));
    }
}

fn expected(rows: &[(&str, u64)]) -> BTreeMap<String, u64> {
    rows.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

#[test]
fn each_call_of_kernel_functions_is_counted_apart() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    if !has_kprobes() {
        eprintln!("skipped: this kernel has no kprobes");
        return;
    }
    assert_eq!(
        counts(&["__x64_sys_getppid"], known_system_calls),
        expected(&[("__x64_sys_getppid", CALLS)])
    );
    // A function may have two names; a pattern finds one of them.
    let found = counts(&["-r", "__(x64|do)_sys_get(ppid|pgrp)"], known_system_calls);
    let of = |suffix: &str| -> Vec<u64> {
        let named = found.iter().filter(|(name, _)| name.ends_with(suffix));
        named.map(|(_, count)| *count).collect()
    };
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        (of("getppid"), of("getpgrp")),
        (vec![CALLS], vec![OTHER_CALLS])
    );
}

#[test]
fn each_hit_of_a_tracepoint_is_counted() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let event = "t:syscalls:sys_enter_getppid";
    assert_eq!(
        counts(&[event], known_system_calls),
        expected(&[("syscalls:sys_enter_getppid", CALLS)])
    );
}

#[test]
fn each_call_of_a_user_function_is_counted() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let this = std::env::current_exe().unwrap();
    let pattern = format!("{}:known_function", this.display());
    assert_eq!(
        counts(&[&pattern], known_user_calls),
        expected(&[("known_function", CALLS)])
    );
}

#[test]
fn several_user_functions_are_counted_apart_or_not_at_all() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let this = std::env::current_exe().unwrap();
    let pattern = format!("{}:known_*function", this.display());
    let output = Command::new(flame())
        .args(["funccount", &pattern, "--explain-hooks"])
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    if output.status.code() == Some(3) {
        assert!(
            message.contains("cookies: 5.15") && message.contains("one at a time"),
            "{message}"
        );
        return;
    }
    assert_eq!(
        counts(&[&pattern], known_user_calls),
        expected(&[
            ("known_function", CALLS),
            ("known_other_function", OTHER_CALLS)
        ])
    );
}

#[test]
fn a_function_of_a_library_is_found_by_its_name() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    assert_eq!(
        counts(&["c:getppid"], known_system_calls),
        expected(&[("getppid", CALLS)])
    );
}

/// In a mount namespace of its own, without tracefs at its usual places.
#[test]
fn tracefs_need_not_be_mounted() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let script = "mount --make-rprivate / 2>/dev/null
        while umount /sys/kernel/tracing 2>/dev/null; do :; done
        while umount /sys/kernel/debug/tracing 2>/dev/null; do :; done
        while umount /sys/kernel/debug 2>/dev/null; do :; done
        [ ! -e /sys/kernel/tracing/events ] || exit 9
        before=$(cat /proc/self/mounts)
        \"$0\" funccount t:syscalls:sys_enter_getppid --explain-hooks || exit
        [ \"$before\" = \"$(cat /proc/self/mounts)\" ]";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(flame())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{}: {message}", output.status);
}

fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

#[test]
fn a_missing_hook_exits_3_and_names_the_way_out() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    if has_kprobes() {
        eprintln!("skipped: this kernel has kprobes");
        return;
    }
    let output = Command::new(flame())
        .args(["funccount", "vfs_read", "1"])
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(
        message.contains("kprobe") && message.contains("t:CATEGORY:EVENT"),
        "{message}"
    );
    assert!(output.stdout.is_empty());
}
