//! Whole maps in a few system calls.
//!
//! Reading 65 536 entries key by key takes ten times as long as `BPF_MAP_LOOKUP_BATCH`
//! (kernel 5.6), which aya does not offer.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

use super::syscall::{BatchAttr, ElementAttr, bpf};

const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
/// Entries of one call; a bucket of the kernel's hash table must fit.
const ENTRIES_PER_CALL: u32 = 4096;

/// Every entry of a hash map. `K` and `V` must have the map's key and value sizes.
pub(super) fn read_all<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    // Untouched pages cost nothing: 4096 deep stacks would be 16 MB, and few are ever filled.
    let mut keys = Box::<[K]>::new_uninit_slice(ENTRIES_PER_CALL as usize);
    let mut values = Box::<[V]>::new_uninit_slice(ENTRIES_PER_CALL as usize);
    // The kernel's cursor: a bucket's number, or a key in arrays.
    let mut cursor = [0_u8; 256];
    let mut entries = Vec::new();
    let mut first = true;
    loop {
        let mut attr = BatchAttr {
            in_batch: if first { 0 } else { cursor.as_ptr() as u64 },
            out_batch: cursor.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ENTRIES_PER_CALL,
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        let done = match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let filled = attr.count.min(ENTRIES_PER_CALL) as usize;
        entries.extend(keys.iter().zip(&values).take(filled).map(|(key, value)| {
            // SAFETY: the kernel filled the first `count` keys and values; both are plain data.
            unsafe { (key.assume_init(), value.assume_init()) }
        }));
        if done {
            return Ok(entries);
        }
        first = false;
    }
}

/// Removes entries; a key that is not there is no error. `K` must have the map's key size.
pub(super) fn remove_all<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        let count = rest.len().min(ENTRIES_PER_CALL as usize);
        let mut attr = BatchAttr {
            keys: rest.as_ptr() as u64,
            count: count as u32,
            map_fd: map.as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        let removed = match bpf(BPF_MAP_DELETE_BATCH, &mut attr) {
            Ok(_) => count,
            // The call stopped at a key that is not there.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => attr.count as usize + 1,
            Err(error) => return Err(error),
        };
        rest = rest.get(removed..).unwrap_or_default();
    }
    Ok(())
}

/// Whether a hash map has no entries.
pub(super) fn is_empty(map: BorrowedFd<'_>) -> io::Result<bool> {
    let mut key = [0_u8; 256];
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        value_or_next_key: key.as_mut_ptr() as u64,
        ..ElementAttr::default()
    };
    match bpf(BPF_MAP_GET_NEXT_KEY, &mut attr) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(true),
        Err(error) => Err(error),
    }
}
