//! Perf side-band records (mmap2, comm, fork, exit): what processes did while we sampled.
//!
//! One dummy software event per CPU carries them, in a ring buffer that user space reads
//! without a system call. Times are `CLOCK_MONOTONIC`, like those of the samples.

mod record;
mod ring;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::Context;
use perf_event_open_sys::{bindings, perf_event_open};

pub use record::{Mmap, Record, parse, parse_all};
use ring::Ring;

use crate::error::Error;

/// Bytes of one CPU's ring: about 4000 records, some 400 execs between two drains.
const RING_BYTES: usize = 512 * 1024;

/// Unread bytes after which `poll` wakes: what one exec writes. The files of processes that live
/// for some milliseconds are opened, and their stacks walked, while these still run.
const WAKEUP_BYTES: u32 = 512;

/// The side-band of every CPU.
#[derive(Debug)]
pub struct SideBand {
    rings: Vec<Ring>,
    scratch: Vec<u8>,
    lost: u64,
}

impl SideBand {
    /// Starts recording on `cpus`. One that is offline, or goes offline meanwhile, is left out.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] without the privilege to watch all processes; otherwise when no
    /// ring can be had at all.
    pub fn open(cpus: &[u32]) -> anyhow::Result<Self> {
        let mut rings = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            match open_event(cpu) {
                Ok(event) => rings.push(
                    Ring::map(event, RING_BYTES)
                        .with_context(|| format!("cannot map the side-band ring of CPU {cpu}"))?,
                ),
                // Offline, or unplugged since it was listed.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(open_error(cpu, error)),
            }
        }
        anyhow::ensure!(!rings.is_empty(), "none of the CPUs {cpus:?} is online");
        Ok(Self {
            rings,
            scratch: Vec::new(),
            lost: 0,
        })
    }

    /// What to `poll` for readability; one per CPU.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.rings.iter().map(|ring| ring.event().as_fd())
    }

    /// Appends all unread records to `records`, oldest first. A later drain can still bring
    /// records slightly older than the last of this one, as CPUs write while they are read.
    pub fn drain(&mut self, records: &mut Vec<Record>) {
        let drained_from = records.len();
        for ring in &mut self.rings {
            self.scratch.clear();
            let overrun = ring.read(&mut self.scratch);
            let damaged = record::parse_all(&self.scratch, records);
            if overrun || damaged {
                records.push(Record::Lost {
                    time_ns: 0,
                    count: 1,
                });
            }
        }
        records[drained_from..].sort_by_key(Record::time_ns);
        for record in &records[drained_from..] {
            if let Record::Lost { count, .. } = record {
                self.lost = self.lost.saturating_add(*count);
            }
        }
    }

    /// Records the kernel could not deliver so far, because a ring was full.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

/// Opens the dummy event that carries the side-band of one CPU.
fn open_event(cpu: u32) -> io::Result<OwnedFd> {
    let mut attr = bindings::perf_event_attr {
        type_: bindings::PERF_TYPE_SOFTWARE,
        size: size_of::<bindings::perf_event_attr>() as u32,
        config: u64::from(bindings::PERF_COUNT_SW_DUMMY),
        sample_type: u64::from(bindings::PERF_SAMPLE_TID | bindings::PERF_SAMPLE_TIME),
        clockid: libc::CLOCK_MONOTONIC,
        ..Default::default()
    };
    attr.__bindgen_anon_2.wakeup_watermark = WAKEUP_BYTES;
    attr.set_watermark(1);
    attr.set_mmap(1);
    attr.set_mmap2(1);
    attr.set_comm(1);
    attr.set_comm_exec(1);
    attr.set_task(1);
    attr.set_sample_id_all(1);
    attr.set_use_clockid(1);
    // The dummy counts nothing; without these bits the kernel asks for more privilege.
    attr.set_exclude_kernel(1);
    attr.set_exclude_hv(1);
    let flags = u64::from(bindings::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: `attr` is a valid, fully initialized attribute of the size it states, and outlives
    // the call.
    let fd = unsafe { perf_event_open(&raw mut attr, -1, cpu as i32, -1, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just returned this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn open_error(cpu: u32, error: io::Error) -> anyhow::Error {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => Error::NotAvailable {
            problem: format!("not permitted to watch the processes of CPU {cpu}: {error}"),
            remedy: "run as root, or with the capabilities CAP_PERFMON and CAP_SYS_PTRACE".into(),
        }
        .into(),
        _ => anyhow::Error::new(error)
            .context(format!("cannot open the side-band event of CPU {cpu}")),
    }
}
