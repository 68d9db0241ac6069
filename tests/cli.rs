//! The built binary: every exit status and message that can be reached without sampling.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml's permission covers test functions only"
)]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

const FLAME: &str = env!("CARGO_BIN_EXE_flame");

/// Runs `flame` with words split at spaces. Standard output is a pipe, so no file is written.
fn flame(line: &str) -> Output {
    Command::new(FLAME)
        .args(line.split_whitespace())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The message of a run that must fail with `status` and print nothing on standard output.
#[track_caller]
fn error_of(output: &Output, status: i32) -> String {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(message.starts_with("flame: error: "), "{message}");
    assert!(!message.contains("panicked"), "{message}");
    message
}

/// What a run that must succeed silently prints on standard output.
#[track_caller]
fn result_of(output: &Output) -> String {
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    text(&output.stdout)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Skips are told, and are failures where everything is supposed to run.
fn skip(reason: &str) {
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "skipped in CI: {reason}"
    );
    eprintln!("skipped: {reason}");
}

#[test]
fn usage_errors_exit_2_and_say_what_is_wrong() {
    for (line, expected) in [
        ("--nope", "'--nope'"),
        ("profil", "modes: profile"),
        ("make -j2", "'-j'"),
        ("make", "flame -- make"),
        ("30 40x", "'40x'"),
        ("x 30", "'x' is not a PID"),
        ("0", "not a duration"),
        ("-5", "'-5'"),
        ("-d 0", "not a duration"),
        ("-d NaN", "not a duration"),
        ("-d 1e3", "not a duration"),
        ("-d", "--duration"),
        ("-p", "--pid"),
        ("-p 0", "'0' is not a PID"),
        ("-p abc", "'abc' is not a PID"),
        ("-p -1", "'-1' is not a PID"),
        ("-p 99999999999", "is not a PID"),
        ("-p 1 -- true", "cannot be profiled together"),
        ("-F 0", "0 is not in 1.."),
        ("-F -1", "-1"),
        ("-F NaN", "NaN"),
        ("-F 1.5", "1.5"),
        ("-F 18446744073709551615", "10000 at most"),
        ("-F 10 -e faults", "-F has no meaning"),
        ("-e nope", "known: cpu-clock, "),
        ("-U -K", "--kernel-only"),
        ("-q -v", "--verbose"),
        ("-C x", "'x'"),
        ("--unwind x", "auto, fp, dwarf"),
        ("--colors x", "possible values"),
        ("--min-width 101", "percentage"),
        ("--min-quality NaN", "percentage"),
        ("--format x", "formats: svg"),
        ("-o a.xyz", "known extensions: .svg"),
        ("-o a.svg -o ./a.svg", "written to twice"),
        ("-o a.svg --stats a.svg", "written to twice"),
        ("-f -o -", "standard output"),
        ("-f --format svg", "-o - --format"),
        ("completions", "SHELL"),
        ("completions x", "possible values"),
        ("man x", "'x'"),
        ("-a profile", "profile"),
    ] {
        let message = error_of(&flame(line), 2);
        assert!(message.contains(expected), "flame {line}: {message}");
    }
}

#[test]
fn words_that_are_not_text_are_usage_errors() {
    for option in ["-p", "-d", "-e", "--title", "--format", "5"] {
        let mut command = Command::new(FLAME);
        let output = command
            .arg(option)
            .arg(OsStr::from_bytes(b"\xff\x1b[2J"))
            .output()
            .unwrap();
        let message = error_of(&output, 2);
        assert!(!message.contains('\x1b'), "{option}: {message:?}");
    }
}

/// A process of our own that sleeps until it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // `spawn` returns after the exec, so /proc/PID/exe is sleep's.
        assert!(child.try_wait().unwrap().is_none());
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_forgotten_duration_names_both_readings() {
    let (first, last) = (Sleeper::start(), Sleeper::start());
    let message = error_of(&flame(&format!("-p {} {}", first.pid(), last.pid())), 2);
    for reading in [
        format!("-p {},{} -d SECONDS", first.pid(), last.pid()),
        format!("-p {} -d {}", first.pid(), last.pid()),
    ] {
        assert!(message.contains(&reading), "{message}");
    }
}

#[test]
fn help_is_short_or_has_examples() {
    let short = result_of(&flame("-h"));
    let long = result_of(&flame("--help"));
    assert!(
        long.contains("flame -p $(pgrep postgres) 30 -o out.svg"),
        "{long}"
    );
    assert!(
        short.len() < long.len() && !short.contains("Examples:"),
        "{short}"
    );
    for heading in [
        "What to profile:",
        "How to sample:",
        "Output:",
        "Picture:",
        "Modes:",
    ] {
        assert!(
            short.contains(heading) && long.contains(heading),
            "{heading}"
        );
    }
    assert_eq!(
        result_of(&flame("--version")),
        format!("flame {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn the_man_page_has_every_option_and_mode() {
    let page = result_of(&flame("man"));
    assert!(page.contains(".TH flame 1"), "{page}");
    let command = flame::cli::command();
    let options = command.get_arguments().chain(
        command
            .get_subcommands()
            .flat_map(clap::Command::get_arguments),
    );
    let mut count = 0;
    for option in options.filter_map(clap::Arg::get_long) {
        let roff = format!(r"\-\-{}", option.replace('-', r"\-"));
        assert!(page.contains(&roff), "--{option} is missing");
        count += 1;
    }
    assert!(count > 20, "{count}");
    for mode in command.get_subcommands() {
        let name = mode.get_name().to_uppercase().replace('-', r"\-");
        assert!(page.contains(&format!("\"FLAME {name}\"")), "{name}");
    }
    for section in ["SYNOPSIS", "OPTIONS", "EXAMPLES", "\"EXIT STATUS\""] {
        assert!(page.contains(&format!(".SH {section}\n")), "{section}");
    }
}

#[test]
fn groff_finds_nothing_wrong_with_the_man_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flame.1");
    fs::write(&path, result_of(&flame("man"))).unwrap();
    let mut groff = Command::new("groff");
    groff
        .args(["-man", "-ww", "-z", "-Tutf8", "-K", "utf8"])
        .arg(&path);
    let Ok(output) = groff.output() else {
        return skip("groff is not installed");
    };
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn completions_know_every_option() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = result_of(&flame(&format!("completions {shell}")));
        assert!(script.contains("min-quality"), "{shell}");
    }
}

#[test]
fn a_reader_that_left_ends_it_quietly() {
    for line in ["--help", "man", "completions bash", "--version"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(FLAME);
        let output = command
            .args(line.split(' '))
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(
            (output.status.code(), text(&output.stderr)),
            (Some(0), String::new()),
            "{line}"
        );
    }
}

#[test]
fn a_full_disk_is_a_failure() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(FLAME)
        .arg("man")
        .stdout(full)
        .output()
        .unwrap();
    let message = error_of(&output, 1);
    assert!(message.contains("No space left"), "{message}");
}

#[test]
fn a_message_nobody_can_read_still_has_its_status() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let status = Command::new(FLAME)
        .arg("--nope")
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
}

#[test]
fn a_symbolic_link_named_after_a_mode_is_that_mode() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("profile");
    symlink(FLAME, &link).unwrap();
    let help = result_of(&Command::new(&link).arg("-h").output().unwrap());
    assert_eq!(help, result_of(&flame("profile -h")));
}

/// A copy of `flame` where every user can reach it. `cp` writes it, since a file descriptor of our
/// own could live on in a child that another test starts: "text file busy".
fn copy_for_everyone(folder: &Path) -> PathBuf {
    let copy = folder.join("flame");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(
        Command::new("cp")
            .arg(FLAME)
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    copy
}

/// A command that runs `program` as `nobody` with no capabilities but these.
fn as_nobody(program: &Path, capabilities: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    for set in ["inh", "ambient"] {
        command.arg(format!("--{set}-caps=-all{capabilities}"));
    }
    command.arg(program);
    command
}

#[test]
fn without_privileges_it_exits_3_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let flame = copy_for_everyone(folder.path());
    for line in ["1", "-p 1 1", "1 -- true"] {
        let mut command = if is_root() {
            as_nobody(&flame, "")
        } else {
            Command::new(&flame)
        };
        let Ok(output) = command.args(line.split_whitespace()).output() else {
            return skip("setpriv is not installed");
        };
        let message = error_of(&output, 3);
        for part in [
            "CAP_BPF and CAP_PERFMON",
            "sudo flame",
            "setcap cap_bpf,cap_perfmon",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn two_capabilities_are_enough_to_be_let_in() {
    if !is_root() || !may_profile() {
        return skip("only root can give capabilities away");
    }
    let folder = tempfile::tempdir().unwrap();
    let flame = copy_for_everyone(folder.path());
    let output = as_nobody(&flame, ",+bpf,+perfmon")
        .args(["-p", "4194303", "1"])
        .output()
        .unwrap();
    let message = error_of(&output, 1);
    assert!(message.contains("no such process: 4194303"), "{message}");
}

/// Whether the machine lets us come as far as looking at PIDs.
fn may_profile() -> bool {
    let check = flame::preflight::Facts::read().check();
    if let Err(error) = &check {
        skip(&error.to_string());
    }
    check.is_ok()
}

#[test]
fn processes_that_are_none_exit_1_by_name() {
    if !may_profile() {
        return;
    }
    let message = error_of(&flame("-p 4194303 1"), 1);
    assert!(
        message.contains("no such process: 4194303\n  remedy: "),
        "{message}"
    );

    let mut zombie = Command::new("true").spawn().unwrap();
    let status = format!("/proc/{}/status", zombie.id());
    while !fs::read_to_string(&status).unwrap().contains("State:\tZ") {
        std::thread::yield_now();
    }
    let message = error_of(&flame(&format!("-p {} 1", zombie.id())), 1);
    assert!(
        message.contains(&format!("process {} has ended", zombie.id())),
        "{message}"
    );
    zombie.wait().unwrap();

    let own = std::process::id();
    let (tid, output) = std::thread::spawn(move || {
        let tid = rustix::thread::gettid().as_raw_nonzero();
        (tid, flame(&format!("-p {tid} 1")))
    })
    .join()
    .unwrap();
    let message = error_of(&output, 1);
    assert!(
        message.contains(&format!("{tid} is a thread of process {own}")),
        "{message}"
    );
}

#[test]
fn cgroups_and_cpus_that_are_none_exit_1() {
    if !may_profile() {
        return;
    }
    for (line, expected) in [
        (
            "--cgroup /no/such/cgroup 1",
            "no such cgroup: /no/such/cgroup",
        ),
        ("--cgroup /proc 1", "/proc is not a cgroup v2 folder"),
        ("-C 100000 1", "CPU 100000 is not online"),
    ] {
        let message = error_of(&flame(line), 1);
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn other_namespaces_exit_3_with_the_remedy() {
    if !may_profile() {
        return;
    }
    for (options, expected) in [
        (&["--pid", "--fork", "--mount-proc"][..], "--pid=host"),
        (&["--user", "--map-root-user"][..], "--userns=host"),
    ] {
        let mut unshare = Command::new("unshare");
        let Ok(output) = unshare.args(options).args([FLAME, "1"]).output() else {
            return skip("unshare is not installed");
        };
        let message = text(&output.stderr);
        if message.starts_with("unshare: ") {
            skip(&message);
            continue;
        }
        assert!(error_of(&output, 3).contains(expected), "{message}");
    }
}
