//! A program on one kernel function or tracepoint, through a perf event of our own: aya attaches
//! without the cookies that tell attachments apart.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, anyhow};
use aya::Ebpf;
use aya::programs::Program;
use perf_event_open_sys::bindings::perf_event_attr;

use super::syscall::{PerfLinkAttr, bpf_fd};
use super::{Bpf, explain};
use crate::error::Error;

const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PERF_EVENT: u32 = 41;
const PERF_TYPE_TRACEPOINT: u32 = 2;

/// Keeps a program attached; dropping it detaches.
#[derive(Debug)]
pub struct Link(#[expect(dead_code, reason = "held open")] pub(super) Vec<OwnedFd>);

impl Bpf {
    /// Verifies a program for kernel functions, user functions or tracepoints, which
    /// [`Bpf::link_function`], [`Bpf::attach_uprobe`] or [`Bpf::link_tracepoint`] then attaches.
    ///
    /// # Errors
    /// When the verifier refuses it.
    pub fn load_probe(&mut self, name: &str) -> Result<()> {
        let load = |ebpf: &mut Ebpf| -> Result<()> {
            let program = ebpf.program_mut(name);
            match program.ok_or_else(|| anyhow!("no BPF program {name}"))? {
                Program::KProbe(program) => program.load()?,
                Program::UProbe(program) => program.load()?,
                Program::TracePoint(program) => program.load()?,
                other => return Err(anyhow!("{name} is a {:?}", other.prog_type())),
            }
            Ok(())
        };
        load(&mut self.ebpf).map_err(|error| explain(error, &format!("loading {name}")))
    }

    /// Attaches a loaded program to the entry of a kernel function. Cookies need 5.15.
    ///
    /// # Errors
    /// When the kernel refuses: not every function can be probed.
    pub fn link_function(
        &mut self,
        program: &str,
        function: &str,
        cookie: Option<u64>,
    ) -> Result<Link> {
        let program = self.program_fd(program)?;
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
    pub fn link_tracepoint(&mut self, program: &str, id: u64, cookie: Option<u64>) -> Result<Link> {
        let program = self.program_fd(program)?;
        let mut attr = perf_event_attr {
            type_: PERF_TYPE_TRACEPOINT,
            config: id,
            ..perf_event_attr::default()
        };
        link(program, &mut attr, cookie)
            .with_context(|| format!("cannot attach to tracepoint {id}"))
    }

    fn program_fd(&self, name: &str) -> Result<RawFd> {
        let program = self.ebpf.program(name);
        let program = program.ok_or_else(|| anyhow!("no BPF program {name}"))?;
        Ok(program.fd()?.as_fd().as_raw_fd())
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

fn link(program: RawFd, attr: &mut perf_event_attr, cookie: Option<u64>) -> io::Result<Link> {
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
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let event = unsafe { OwnedFd::from_raw_fd(event) };
    let Some(cookie) = cookie else {
        // SAFETY: both descriptors are open for the call.
        let result = unsafe {
            perf_event_open_sys::ioctls::SET_BPF(event.as_raw_fd(), program.cast_unsigned())
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        return Ok(Link(vec![event]));
    };
    let mut attr = PerfLinkAttr {
        program: program.cast_unsigned(),
        target: event.as_raw_fd().cast_unsigned(),
        attach_type: BPF_PERF_EVENT,
        cookie,
        ..PerfLinkAttr::default()
    };
    Ok(Link(vec![bpf_fd(BPF_LINK_CREATE, &mut attr)?, event]))
}
