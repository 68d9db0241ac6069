//! `bpf(2)` itself, for the commands and variants that aya does not have.
//!
//! The attribute structs are members of `union bpf_attr` (`include/uapi/linux/bpf.h`); the kernel
//! takes the rest of the union as zero.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

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

/// `BPF_PROG_LOAD`, up to the last field that is used.
#[repr(C)]
#[derive(Default)]
pub(crate) struct ProgramAttr {
    pub program_type: u32,
    pub instruction_count: u32,
    pub instructions: u64,
    pub license: u64,
    pub log_level: u32,
    pub log_size: u32,
    pub log: u64,
    pub kernel_version: u32,
    pub flags: u32,
    pub name: [u8; 16],
    pub interface_index: u32,
    pub expected_attach_type: u32,
}

/// `link_create` for a perf event.
#[repr(C)]
#[derive(Default)]
pub(crate) struct PerfLinkAttr {
    pub program: u32,
    pub target: u32,
    pub attach_type: u32,
    pub flags: u32,
    pub cookie: u64,
}

/// `link_create` for many functions at once.
#[repr(C)]
#[derive(Default)]
pub(crate) struct MultiLinkAttr {
    pub program: u32,
    pub target: u32,
    pub attach_type: u32,
    pub flags: u32,
    pub multi_flags: u32,
    pub count: u32,
    pub symbols: u64,
    pub addresses: u64,
    pub cookies: u64,
}

/// Runs a command that gives a descriptor; the promise is that of [`bpf`].
pub(crate) fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let descriptor = bpf(command, attr)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
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
