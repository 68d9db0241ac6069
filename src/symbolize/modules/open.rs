//! Opening the very file a process has mapped, without trusting its path.
//!
//! 1. `/proc/PID/map_files/START-END` leads to the mapped file itself, even when it was deleted
//!    or lies in another mount namespace.
//! 2. When the process is gone, its path is looked up below its ancestors' roots and our own,
//!    confined to that root. What is found there counts only if it has the device, inode and
//!    inode generation of the record.
//!
//! Nothing but a regular file is ever opened: a path is first taken with `O_PATH`, which opens
//! neither FIFOs nor devices, and reopened for reading once `fstat` has shown what it is.
//!
//! Two file systems report another device to `stat` than the kernel does for a mapping: btrfs
//! has one per subvolume, overlayfs shows its own in place of that of the layer below. There an
//! equal inode number (and on btrfs, an equal generation) found under the recorded path is
//! enough; anywhere else the devices must be equal.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2};
use rustix::io::Errno;
use rustix::ioctl;

use super::Sighting;
use crate::profile::processes::proc_fs;

/// `f_type` of the file systems that give mappings another device than `stat` (statfs(2)).
const BTRFS_MAGIC: u64 = 0x9123_683e;
const OVERLAYFS_MAGIC: u64 = 0x794c_7630;

/// The process or the machine has no file descriptor left.
pub struct OutOfFds;

/// A file that was proved to be the mapped one.
#[derive(Debug)]
pub struct Opened {
    /// Open for reading.
    pub file: File,
    /// Its inode generation, where the file system tells.
    pub generation: Option<u32>,
    /// The process below whose root the path leads to it; `None` for our own root.
    pub root_pid: Option<u32>,
}

/// Opens the file of a sighting; `Ok(None)` when it cannot be had or proved.
pub fn open_mapped(sighting: &Sighting) -> Result<Option<Opened>, OutOfFds> {
    if let Some(opened) = open_map_files(sighting)? {
        return Ok(Some(opened));
    }
    if !sighting.path.starts_with(b"/") {
        return Ok(None);
    }
    let pids = std::iter::once(&sighting.pid).chain(sighting.ancestors);
    for root_pid in pids.map(|pid| Some(*pid)).chain([None]) {
        if let Some(opened) = open_below_root(sighting, root_pid)? {
            return Ok(Some(opened));
        }
    }
    Ok(None)
}

/// Opens through the mapping itself.
fn open_map_files(sighting: &Sighting) -> Result<Option<Opened>, OutOfFds> {
    let (start, end) = sighting.range;
    let link = format!("/proc/{}/map_files/{start:x}-{end:x}", sighting.pid);
    let Some(fd) = ok(openat(
        CWD,
        &link,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    ))?
    else {
        return Ok(None);
    };
    // On overlayfs even the inode may differ, so when they do not match ask the kernel whether
    // the mapping is still the recorded one: it was then all along.
    let proved = stat_identity(&fd) == Some(sighting.device_inode)
        || proc_fs::mapping_at(sighting.pid, start).is_some_and(|now| {
            now.range == (start, end) && now.device_inode == sighting.device_inode
        });
    if !proved {
        return Ok(None);
    }
    finish(sighting, &fd, Some(sighting.pid))
}

/// Opens by path below the root of a process, or our own.
fn open_below_root(sighting: &Sighting, pid: Option<u32>) -> Result<Option<Opened>, OutOfFds> {
    let root = pid.map_or_else(|| "/".to_owned(), |pid| format!("/proc/{pid}/root"));
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Some(root) = ok(openat(CWD, &root, flags | OFlags::DIRECTORY, Mode::empty()))? else {
        return Ok(None);
    };
    let path = Path::new(OsStr::from_bytes(sighting.path));
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let Some(fd) = ok(openat2(&root, path, flags, Mode::empty(), resolve))? else {
        return Ok(None);
    };
    let (device, inode) = sighting.device_inode;
    let proved = stat_identity(&fd).is_some_and(|(found_device, found_inode)| {
        found_inode == inode && (found_device == device || has_virtual_device(&fd))
    });
    if !proved {
        return Ok(None);
    }
    finish(sighting, &fd, pid)
}

/// Reopens a regular file for reading and checks its generation.
fn finish(
    sighting: &Sighting,
    path_fd: &OwnedFd,
    root_pid: Option<u32>,
) -> Result<Option<Opened>, OutOfFds> {
    let is_regular =
        fstat(path_fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    if !is_regular {
        return Ok(None);
    }
    let link = format!("/proc/self/fd/{}", path_fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Some(fd) = ok(openat(CWD, &link, flags, Mode::empty()))? else {
        return Ok(None);
    };
    let generation = inode_generation(&fd);
    if let (Some(expected), Some(found)) = (sighting.generation, generation)
        && expected != found
    {
        return Ok(None);
    }
    Ok(Some(Opened {
        file: File::from(fd),
        generation,
        root_pid,
    }))
}

fn stat_identity(fd: &OwnedFd) -> Option<(u64, u64)> {
    let stat = fstat(fd).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

fn has_virtual_device(fd: &OwnedFd) -> bool {
    fstatfs(fd).is_ok_and(|stat| {
        // `f_type` is a signed word of 32 significant bits.
        let magic = stat.f_type as u64 & 0xffff_ffff;
        magic == BTRFS_MAGIC || magic == OVERLAYFS_MAGIC
    })
}

/// The inode's generation: with it, a new file under a reused inode number is told from the old.
fn inode_generation(fd: &impl AsFd) -> Option<u32> {
    /// `FS_IOC_GETVERSION`, `_IOR('v', 1, long)`.
    const OPCODE: ioctl::Opcode = ioctl::opcode::read::<libc::c_long>(b'v', 1);
    // Declared as a `long`, of which file systems fill an `int`; FUSE may fill it all.
    let mut words = [0u32; 2];
    // SAFETY: the operation writes at most the `long` its opcode declares, which fits `words`.
    let done = unsafe { ioctl::ioctl(fd, ioctl::Updater::<OPCODE, [u32; 2]>::new(&mut words)) };
    done.ok().map(|()| words[0])
}

/// Separates want of descriptors, which is counted, from files that cannot be had.
fn ok<T>(result: Result<T, Errno>) -> Result<Option<T>, OutOfFds> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::MFILE | Errno::NFILE) => Err(OutOfFds),
        Err(_) => Ok(None),
    }
}
