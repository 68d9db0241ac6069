//! A mapped file that cannot shrink under our feet.
//!
//! Both we and blazesym map the files we read. A process may truncate its own binary at any
//! moment, and touching a page behind the new end kills the reader with SIGBUS. A read lease
//! (fcntl(2), `F_SETLEASE`) makes the kernel hold such a truncation back until we are done,
//! at no cost in memory. Where a lease cannot be had (a file system without leases, somebody
//! has the file open for writing) the file is copied instead.

use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use memmap2::Mmap;
use rustix::fs::{Mode, OFlags};

/// Files up to this size are copied when they cannot be leased.
const COPY_BYTES_MAX: u64 = 64 << 20;

/// `F_SETSIG` of `include/uapi/asm-generic/fcntl.h`; not in every libc.
const F_SETSIG: libc::c_int = 10;

/// A regular file, mapped, that keeps its length while this value lives.
#[derive(Debug)]
pub struct StableFile {
    // Before `file`, which holds the lease: unmapped first.
    map: Mmap,
    file: File,
    metadata: Metadata,
    trusted: bool,
}

impl StableFile {
    /// Maps `file`, or a copy of it. An error when it is empty, no regular file, or can neither
    /// be leased nor copied.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Err(io::Error::other("not a regular file, or empty"));
        }
        // An open file description of our own: leases and their signals belong to it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let own = File::from(rustix::fs::open(fd_path(file), flags, Mode::empty())?);
        let owned_by_us = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
        let trusted = owned_by_us && metadata.mode() & 0o022 == 0;
        let own = match lease(&own) {
            Ok(()) => own,
            // Not ours to lease, for want of CAP_LEASE; who could shrink it needs no such trick.
            Err(error) if trusted && error.kind() == io::ErrorKind::PermissionDenied => own,
            Err(_) if metadata.len() <= COPY_BYTES_MAX => copy(&own, metadata.len())?,
            Err(_) if trusted => own,
            Err(_) => return Err(io::Error::other("another process may be changing it")),
        };
        // SAFETY: the length cannot change while mapped: the lease holds truncation back, the
        // copy is ours alone, and a file without either is changed by root or us only. Changing
        // contents are harmless: every reader checks what it reads, as for any hostile file.
        let map = unsafe { Mmap::map(&own)? };
        Ok(Self {
            map,
            file: own,
            metadata,
            trusted,
        })
    }

    /// The whole file.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.map
    }

    /// A path that opens this very file, whatever became of its name.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        fd_path(&self.file)
    }

    /// Of the file itself, when it was mapped or copied.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Whether only root and the user we run as may write to the file.
    #[must_use]
    pub fn trusted(&self) -> bool {
        self.trusted
    }
}

fn fd_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Takes a read lease on an open file description; it ends with the description.
fn lease(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: both commands take plain integers and the descriptor is open. The signal is set
    // first: the default, SIGIO, would end us when the lease is broken; SIGURG is ignored.
    let leased = unsafe {
        libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) == 0
    };
    if leased {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Copies at most `size` bytes into an anonymous file.
fn copy(file: &File, size: u64) -> io::Result<File> {
    let memory: OwnedFd =
        rustix::fs::memfd_create(c"flame-module", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut memory = File::from(memory);
    let mut source = file.take(size);
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = source.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        memory.write_all(bytes)?;
    }
    if memory.metadata()?.len() == 0 {
        return Err(io::Error::other("empty"));
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_file_cannot_be_truncated_and_a_broken_lease_does_not_kill_us() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, vec![7; 9000]).unwrap();
        let stable = StableFile::of(&File::open(&path).unwrap()).unwrap();
        let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::NONBLOCK;
        let refused = rustix::fs::open(&*path, flags, Mode::empty());
        assert_eq!(refused.unwrap_err(), rustix::io::Errno::WOULDBLOCK);
        assert!(stable.data().iter().all(|byte| *byte == 7));
        drop(stable);
        rustix::fs::open(&*path, flags, Mode::empty()).unwrap();
    }

    #[test]
    fn a_file_open_for_writing_is_copied() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 9000]).unwrap();
        let stable = StableFile::of(&file.reopen().unwrap()).unwrap();
        file.as_file().set_len(0).unwrap();
        assert_eq!(stable.data(), [7; 9000]);
        assert_eq!(std::fs::read(stable.path()).unwrap(), [7; 9000]);
    }
}
