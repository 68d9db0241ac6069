//! The files whose code was sampled, each held open from the moment it was first seen.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A module's place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// A file with executable mappings.
#[derive(Debug)]
pub struct Module {
    /// The path as the process saw it; untrusted, for display and for finding debug files.
    pub path: PathBuf,
    /// Device and inode of the mapped file.
    pub device_inode: (u64, u64),
    /// The very file that is mapped, opened through `map_files` or checked against
    /// `device_inode`; `None` when it could not be had.
    pub file: Option<File>,
    /// The root directory of a process that mapped it (`/proc/PID/root`, `O_PATH`): debug files
    /// of a container are looked for there. `None` for our own root.
    pub root: Option<Arc<OwnedFd>>,
}
