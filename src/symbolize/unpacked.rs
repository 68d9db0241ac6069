//! Compressed DWARF, unpacked once and kept on disk.
//!
//! Unpacking takes longer than everything else that naming does with a distribution's debug file.
//! The unpacked file is an ELF file, too: the sections behind the first compressed one follow each
//! other anew, and a table of their headers comes last. (System V ABI, "Object Files": sections may
//! stand anywhere.) Behind it comes a trailer, which no reader of ELF files looks at.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::mem::offset_of;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use object::elf::{self, FileHeader64, SectionHeader64};
use object::read::elf::{ElfFile64, FileHeader, SectionHeader};
use object::{Endianness, Object, ObjectSection, SectionIndex, U64};

use super::stable_file::StableFile;
use crate::cache::CacheFolder;

/// The folder's name below the cache's.
const KIND: &str = "debug";
/// The folder is kept below this, in bytes.
const CACHE_BYTES_MAX: u64 = 512 << 20;
/// Files that would be larger stay packed.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// The largest alignment that a section may ask for.
const ALIGNMENT_MAX: u64 = 4096;
/// What the trailer ends with, behind the CRC-32 of all before it.
const MAGIC: [u8; 4] = *b"flm1";
const TRAILER_BYTES: u64 = 8;

type Headers = Vec<SectionHeader64<Endianness>>;

/// Opens the user's folder of unpacked files; without one they are unpacked in memory each time.
#[must_use]
pub fn open_folder() -> Option<CacheFolder> {
    CacheFolder::open(KIND, CACHE_BYTES_MAX)
        .inspect_err(|error| tracing::info!("unpacked debug files are not kept: {error:#}"))
        .ok()
}

/// The file with its sections unpacked: from the folder, where it is put at its first use. `None`
/// when it has no compressed section or is too large; an error costs time only.
///
/// Only for files that are [trusted](StableFile::trusted): what a section unpacks to is a claim.
pub fn unpacked(packed: &StableFile, folder: &CacheFolder) -> Result<Option<StableFile>> {
    let name = name_of(packed);
    if let Some(file) = folder.open_file(&name)? {
        match checked(&file) {
            Ok(file) => return Ok(Some(file)),
            Err(error) => tracing::debug!("unpacked {name}: {error:#}"),
        }
    }
    let Some(layout) = Layout::of(packed.data())? else {
        return Ok(None);
    };
    folder.store(&name, |file| layout.write(packed.data(), file))?;
    let file = folder.open_file(&name)?.context("it is gone")?;
    checked(&file).map(Some)
}

/// Which file this is, and which version of it: nobody can set a change time (inode(7)).
fn name_of(packed: &StableFile) -> String {
    let file = packed.metadata();
    let changed_ns = i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec());
    format!(
        "{:x}-{:x}-{:x}-{changed_ns:x}",
        file.dev(),
        file.ino(),
        file.len()
    )
}

/// Maps a file of the folder, if it is whole. It is read to find out, not mapped: most of it is not
/// needed and would stay in memory.
fn checked(mut file: &File) -> Result<StableFile> {
    let length = file.metadata()?.len();
    let mut left = length.checked_sub(TRAILER_BYTES).context("too short")?;
    let mut crc = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 18];
    while left > 0 {
        let count = buffer.len().min(left as usize);
        file.read_exact(&mut buffer[..count])?;
        crc.update(&buffer[..count]);
        left -= count as u64;
    }
    let mut trailer = [0; TRAILER_BYTES as usize];
    file.read_exact(&mut trailer)?;
    ensure!(trailer == trailer_of(crc), "torn");
    Ok(StableFile::of(file)?)
}

fn trailer_of(crc: crc32fast::Hasher) -> [u8; TRAILER_BYTES as usize] {
    let mut trailer = [0; TRAILER_BYTES as usize];
    trailer[..4].copy_from_slice(&crc.finalize().to_le_bytes());
    trailer[4..].copy_from_slice(&MAGIC);
    trailer
}

/// Where everything goes in the unpacked file.
struct Layout {
    /// The length of the beginning that is kept as it is: all before the first compressed section.
    kept: usize,
    /// The moved sections, in their order.
    moved: Vec<SectionIndex>,
    /// All headers, as they will be.
    headers: Headers,
    /// Where they will be.
    headers_at: u64,
}

impl Layout {
    /// `None` when there is nothing to unpack, or too much.
    fn of(data: &[u8]) -> Result<Option<Self>> {
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        let mut headers: Headers = header.section_headers(endian, data)?.to_vec();
        let is_packed = |header: &SectionHeader64<Endianness>| {
            header.sh_flags(endian) & u64::from(elf::SHF_COMPRESSED) != 0
        };
        let packed = headers.iter().filter(|header| is_packed(header));
        let Some(kept) = packed.map(|header| header.sh_offset(endian)).min() else {
            return Ok(None);
        };
        let has_bytes = |header: &SectionHeader64<Endianness>| header.file_range(endian).is_some();
        let mut moved: Vec<usize> = (0..headers.len())
            .filter(|at| has_bytes(&headers[*at]) && headers[*at].sh_offset(endian) >= kept)
            .collect();
        moved.sort_by_key(|at| headers[*at].sh_offset(endian));
        let mut end = kept;
        for at in &moved {
            let header = &mut headers[*at];
            let flags = header.sh_flags(endian);
            // What is loaded at an address is also found through its segment's offset.
            ensure!(flags & u64::from(elf::SHF_ALLOC) == 0, "code behind DWARF");
            let (size, alignment) = match header.compression(endian, data)? {
                Some((packed, _, _)) => (packed.ch_size.get(endian), packed.ch_addralign),
                None => (header.sh_size(endian), header.sh_addralign),
            };
            let alignment = alignment.get(endian).max(1);
            ensure!(alignment <= ALIGNMENT_MAX, "a section's alignment");
            end = end.next_multiple_of(alignment);
            header.sh_offset = U64::new(endian, end);
            header.sh_size = U64::new(endian, size);
            header.sh_addralign = U64::new(endian, alignment);
            header.sh_flags = U64::new(endian, flags & !u64::from(elf::SHF_COMPRESSED));
            end = end.saturating_add(size);
            if end > FILE_BYTES_MAX {
                return Ok(None);
            }
        }
        Ok(Some(Self {
            kept: usize::try_from(kept)?,
            moved: moved.into_iter().map(SectionIndex).collect(),
            headers,
            headers_at: end.next_multiple_of(8),
        }))
    }

    /// Writes the unpacked form of the file it was made of, and the trailer.
    fn write(&self, data: &[u8], file: &mut File) -> io::Result<()> {
        let packed = ElfFile64::<Endianness>::parse(data).map_err(io::Error::other)?;
        let endian = packed.endian();
        let kept = data.get(..self.kept).ok_or(io::ErrorKind::InvalidData)?;
        let (before, after) = kept
            .split_at_checked(offset_of!(FileHeader64<Endianness>, e_shoff))
            .ok_or(io::ErrorKind::InvalidData)?;
        let after = after.get(8..).ok_or(io::ErrorKind::InvalidData)?;
        let mut out = Summed::new(file);
        out.write(before)?;
        out.write(object::pod::bytes_of(&U64::new(endian, self.headers_at)))?;
        out.write(after)?;
        for index in &self.moved {
            let header = &self.headers[index.0];
            out.pad_to(header.sh_offset(endian))?;
            let section = packed.section_by_index(*index).map_err(io::Error::other)?;
            let bytes = section.compressed_data().map_err(io::Error::other)?;
            out.write(&bytes.decompress().map_err(io::Error::other)?)?;
        }
        out.pad_to(self.headers_at)?;
        out.write(object::pod::bytes_of_slice(&self.headers))?;
        out.finish()
    }
}

/// A file whose position and sum are known.
struct Summed<'f> {
    file: BufWriter<&'f mut File>,
    at: u64,
    crc: crc32fast::Hasher,
}

impl<'f> Summed<'f> {
    fn new(file: &'f mut File) -> Self {
        Self {
            file: BufWriter::new(file),
            at: 0,
            crc: crc32fast::Hasher::new(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.crc.update(bytes);
        self.file.write_all(bytes)
    }

    fn pad_to(&mut self, at: u64) -> io::Result<()> {
        let gap = at.saturating_sub(self.at).min(ALIGNMENT_MAX);
        self.write(&[0; ALIGNMENT_MAX as usize][..gap as usize])
    }

    fn finish(mut self) -> io::Result<()> {
        self.file.write_all(&trailer_of(self.crc))?;
        self.file.flush()
    }
}
