//! A cgroup as the BPF filter wants it: the id of version 2 and its depth.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::preflight;

/// The id of a cgroup (its directory's inode number) and its level below the root, so that
/// `bpf_get_current_ancestor_cgroup_id(level) == id` holds for its tasks and those below it.
///
/// # Errors
/// When the path is no cgroup of the version 2 hierarchy.
pub fn id_and_level(path: &Path) -> Result<(u64, u32)> {
    let path = preflight::resolve_cgroup(path)?;
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot resolve {}", path.display()))?;
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot read the cgroup {}", path.display()))?;
    // The root is the last ancestor on the same file system.
    let level = path
        .ancestors()
        .skip(1)
        .take_while(|ancestor| ancestor.metadata().is_ok_and(|m| m.dev() == metadata.dev()))
        .count();
    Ok((metadata.ino(), level as u32))
}
