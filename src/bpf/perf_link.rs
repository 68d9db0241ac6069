//! A program on a kernel function or a tracepoint, with a cookie that tells attachments apart:
//! a perf event and a link of our own, since aya attaches without cookies there.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::{KProbe, TracePoint};
use perf_event_open_sys::bindings::perf_event_attr;

use super::{Bpf, explain, typed_program};
use crate::error::Error;

const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PERF_EVENT: u32 = 41;
const PERF_TYPE_TRACEPOINT: u32 = 2;

/// The `link_create` part of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    cookie: u64,
}

/// Keeps a program attached; dropping it detaches.
#[derive(Debug)]
pub struct PerfLink {
    _link: OwnedFd,
    _event: OwnedFd,
}

impl Bpf {
    /// Verifies a program for kernel functions; [`Bpf::link_function`] then attaches it.
    ///
    /// # Errors
    /// When the verifier refuses it.
    pub fn load_kprobe(&mut self, program: &str) -> Result<()> {
        let load = |ebpf: &mut Ebpf| -> Result<()> {
            let program: &mut KProbe = typed_program(ebpf, program)?;
            Ok(program.load()?)
        };
        load(&mut self.ebpf).map_err(|error| explain(error, "loading the program of functions"))
    }

    /// Verifies a program for tracepoints; [`Bpf::link_tracepoint`] then attaches it.
    ///
    /// # Errors
    /// When the verifier refuses it.
    pub fn load_tracepoint(&mut self, program: &str) -> Result<()> {
        let load = |ebpf: &mut Ebpf| -> Result<()> {
            let program: &mut TracePoint = typed_program(ebpf, program)?;
            Ok(program.load()?)
        };
        load(&mut self.ebpf).map_err(|error| explain(error, "loading the program of tracepoints"))
    }

    /// Attaches a loaded program to the entry of a kernel function.
    ///
    /// # Errors
    /// When the kernel refuses: not every function can be probed.
    pub fn link_function(
        &mut self,
        program: &str,
        function: &str,
        cookie: u64,
    ) -> Result<PerfLink> {
        let program: &mut KProbe = typed_program(&mut self.ebpf, program)?;
        let program = program.fd()?.as_fd().as_raw_fd();
        let name = CString::new(function)?;
        let mut attr = perf_event_attr {
            type_: kprobe_type()?,
            ..perf_event_attr::default()
        };
        attr.__bindgen_anon_3.kprobe_func = name.as_ptr() as u64;
        link(program, &mut attr, cookie).with_context(|| format!("cannot attach to {function}"))
    }

    /// Attaches a loaded program to the tracepoint with this number (its `id` in tracefs).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn link_tracepoint(&mut self, program: &str, id: u64, cookie: u64) -> Result<PerfLink> {
        let program: &mut TracePoint = typed_program(&mut self.ebpf, program)?;
        let program = program.fd()?.as_fd().as_raw_fd();
        let mut attr = perf_event_attr {
            type_: PERF_TYPE_TRACEPOINT,
            config: id,
            ..perf_event_attr::default()
        };
        link(program, &mut attr, cookie)
            .with_context(|| format!("cannot attach to tracepoint {id}"))
    }
}

/// The number of the kernel's kprobe events (4.17).
fn kprobe_type() -> Result<u32> {
    let path = "/sys/bus/event_source/devices/kprobe/type";
    let text = fs::read_to_string(path).map_err(|_| Error::NotAvailable {
        problem: "this kernel cannot probe its functions (kprobes as perf events: 4.17 and later, \
                  CONFIG_KPROBE_EVENTS)"
            .into(),
        remedy: "count tracepoints (t:CATEGORY:EVENT) or user functions (LIBRARY:FUNCTION, \
                 /PATH:FUNCTION) instead"
            .into(),
    })?;
    Ok(text.trim().parse()?)
}

fn link(program: RawFd, attr: &mut perf_event_attr, cookie: u64) -> io::Result<PerfLink> {
    attr.size = size_of::<perf_event_attr>() as u32;
    // One event sees the calls on all CPUs: the program runs before the CPU is looked at.
    // SAFETY: `attr` is initialised, and the name it may point to is alive in the caller.
    let event = unsafe {
        perf_event_open_sys::perf_event_open(
            attr,
            -1,
            0,
            -1,
            u64::from(perf_event_open_sys::bindings::PERF_FLAG_FD_CLOEXEC),
        )
    };
    let event = owned(event.into())?;
    let mut attr = LinkAttr {
        program: program.cast_unsigned(),
        target: event.as_raw_fd().cast_unsigned(),
        attach_type: BPF_PERF_EVENT,
        cookie,
        ..LinkAttr::default()
    };
    // SAFETY: `attr` is laid out like the union's member for this command.
    let link = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw mut attr,
            size_of::<LinkAttr>(),
        )
    };
    Ok(PerfLink {
        _link: owned(link)?,
        _event: event,
    })
}

fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}
