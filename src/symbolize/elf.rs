//! What we ourselves need from an ELF file: the way from file offsets to addresses, where code
//! is, who the file is, and what it has to offer.
//!
//! Everything here reads hostile bytes through `object`, which checks every access.

use std::ops::Range;

use object::elf;
use object::read::elf::{CompressionHeader, ElfFile, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, FileKind, Object, ObjectSection};

/// More section or program headers than this are not looked at: real files have tens, and
/// `-ffunction-sections` objects are never mapped.
const HEADERS_MAX: usize = 10_000;

/// A loadable segment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Load {
    vaddr: u64,
    offset: u64,
    file_size: u64,
    executable: bool,
}

/// A section of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeSection {
    /// Its name, `.text` or `.plt.sec`.
    pub name: String,
    /// Virtual addresses.
    pub addresses: Range<u64>,
}

/// A summary of one ELF file.
// Each flag is the answer to one question about the file; they are not states of anything.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    loads: Vec<Load>,
    /// Sorted by address; empty when the file has no section headers.
    pub code: Vec<CodeSection>,
    /// `NT_GNU_BUILD_ID`; empty when there is none.
    pub build_id: Vec<u8>,
    /// `.gnu_debuglink`: a file name and the CRC-32 of that file.
    pub debug_link: Option<(Vec<u8>, u32)>,
    /// Virtual address of `.eh_frame_hdr`.
    pub eh_frame_hdr: Option<u64>,
    /// Virtual addresses of `.eh_frame`, if there are section headers to tell.
    pub eh_frame: Option<Range<u64>>,
    /// Size of an address in the file's code: 4 or 8.
    pub address_bytes: u8,
    /// Has a full symbol table.
    pub has_symtab: bool,
    /// Has DWARF.
    pub has_dwarf: bool,
    /// Has a compressed section, MiniDebugInfo included.
    pub has_compressed: bool,
    /// How large all its compressed sections say they are, in bytes. (MiniDebugInfo does not say.)
    pub unpacked_bytes: u64,
    /// Has MiniDebugInfo: an LZMA-compressed ELF file with a symbol table.
    pub has_mini_debug_info: bool,
    /// Refers to other files by name: `.gnu_debuglink`, `.gnu_debugaltlink`, `.debug_sup`.
    pub has_links: bool,
    /// Was built by the Go tool chain.
    pub is_go: bool,
}

impl Image {
    /// Reads the headers; `None` when this is no ELF file for this machine's byte order or its
    /// headers lie.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        match FileKind::parse(data).ok()? {
            FileKind::Elf64 => Self::read::<elf::FileHeader64<Endianness>>(data, 8),
            FileKind::Elf32 => Self::read::<elf::FileHeader32<Endianness>>(data, 4),
            _ => None,
        }
    }

    fn read<E: FileHeader<Endian = Endianness>>(data: &[u8], address_bytes: u8) -> Option<Self> {
        let header = E::parse(data).ok()?;
        let endian = header.endian().ok()?;
        if endian != Endianness::default() {
            return None;
        }
        let mut image = Self {
            address_bytes,
            ..Self::default()
        };
        for segment in header
            .program_headers(endian, data)
            .ok()?
            .iter()
            .take(HEADERS_MAX)
        {
            match segment.p_type(endian) {
                elf::PT_LOAD => image.loads.push(Load {
                    vaddr: segment.p_vaddr(endian).into(),
                    offset: segment.p_offset(endian).into(),
                    file_size: segment.p_filesz(endian).into(),
                    executable: segment.p_flags(endian) & elf::PF_X != 0,
                }),
                elf::PT_GNU_EH_FRAME => image.eh_frame_hdr = Some(segment.p_vaddr(endian).into()),
                _ => {}
            }
        }
        // A file may live without sections; its segments are enough to place its code.
        if let Ok(file) = ElfFile::<E>::parse(data) {
            image.read_sections(&file);
        }
        Some(image)
    }

    fn read_sections<E: FileHeader<Endian = Endianness>>(&mut self, file: &ElfFile<'_, E>) {
        self.build_id = file.build_id().ok().flatten().unwrap_or_default().to_vec();
        self.debug_link = file
            .gnu_debuglink()
            .ok()
            .flatten()
            .map(|(name, crc)| (name.to_vec(), crc));
        let endian = file.endian();
        for section in file.sections().take(HEADERS_MAX) {
            let header = section.elf_section_header();
            let flags: u64 = header.sh_flags(endian).into();
            let has_data = header.sh_type(endian) != elf::SHT_NOBITS;
            let Ok(name) = section.name() else { continue };
            if flags & u64::from(elf::SHF_EXECINSTR) != 0 && section.size() > 0 {
                let end = section.address().saturating_add(section.size());
                let addresses = section.address()..end;
                self.code.push(CodeSection {
                    name: name.to_owned(),
                    addresses,
                });
            }
            if name == ".eh_frame" && has_data {
                let end = section.address().saturating_add(section.size());
                self.eh_frame = Some(section.address()..end);
            }
            self.has_symtab |= header.sh_type(endian) == elf::SHT_SYMTAB && section.size() > 0;
            self.has_dwarf |= name == ".debug_info" && has_data && section.size() > 0;
            self.has_mini_debug_info |= name == ".gnu_debugdata" && has_data;
            if let Ok(Some((packed, _, _))) = header.compression(endian, file.data()) {
                let bytes: u64 = packed.ch_size(endian).into();
                self.unpacked_bytes = self.unpacked_bytes.saturating_add(bytes);
            }
            self.has_compressed |= has_data
                && (flags & u64::from(elf::SHF_COMPRESSED) != 0 || name == ".gnu_debugdata");
            self.has_links |=
                matches!(name, ".gnu_debuglink" | ".gnu_debugaltlink" | ".debug_sup") && has_data;
            self.is_go |= matches!(name, ".gopclntab" | ".go.buildinfo");
        }
        self.code.sort_by_key(|section| section.addresses.start);
    }

    /// The virtual address that a file offset is loaded at. Code segments win over others that
    /// share a page of the file with them.
    #[must_use]
    pub fn vaddr(&self, file_offset: u64) -> Option<u64> {
        let holds = |load: &&Load| {
            file_offset
                .checked_sub(load.offset)
                .is_some_and(|within| within < load.file_size)
        };
        let code = self.loads.iter().filter(|load| load.executable).find(holds);
        let load = code.or_else(|| self.loads.iter().find(holds))?;
        (file_offset - load.offset).checked_add(load.vaddr)
    }

    /// The section of code that holds a virtual address.
    #[must_use]
    pub fn code_section(&self, vaddr: u64) -> Option<&CodeSection> {
        let after = self
            .code
            .partition_point(|section| section.addresses.start <= vaddr);
        let section = self.code.get(after.checked_sub(1)?)?;
        section.addresses.contains(&vaddr).then_some(section)
    }

    /// Whether code at both addresses may belong to one function: both in one section, or in
    /// one segment when the file has no sections.
    #[must_use]
    pub fn same_code_section(&self, first: u64, second: u64) -> bool {
        if self.code.is_empty() {
            let load = |vaddr: u64| {
                self.loads.iter().position(|load| {
                    load.executable && vaddr.wrapping_sub(load.vaddr) < load.file_size
                })
            };
            return load(first).is_some() && load(first) == load(second);
        }
        match (self.code_section(first), self.code_section(second)) {
            (Some(first), Some(second)) => first.addresses == second.addresses,
            _ => false,
        }
    }

    /// The bytes of the segment that a virtual address is in, from that address on.
    #[must_use]
    pub fn bytes_at<'data>(&self, data: &'data [u8], vaddr: u64) -> Option<&'data [u8]> {
        let load = self.loads.iter().find(|load| {
            vaddr
                .checked_sub(load.vaddr)
                .is_some_and(|at| at < load.file_size)
        })?;
        let start = load.offset.checked_add(vaddr - load.vaddr)?;
        let end = load
            .offset
            .checked_add(load.file_size)?
            .min(data.len() as u64);
        data.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shared_by_two_segments_belongs_to_the_code() {
        let load = |vaddr, offset, file_size, executable| Load {
            vaddr,
            offset,
            file_size,
            executable,
        };
        let image = Image {
            loads: vec![
                load(0, 0, 0x1800, false),
                load(0x20_1800, 0x1000, 0x1000, true),
            ],
            ..Image::default()
        };
        assert_eq!(image.vaddr(0x1400), Some(0x20_1c00));
        assert_eq!(image.vaddr(0x400), Some(0x400));
        assert_eq!(image.vaddr(0x2000), None);
    }
}
