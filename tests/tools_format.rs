//! What people pipe bcc's tools through reads these tools, too: the whole output, line by line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use regex::Regex;

use support::disk::LoopDevice;
use support::tool::{Running, alone_with, flame, own_pid};

/// bcc's `print_log2_hist`, line by line: what scripts around bcc's tools match. A table is a
/// header and rows; the rows' bounds are powers of two without a gap.
fn bcc_histograms(text: &str) -> Vec<BTreeMap<u64, u64>> {
    let header = Regex::new("^ {5}(usecs|msecs) {15}: count {5}distribution$").unwrap();
    let row = Regex::new(r"^( *\d+) -> (\d+ *) : (\d+ *) \|(\**) *\|$").unwrap();
    let mut tables: Vec<BTreeMap<u64, u64>> = Vec::new();
    for line in text.lines() {
        if header.is_match(line) {
            tables.push(BTreeMap::new());
        } else if let Some(cells) = row.captures(line) {
            let number = |index: usize| cells[index].trim().parse::<u64>().unwrap();
            assert_eq!((cells[1].len(), cells[2].len()), (10, 10), "{line:?}");
            assert_eq!(
                (cells[3].len(), line.len()),
                (8, 10 + 4 + 10 + 3 + 8 + 1 + 42),
                "{line:?}"
            );
            let table = tables.last_mut().expect("a header comes first");
            let low = table.len() as u32;
            let bounds = if low == 0 {
                (0, 1)
            } else {
                (1 << low, (2 << low) - 1)
            };
            assert_eq!((number(1), number(2)), bounds, "{line:?}");
            table.insert(number(1), number(3));
        }
    }
    tables
}

/// What people pipe bcc's histograms through.
const AWK: &str = "/->/ { total += $5 } / : count/ { tables++ } END { print tables, total }";

fn awk(program: &str, text: &str) -> String {
    let mut awk = Command::new("awk");
    let mut awk = awk
        .arg(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut awk.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = awk.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn biolatency_parses_as_bccs() {
    let Some(_alone) = alone_with(&["losetup", "awk"]) else {
        return;
    };
    let device = LoopDevice::new();
    let percentiles =
        Regex::new(r"^ {5}p50 = \d+, p90 = \d+, p99 = \d+, p99.9 = \d+, max = \d+ usecs$").unwrap();
    for (options, section) in [
        (&[][..], None),
        (&["-D"], Some(format!("disk = {}", device.name()))),
    ] {
        let tool =
            Running::start_as_text(&[&["biolatency", "-d", device.name()], options].concat());
        device.transfer(40, 4096, false);
        let text = tool.finish_as_text();
        let tables = bcc_histograms(&text);
        assert_eq!(tables.len(), 1, "{text}");
        assert_eq!(tables[0].values().sum::<u64>(), 40, "{text}");
        assert_eq!(awk(AWK, &text), "1 40");
        // An empty line, the section where there is one, the table, the percentiles: nothing else.
        let mut lines = text.lines().skip_while(|line| line.is_empty());
        if let Some(section) = section {
            assert_eq!(lines.next(), Some(section.as_str()));
        }
        assert_eq!(
            lines.next(),
            Some("     usecs               : count     distribution")
        );
        assert_eq!(
            lines
                .by_ref()
                .take_while(|line| line.contains(" -> "))
                .count(),
            tables[0].len()
        );
        assert_eq!(lines.next(), None, "{text}");
        assert!(percentiles.is_match(text.lines().last().unwrap()), "{text}");
        assert!(
            text.lines()
                .filter(|line| line.contains(" -> "))
                .any(|line| line.contains(&"*".repeat(40)))
        );
    }
}

#[test]
fn runqlat_parses_as_bccs() {
    let Some(_alone) = alone_with(&["awk"]) else {
        return;
    };
    let mut command = Command::new(flame());
    let output = command
        .args(["runqlat", "-P", "-T", "300ms", "2"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let tables = bcc_histograms(&text);
    let total: u64 = tables.iter().flat_map(BTreeMap::values).sum();
    assert!(total > 0, "{text}");
    assert_eq!(awk(AWK, &text), format!("{} {total}", tables.len()));
    let time = Regex::new(r"(?m)^\d\d:\d\d:\d\d$").unwrap();
    assert_eq!(time.find_iter(&text).count(), 2, "{text}");
    let section = Regex::new(r"(?m)^\npid = \d+.*$").unwrap();
    assert_eq!(section.find_iter(&text).count(), tables.len(), "{text}");
}

#[test]
fn funccount_parses_as_bccs() {
    let Some(_alone) = alone_with(&["awk"]) else {
        return;
    };
    let tool = Running::start_as_text(&["funccount", "c:getp*id", "-p", &own_pid()]);
    for _ in 0..321 {
        let _ = std::os::unix::process::parent_id();
    }
    let text = tool.finish_as_text();
    let mut lines = text.lines().skip_while(|line| line.is_empty());
    assert_eq!(
        lines.next(),
        Some("FUNC                                    COUNT")
    );
    let row = Regex::new(r"^(\S+) +(\d+)$").unwrap();
    let rows: Vec<_> = lines.collect();
    for line in &rows {
        let cells = row.captures(line).unwrap_or_else(|| panic!("{line:?}"));
        assert_eq!(*line, format!("{:<36} {:>8}", &cells[1], &cells[2]));
    }
    assert_eq!(
        awk("$1 == \"getppid\" { print $2 }", &text),
        "321",
        "{rows:?}"
    );
}
