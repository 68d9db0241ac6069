//! tracefs, where the kernel lists its tracepoints and the functions that can be probed.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::error::Error;

/// Where it is mounted, if it is.
const MOUNTS: &[&str] = &["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A way into tracefs, as long as this lives.
#[derive(Debug)]
pub struct Tracefs {
    root: PathBuf,
    _mount: Option<OwnedFd>,
}

impl Tracefs {
    /// As it is mounted; where it is not, a mount that only this process sees and that goes with it.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] when it is not mounted and cannot be.
    pub fn open() -> Result<Self, Error> {
        let mounted = MOUNTS
            .iter()
            .find(|root| Path::new(root).join("events").is_dir());
        if let Some(root) = mounted {
            return Ok(Self {
                root: root.into(),
                _mount: None,
            });
        }
        let mount = mount_unseen().map_err(|error| Error::NotAvailable {
            problem: format!("tracefs is not mounted and cannot be ({error})"),
            remedy: "as root: mount -t tracefs tracefs /sys/kernel/tracing".into(),
        })?;
        Ok(Self {
            root: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(),
            _mount: Some(mount),
        })
    }

    /// A file or folder in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

fn mount_unseen() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}
