//! The vDSO: a small ELF image that the kernel maps into every process, and no file has.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};

/// The vDSO has two pages; more than this is something else.
const VDSO_BYTES_MAX: u64 = 1 << 20;

/// A copy of our own vDSO: every 64-bit process of the machine has the same.
pub fn read() -> Result<Vec<u8>> {
    let maps = BufReader::new(File::open("/proc/self/maps")?);
    for line in maps.lines() {
        let line = line?;
        if !line.ends_with("[vdso]") {
            continue;
        }
        let range = line
            .split(' ')
            .next()
            .and_then(|range| range.split_once('-'));
        let (start, end) = range.context("an odd line in /proc/self/maps")?;
        let start = u64::from_str_radix(start, 16)?;
        let size = u64::from_str_radix(end, 16)?.saturating_sub(start);
        ensure!(size <= VDSO_BYTES_MAX, "a vDSO of {size} bytes");
        let mut bytes = vec![0; size as usize];
        File::open("/proc/self/mem")?.read_exact_at(&mut bytes, start)?;
        return Ok(bytes);
    }
    anyhow::bail!("no vDSO")
}
