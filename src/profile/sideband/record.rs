//! The bytes of side-band records; layouts from the `perf_event_open(2)` manual page.
//!
//! Paths and names in them are chosen by processes, so nothing here trusts a length or a text.

use perf_event_open_sys::bindings;

/// Header: type, misc, size.
const HEADER_BYTES: usize = 8;
/// What `sample_id_all` appends for `PERF_SAMPLE_TID | PERF_SAMPLE_TIME`: pid, tid, time.
const TRAILER_BYTES: usize = 16;

/// Something a process did, at a `CLOCK_MONOTONIC` time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Executable memory was mapped, or memory was made executable.
    Mmap(Mmap),
    /// A thread was renamed, or (`exec`) a process started another program.
    Comm {
        /// Process id.
        pid: u32,
        /// Thread id.
        tid: u32,
        /// When, in nanoseconds.
        time_ns: u64,
        /// The name changed because of `execve`: all former mappings are gone.
        exec: bool,
    },
    /// A thread or process was created; a thread when `pid` and `ppid` are equal.
    Fork {
        /// Process id of the new task.
        pid: u32,
        /// Process id of its creator.
        ppid: u32,
        /// Thread id of the new task.
        tid: u32,
        /// When, in nanoseconds.
        time_ns: u64,
    },
    /// A thread ended.
    Exit {
        /// Process id.
        pid: u32,
        /// Thread id.
        tid: u32,
        /// When, in nanoseconds.
        time_ns: u64,
    },
    /// The ring was full, and this many records are missing before this one.
    Lost {
        /// When it was noticed, in nanoseconds.
        time_ns: u64,
        /// Number of records.
        count: u64,
    },
}

/// One executable mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mmap {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// When, in nanoseconds.
    pub time_ns: u64,
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// Offset of the first byte in the file.
    pub file_offset: u64,
    /// The file's device, as `stat` encodes it.
    pub dev: u64,
    /// The file's inode; 0 without a file.
    pub ino: u64,
    /// Tells files apart that had the same inode number one after the other.
    pub ino_generation: u32,
    /// `PROT_*` bits.
    pub prot: u32,
    /// The path as the process sees it, or a class such as `//anon`; untrusted bytes.
    pub path: Box<[u8]>,
}

impl Record {
    /// The process it is about; `None` for a loss.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Mmap(Mmap { pid, .. })
            | Self::Comm { pid, .. }
            | Self::Fork { pid, .. }
            | Self::Exit { pid, .. } => Some(*pid),
            Self::Lost { .. } => None,
        }
    }

    /// When it happened: `CLOCK_MONOTONIC`, in nanoseconds.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        match self {
            Self::Mmap(Mmap { time_ns, .. })
            | Self::Comm { time_ns, .. }
            | Self::Fork { time_ns, .. }
            | Self::Exit { time_ns, .. }
            | Self::Lost { time_ns, .. } => *time_ns,
        }
    }
}

/// Parses one record, header included. `None` for kinds we did not ask for, and for bytes that
/// are no record.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Record> {
    let mut header = Reader(bytes);
    let kind = header.u32()?;
    let misc = u32::from(header.u16()?);
    let size = usize::from(header.u16()?);
    let body = bytes.get(HEADER_BYTES..size)?;
    let (body, trailer) = body.split_at_checked(body.len().checked_sub(TRAILER_BYTES)?)?;
    let time_ns = Reader(trailer.get(8..)?).u64()?;
    let mut body = Reader(body);
    match kind {
        bindings::PERF_RECORD_MMAP2 => parse_mmap2(body, misc, time_ns),
        bindings::PERF_RECORD_COMM => Some(Record::Comm {
            pid: body.u32()?,
            tid: body.u32()?,
            time_ns,
            exec: misc & bindings::PERF_RECORD_MISC_COMM_EXEC != 0,
        }),
        bindings::PERF_RECORD_FORK => Some(Record::Fork {
            pid: body.u32()?,
            ppid: body.u32()?,
            tid: body.u32()?,
            time_ns,
        }),
        bindings::PERF_RECORD_EXIT => {
            let (pid, _ppid, tid) = (body.u32()?, body.u32()?, body.u32()?);
            Some(Record::Exit { pid, tid, time_ns })
        }
        bindings::PERF_RECORD_LOST => {
            let _event_id = body.u64()?;
            Some(Record::Lost {
                time_ns,
                count: body.u64()?,
            })
        }
        _ => None,
    }
}

fn parse_mmap2(mut body: Reader, misc: u32, time_ns: u64) -> Option<Record> {
    let (pid, tid) = (body.u32()?, body.u32()?);
    let (addr, len, file_offset) = (body.u64()?, body.u64()?, body.u64()?);
    // We never ask for build ids in place of the inode.
    if misc & bindings::PERF_RECORD_MISC_MMAP_BUILD_ID != 0 {
        return None;
    }
    let (major, minor) = (body.u32()?, body.u32()?);
    let (ino, ino_generation) = (body.u64()?, body.u64()?);
    let (prot, _flags) = (body.u32()?, body.u32()?);
    let path = body.0.split(|&byte| byte == 0).next()?;
    Some(Record::Mmap(Mmap {
        pid,
        tid,
        time_ns,
        addr,
        len,
        file_offset,
        dev: rustix::fs::makedev(major, minor),
        ino,
        ino_generation: ino_generation as u32,
        prot,
        path: path.into(),
    }))
}

/// Parses back-to-back records into `records`. Returns whether it had to stop at a header that
/// makes no sense.
#[must_use]
pub fn parse_all(mut bytes: &[u8], records: &mut Vec<Record>) -> bool {
    while !bytes.is_empty() {
        let size = bytes
            .get(6..HEADER_BYTES)
            .and_then(|field| field.try_into().ok());
        let size = usize::from(u16::from_ne_bytes(size.unwrap_or_default()));
        let Some((record, rest)) = bytes
            .split_at_checked(size)
            .filter(|_| size >= HEADER_BYTES)
        else {
            return true;
        };
        records.extend(parse(record));
        bytes = rest;
    }
    false
}

/// Reads native-endian fields off the front of a byte string.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u32, misc: u16, body: &[u8], time_ns: u64) -> Vec<u8> {
        let size = (HEADER_BYTES + body.len() + TRAILER_BYTES) as u16;
        let mut bytes = kind.to_ne_bytes().to_vec();
        bytes.extend(misc.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(body);
        bytes.extend([1u32, 2].map(u32::to_ne_bytes).concat());
        bytes.extend(time_ns.to_ne_bytes());
        bytes
    }

    fn words(values: &[u32]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect()
    }

    fn mmap2(path: &[u8]) -> Vec<u8> {
        let mut body = words(&[10, 11]);
        body.extend([0x1000u64, 0x2000, 0x3000].map(u64::to_ne_bytes).concat());
        body.extend(words(&[0xfe, 1]));
        body.extend([42u64, 7].map(u64::to_ne_bytes).concat());
        body.extend(words(&[5, 2]));
        body.extend(path);
        record(bindings::PERF_RECORD_MMAP2, 2, &body, 99)
    }

    #[test]
    fn reads_every_kind() {
        assert_eq!(
            parse(&mmap2(b"/bin/\xff\n\0garbage")),
            Some(Record::Mmap(Mmap {
                pid: 10,
                tid: 11,
                time_ns: 99,
                addr: 0x1000,
                len: 0x2000,
                file_offset: 0x3000,
                dev: rustix::fs::makedev(0xfe, 1),
                ino: 42,
                ino_generation: 7,
                prot: 5,
                path: (*b"/bin/\xff\n").into(),
            }))
        );
        let comm = [words(&[10, 11]), b"name\0\0\0\0".to_vec()].concat();
        assert_eq!(
            parse(&record(bindings::PERF_RECORD_COMM, 1 << 13, &comm, 5)),
            Some(Record::Comm {
                pid: 10,
                tid: 11,
                time_ns: 5,
                exec: true
            })
        );
        let task = words(&[20, 10, 21, 11, 0, 0]);
        assert_eq!(
            parse(&record(bindings::PERF_RECORD_FORK, 0, &task, 6)),
            Some(Record::Fork {
                pid: 20,
                ppid: 10,
                tid: 21,
                time_ns: 6
            })
        );
        assert_eq!(
            parse(&record(bindings::PERF_RECORD_EXIT, 0, &task, 7)),
            Some(Record::Exit {
                pid: 20,
                tid: 21,
                time_ns: 7
            })
        );
        assert_eq!(
            parse(&record(
                bindings::PERF_RECORD_LOST,
                0,
                &words(&[1, 0, 3, 0]),
                8
            )),
            Some(Record::Lost {
                time_ns: 8,
                count: 3
            })
        );
    }

    #[test]
    fn a_cut_record_is_none() {
        let whole = mmap2(b"/bin/true\0\0\0\0\0\0\0");
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn a_size_of_zero_ends_the_stream_as_damaged() {
        let mut bytes = mmap2(b"/a\0\0\0\0\0\0");
        bytes.extend([0; 16]);
        let mut records = Vec::new();
        assert!(parse_all(&bytes, &mut records));
        assert_eq!(records.len(), 1);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse_all(&bytes, &mut Vec::new());
        }

        #[test]
        fn hostile_bodies_never_panic(
            kind in 0u32..24,
            misc in any::<u16>(),
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let _ = parse(&record(kind, misc, &body, 1));
        }
    }
}
