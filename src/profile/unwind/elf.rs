//! Where a module's call frame information is, and where its segments go in memory.
//!
//! The file is hostile: it is read by position into bounded buffers, never mapped, because
//! whoever owns it may cut it short at any time.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail, ensure};
use object::elf;
use object::endian::LittleEndian as Le;
use object::pod::{self, Pod};

/// The largest section read, in bytes. Chromium's `.eh_frame` has 20 MB.
const SECTION_BYTES_MAX: u64 = 128 << 20;
/// The largest table of headers, of section names or of notes read, in bytes.
const HEADERS_BYTES_MAX: u64 = 8 << 20;

/// Something with an ELF file's bytes: a file, or a copy of the vDSO.
pub trait Source {
    /// Size in bytes.
    fn size(&self) -> std::io::Result<u64>;
    /// Fills the buffer from the given offset.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()>;
}

impl Source for File {
    fn size(&self) -> std::io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }
}

impl Source for [u8] {
    fn size(&self) -> std::io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get(start..start.checked_add(buffer.len())?))
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

fn read<S: Source + ?Sized>(source: &S, offset: u64, size: u64, size_max: u64) -> Result<Vec<u8>> {
    ensure!(
        size <= size_max,
        "{size} bytes are more than the {size_max} we read"
    );
    let end = offset.checked_add(size).context("a range overflows")?;
    ensure!(end <= source.size()?, "a range ends beyond the file");
    let mut bytes = vec![0; size as usize];
    source.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn headers<T: Pod + Copy>(bytes: &[u8]) -> Result<&[T]> {
    let count = bytes.len() / size_of::<T>();
    let (headers, _) = pod::slice_from_bytes(bytes, count)
        .ok()
        .context("misaligned headers")?;
    Ok(headers)
}

/// A `PT_LOAD` segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// ELF address of its first byte.
    pub address: u64,
    /// Offset of its first byte in the file.
    pub file_offset: u64,
    /// Bytes of it that are in the file.
    pub file_size: u64,
    /// Whether it holds code.
    pub executable: bool,
}

impl Segment {
    /// First ELF address after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address.saturating_add(self.file_size)
    }
}

/// Which dialect of call frame information a section speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CfiKind {
    /// `.eh_frame`.
    EhFrame,
    /// `.debug_frame`.
    DebugFrame,
}

/// A module's call frame information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cfi {
    /// Its dialect.
    pub kind: CfiKind,
    /// The section's bytes.
    pub bytes: Vec<u8>,
    /// The section's ELF address.
    pub address: u64,
    /// ELF address of `.text`, which some pointers are relative to.
    pub text_address: u64,
}

/// The section headers that matter.
#[derive(Debug, Clone, Copy)]
struct Section {
    address: u64,
    file_offset: u64,
    size: u64,
    compressed: bool,
    empty: bool,
}

/// What an ELF file says of its layout.
#[derive(Debug, Clone)]
pub struct ElfLayout {
    /// Its `PT_LOAD` segments.
    pub segments: Vec<Segment>,
    /// Where execution starts; 0 for none.
    pub entry: u64,
    /// The linker's fingerprint of the content, if there is one.
    pub build_id: Option<Box<[u8]>>,
    eh_frame: Option<Section>,
    debug_frame: Option<Section>,
    text_address: u64,
    eh_frame_header: Option<Segment>,
}

impl ElfLayout {
    /// Reads the headers of a 64-bit little-endian x86-64 file.
    pub fn read<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let bytes = read(
            source,
            0,
            size_of::<elf::FileHeader64<Le>>() as u64,
            HEADERS_BYTES_MAX,
        )?;
        let (header, _) = pod::from_bytes::<elf::FileHeader64<Le>>(&bytes)
            .ok()
            .context("no ELF header")?;
        ensure!(header.e_ident.magic == elf::ELFMAG, "not an ELF file");
        ensure!(
            header.e_ident.class == elf::ELFCLASS64
                && header.e_ident.data == elf::ELFDATA2LSB
                && header.e_machine.get(Le) == elf::EM_X86_64,
            "not a 64-bit x86 file"
        );
        let mut layout = Self {
            segments: Vec::new(),
            entry: header.e_entry.get(Le),
            build_id: None,
            eh_frame: None,
            debug_frame: None,
            text_address: 0,
            eh_frame_header: None,
        };
        layout.read_program_headers(source, header)?;
        // A stripped or damaged section table costs the names, not the unwinding.
        if let Err(error) = layout.read_section_headers(source, header) {
            tracing::debug!("no section headers: {error:#}");
        }
        Ok(layout)
    }

    fn read_program_headers<S: Source + ?Sized>(
        &mut self,
        source: &S,
        header: &elf::FileHeader64<Le>,
    ) -> Result<()> {
        let entry_size = size_of::<elf::ProgramHeader64<Le>>();
        ensure!(
            usize::from(header.e_phentsize.get(Le)) == entry_size,
            "odd program headers"
        );
        let size = u64::from(header.e_phnum.get(Le)) * entry_size as u64;
        let bytes = read(source, header.e_phoff.get(Le), size, HEADERS_BYTES_MAX)?;
        let mut notes_left = 16;
        for program in headers::<elf::ProgramHeader64<Le>>(&bytes)? {
            let segment = Segment {
                address: program.p_vaddr.get(Le),
                file_offset: program.p_offset.get(Le),
                file_size: program.p_filesz.get(Le),
                executable: program.p_flags.get(Le) & elf::PF_X != 0,
            };
            match program.p_type.get(Le) {
                elf::PT_LOAD => self.segments.push(segment),
                elf::PT_GNU_EH_FRAME => self.eh_frame_header = Some(segment),
                elf::PT_NOTE if self.build_id.is_none() && notes_left > 0 => {
                    notes_left -= 1;
                    self.build_id = read_build_id(source, &segment);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_section_headers<S: Source + ?Sized>(
        &mut self,
        source: &S,
        header: &elf::FileHeader64<Le>,
    ) -> Result<()> {
        let entry_size = size_of::<elf::SectionHeader64<Le>>();
        if header.e_shnum.get(Le) == 0 {
            return Ok(());
        }
        ensure!(
            usize::from(header.e_shentsize.get(Le)) == entry_size,
            "odd section headers"
        );
        let size = u64::from(header.e_shnum.get(Le)) * entry_size as u64;
        let bytes = read(source, header.e_shoff.get(Le), size, HEADERS_BYTES_MAX)?;
        let sections = headers::<elf::SectionHeader64<Le>>(&bytes)?;
        let names = sections
            .get(usize::from(header.e_shstrndx.get(Le)))
            .context("no section names")?;
        let names = read(
            source,
            names.sh_offset.get(Le),
            names.sh_size.get(Le),
            HEADERS_BYTES_MAX,
        )?;
        for section in sections {
            let found = Section {
                address: section.sh_addr.get(Le),
                file_offset: section.sh_offset.get(Le),
                size: section.sh_size.get(Le),
                compressed: section.sh_flags.get(Le) & u64::from(elf::SHF_COMPRESSED) != 0,
                empty: section.sh_type.get(Le) == elf::SHT_NOBITS,
            };
            let name = names
                .get(section.sh_name.get(Le) as usize..)
                .unwrap_or_default();
            if name.starts_with(b".eh_frame\0") {
                self.eh_frame = Some(found);
            } else if name.starts_with(b".debug_frame\0") {
                self.debug_frame = Some(found);
            } else if name.starts_with(b".text\0") {
                self.text_address = found.address;
            }
        }
        Ok(())
    }

    /// Reads the call frame information; `None` when the file has none.
    pub fn read_cfi<S: Source + ?Sized>(&self, source: &S) -> Result<Option<Cfi>> {
        if let Some(section) = self
            .eh_frame
            .filter(|section| !section.empty && section.size > 8)
        {
            return self.cfi(CfiKind::EhFrame, source, section).map(Some);
        }
        if let Some(header) = self.eh_frame_header.filter(|_| self.eh_frame.is_none()) {
            let section = self.eh_frame_behind(source, &header)?;
            return self.cfi(CfiKind::EhFrame, source, section).map(Some);
        }
        match self.debug_frame.filter(|section| !section.empty) {
            Some(section) => self.cfi(CfiKind::DebugFrame, source, section).map(Some),
            None => Ok(None),
        }
    }

    fn cfi<S: Source + ?Sized>(&self, kind: CfiKind, source: &S, section: Section) -> Result<Cfi> {
        let mut bytes = read(source, section.file_offset, section.size, SECTION_BYTES_MAX)?;
        if section.compressed {
            bytes = decompress(&bytes)?;
        }
        Ok(Cfi {
            kind,
            bytes,
            address: section.address,
            text_address: self.text_address,
        })
    }

    /// `.eh_frame` of a file without section headers: `.eh_frame_hdr` points to its start; its
    /// end is at most its segment's, and a terminator comes before.
    fn eh_frame_behind<S: Source + ?Sized>(&self, source: &S, header: &Segment) -> Result<Section> {
        let bytes = read(source, header.file_offset, header.file_size.min(64), 64)?;
        let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(header.address);
        let parsed = gimli::EhFrameHdr::new(&bytes, gimli::LittleEndian).parse(&bases, 8)?;
        let gimli::Pointer::Direct(address) = parsed.eh_frame_ptr() else {
            bail!("an indirect pointer to .eh_frame");
        };
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.address <= address && address < segment.end())
            .context(".eh_frame lies outside of the file")?;
        let skipped = address - segment.address;
        Ok(Section {
            address,
            file_offset: segment
                .file_offset
                .checked_add(skipped)
                .context("overflow")?,
            size: (segment.file_size - skipped).min(SECTION_BYTES_MAX),
            compressed: false,
            empty: false,
        })
    }

    /// What to subtract from an address in a mapping to get an ELF address.
    ///
    /// The mapping begins within the segment that it shows, at a page boundary at or before the
    /// segment's first byte.
    #[must_use]
    pub fn bias(&self, map_start: u64, map_end: u64, map_offset: u64) -> Option<u64> {
        let map_offset_end = map_offset.checked_add(map_end.checked_sub(map_start)?)?;
        let segment = self
            .segments
            .iter()
            .filter(|segment| segment.executable)
            .find(|segment| {
                segment.file_offset < map_offset_end
                    && map_offset < segment.file_offset.saturating_add(segment.file_size)
            })?;
        let elf_address = segment
            .address
            .wrapping_add(map_offset)
            .wrapping_sub(segment.file_offset);
        Some(map_start.wrapping_sub(elf_address))
    }
}

fn read_build_id<S: Source + ?Sized>(source: &S, notes: &Segment) -> Option<Box<[u8]>> {
    let bytes = read(source, notes.file_offset, notes.file_size, 64 << 10).ok()?;
    let mut rest = bytes.as_slice();
    // Elf64_Nhdr: sizes of name and description, type; both padded to four bytes.
    while let Some((header, after)) = rest.split_first_chunk::<12>() {
        let word = |at: usize| -> usize {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
                as usize
        };
        let (name_size, description_size) = (word(0), word(4));
        let name = after.get(..name_size)?;
        let after = after.get(name_size.next_multiple_of(4)..)?;
        let description = after.get(..description_size)?;
        if name == b"GNU\0" && word(8) == elf::NT_GNU_BUILD_ID as usize {
            return (4..=64)
                .contains(&description.len())
                .then(|| description.into());
        }
        rest = after.get(description_size.next_multiple_of(4)..)?;
    }
    None
}

fn decompress(bytes: &[u8]) -> Result<Vec<u8>> {
    let (header, rest) = pod::from_bytes::<elf::CompressionHeader64<Le>>(bytes)
        .ok()
        .context("no compression header")?;
    let size = header.ch_size.get(Le);
    ensure!(size <= SECTION_BYTES_MAX, "{size} bytes uncompressed");
    let format = match header.ch_type.get(Le) {
        elf::ELFCOMPRESS_ZLIB => object::CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => object::CompressionFormat::Zstandard,
        other => bail!("unknown compression {other}"),
    };
    let data = object::CompressedData {
        format,
        data: rest,
        uncompressed_size: size,
    };
    Ok(data
        .decompress()
        .ok()
        .context("damaged compressed section")?
        .into_owned())
}
