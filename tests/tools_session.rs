//! What all tools share: intervals, Ctrl-C, closed pipes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flame::tools::TOOLS;

use support::disk::LoopDevice;
use support::tool::{Running, alone_and_privileged, alone_with, flame, own_pid};

/// A tool's name with what it cannot do without.
fn invocation(tool: &'static str) -> Vec<&'static str> {
    match tool {
        "funccount" => vec![tool, "c:getppid"],
        _ => vec![tool],
    }
}

#[test]
fn an_interval_alone_is_one_report_and_a_count_is_more() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let reports = |arguments: &[&str]| {
        let mut command = Command::new(flame());
        let output = command.args(arguments).arg("--json").output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert_eq!(reports(&["biolatency", "200ms"]), 1);
    assert_eq!(reports(&["cachestat", "200ms"]), 1);
    assert_eq!(reports(&["runqlat", "200ms", "3"]), 3);
}

#[test]
fn ctrl_c_prints_what_is_there() {
    let Some(_alone) = alone_with(&["losetup"]) else {
        return;
    };
    let device = LoopDevice::new();
    let pid = own_pid();
    let listens = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listens.local_addr().unwrap();
    for row in TOOLS.iter().filter(|row| !row.name.starts_with("zfs")) {
        // An hour would be the next report of those that make them by themselves.
        let mut arguments = invocation(row.name);
        if !["tcplife", "tcpretrans"].contains(&row.name) {
            arguments.extend(["3600", "2"]);
        }
        if row.name != "tcpretrans" {
            arguments.extend(["-p", &pid]);
        }
        let tool = Running::start_as_text(&arguments);
        device.transfer(3, 4096, false);
        let _ = std::os::unix::process::parent_id();
        std::fs::write(std::env::temp_dir().join("flame-ctrl-c"), "a file").unwrap();
        drop((
            std::net::TcpStream::connect(address).unwrap(),
            listens.accept().unwrap(),
        ));
        std::thread::sleep(Duration::from_millis(30));
        let begin = Instant::now();
        let text = tool.finish_as_text();
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", row.name);
        // A header alone is one line.
        let least = if row.name == "tcpretrans" { 1 } else { 2 };
        assert!(
            text.trim().lines().count() >= least,
            "{}: {text:?}",
            row.name
        );
    }
    std::fs::remove_file(std::env::temp_dir().join("flame-ctrl-c")).unwrap();
}

/// As in `flame TOOL 0.1 100 | head -1`.
#[test]
fn a_reader_that_leaves_ends_the_tool_without_a_word() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    for tool in ["cachestat", "runqlat", "biotop", "syslat"] {
        for format in [&["--json"][..], &[]] {
            let mut child = Command::new(flame())
                .args([tool, "100ms", "600"])
                .args(format)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            let begin = Instant::now();
            let output = child.wait_with_output().unwrap();
            let messages = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(0), "{tool}: {messages}");
            assert!(begin.elapsed() < Duration::from_secs(30), "{tool} goes on");
            assert_eq!(messages.lines().count(), 1, "{messages}");
        }
    }
}

#[test]
fn a_process_may_have_any_name_and_one_of_a_list_may_have_ended() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(OsStr::from_bytes(b"\xff\xfe"));
    std::fs::copy("/bin/sleep", &program).unwrap();
    let mut child = Command::new(&program).arg("60").spawn().unwrap();
    let list = format!("4194303,{}", child.id());
    let output = Command::new(flame())
        .args(["runqlat", "-p", &list, "100ms"])
        .output()
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{messages}");
    assert!(messages.contains("process 4194303 has ended"), "{messages}");
}
