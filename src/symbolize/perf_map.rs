//! `/tmp/perf-PID.map`: the names a JIT compiler writes down for profilers.

use std::os::fd::OwnedFd;

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
