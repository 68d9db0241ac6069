//! `bpf(2)` itself, for the map commands that aya does not have.
//!
//! The attribute structs are members of `union bpf_attr` (`include/uapi/linux/bpf.h`); the kernel
//! takes the rest of the union as zero.

use std::io;

/// The single-element member.
#[repr(C)]
#[derive(Default)]
pub(crate) struct ElementAttr {
    pub map_fd: u32,
    pub padding: u32,
    pub key: u64,
    pub value_or_next_key: u64,
    pub flags: u64,
}

/// The `batch` member.
#[repr(C)]
#[derive(Default)]
pub(crate) struct BatchAttr {
    pub in_batch: u64,
    pub out_batch: u64,
    pub keys: u64,
    pub values: u64,
    pub count: u32,
    pub map_fd: u32,
    pub elem_flags: u64,
    pub flags: u64,
}

/// Runs a command. `attr` must be laid out like the union's member for it, and its pointers must be
/// valid for the lengths that the kernel derives from the map and from counts in it.
pub(crate) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a live struct of the size given; its layout and pointers are the callers'
    // promise, who build both from references that outlive this call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
