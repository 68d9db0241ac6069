//! `/tmp/perf-PID.map`: the names a JIT compiler writes down for profilers.
//!
//! The format is the kernel's `tools/perf/Documentation/jit-interface.txt`: a line per function,
//! start and size in hexadecimal, the rest of the line is the name.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use super::names;
use super::rooted::{self, LastLink};

/// No more than this of a map is read.
const MAP_BYTES_MAX: u64 = 256 << 20;

/// No more than this of a line is read; names are cut shorter anyway.
const LINE_BYTES_MAX: u64 = 8 << 10;

/// A map in which every line covers everything must not keep us busy for ever.
const MATCHES_MAX: usize = 1 << 26;

/// A process with executable anonymous memory, and how to find its perf map.
#[derive(Debug)]
pub struct PerfMapOwner {
    /// Unique among the owners of one run.
    pub id: u32,
    /// Process id in the initial PID namespace.
    pub tgid: u32,
    /// Process id in the process's own PID namespace: the one in the file's name.
    pub ns_pid: u32,
    /// The process's user: the map must belong to it or to root.
    pub uid: u32,
    /// The process's root directory (`O_PATH`), held since it was first seen.
    pub root: Option<OwnedFd>,
}

impl PerfMapOwner {
    /// The map's path inside the process's root.
    #[must_use]
    pub fn map_path(&self) -> PathBuf {
        PathBuf::from(format!("/tmp/perf-{}.map", self.ns_pid))
    }

    /// The names of sorted, unique `addresses`, in their order; `None` where the map is silent.
    /// Of entries that overlap the later one counts: a JIT compiler reuses memory.
    ///
    /// An error when the map cannot be had or must not be believed: no regular file, or of
    /// another user than the process's and root.
    pub fn names(&self, addresses: &[u64]) -> io::Result<Vec<Option<Rc<str>>>> {
        let root = self.root.as_ref().map(AsFd::as_fd);
        let trusted = |uid| uid == self.uid || uid == 0;
        let file = rooted::open_regular(root, &self.map_path(), LastLink::Refuse, trusted)?;
        read_names(file, addresses)
    }
}

/// Names of sorted, unique `addresses` from the text of a map. One pass that keeps names of the
/// addresses asked for only, so a huge map costs no memory.
pub fn read_names(map: impl Read, addresses: &[u64]) -> io::Result<Vec<Option<Rc<str>>>> {
    let mut names = vec![None; addresses.len()];
    let mut matches_left = MATCHES_MAX;
    let mut reader = BufReader::with_capacity(1 << 18, map.take(MAP_BYTES_MAX));
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader)
            .take(LINE_BYTES_MAX)
            .read_until(b'\n', &mut line)?
            == 0
        {
            return Ok(names);
        }
        if line.last() != Some(&b'\n') {
            reader.skip_until(b'\n')?;
        }
        let text = String::from_utf8_lossy(&line);
        let Some((start, bytes, name)) = parse_line(&text) else {
            continue;
        };
        let first = addresses.partition_point(|address| *address < start);
        let end = start.saturating_add(bytes);
        let behind = addresses.partition_point(|address| *address < end);
        let Some(slots) = names
            .get_mut(first..behind)
            .filter(|slots| !slots.is_empty())
        else {
            continue;
        };
        let Some(left) = matches_left.checked_sub(slots.len()) else {
            return Ok(names);
        };
        matches_left = left;
        slots.fill(Some(Rc::from(names::cut(name))));
    }
}

/// `3ef414c0 398 RegExp:[{(]`; perf also takes numbers with `0x`.
fn parse_line(line: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = line.trim_start().split_once([' ', '\t'])?;
    let (bytes, name) = rest.trim_start().split_once([' ', '\t'])?;
    let name = name.trim();
    (!name.is_empty()).then_some((hex(start)?, hex(bytes)?, name))
}

fn hex(digits: &str) -> Option<u64> {
    let digits = digits
        .strip_prefix("0x")
        .or(digits.strip_prefix("0X"))
        .unwrap_or(digits);
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    /// An owner whose root is a folder of the test.
    fn owner(root: &Path, uid: u32) -> PerfMapOwner {
        std::fs::create_dir_all(root.join("tmp")).unwrap();
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        PerfMapOwner {
            id: 1,
            tgid: 4242,
            ns_pid: 7,
            uid,
            root: Some(root),
        }
    }

    fn own_uid() -> u32 {
        rustix::process::getuid().as_raw()
    }

    fn names(map: &[u8], addresses: &[u64]) -> Vec<Option<Rc<str>>> {
        let folder = tempfile::tempdir().unwrap();
        let owner = owner(folder.path(), own_uid());
        std::fs::write(folder.path().join("tmp/perf-7.map"), map).unwrap();
        owner.names(addresses).unwrap()
    }

    #[test]
    fn later_entries_win_and_gaps_stay_unknown() {
        let map = b"1000 100 old\n0x1080 0x10 Foo::bar baz\n1000 20 new\n\n2000 10\nzz 1 x\n\
            ffffffffffffffff ffffffffffffffff far\n3000 8 \xff\xfe\r\n";
        let addresses = [
            0xfff, 0x1000, 0x1020, 0x1080, 0x1090, 0x1100, 0x2000, 0x3007,
        ];
        let got = names(map, &addresses);
        let got: Vec<_> = got
            .iter()
            .map(|name| name.as_deref().unwrap_or("-"))
            .collect();
        assert_eq!(
            got,
            [
                "-",
                "new",
                "old",
                "Foo::bar baz",
                "old",
                "-",
                "-",
                "\u{fffd}\u{fffd}"
            ]
        );
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_counts() {
        let mut map = b"1000 10 ".to_vec();
        map.resize(1 << 20, b'a');
        map.extend_from_slice(b"\n2000 10 next\n");
        let got = names(&map, &[0x1000, 0x2000]);
        assert!(got[0].as_ref().unwrap().len() <= LINE_BYTES_MAX as usize);
        assert_eq!(got[1].as_deref(), Some("next"));
    }

    #[test]
    fn a_fifo_a_folder_and_a_link_are_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let owner = owner(folder.path(), own_uid());
        let map = folder.path().join("tmp/perf-7.map");
        assert!(owner.names(&[1]).is_err(), "no map at all");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &map,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o666),
            0,
        )
        .unwrap();
        assert!(owner.names(&[1]).is_err(), "a FIFO");
        std::fs::remove_file(&map).unwrap();
        std::fs::create_dir(&map).unwrap();
        assert!(owner.names(&[1]).is_err(), "a folder");
        std::fs::remove_dir(&map).unwrap();
        std::fs::write(folder.path().join("tmp/real"), "1 1 a\n").unwrap();
        symlink("real", &map).unwrap();
        assert!(owner.names(&[1]).is_err(), "a link");
    }

    #[test]
    fn links_on_the_way_stay_inside_the_root() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("perf-7.map"), "1 1 planted\n").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let owner = owner(folder.path(), own_uid());
        std::fs::remove_dir(folder.path().join("tmp")).unwrap();
        symlink(outside.path(), folder.path().join("tmp")).unwrap();
        assert!(owner.names(&[1]).is_err());
    }

    #[test]
    fn the_map_of_another_user_is_refused() {
        if own_uid() != 0 {
            assert!(std::env::var_os("CI").is_none(), "needs root");
            eprintln!("skipped: only root can give a file away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let map = folder.path().join("tmp/perf-7.map");
        for (process_uid, map_uid, believed) in [
            (1000, 1000, true),
            (1000, 0, true),
            (1000, 1001, false),
            (0, 1000, false),
        ] {
            let owner = owner(folder.path(), process_uid);
            std::fs::write(&map, "1 1 name\n").unwrap();
            std::os::unix::fs::chown(&map, Some(map_uid), None).unwrap();
            assert_eq!(
                owner.names(&[1]).is_ok(),
                believed,
                "{process_uid} {map_uid}"
            );
        }
    }
}
