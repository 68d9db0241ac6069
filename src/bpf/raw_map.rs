//! The few `bpf(2)` map commands that the loader's crate does not have.
//!
//! The attribute structs are the leading members of `union bpf_attr`
//! (`include/uapi/linux/bpf.h`); the kernel takes the rest as zero.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::syscall::{BatchAttr, ElementAttr, bpf, bpf_fd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_INNER_MAP: u32 = 1 << 12;

/// Returned by the kernel for a command that the map's type does not have; not in libc.
const ENOTSUPP: i32 = 524;

#[repr(C)]
#[derive(Default)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// Creates an array that can be mapped into memory and put into an array of maps.
pub fn create_inner_array(name: [u8; 16], value_size: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attr = CreateAttr {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size,
        max_entries: entries,
        map_flags: BPF_F_MMAPABLE | BPF_F_INNER_MAP,
        map_name: name,
        ..CreateAttr::default()
    };
    bpf_fd(BPF_MAP_CREATE, &mut attr)
}

/// Sets one element of a map whose keys are 32-bit. `V` is laid out as the map's value.
pub fn update<V: Copy>(map: BorrowedFd<'_>, key: u32, value: &V) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: (&raw const key) as u64,
        value_or_next_key: std::ptr::from_ref(value) as u64,
        ..ElementAttr::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Removes an element; one that is not there is no error.
pub fn delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: (&raw const key) as u64,
        ..ElementAttr::default()
    };
    match bpf(BPF_MAP_DELETE_ELEM, &mut attr) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}

/// Puts maps into an array of maps. At once where the kernel can: it waits for a grace period
/// (some 20 ms) per command, not per element.
pub fn update_array_of_maps(map: BorrowedFd<'_>, keys: &[u32], fds: &[OwnedFd]) -> io::Result<()> {
    assert_eq!(keys.len(), fds.len(), "a key for each map");
    if keys.is_empty() {
        return Ok(());
    }
    let values: Vec<u32> = fds.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    match bpf(BPF_MAP_UPDATE_BATCH, &mut attr) {
        Err(error) if matches!(error.raw_os_error(), Some(ENOTSUPP | libc::EINVAL)) => keys
            .iter()
            .zip(&values)
            .try_for_each(|(key, value)| update(map, *key, value)),
        other => other.map(drop),
    }
}
