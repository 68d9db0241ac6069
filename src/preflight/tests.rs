//! Each check against texts as kernels print them.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::targets::cgroup2_mount;
use super::*;

/// Root on an ordinary machine.
fn root() -> Facts {
    Facts {
        capabilities: Some(Capabilities(0x1ff_ffff_ffff)),
        pid_namespace_inode: Some(INIT_PID_NAMESPACE_INODE),
        user_namespace_inode: Some(INIT_USER_NAMESPACE_INODE),
        has_kernel_btf: true,
        lockdown: Some("none [integrity] confidentiality\n".to_string()),
        perf_event_paranoid: Some(2),
    }
}

fn with_capabilities(numbers: &[u32]) -> Facts {
    let set = numbers.iter().fold(0, |set, number| set | 1 << number);
    Facts {
        capabilities: Some(Capabilities(set)),
        ..root()
    }
}

#[track_caller]
fn assert_error(error: &Error, status: u8, expected: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.exit_status(), status, "{text}");
    assert!(text.contains("\n  remedy: "), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn capabilities_are_read_from_status() {
    let status = "Name:\tflame\nCapInh:\t0000000000000000\nCapEff:\t000000c000000000\n";
    assert_eq!(
        Capabilities::from_status(status),
        Some(Capabilities(0xc0_0000_0000))
    );
    for bad in [
        "",
        "CapEff:\t\n",
        "CapEff:\txyz\n",
        "Name:\tCapEff:\n",
        "CapEffX: 1\n",
    ] {
        assert_eq!(Capabilities::from_status(bad), None, "{bad:?}");
    }
}

#[test]
fn root_and_the_two_capabilities_suffice() {
    root().check().unwrap();
    with_capabilities(&[CAP_SYS_ADMIN]).check().unwrap();
    with_capabilities(&[CAP_BPF, CAP_PERFMON]).check().unwrap();
    // No securityfs, no sysctl: nothing is wrong with that.
    Facts {
        lockdown: None,
        perf_event_paranoid: None,
        ..root()
    }
    .check()
    .unwrap();
}

#[test]
fn the_missing_capability_is_named() {
    let error = with_capabilities(&[]).check().unwrap_err();
    assert_error(
        &error,
        3,
        &[
            "CAP_BPF and CAP_PERFMON",
            "sudo flame",
            "setcap cap_bpf,",
            "is 2",
        ],
    );
    let error = with_capabilities(&[CAP_PERFMON]).check().unwrap_err();
    assert_error(&error, 3, &["missing CAP_BPF ("]);
    let error = with_capabilities(&[CAP_BPF, CAP_SYS_PTRACE])
        .check()
        .unwrap_err();
    assert_error(&error, 3, &["missing CAP_PERFMON ("]);
}

#[test]
fn capabilities_for_names_are_only_warned_of() {
    assert!(root().capabilities_missing_for_names().is_empty());
    let missing = with_capabilities(&[CAP_SYS_ADMIN]).capabilities_missing_for_names();
    assert_eq!(
        missing,
        ["CAP_SYS_PTRACE", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH"]
    );
}

#[test]
fn each_missing_feature_has_its_remedy() {
    let cases: Vec<(Facts, &[&str])> = vec![
        (
            Facts {
                pid_namespace_inode: Some(4_026_532_200),
                ..root()
            },
            &["--pid=host"],
        ),
        (
            Facts {
                user_namespace_inode: Some(4_026_532_200),
                ..root()
            },
            &["--userns=host"],
        ),
        (
            Facts {
                has_kernel_btf: false,
                ..root()
            },
            &["CONFIG_DEBUG_INFO_BTF"],
        ),
        (
            Facts {
                lockdown: Some("none integrity [confidentiality]\n".into()),
                ..root()
            },
            &["lockdown=integrity"],
        ),
        (
            Facts {
                capabilities: None,
                ..root()
            },
            &["mount -t proc"],
        ),
        (
            Facts {
                pid_namespace_inode: None,
                ..root()
            },
            &["mount -t proc"],
        ),
    ];
    for (facts, expected) in cases {
        assert_error(&facts.check().unwrap_err(), 3, expected);
    }
}

/// Of process 50 alone, whose status is this.
fn check_process(status: Option<&str>) -> Result<Vec<u32>, Error> {
    targets::living_processes(&[50], |_| status.map(str::to_owned))
}

#[test]
fn who_ended_is_left_out_while_another_one_lives() {
    let status = |pid: u32| match pid {
        1..10 => Some(format!("State:\tS (sleeping)\nTgid:\t{pid}\n")),
        10..20 => Some(format!("State:\tZ (zombie)\nTgid:\t{pid}\n")),
        20..30 => Some(format!("State:\tS (sleeping)\nTgid:\t{}\n", pid - 20)),
        _ => None,
    };
    let living = |pids: &[u32]| targets::living_processes(pids, status);
    assert!(living(&[]).unwrap().is_empty());
    assert_eq!(living(&[11, 1, 99, 2]).unwrap(), [1, 2]);
    assert_error(&living(&[99, 11]).unwrap_err(), 1, &["no such process: 99"]);
    assert_error(&living(&[1, 22]).unwrap_err(), 1, &["22 is a thread"]);
}

#[test]
fn processes_threads_and_the_dead_are_told_apart() {
    let status = |state: &str, tgid: u32| {
        format!("Name:\tx\nUmask:\t0022\nState:\t{state}\nTgid:\t{tgid}\nPid:\t50\n")
    };
    check_process(Some(&status("S (sleeping)", 50))).unwrap();
    check_process(Some(&status("I (idle)", 50))).unwrap();
    // Its first thread has ended, others have not.
    let leaderless = format!("{}Threads:\t2\n", status("Z (zombie)", 50));
    check_process(Some(&leaderless)).unwrap();
    let check = |text: Option<&str>| check_process(text).unwrap_err();
    assert_error(&check(None), 1, &["no such process: 50"]);
    assert_error(&check(Some("")), 1, &["no such process: 50"]);
    assert_error(
        &check(Some(&status("Z (zombie)", 50))),
        1,
        &["process 50 has ended"],
    );
    assert_error(
        &check(Some(&status("X (dead)", 50))),
        1,
        &["process 50 has ended"],
    );
    assert_error(
        &check(Some(&status("R (running)", 49))),
        1,
        &["50 is a thread", "-p 49"],
    );
}

#[test]
fn a_process_name_cannot_pose_as_another_field() {
    // The kernel escapes newlines in names, so a field can only begin at a line's start.
    let status = "Name:\tState:\\nTgid:\t7\nState:\tR (running)\nTgid:\t50\n";
    check_process(Some(status)).unwrap();
}

#[test]
fn this_test_is_a_process_and_kernel_threads_are_too() {
    let own = std::process::id();
    assert_eq!(living_processes(&[own]).unwrap(), [own]);
}

#[test]
fn online_cpus_are_a_list_of_ranges() {
    for cpu in [0, 3, 6] {
        check_cpu(cpu, "0-3,6\n").unwrap();
    }
    check_cpu(9, "").unwrap();
    for (cpu, online) in [(4, "0-3,6\n"), (1, "0\n"), (7, "x-y,\n"), (u32::MAX, "0-3")] {
        assert_error(
            &check_cpu(cpu, online).unwrap_err(),
            1,
            &[online.trim(), "not online"],
        );
    }
}

#[test]
fn the_cgroup_mount_is_found_by_its_type() {
    let mountinfo = "25 1 0:23 / /sys rw - sysfs sysfs rw\n\
                     30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    assert_eq!(
        cgroup2_mount(mountinfo),
        Some(PathBuf::from("/sys/fs/cgroup"))
    );
    for none in [
        "",
        "30 25 0:26 / /sys/fs/cgroup rw - cgroup cgroup rw\n",
        "x - cgroup2 y\n",
        " - ",
    ] {
        assert_eq!(cgroup2_mount(none), None, "{none:?}");
    }
}

#[test]
fn a_folder_that_is_no_cgroup_is_refused() {
    for path in ["/no/such/cgroup", "/proc", "Cargo.toml"] {
        let error = resolve_cgroup(Path::new(path)).unwrap_err();
        assert_error(&error, 1, &[path, "cgroup v2"]);
    }
}

#[test]
fn a_real_cgroup_is_accepted_by_either_name() {
    let Some(mount) = cgroup2_mount(&read_text("/proc/self/mountinfo").unwrap()) else {
        eprintln!("skipped: no cgroup v2 is mounted here");
        return;
    };
    assert_eq!(resolve_cgroup(&mount).unwrap(), mount);
    let child = std::fs::read_dir(&mount)
        .unwrap()
        .flatten()
        .find(|entry| entry.path().is_dir());
    if let Some(child) = child {
        assert_eq!(
            resolve_cgroup(Path::new(&child.file_name())).unwrap(),
            child.path()
        );
    }
}

#[test]
fn bpf_errors_are_explained() {
    let cases = [
        (Errno::PERM, "seccomp"),
        (Errno::ACCESS, "seccomp"),
        (Errno::TOOBIG, "5.10 or later"),
        (Errno::INVAL, "5.10 or later"),
        (Errno::NOSYS, "CONFIG_BPF_SYSCALL"),
        (Errno::NOMEM, "memory"),
        (Errno::from_raw_os_error(524), "bpf_jit_enable"),
        (Errno::IO, "-v"),
    ];
    for (errno, expected) in cases {
        assert_error(&explain_bpf_error(errno, "6.1.0-13-amd64"), 3, &[expected]);
    }
    let old = explain_bpf_error(Errno::INVAL, "4.19.0-27-amd64");
    assert_error(&old, 3, &["4.19.0-27-amd64 is older than 5.10"]);
    for release in ["5.10.0", "6.1", "10.0", "", "x.y", "99999999999.1"] {
        let error = explain_bpf_error(Errno::INVAL, release).to_string();
        assert!(!error.contains("older"), "{release}: {error}");
    }
}

#[test]
fn perf_errors_are_explained() {
    let cases = [
        (Errno::ACCESS, "perf_event_paranoid is 4"),
        (Errno::NOENT, "-e cpu-clock"),
        (Errno::OPNOTSUPP, "-e cpu-clock"),
        (Errno::MFILE, "ulimit -n"),
        (Errno::BUSY, "another program"),
        (Errno::NOSYS, "CONFIG_PERF_EVENTS"),
        (Errno::IO, "failed"),
    ];
    for (errno, expected) in cases {
        assert_error(
            &explain_perf_error(errno, "cycles", Some(4)),
            3,
            &[expected],
        );
    }
}
