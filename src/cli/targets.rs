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
pub fn parse_duration(text: &str) -> Option<Duration> {
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
    let joined = others
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",");
    Err(Error::Usage(format!(
        "{last} can be read two ways: it would be the duration, but it is also a running process \
         of the same executable as {twin}\n  \
         {last} is a process: -p {joined},{last} -d SECONDS (without -d: -p {joined},{last})\n  \
         {last} is the duration: -p {joined} -d {last}"
    )))
}
