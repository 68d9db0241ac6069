//! What `/proc/PID` tells of a process: mappings, start time, user, namespaced process id.
//!
//! Formats from proc(5). Names in them are chosen by processes: every length is bounded, and a
//! line that makes no sense is skipped.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use rustix::fs::{CWD, Mode, OFlags, makedev, openat};

use crate::symbolize::perf_map::PerfMapOwner;

/// Most bytes read of one process's `maps`: the kernel's default bound on mappings (65530) times
/// a generous line.
const MAPS_BYTES_MAX: u64 = 64 << 20;
/// Most bytes read of `stat` and `status`.
const STATUS_BYTES_MAX: u64 = 16 << 10;
/// Most threads of a process that are looked at.
const THREADS_MAX: usize = 1 << 16;

/// One executable line of `/proc/PID/maps`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapsLine<'a> {
    /// Start and end address.
    pub range: (u64, u64),
    /// Offset of the first byte in the file.
    pub file_offset: u64,
    /// Device (as `stat` encodes it) and inode; zeroes without a file.
    pub device_inode: (u64, u64),
    /// Path or class, as it stands there.
    pub path: &'a [u8],
}

/// Calls `visit` for every executable mapping of a process.
pub fn for_each_executable(pid: u32, visit: impl FnMut(MapsLine)) -> io::Result<()> {
    read_maps(File::open(format!("/proc/{pid}/maps"))?, visit)
}

/// Calls `visit` for every executable mapping in the text of a `maps` file.
pub fn read_maps(text: impl Read, mut visit: impl FnMut(MapsLine)) -> io::Result<()> {
    let mut lines = BufReader::with_capacity(16 << 10, text.take(MAPS_BYTES_MAX));
    let mut line = Vec::with_capacity(256);
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some(mapping) = parse_executable(&line) {
            visit(mapping);
        }
        line.clear();
    }
    Ok(())
}

/// The identity of a mapping, without its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingIdentity {
    /// Start and end address.
    pub range: (u64, u64),
    /// Device and inode.
    pub device_inode: (u64, u64),
}

/// The executable mapping of a process that starts at `start` now.
#[must_use]
pub fn mapping_at(pid: u32, start: u64) -> Option<MappingIdentity> {
    let mut found = None;
    for_each_executable(pid, |mapping| {
        if mapping.range.0 == start {
            let MapsLine {
                range,
                device_inode,
                ..
            } = mapping;
            found = Some(MappingIdentity {
                range,
                device_inode,
            });
        }
    })
    .ok()?;
    found
}

/// Parses a line of `maps`; `None` unless it is an executable mapping.
#[must_use]
pub fn parse_executable(line: &[u8]) -> Option<MapsLine<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    // START-END PERMS OFFSET MAJOR:MINOR INODE      PATH
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let range = fields.next()?;
    if fields.next()?.get(2) != Some(&b'x') {
        return None;
    }
    let mut range = range.split(|byte| *byte == b'-');
    let range = (number(range.next()?, 16)?, number(range.next()?, 16)?);
    let file_offset = number(fields.next()?, 16)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let major = u32::try_from(number(device.next()?, 16)?).ok()?;
    let minor = u32::try_from(number(device.next()?, 16)?).ok()?;
    let inode = number(fields.next()?, 10)?;
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    (range.0 < range.1).then_some(MapsLine {
        range,
        file_offset,
        device_inode: (makedev(major, minor), inode),
        path,
    })
}

/// The path with the kernel's only escape undone: a newline stands as `\012`.
#[must_use]
pub fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(b"\\012") {
            plain.push(b'\n');
            rest = after;
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, radix).ok()
}

/// The ids of all processes, in no order.
pub fn all_pids() -> io::Result<Vec<u32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect())
}

/// What we need of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The parent's process id.
    pub ppid: u32,
    /// A zombie without other threads, or gone: its memory is no more.
    pub ended: bool,
    /// Its first thread has ended, before others: `/proc` tells of them what it tells of it.
    pub leader_ended: bool,
    /// Start time since boot, suspended time included, in clock ticks (1/100 s).
    pub start_ticks: u64,
}

/// Reads `/proc/PID/stat`; `None` when there is no such process.
#[must_use]
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&read_bounded(pid, "stat")?)
}

/// Parses the text of a `stat` file.
#[must_use]
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name, field 2, may itself hold blanks and parentheses: go on after the last one.
    let after_name = text.iter().rposition(|byte| *byte == b')')? + 1;
    let text = std::str::from_utf8(text.get(after_name..)?).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let state = fields.next()?; // field 3
    let ppid = fields.next()?.parse().ok()?; // field 4
    let threads: u32 = fields.nth(15)?.parse().ok()?; // field 20
    let start_ticks = fields.nth(1)?.parse().ok()?; // field 22
    let leader_ended = matches!(state, "Z" | "X" | "x");
    Some(Stat {
        ppid,
        ended: leader_ended && threads <= 1,
        leader_ended,
        start_ticks,
    })
}

/// A thread of a process that has not ended, after its first one has.
#[must_use]
pub fn living_thread(pid: u32) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads
        .flatten()
        .take(THREADS_MAX)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|thread| stat(*thread).is_some_and(|stat| !stat.leader_ended))
}

/// Who a process is to a JIT's perf map. Of a process that is gone, only its id is known, and no
/// map can be believed but root's. `thread` is one of it that still lives.
#[must_use]
pub fn perf_map_owner(id: u32, pid: u32, thread: u32) -> PerfMapOwner {
    let status = read_bounded(pid, "status").unwrap_or_default();
    let (ns_pid, uid) = parse_status(&status);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{thread}/root"), flags, Mode::empty()).ok();
    PerfMapOwner {
        id,
        tgid: pid,
        ns_pid: ns_pid.unwrap_or(pid),
        uid: uid.unwrap_or(u32::MAX),
        root,
    }
}

/// The innermost `NSpid` and the effective `Uid` of a `status` file.
#[must_use]
pub fn parse_status(text: &[u8]) -> (Option<u32>, Option<u32>) {
    let field = |name: &[u8]| {
        let line = text
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(name))?;
        let line = std::str::from_utf8(line).ok()?;
        Some(
            line.split_ascii_whitespace()
                .filter_map(|word| word.parse().ok()),
        )
    };
    (
        field(b"NSpid:").and_then(Iterator::last),
        field(b"Uid:").and_then(|mut ids| ids.nth(1)),
    )
}

fn read_bounded(pid: u32, name: &str) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(1024);
    let file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    file.take(STATUS_BYTES_MAX).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_an_executable_line() {
        let line = b"7f00-7f10 r-xp 00001000 fe:01 42                  /usr/lib/a b.so\n";
        assert_eq!(
            parse_executable(line),
            Some(MapsLine {
                range: (0x7f00, 0x7f10),
                file_offset: 0x1000,
                device_inode: (makedev(0xfe, 1), 42),
                path: b"/usr/lib/a b.so",
            })
        );
        assert_eq!(
            parse_executable(b"7f00-7f10 rw-p 00001000 fe:01 42   /a\n"),
            None
        );
        let anonymous = parse_executable(b"7f00-7f10 rwxp 00000000 00:00 0 \n").unwrap();
        assert_eq!((anonymous.device_inode, anonymous.path), ((0, 0), &b""[..]));
    }

    #[test]
    fn hostile_paths_stay_bytes() {
        let line = b"1-2 r-xp 0 00:01 7 /tmp/x\\012 1-2 r-xp\xff\xfe (deleted) (deleted)\n";
        let mapping = parse_executable(line).unwrap();
        assert_eq!(
            mapping.path,
            b"/tmp/x\\012 1-2 r-xp\xff\xfe (deleted) (deleted)"
        );
        assert_eq!(unescape(b"/tmp/x\\012y\\01\\"), b"/tmp/x\ny\\01\\");
    }

    #[test]
    fn lines_that_make_no_sense_are_none() {
        for line in [
            &b""[..],
            b"\n",
            b"-",
            b"2-1 r-xp 0 00:00 0 \n",
            b"1-2 r-xp 0 0 0 \n",
            b"1-2 r-xp 0 fffffffff:0 0 \n",
            b"1-2 r-xp 0 00:00\n",
            b"10000000000000000-2 r-xp 0 00:00 0\n",
        ] {
            assert_eq!(parse_executable(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_name_cannot_forge_stat_fields() {
        let fields: Vec<String> = (5..=40).map(|field| field.to_string()).collect();
        let text = format!("7 (a) Z 1 2 3) S 77 {}\n", fields.join(" "));
        let expected = Stat {
            ppid: 77,
            ended: false,
            leader_ended: false,
            start_ticks: 22,
        };
        assert_eq!(parse_stat(text.as_bytes()), Some(expected));
        assert_eq!(parse_stat(b"7 (a"), None);
        assert_eq!(parse_stat(b"7 (a) S 1 2"), None);
    }

    #[test]
    fn a_process_has_ended_with_its_last_thread() {
        let ended = |state: &str, threads: u32| {
            let text = format!("7 (a) {state} 1 {} {threads} 0 9 8", ["0"; 15].join(" "));
            let stat = parse_stat(text.as_bytes()).unwrap();
            assert_eq!(stat.start_ticks, 9);
            (stat.leader_ended, stat.ended)
        };
        assert_eq!(ended("S", 2), (false, false));
        assert_eq!(ended("Z", 2), (true, false));
        assert_eq!(ended("Z", 1), (true, true));
        assert_eq!(ended("X", 0), (true, true));
    }

    #[test]
    fn status_tells_the_innermost_pid_and_the_effective_user() {
        let text = b"Name:\tx\nUid:\t1000\t33\t1000\t1000\nNSpid:\t4711\t12\t3\n";
        assert_eq!(parse_status(text), (Some(3), Some(33)));
        assert_eq!(parse_status(b""), (None, None));
    }

    #[test]
    fn we_are_alive_and_have_code_mapped() {
        let pid = std::process::id();
        assert!(!stat(pid).unwrap().ended);
        let here = we_are_alive_and_have_code_mapped as fn() as usize as u64;
        let mut found = false;
        for_each_executable(pid, |mapping| {
            found |= mapping.range.0 <= here && here < mapping.range.1;
        })
        .unwrap();
        assert!(found);
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_executable(&text);
            let _ = parse_stat(&text);
            let _ = parse_status(&text);
            let _ = unescape(&text);
        }
    }
}
