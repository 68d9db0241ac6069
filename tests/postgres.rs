//! The real thing: the command of the README's title on `PostgreSQL` under load.
//! Needs root and Debian's `postgresql` package.

// Helpers outside #[test] functions panic on purpose: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

#[path = "support/browser.rs"]
mod browser;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use browser::Browser;
use support::postgres::Postgres;
use support::run::{Finished, Process, flame};
use support::{can_sample_with, sampling_turn, target_folder};

/// Sampling time: enough for thousands of samples on two CPUs, short enough for every day.
const SAMPLING: Duration = Duration::from_secs(5);

/// Functions of the server that every `pgbench -S` run spends its time in. Debian builds without
/// frame pointers, so names are asked of leaves, not of chains.
const SERVER_FUNCTIONS: &[&str] = &[
    "AllocSetAlloc",
    "hash_search_with_hash_value",
    "_bt_compare",
    "LWLockAcquire",
    "PostgresMain",
    "base_yyparse",
    "SearchCatCache1",
    "palloc",
    "ExecInitExprRec",
    "GetSnapshotData",
];

#[test]
fn the_command_of_the_title_draws_postgres() {
    if !can_sample_with(
        "the_command_of_the_title_draws_postgres",
        &["pgbench", "pgrep", "setpriv"],
    ) {
        return;
    }
    let _turn = sampling_turn();
    let postgres = Postgres::start(10).unwrap();
    let _load = postgres.load(4, SAMPLING * 6).unwrap();
    let folder = tempfile::tempdir().unwrap();

    let finished = type_in_shell(&title_command(&postgres), folder.path());

    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    let svg = std::fs::read_to_string(folder.path().join("out.svg")).unwrap();
    assert!(
        svg.trim_end().ends_with("</svg>"),
        "the picture is not whole"
    );
    let named: Vec<&str> = SERVER_FUNCTIONS
        .iter()
        .copied()
        .filter(|name| svg.contains(name))
        .collect();
    assert!(
        named.len() >= 3,
        "only {named:?} of {SERVER_FUNCTIONS:?} are in the picture"
    );
    assert!(
        svg.contains("entry_SYSCALL_64"),
        "no kernel frames in the picture"
    );
    if browser::available() {
        assert_browsable(&folder.path().join("out.svg"), &named);
    }
}

/// Zoom, search and a screenshot of the picture in a real browser, without a script error.
fn assert_browsable(svg: &Path, functions: &[&str]) {
    let page = Browser::open(svg);
    let drawn = functions.iter().find(|function| page.has_frame(function));
    let function = drawn.unwrap_or_else(|| panic!("none of {functions:?} is drawn"));
    let (before, after) = page.zoom(function);
    assert!(
        after > before,
        "zooming on {function}: {before} pixels, then {after}"
    );
    page.reset_zoom();
    let matched_pct = page.search(&format!("^{function}"));
    assert!(
        matched_pct > 0.0 && matched_pct < 100.0,
        "{function}: {matched_pct} %"
    );
    page.screenshot(&target_folder().join("screenshots/postgres.png"));
    assert_eq!(page.script_errors(), [""; 0]);
}

#[test]
fn children_of_the_server_are_profiled_with_it() {
    if !can_sample_with(
        "children_of_the_server_are_profiled_with_it",
        &["pgbench", "setpriv"],
    ) {
        return;
    }
    let _turn = sampling_turn();
    let postgres = Postgres::start(1).unwrap();
    let results = tempfile::tempdir().unwrap();
    let output = results.path().join("out.folded");
    let pid = postgres.pid().to_string();
    let mut command = flame();
    command
        .args(["-q", "-F", "499", "-p", &pid, "-d", "4", "-o"])
        .arg(&output);
    let flame = Process::start(&mut command);
    std::thread::sleep(Duration::from_secs(1));
    // Its backends are forked by the server only now.
    let _load = postgres.load(2, SAMPLING * 2).unwrap();
    let finished = flame.finish_within(Duration::from_mins(1));
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    let folded = support::folded::Folded::parse(&std::fs::read_to_string(output).unwrap());
    assert!(folded.of_task("postgres").total() > 50, "{folded}");
}

/// The title's command for some seconds; when other clusters run on this machine, restricted to
/// ours.
fn title_command(ours: &Postgres) -> String {
    let count = |arguments: &[&str]| {
        let output = Command::new("pgrep")
            .arg("-c")
            .args(arguments)
            .arg("postgres")
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout)
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    let pid = ours.pid().to_string();
    let only_ours = count(&[]) == count(&["-P", &pid]) + 1;
    let pids = if only_ours {
        "$(pgrep postgres)".to_string()
    } else {
        format!("{pid} $(pgrep -P {pid} postgres)")
    };
    format!("flame -p {pids} {} -o out.svg", SAMPLING.as_secs())
}

/// Lets `sh` expand and run a command line in which `flame` is the binary under test.
fn type_in_shell(line: &str, folder: &Path) -> Finished {
    let flame = Path::new(env!("CARGO_BIN_EXE_flame")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).current_dir(folder);
    shell.env("PATH", format!("{}:{path}", flame.display()));
    Process::start(&mut shell).finish_within(SAMPLING + Duration::from_mins(1))
}
