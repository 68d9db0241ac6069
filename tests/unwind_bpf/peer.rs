//! framehop over the same stacks: an unwinder that shares no code with ours but gimli's reader.

use framehop::x86_64::{CacheX86_64, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{Error, ExplicitModuleSectionInfo, Module, Unwinder};
use object::{Object, ObjectSection};

/// What framehop knows of a process.
#[derive(Default)]
pub struct Peer {
    unwinder: UnwinderX86_64<Vec<u8>>,
}

impl Peer {
    /// Adds an executable mapping of an ELF file.
    pub fn add(&mut self, elf: &object::File, mapping: std::ops::Range<u64>, bias: u64) {
        let range = |name| {
            let section = elf.section_by_name(name)?;
            Some(section.address()..section.address() + section.size())
        };
        let data = |name| Some(elf.section_by_name(name)?.data().ok()?.to_vec());
        let sections = ExplicitModuleSectionInfo {
            base_svma: 0,
            text_svma: range(".text"),
            text: data(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: data(".eh_frame"),
            eh_frame_hdr_svma: range(".eh_frame_hdr"),
            eh_frame_hdr: data(".eh_frame_hdr"),
            ..ExplicitModuleSectionInfo::default()
        };
        let module = Module::new(String::new(), mapping, bias, sections);
        self.unwinder.add_module(module);
    }

    /// The addresses it finds, leaf first, and the error that ended the walk, if one did.
    pub fn walk(
        &self,
        (pc, sp, fp): (u64, u64, u64),
        read: impl Fn(u64) -> Option<u64>,
    ) -> (Vec<u64>, Option<Error>) {
        let mut cache = CacheX86_64::new();
        let mut read = |address| read(address).ok_or(());
        let registers = UnwindRegsX86_64::new(pc, sp, fp);
        let mut frames = self
            .unwinder
            .iter_frames(pc, registers, &mut cache, &mut read);
        let mut addresses = Vec::new();
        loop {
            match frames.next() {
                Ok(Some(frame)) => addresses.push(frame.address()),
                Ok(None) => return (addresses, None),
                Err(error) => return (addresses, Some(error)),
            }
        }
    }
}
