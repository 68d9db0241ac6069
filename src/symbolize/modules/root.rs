//! Root directories of processes in containers, one descriptor for all of a container.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, fstat, openat, stat};

/// A root directory: which one, and in which mount namespace. A new namespace often starts with
/// the same root directory, but with other mounts below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RootIdentity {
    mount_namespace: (u64, u64),
    directory: (u64, u64),
}

/// The roots that differ from our own.
#[derive(Debug)]
pub struct Roots {
    own: Option<RootIdentity>,
    others: HashMap<RootIdentity, Arc<OwnedFd>>,
}

impl Roots {
    pub fn new() -> Self {
        let own = namespace("self").and_then(|mount_namespace| {
            let root = stat("/").ok()?;
            Some(RootIdentity {
                mount_namespace,
                directory: (root.st_dev, root.st_ino),
            })
        });
        Self {
            own,
            others: HashMap::new(),
        }
    }

    /// The root of a process; `None` when it is our own, or the process is gone.
    pub fn of_process(&mut self, pid: u32) -> Option<Arc<OwnedFd>> {
        let mount_namespace = namespace(&pid.to_string())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
        let directory = fstat(&root).ok()?;
        let directory = (directory.st_dev, directory.st_ino);
        let identity = RootIdentity {
            mount_namespace,
            directory,
        };
        if self.own == Some(identity) {
            return None;
        }
        Some(Arc::clone(
            self.others
                .entry(identity)
                .or_insert_with(|| Arc::new(root)),
        ))
    }
}

fn namespace(pid: &str) -> Option<(u64, u64)> {
    let stat = stat(format!("/proc/{pid}/ns/mnt")).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
