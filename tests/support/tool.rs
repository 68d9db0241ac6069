//! What the tests of tools share: a tool that runs beside a load in the test's own process.

// Each test binary compiles its own copy and uses a part of it.
#![allow(dead_code)]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The program under test: the one that was built with this test, or, where the test runs on another
/// machine than it was built on, what `FLAME` says.
pub fn flame() -> OsString {
    std::env::var_os("FLAME").unwrap_or_else(|| env!("CARGO_BIN_EXE_flame").into())
}

/// Loads run in this process and are told apart by its PID, so one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// The turn of a test; none without root, except where `CI` is set.
pub fn alone_and_privileged() -> Option<MutexGuard<'static, ()>> {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must run these tests as root"
        );
        eprintln!("skipped: needs root");
        return None;
    }
    Some(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A tool that is attached and counts.
pub struct Running {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Attaches; returns when it counts.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(flame())
            .args(arguments)
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("Tracing"), "{arguments:?}: {line}");
        Self { child, stderr }
    }

    /// Ctrl-C; the reports.
    pub fn finish(mut self) -> Vec<Value> {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        let mut out = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        assert!(self.child.wait().unwrap().success());
        let mut messages = String::new();
        self.stderr.read_to_string(&mut messages).unwrap();
        assert!(
            !messages.contains("map_full") && !messages.contains("ring_full"),
            "{messages}"
        );
        out.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// A test that fails must not leave its tool attached.
impl Drop for Running {
    fn drop(&mut self) {
        // After `finish` both find the child gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// For `-p`.
pub fn own_pid() -> String {
    std::process::id().to_string()
}
