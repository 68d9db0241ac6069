//! Tools of `flame` that are attached and count, while the test makes a known load.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code)]
// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test: the one that was built with this test, or, where the test runs on another
/// machine than it was built on, what `FLAME` says.
pub fn flame() -> OsString {
    std::env::var_os("FLAME").unwrap_or_else(|| env!("CARGO_BIN_EXE_flame").into())
}

/// Where a file is on a disk. Not in a tmpfs: its pages are the file.
pub fn disk_folder() -> PathBuf {
    let given = std::env::var_os("TEST_DISK_FOLDER");
    given.map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

/// Loads run in this process and are told apart by its PID, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The turn of a test; none without root, except where `CI` is set.
pub fn alone_and_privileged() -> Option<MutexGuard<'static, ()>> {
    alone_with(&[])
}

/// The turn of a test that needs these programs; none where something is missing (it says so),
/// except where `CI` is set.
pub fn alone_with(programs: &[&str]) -> Option<MutexGuard<'static, ()>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    let missing = if rustix::process::geteuid().is_root() {
        programs.iter().copied().find(|program| !installed(program))
    } else {
        Some("root")
    };
    if let Some(missing) = missing {
        let ci = std::env::var_os("CI").is_some();
        assert!(!ci, "CI must run these tests with {missing}");
        eprintln!("skipped: needs {missing}");
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A tool that is attached and counts.
pub struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    /// Starts a tool with `--json` and waits until it counts.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_as_text(&[arguments, &["--json"]].concat())
    }

    /// Starts a tool and waits until it counts.
    pub fn start_as_text(arguments: &[&str]) -> Self {
        let mut child = Command::new(flame())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting flame");
        let mut stderr = BufReader::new(child.stderr.take().expect("its standard error"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("reading its messages");
        assert!(line.starts_with("Tracing"), "{arguments:?}: {line}");
        Self { child, stderr }
    }

    /// Ctrl-C; what it printed.
    pub fn finish_as_text(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::INT).expect("it runs");
        let mut out = String::new();
        let stdout = self.child.stdout.as_mut().expect("its standard output");
        stdout.read_to_string(&mut out).expect("reading its output");
        let status = self.child.wait().expect("waiting for it");
        let mut messages = String::new();
        self.stderr
            .read_to_string(&mut messages)
            .expect("reading its messages");
        assert_eq!(status.code(), Some(0), "{messages}");
        assert!(
            !messages.contains("map_full") && !messages.contains("ring_full"),
            "{messages}"
        );
        out
    }

    /// Ctrl-C; the reports of a tool with `--json`.
    pub fn finish(self) -> Vec<Value> {
        let out = self.finish_as_text();
        let reports = out.lines().map(serde_json::from_str);
        reports.map(|report| report.expect("JSON")).collect()
    }

    /// Ctrl-C; the only report of a tool with `--json`.
    pub fn report(self) -> Value {
        let mut reports = self.finish();
        assert_eq!(reports.len(), 1, "{reports:?}");
        reports.remove(0)
    }
}

/// A test that fails must not leave its tool attached.
impl Drop for Running {
    fn drop(&mut self) {
        // After `finish` both find the child gone.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// This process, as an argument of `-p`.
pub fn own_pid() -> String {
    std::process::id().to_string()
}

/// The rows of a table, or the histograms, or what else is a list in a report.
pub fn list<'a>(report: &'a Value, name: &str) -> &'a [Value] {
    let list = report[name].as_array();
    list.unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// A number of a report or of a row.
pub fn number(object: &Value, name: &str) -> u64 {
    let number = object[name].as_u64();
    number.unwrap_or_else(|| panic!("no {name} in {object}"))
}

/// The sum of one number over the rows that `wanted` picks.
pub fn sum_of(rows: &[Value], name: &str, wanted: impl Fn(&Value) -> bool) -> u64 {
    let wanted = rows.iter().filter(|row| wanted(row));
    wanted.map(|row| number(row, name)).sum()
}

/// A cgroup (v2) of its own for child processes; removed when dropped, after they have ended.
pub struct Cgroup {
    pub path: PathBuf,
}

impl Cgroup {
    /// Makes one below the root of the hierarchy; `None` where none is mounted.
    pub fn new(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("reading /proc/mounts");
        let mut v2 = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .filter(|fields| fields[2] == "cgroup2");
        let root = PathBuf::from(v2.next()?[1]);
        let path = root.join(format!("flame-test-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("making a cgroup");
        Some(Self { path })
    }

    /// A shell that enters the cgroup and becomes `program`.
    pub fn command(&self, program: &str) -> Command {
        let enter = format!(
            "echo $$ > {}/cgroup.procs && exec {program}",
            self.path.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &enter]);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.path).ok();
    }
}
