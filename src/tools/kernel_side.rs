//! What the tools' programs count, as they say it across the kernel boundary. The other side is
//! `ebpf/include/report.h`; a test compares the two through the objects' BTF.

use anyhow::Result;
use std::time::Duration;

use super::histogram::Histogram;
use crate::bpf::{Bpf, Pod};

/// `struct report_key`: what is counted apart.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReportKey {
    /// The report an entry belongs to.
    pub epoch: u32,
    /// A PID, a disk, an index: the tool's.
    pub id: u32,
    /// Flags, an operation: the tool's.
    pub detail: u64,
    /// The command, padded with zeros.
    pub comm: [u8; 16],
}
// SAFETY: integers without padding, C layout.
unsafe impl Pod for ReportKey {}

impl ReportKey {
    /// The command's name, fit to be printed: a process chooses its own name.
    #[must_use]
    pub fn comm(&self) -> String {
        printable_comm(&self.comm)
    }
}

/// A command's name up to its first zero; control characters and bytes that are no text become
/// question marks, so that no name can forge a line or steer a terminal.
#[must_use]
pub fn printable_comm(comm: &[u8]) -> String {
    let name = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name)
        .chars()
        .map(|c| {
            if c.is_control() || c == '\u{fffd}' {
                '?'
            } else {
                c
            }
        })
        .collect()
}

/// `struct tally`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events.
    pub count: u64,
    /// Bytes or pages: the tool's.
    pub amount: u64,
    /// Nanoseconds or another sum: the tool's.
    pub extra: u64,
}
// SAFETY: integers without padding, C layout.
unsafe impl Pod for Tally {}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.amount += other.amount;
        self.extra += other.extra;
    }
}

/// `struct losses`: what was not counted, and why.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses {
    /// No room to remember when something began.
    pub start_map_full: u64,
    /// No room for one more key in a report.
    pub report_map_full: u64,
    /// The ring of events was full.
    pub ring_full: u64,
    /// Ends whose beginning was not seen: they began before the tool did.
    pub end_without_start: u64,
    /// Events that must have happened between two others and that the kernel did not report.
    pub not_reported: u64,
}
// SAFETY: integers without padding, C layout.
unsafe impl Pod for Losses {}

impl Losses {
    /// Since the programs were attached, over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn read(bpf: &Bpf) -> Result<Self> {
        let mut sum = Self::default();
        for cpu in bpf.read_per_cpu::<Self>("losses")? {
            sum.start_map_full += cpu.start_map_full;
            sum.report_map_full += cpu.report_map_full;
            sum.ring_full += cpu.ring_full;
            sum.end_without_start += cpu.end_without_start;
            sum.not_reported += cpu.not_reported;
        }
        Ok(sum)
    }

    /// Each with its cause.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("start_map_full", self.start_map_full),
            ("report_map_full", self.report_map_full),
            ("ring_full", self.ring_full),
            ("end_without_start", self.end_without_start),
            ("not_reported", self.not_reported),
        ]
    }
}

/// Reads the maps report by report: each entry belongs to exactly one.
#[derive(Debug, Default)]
pub struct Epochs {
    current: u32,
}

impl Epochs {
    /// Begins a new epoch and waits until no program writes to the old one, which the `take`
    /// functions then read.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn advance(&mut self, bpf: &mut Bpf) -> Result<()> {
        self.current = self.current.wrapping_add(1);
        bpf.set_array("epoch", 0, self.current)?;
        wait_for_running_programs();
        Ok(())
    }

    /// What was tallied in the epoch that ended.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn take_tallies(&self, bpf: &Bpf) -> Result<Vec<(ReportKey, Tally)>> {
        self.take(bpf, "tallies")
    }

    /// The histograms of the epoch that ended.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn take_histograms(&self, bpf: &Bpf) -> Result<Vec<(ReportKey, Histogram)>> {
        self.take(bpf, "histograms")
    }

    fn take<V: Pod>(&self, bpf: &Bpf, map: &str) -> Result<Vec<(ReportKey, V)>> {
        let mut entries = bpf.read_hash::<ReportKey, V>(map)?;
        entries.retain(|(key, _)| key.epoch != self.current);
        let keys: Vec<_> = entries.iter().map(|(key, _)| *key).collect();
        bpf.remove_all(map, &keys)?;
        Ok(entries)
    }
}

/// Programs run under RCU, so a grace period outlasts each that may still hold an old entry.
fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: the call takes integers alone.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Refused on kernels with `nohz_full` CPUs; a program runs for microseconds.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_forges_a_line() {
        assert_eq!(printable_comm(b"dd\0\0garbage"), "dd");
        assert_eq!(printable_comm(b"a\nb\x1b[2J\xff"), "a?b?[2J?");
        assert_eq!(printable_comm("größer".as_bytes()), "größer");
    }
}
