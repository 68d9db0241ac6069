//! Runs of `flame` and of the programs it profiles. Nothing outlives its test.

use std::ffi::OsStr;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::folded::Folded;
use super::truth::Truth;

/// A process that is killed, by its id, when the test lets go of it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    outputs: TempDir,
}

/// What a finished process left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Process {
    /// Starts a command; its output goes to files, so that it never blocks on a full pipe.
    pub fn start(command: &mut Command) -> Self {
        let outputs = tempfile::tempdir().expect("creating a temporary folder");
        let create = |name| File::create(outputs.path().join(name)).expect("creating a file");
        command
            .stdin(Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        Self { child, outputs }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a child's id is positive");
        kill_process(pid, signal).expect("signalling a child that was not waited for");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("waiting for a child")
            .is_none()
    }

    /// What it wrote to stderr so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Waits for its end; panics when it takes longer.
    pub fn finish_within(mut self, limit: Duration) -> Finished {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().expect("waiting for a child") {
                let (stdout, stderr) = (self.read("stdout"), self.read("stderr"));
                return Finished {
                    status,
                    stdout,
                    stderr,
                };
            }
            assert!(
                Instant::now() < deadline,
                "still running after {limit:?}: {}",
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(&self, name: &str) -> String {
        let bytes = std::fs::read(self.outputs.path().join(name)).expect("reading an output");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already waited for, or gone: nothing to end.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// How long a run may take beyond its sampling before it counts as hung.
const PATIENCE: Duration = Duration::from_mins(1);

/// The `flame` binary under test.
pub fn flame() -> Command {
    Command::new(env!("CARGO_BIN_EXE_flame"))
}

/// A `flame` run whose folded stacks and statistics the test wants to see.
#[derive(Debug)]
pub struct FlameRun {
    command: Command,
    results: TempDir,
}

impl FlameRun {
    /// `flame -q -a -F 1999` with a folded output: tight statistics from a few seconds.
    pub fn new() -> Self {
        Self::at_hz(1999)
    }

    /// The same at another rate.
    pub fn at_hz(frequency_hz: u32) -> Self {
        let results = tempfile::tempdir().expect("creating a temporary folder");
        let mut command = flame();
        command.args(["-q", "-a", "-F", &frequency_hz.to_string(), "-o"]);
        command.arg(results.path().join("out.folded"));
        command
            .arg("--stats")
            .arg(results.path().join("stats.json"));
        Self { command, results }
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// The folded output's place.
    pub fn folded_file(&self) -> PathBuf {
        self.results.path().join("out.folded")
    }

    /// Starts without waiting.
    pub fn start(mut self) -> RunningFlame {
        RunningFlame {
            process: Process::start(&mut self.command),
            results: self.results,
        }
    }

    /// Runs to the end, which must be a success.
    pub fn run(self) -> Recorded {
        self.start().record()
    }
}

/// A `flame` that samples now.
#[derive(Debug)]
pub struct RunningFlame {
    pub process: Process,
    results: TempDir,
}

impl RunningFlame {
    /// Waits for the end, which must be a success.
    pub fn record(self) -> Recorded {
        let finished = self.process.finish_within(PATIENCE);
        assert_eq!(
            finished.status.code(),
            Some(0),
            "flame failed: {}",
            finished.stderr
        );
        let read = |name| std::fs::read_to_string(self.results.path().join(name));
        let folded = read("out.folded").expect("flame wrote its output");
        let stats = read("stats.json").expect("flame wrote its statistics");
        Recorded {
            folded: Folded::parse(&folded),
            stats: serde_json::from_str(&stats).expect("statistics are JSON"),
            stdout: finished.stdout,
            stderr: finished.stderr,
        }
    }

    /// Waits for the end, whatever it is; says whether there is an output file.
    pub fn finish(self) -> (Finished, bool) {
        let finished = self.process.finish_within(PATIENCE);
        (finished, self.results.path().join("out.folded").exists())
    }
}

/// A successful run.
#[derive(Debug)]
pub struct Recorded {
    pub folded: Folded,
    /// The quality block, as `--stats` writes it.
    pub stats: serde_json::Value,
    /// Of `flame` and of the command it started.
    pub stdout: String,
    pub stderr: String,
}

impl Recorded {
    /// What the profiled command said about itself.
    pub fn truth(&self) -> Truth {
        Truth::parse(&self.stdout)
    }

    fn quality(&self) -> &serde_json::Value {
        self.stats.get("quality").unwrap_or(&self.stats)
    }

    /// A counter of the quality block.
    pub fn stat(&self, name: &str) -> u64 {
        let counter = self.quality()[name].as_u64();
        counter.unwrap_or_else(|| panic!("no {name} in {}", self.stats))
    }

    /// Counters by cause, such as `lost` and `truncated`.
    pub fn pairs(&self, name: &str) -> Vec<(String, u64)> {
        let pairs = serde_json::from_value(self.quality()[name].clone());
        pairs.unwrap_or_else(|error| panic!("{name}: {error}: {}", self.stats))
    }

    /// Asserts that samples in the picture, left out and lost are all that were taken.
    pub fn assert_every_sample_has_its_account(&self) {
        let lost: u64 = self.pairs("lost").iter().map(|(_, count)| count).sum();
        let known = self.stat("recorded") + self.stat("idle") + self.stat("filtered") + lost;
        assert_eq!(known, self.stat("taken"), "{}", self.stats);
    }

    /// Asserts that each name's measured share is within 3 points of the truth.
    pub fn assert_shares(&self, names: &[&str], truth: &Truth) {
        let total: u64 = names.iter().map(|name| truth.ns(name)).sum();
        for (name, measured) in self.folded.shares_pct(names) {
            let expected = 100.0 * truth.ns(name) as f64 / total as f64;
            assert_share(name, measured, expected, &self.folded);
        }
    }
}

/// Asserts that a measured share is within 3 points of the true one (both in percent).
pub fn assert_share(what: &str, measured: f64, expected: f64, folded: &Folded) {
    assert!(
        (measured - expected).abs() <= 3.0,
        "{what}: measured {measured:.1} %, really {expected:.1} %\n{folded}"
    );
}
