//! Which bare numbers are PIDs and which one is the duration.
//!
//! `flame -p $(pgrep postgres) 30` reaches us as `-p 101 102 103 30`. So numbers after `-p` are
//! PIDs and the last one is the duration. The price is that a forgotten duration would turn the
//! last PID into one; hence the check whether that number is a process like the others.

use std::ffi::OsString;
use std::time::Duration;

use super::surroundings::ExecutableId;
use crate::error::Error;
use crate::profile::config::Targets;

/// The kernel's `PID_MAX_LIMIT` on 64-bit machines: no PID is larger.
const PID_MAX: u32 = 4 << 20;

const DURATION_MIN: Duration = Duration::from_millis(1);
const DURATION_MAX: Duration = Duration::from_hours(365 * 24);

/// The words that decide whose stacks are taken and for how long.
#[derive(Debug, Default)]
pub struct Words<'a> {
    /// What `-p` was given, each a PID or a list.
    pub pid_lists: &'a [String],
    /// Bare words before `--`.
    pub bare: &'a [String],
    /// What `-d` was given.
    pub duration: Option<&'a str>,
    /// Words after `--`.
    pub command: &'a [OsString],
}

/// Applies the rule of the module's head.
pub fn resolve(
    words: &Words,
    executable_of: fn(u32) -> Option<ExecutableId>,
) -> Result<(Targets, Option<Duration>), Error> {
    let mut pids = Vec::new();
    for list in words.pid_lists {
        parse_pid_list(list, &mut pids)?;
    }
    let (bare_pids, bare_duration) = match (words.duration, words.bare.split_last()) {
        (None, Some((last, rest))) => (rest, Some(last.as_str())),
        _ => (words.bare, None),
    };
    for word in bare_pids {
        push_unique(&mut pids, parse_pid(word)?);
    }
    let duration = match (words.duration, bare_duration) {
        (Some(text), _) => Some(parse_duration(text).ok_or_else(|| bad_duration("-d", text))?),
        (None, Some(text)) => Some(parse_bare_duration(text, words)?),
        (None, None) => None,
    };
    if let Some(last) = bare_duration.and_then(|text| parse_pid(text).ok()) {
        refuse_ambiguity(last, &pids, executable_of)?;
    }
    Ok((targets(pids, words.command)?, duration))
}

fn targets(pids: Vec<u32>, command: &[OsString]) -> Result<Targets, Error> {
    match (pids.is_empty(), command.is_empty()) {
        (true, true) => Ok(Targets::System),
        (false, true) => Ok(Targets::Pids(pids)),
        (true, false) => Ok(Targets::Command(command.to_vec())),
        (false, false) => Err(Error::Usage(
            "PIDs and a command cannot be profiled together: give either -p PID or -- COMMAND"
                .to_string(),
        )),
    }
}

/// Commas as `pgrep -d,` prints them, or white space as a quoted `"$(pgrep …)"` passes it on.
fn parse_pid_list(list: &str, pids: &mut Vec<u32>) -> Result<(), Error> {
    let mut words = list
        .split(|c: char| c == ',' || c.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let Some(first) = words.next() else {
        return Err(Error::Usage(
            "-p was given no PID; did the command that looks it up find nothing?".to_string(),
        ));
    };
    for word in std::iter::once(first).chain(words) {
        push_unique(pids, parse_pid(word)?);
    }
    Ok(())
}

fn push_unique(pids: &mut Vec<u32>, pid: u32) {
    if !pids.contains(&pid) {
        pids.push(pid);
    }
}

fn parse_pid(word: &str) -> Result<u32, Error> {
    // `parse` alone would take a plus sign.
    let digits = word
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(word);
    digits
        .and_then(|digits| digits.parse().ok())
        .filter(|pid| (1..=PID_MAX).contains(pid))
        .ok_or_else(|| {
            Error::Usage(format!(
                "'{word}' is not a PID (a number from 1 to {PID_MAX})"
            ))
        })
}

/// A number of seconds, or one with a unit: `30`, `0.5`, `500ms`, `30s`, `5m`, `2h`. At least a
/// millisecond and at most a year.
fn parse_duration(text: &str) -> Option<Duration> {
    let number_len = text
        .bytes()
        .take_while(|byte| byte.is_ascii_digit() || *byte == b'.')
        .count();
    let (number, unit) = text.split_at(number_len);
    let seconds_per_unit = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * seconds_per_unit;
    let duration = Duration::try_from_secs_f64(seconds).ok()?;
    (DURATION_MIN..=DURATION_MAX)
        .contains(&duration)
        .then_some(duration)
}

fn parse_bare_duration(text: &str, words: &Words) -> Result<Duration, Error> {
    if let Some(duration) = parse_duration(text) {
        return Ok(duration);
    }
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') {
        return Err(bad_duration("the last number", text));
    }
    let modes = super::mode_names().join(", ");
    let hint = if words.pid_lists.is_empty() && words.bare.len() == 1 {
        format!("\n  modes: {modes}\n  to profile a command: flame -- {text}")
    } else {
        String::new()
    };
    Err(Error::Usage(format!(
        "'{text}' is neither a number nor a mode of flame{hint}"
    )))
}

fn bad_duration(place: &str, text: &str) -> Error {
    Error::Usage(format!(
        "'{text}' ({place}) is not a duration: write seconds (30, 0.5) or a unit (500ms, 5m), \
         at least 1ms and at most a year"
    ))
}

fn refuse_ambiguity(
    last: u32,
    pids: &[u32],
    executable_of: fn(u32) -> Option<ExecutableId>,
) -> Result<(), Error> {
    let Some(executable) = executable_of(last) else {
        return Ok(());
    };
    let others = pids.iter().filter(|pid| **pid != last);
    let Some(twin) = others
        .clone()
        .find(|pid| executable_of(**pid) == Some(executable))
    else {
        return Ok(());
    };
    let list = others
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    Err(Error::Usage(format!(
        "{last} can be read two ways: it would be the duration, but it is also a running process \
         of the same executable as {twin}\n  \
         {last} is a process: -p {list},{last} -d SECONDS (without -d: -p {list},{last})\n  \
         {last} is the duration: -p {list} -d {last}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 101 to 103 run one executable, 500 another; 30 is a kernel thread, 60 does not run.
    fn executable_of(pid: u32) -> Option<ExecutableId> {
        match pid {
            101..=103 => Some(ExecutableId {
                device: 1,
                inode: 7,
            }),
            500 => Some(ExecutableId {
                device: 2,
                inode: 7,
            }),
            _ => None,
        }
    }

    /// Resolves `lists | bare | -d | command`, each split at spaces (`-p` lists at `;`).
    fn resolve_line(
        lists: &str,
        bare: &str,
        duration: Option<&str>,
        command: &str,
    ) -> Result<(Targets, Option<Duration>), String> {
        let split = |text: &str, at: char| -> Vec<String> {
            text.split(at)
                .filter(|word| !word.is_empty())
                .map(str::to_string)
                .collect()
        };
        let words = Words {
            pid_lists: &split(lists, ';'),
            bare: &split(bare, ' '),
            duration,
            command: &split(command, ' ')
                .into_iter()
                .map(OsString::from)
                .collect::<Vec<_>>(),
        };
        resolve(&words, executable_of).map_err(|error| {
            assert_eq!(error.exit_status(), 2);
            error.to_string()
        })
    }

    fn pids(pids: &[u32]) -> Targets {
        Targets::Pids(pids.to_vec())
    }

    #[test]
    fn numbers_are_read_as_the_contract_says() {
        let make = Targets::Command(vec!["make".into(), "-j2".into()]);
        let cases: Vec<(&str, &str, Option<&str>, &str, Targets, Option<f64>)> = vec![
            ("", "", None, "", Targets::System, None),
            ("", "10", None, "", Targets::System, Some(10.0)),
            ("", "0.5", None, "", Targets::System, Some(0.5)),
            ("", ".5", None, "", Targets::System, Some(0.5)),
            ("", "90s", None, "", Targets::System, Some(90.0)),
            ("", "", Some("1m"), "", Targets::System, Some(60.0)),
            ("", "", Some("500ms"), "", Targets::System, Some(0.5)),
            ("", "", Some("2h"), "", Targets::System, Some(7200.0)),
            ("101", "", None, "", pids(&[101]), None),
            ("101", "30", None, "", pids(&[101]), Some(30.0)),
            (
                "101",
                "102 103 30",
                None,
                "",
                pids(&[101, 102, 103]),
                Some(30.0),
            ),
            (
                "101",
                "102 103 60",
                None,
                "",
                pids(&[101, 102, 103]),
                Some(60.0),
            ),
            (
                "101,102;103",
                "30",
                None,
                "",
                pids(&[101, 102, 103]),
                Some(30.0),
            ),
            (
                "101\n102\n103\n",
                "30",
                None,
                "",
                pids(&[101, 102, 103]),
                Some(30.0),
            ),
            (
                "101,101;102",
                "101 30",
                None,
                "",
                pids(&[101, 102]),
                Some(30.0),
            ),
            ("", "101 102 30", None, "", pids(&[101, 102]), Some(30.0)),
            // With -d every number is a PID, also one that stands alone or looks like a duration.
            ("", "101", Some("5"), "", pids(&[101]), Some(5.0)),
            (
                "101",
                "102 30",
                Some("5"),
                "",
                pids(&[101, 102, 30]),
                Some(5.0),
            ),
            (
                "101",
                "102 103",
                Some("30"),
                "",
                pids(&[101, 102, 103]),
                Some(30.0),
            ),
            // Another executable, the same number twice, a unit, a fraction: no PID is meant.
            ("101", "500", None, "", pids(&[101]), Some(500.0)),
            ("101", "101", None, "", pids(&[101]), Some(101.0)),
            ("101", "102s", None, "", pids(&[101]), Some(102.0)),
            ("101", "102.0", None, "", pids(&[101]), Some(102.0)),
            ("", "", None, "make -j2", make.clone(), None),
            ("", "30", None, "make -j2", make.clone(), Some(30.0)),
            ("", "", Some("30"), "make -j2", make, Some(30.0)),
        ];
        for (lists, bare, duration, command, targets, seconds) in cases {
            let got = resolve_line(lists, bare, duration, command)
                .unwrap_or_else(|error| panic!("-p {lists:?} {bare} -d {duration:?}: {error}"));
            let expected = (targets, seconds.map(Duration::from_secs_f64));
            assert_eq!(
                got, expected,
                "-p {lists:?} {bare} -d {duration:?} -- {command}"
            );
        }
    }

    #[test]
    fn what_has_no_meaning_is_refused_with_the_reason() {
        let cases: &[(&str, &str, Option<&str>, &str, &str)] = &[
            ("0", "", None, "", "'0' is not a PID"),
            ("x", "", None, "", "'x' is not a PID"),
            ("+5", "", None, "", "'+5' is not a PID"),
            ("-5", "", None, "", "'-5' is not a PID"),
            ("4194305", "", None, "", "is not a PID"),
            ("99999999999999999999", "", None, "", "is not a PID"),
            (",", "", None, "", "no PID"),
            (" \n", "", None, "", "no PID"),
            ("101", "x 30", None, "", "'x' is not a PID"),
            ("101", "30s", Some("5"), "", "'30s' is not a PID"),
            ("101", "x", None, "", "neither a number nor a mode"),
            ("", "profil", None, "", "modes: profile, "),
            ("", "make", None, "", "flame -- make"),
            ("", "0", None, "", "not a duration"),
            ("", "0.0001", None, "", "not a duration"),
            ("", "-5", None, "", "not a duration"),
            ("", "1.2.3", None, "", "not a duration"),
            ("", "30x", None, "", "not a duration"),
            ("", "99999999999999999999", None, "", "not a duration"),
            ("", "", Some("0"), "", "not a duration"),
            ("", "", Some("-1"), "", "not a duration"),
            ("", "", Some("NaN"), "", "not a duration"),
            ("", "", Some("inf"), "", "not a duration"),
            ("", "", Some("1e3"), "", "not a duration"),
            ("", "", Some(""), "", "not a duration"),
            ("", "", Some("8761h"), "", "not a duration"),
            ("101", "30", None, "make", "cannot be profiled together"),
            ("", "101 30", None, "make", "cannot be profiled together"),
        ];
        for (lists, bare, duration, command, expected) in cases {
            let message = resolve_line(lists, bare, *duration, command).unwrap_err();
            assert!(
                message.contains(expected),
                "-p {lists:?} {bare} -d {duration:?}: {message}"
            );
        }
    }

    #[test]
    fn a_forgotten_duration_is_not_guessed() {
        for (lists, bare) in [
            ("101", "102"),
            ("101", "500 103"),
            ("500,101", "102"),
            ("", "101 102"),
        ] {
            let message = resolve_line(lists, bare, None, "").unwrap_err();
            assert!(message.contains("is a process: -p"), "{message}");
            assert!(message.contains("is the duration: -p"), "{message}");
        }
        let message = resolve_line("101", "102 103", None, "").unwrap_err();
        assert!(message.contains("-p 101,102,103 -d SECONDS"), "{message}");
        assert!(message.contains("-p 101,102 -d 103"), "{message}");
    }
}
