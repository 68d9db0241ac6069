//! Opening files under a process's root directory, where everything may be planted.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};

/// What the last component of a path may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// A symbolic link is followed, inside the root.
    Follow,
    /// A symbolic link is refused.
    Refuse,
}

/// Opens a regular file below `root` (`None`: our own) for reading.
///
/// The path is resolved as the process itself would resolve it (`RESOLVE_IN_ROOT`), so no link
/// leads out of a container. The file is looked at before it is opened: opening a FIFO would
/// wait for a writer, opening a device may do anything. `accept` sees the owner's uid.
pub fn open_regular(
    root: Option<BorrowedFd<'_>>,
    path: &Path,
    last: LastLink,
    accept: impl FnOnce(u32) -> bool,
) -> io::Result<File> {
    let own_root;
    let root = if let Some(root) = root {
        root
    } else {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        own_root = rustix::fs::openat(CWD, "/", flags, Mode::empty())?;
        own_root.as_fd()
    };
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    if last == LastLink::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let handle: OwnedFd = rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&handle)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file"));
    }
    if !accept(stat.st_uid) {
        return Err(io::Error::other("belongs to another user"));
    }
    // The handle names the very file just looked at.
    let handle_path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    Ok(rustix::fs::open(handle_path, flags, Mode::empty())?.into())
}
