//! A program on many kernel functions by one link (kprobe.multi: 5.18, `CONFIG_FPROBE`).
//!
//! One by one, hundreds of functions take the kernel seconds: each is patched apart. aya has
//! neither the link nor the attach type that a program for it must be loaded with, so the object is
//! taken apart once more here, and the instructions are wired to the maps that are there already.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use rustix::io::Errno;

use super::syscall::{MultiLinkAttr, ProgramAttr, bpf_fd};
use super::{Bpf, Link, map_data, object};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_TRACE_KPROBE_MULTI: u32 = 42;

/// What came of an attempt on many functions.
#[derive(Debug, Default)]
pub struct MultiLink {
    /// Keeps the program attached.
    pub links: Vec<Link>,
    /// Indexes of functions that cannot be probed this way, and the kernel's answer.
    pub refused: Vec<(usize, io::Error)>,
}

impl Bpf {
    /// Attaches a `kprobe` program of `mode`'s object to all `functions`; the cookie is the index.
    ///
    /// # Errors
    /// When this kernel does not do that at all.
    pub fn link_functions(
        &self,
        mode: &str,
        program: &str,
        functions: &[String],
    ) -> Result<MultiLink> {
        let program = self.load_for_multi(mode, program)?;
        let mut names = Vec::new();
        for (index, function) in functions.iter().enumerate() {
            names.push((index, CString::new(function.as_str())?));
        }
        let mut result = MultiLink::default();
        link_or_split(program.as_fd(), &names, &mut result)?;
        Ok(result)
    }

    fn load_for_multi(&self, mode: &str, program: &str) -> Result<OwnedFd> {
        let bytes = object(mode).ok_or_else(|| anyhow!("this build has no BPF object {mode}"))?;
        let btf = self.btf.as_ref().context(super::ATTACHED)?;
        let mut object = aya_obj::Object::parse(bytes)?;
        object.relocate_btf(btf)?;
        let maps = std::mem::take(&mut object.maps);
        let mut descriptors = Vec::new();
        for (name, map) in &maps {
            let fd = map_data(self.map(name)?)?.fd().as_fd().as_raw_fd();
            descriptors.push((name.as_str(), fd, map));
        }
        let sections: HashSet<usize> = object.functions.keys().map(|key| key.0).collect();
        object.relocate_maps(descriptors.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        let found = object.programs.get(program);
        let found = found.ok_or_else(|| anyhow!("no BPF program {program}"))?;
        let function = object.functions.get(&found.function_key());
        let function = function.ok_or_else(|| anyhow!("no code of {program}"))?;
        let mut attr = ProgramAttr {
            program_type: BPF_PROG_TYPE_KPROBE,
            instruction_count: function.instructions.len() as u32,
            instructions: function.instructions.as_ptr() as u64,
            license: found.license.as_ptr() as u64,
            expected_attach_type: BPF_TRACE_KPROBE_MULTI,
            ..ProgramAttr::default()
        };
        bpf_fd(BPF_PROG_LOAD, &mut attr).context("the verifier refuses the program")
    }
}

/// One function that cannot be probed makes the kernel refuse all of a link's: then the halves are
/// tried, down to the one.
fn link_or_split(
    program: BorrowedFd<'_>,
    names: &[(usize, CString)],
    result: &mut MultiLink,
) -> Result<()> {
    let error = match link(program, names) {
        Ok(link) => {
            result.links.push(Link(vec![link]));
            return Ok(());
        }
        Err(error) => error,
    };
    let of_a_name = [Errno::INVAL, Errno::SRCH, Errno::NOENT, Errno::BUSY];
    if !Errno::from_io_error(&error).is_some_and(|errno| of_a_name.contains(&errno)) {
        return Err(error).context("the kernel makes no link of many functions");
    }
    if let [(index, _)] = names {
        result.refused.push((*index, error));
        return Ok(());
    }
    let (left, right) = names.split_at(names.len() / 2);
    link_or_split(program, left, result)?;
    link_or_split(program, right, result)
}

fn link(program: BorrowedFd<'_>, names: &[(usize, CString)]) -> io::Result<OwnedFd> {
    let symbols: Vec<u64> = names.iter().map(|(_, name)| name.as_ptr() as u64).collect();
    let cookies: Vec<u64> = names.iter().map(|(index, _)| *index as u64).collect();
    let mut attr = MultiLinkAttr {
        program: program.as_raw_fd().cast_unsigned(),
        attach_type: BPF_TRACE_KPROBE_MULTI,
        count: names.len() as u32,
        symbols: symbols.as_ptr() as u64,
        cookies: cookies.as_ptr() as u64,
        ..MultiLinkAttr::default()
    };
    bpf_fd(BPF_LINK_CREATE, &mut attr)
}
