//! What the ZFS tools share. OpenZFS on Linux has no tracepoints, and its types are not those of
//! the kernel, so every hook is a kprobe on a function of its module.

use std::path::Path;

use crate::error::Error;

/// What to use where the kernel refuses kprobes.
pub const INSTEAD: &str = "use a kernel built with CONFIG_KPROBES that lets root use them; \
                           without them /proc/spl/kstat/zfs, `arcstat` and `zpool iostat -lw` have \
                           totals";

/// Whether the module is there at all: without it no hook exists, and that says little.
///
/// # Errors
/// [`Error::NotAvailable`] when it is not.
pub fn require() -> Result<(), Error> {
    if Path::new("/sys/module/zfs").exists() {
        return Ok(());
    }
    Err(Error::NotAvailable {
        problem: "ZFS is not loaded on this machine".to_owned(),
        remedy: "run `modprobe zfs` where it is installed; other file systems: `flame vfslat`, \
                 `flame cachestat`, `flame biolatency`"
            .to_owned(),
    })
}
