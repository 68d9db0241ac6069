//! The vDSO's bytes, copied out of a process into a file that ELF readers can open.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

use crate::profile::processes::proc_fs;

/// No kernel's vDSO is larger; the range comes from a process and is not trusted.
const VDSO_BYTES_MAX: u64 = 1 << 20;

/// The image our own process has mapped.
#[must_use]
pub fn read_own() -> Option<Vec<u8>> {
    let pid = std::process::id();
    let mut range = None;
    proc_fs::for_each_executable(pid, |mapping| {
        if mapping.path == b"[vdso]" {
            range = Some(mapping.range);
        }
    })
    .ok()?;
    read(pid, range?)
}

/// The image that `pid` has mapped at `range`; `None` when the process is gone or denies it.
#[must_use]
pub fn read(pid: u32, range: (u64, u64)) -> Option<Vec<u8>> {
    let bytes = range
        .1
        .checked_sub(range.0)
        .filter(|bytes| *bytes <= VDSO_BYTES_MAX)?;
    let mut image = vec![0; bytes as usize];
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    memory.read_exact_at(&mut image, range.0).ok()?;
    image.starts_with(b"\x7fELF").then_some(image)
}

/// A file in memory with these bytes.
pub fn into_file(image: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("vdso", MemfdFlags::CLOEXEC)?);
    file.write_all(image)?;
    Ok(file)
}
