//! Verifying a program and putting it on a hook. A program is loaded here and not before, so that
//! of several made for one purpose only the one that this kernel has a hook for is verified.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope};
use aya::programs::{FEntry, FExit, Iter, KProbe, RawTracePoint, TracePoint, UProbe};

use super::{Bpf, explain, typed_program};

/// A place in the kernel where a program can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// A tracepoint whose arguments are typed by BTF (5.5).
    TpBtf(&'static str),
    /// The same tracepoint with its arguments as plain numbers (4.17).
    RawTp(&'static str),
    /// A tracepoint in its documented format: category and name.
    Tracepoint(&'static str, &'static str),
    /// The entry of a kernel function, by breakpoint or ftrace.
    Kprobe(&'static str),
    /// The return of a kernel function.
    Kretprobe(&'static str),
    /// The entry of a kernel function, by trampoline (5.5).
    Fentry(&'static str),
    /// The return of a kernel function, by trampoline (5.5).
    Fexit(&'static str),
}

impl std::fmt::Display for Hook {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TpBtf(name) => write!(formatter, "tp_btf:{name}"),
            Self::RawTp(name) => write!(formatter, "raw_tp:{name}"),
            Self::Tracepoint(category, name) => write!(formatter, "tracepoint:{category}:{name}"),
            Self::Kprobe(name) => write!(formatter, "kprobe:{name}"),
            Self::Kretprobe(name) => write!(formatter, "kretprobe:{name}"),
            Self::Fentry(name) => write!(formatter, "fentry:{name}"),
            Self::Fexit(name) => write!(formatter, "fexit:{name}"),
        }
    }
}

impl Bpf {
    /// Verifies a program and attaches it to `hook`.
    ///
    /// # Errors
    /// When the kernel lacks the hook, refuses it, or the verifier refuses the program.
    pub fn attach(&mut self, program: &str, hook: Hook) -> Result<()> {
        if let Hook::TpBtf(name) = hook {
            return self.attach_tp_btf(program, name);
        }
        let btf = self.btf.as_ref().context(super::ATTACHED)?;
        let attach = |ebpf: &mut Ebpf| -> Result<()> {
            match hook {
                Hook::TpBtf(_) => {}
                Hook::RawTp(name) => {
                    let program: &mut RawTracePoint = typed_program(ebpf, program)?;
                    program.load()?;
                    program.attach(name)?;
                }
                Hook::Tracepoint(category, name) => {
                    let program: &mut TracePoint = typed_program(ebpf, program)?;
                    if program.fd().is_err() {
                        program.load()?;
                    }
                    program.attach(category, name)?;
                }
                Hook::Kprobe(name) | Hook::Kretprobe(name) => {
                    let program: &mut KProbe = typed_program(ebpf, program)?;
                    // Loaded already when another way's function was not there.
                    if program.fd().is_err() {
                        program.load()?;
                    }
                    program.attach(name, 0)?;
                }
                Hook::Fentry(name) => {
                    let program: &mut FEntry = typed_program(ebpf, program)?;
                    program.load(name, btf)?;
                    program.attach()?;
                }
                Hook::Fexit(name) => {
                    let program: &mut FExit = typed_program(ebpf, program)?;
                    program.load(name, btf)?;
                    program.attach()?;
                }
            }
            Ok(())
        };
        attach(&mut self.ebpf).map_err(|error| explain(error, &format!("attaching to {hook}")))
    }

    /// Attaches a loaded program to the instruction at `file_offset` of `file`, in all processes.
    /// The program reads the cookie with `bpf_get_attach_cookie`; with one it needs 5.15.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach_uprobe(
        &mut self,
        program: &str,
        file: &Path,
        file_offset: u64,
        cookie: Option<u64>,
    ) -> Result<()> {
        let program: &mut UProbe = typed_program(&mut self.ebpf, program)?;
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(file_offset),
            cookie,
        };
        program.attach(point, file, UProbeScope::AllProcesses)?;
        Ok(())
    }

    /// Runs an iterator program over all of the kernel's objects of its kind, once.
    ///
    /// # Errors
    /// When the kernel lacks the iterator (5.8) or the verifier refuses the program.
    pub fn iterate(&mut self, program: &str, kind: &str) -> Result<()> {
        let btf = self.btf.as_ref().context(super::ATTACHED)?;
        let run = |ebpf: &mut Ebpf| -> Result<()> {
            let iterator: &mut Iter = typed_program(ebpf, program)?;
            iterator.load(kind, btf)?;
            let link = iterator.attach()?;
            let mut file: File = iterator.take_link(link)?.into_file()?;
            // The program writes nothing; reading to the end is what runs it.
            file.read_to_end(&mut Vec::new())?;
            Ok(())
        };
        run(&mut self.ebpf).map_err(|error| explain(error, &format!("iterating over each {kind}")))
    }
}
