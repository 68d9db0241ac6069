//! Tables on disk, by build id, so that the next run finds them compiled.
//!
//! What is read is checked: a table that passes can name wrong frames, but cannot make anybody read
//! outside of it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::abi::TABLE_VERSION;
use super::elf::{Cfi, ElfLayout};
use super::table::Table;
use crate::cache::CacheFolder;
use crate::symbolize::debug_files::hex;

/// The folder's name below the cache's.
const KIND: &str = "unwind";
/// The folder is kept below this, in bytes.
const CACHE_BYTES_MAX: u64 = 256 << 20;
/// No single table is larger, in bytes.
const FILE_BYTES_MAX: u64 = 128 << 20;
const MAGIC: [u8; 8] = *b"flameunw";

/// A folder of tables.
#[derive(Debug)]
pub struct Cache(CacheFolder);

/// What a file starts with.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    version: u32,
    words: u32,
    checksum: u64,
    /// [`Cfi::fingerprint`] of what the table was made from.
    fingerprint: u64,
}

impl Header {
    const BYTES: usize = 32;

    fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.words.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.checksum.to_le_bytes());
        bytes[24..].copy_from_slice(&self.fingerprint.to_le_bytes());
        bytes
    }
}

impl Cache {
    /// Opens the user's cache, making it if need be: [`CacheFolder::open`].
    pub fn open() -> Result<Self> {
        Ok(Self(CacheFolder::open(KIND, CACHE_BYTES_MAX)?))
    }

    /// Opens a cache in a folder of its own.
    pub fn open_in(folder: &Path) -> Result<Self> {
        Ok(Self(CacheFolder::open_in(folder, KIND, CACHE_BYTES_MAX)?))
    }

    /// The table of a module, or `None` when it is not there or not good. `fingerprint` is
    /// [`Cfi::fingerprint`]: a file that claims another's build id does not get its table.
    #[must_use]
    pub fn load(&self, build_id: &[u8], fingerprint: u64) -> Option<Table> {
        let name = hex(build_id);
        let file = self.0.open_file(&name);
        let table = file.and_then(|file| file.map(|file| read(&file, fingerprint)).transpose());
        table.unwrap_or_else(|error| {
            tracing::debug!("unwind table {name}: {error:#}");
            None
        })
    }

    /// Keeps a table.
    pub fn store(&self, build_id: &[u8], fingerprint: u64, table: &Table) -> Result<()> {
        let words: Vec<u8> = table
            .words()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        if words.len() as u64 > FILE_BYTES_MAX {
            return Ok(());
        }
        let header = Header {
            version: TABLE_VERSION,
            words: table.words().len() as u32,
            checksum: checksum(&words),
            fingerprint,
        };
        self.0.store(&hex(build_id), |file| {
            file.write_all(&header.to_bytes())?;
            file.write_all(&words)
        })
    }
}

fn read(mut file: &File, fingerprint: u64) -> Result<Table> {
    let length = file.metadata()?.len();
    ensure!(length <= FILE_BYTES_MAX, "not one of our files");
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    let (header, words) = bytes
        .split_first_chunk::<{ Header::BYTES }>()
        .context("too short")?;
    let expected = Header {
        version: TABLE_VERSION,
        words: (words.len() / 4) as u32,
        checksum: checksum(words),
        fingerprint,
    };
    ensure!(
        *header == expected.to_bytes(),
        "torn, or of another version or file"
    );
    let words = words.chunks_exact(4).map(|word| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(word);
        u32::from_le_bytes(bytes)
    });
    Table::from_words(words.collect())
}

impl Cfi {
    /// Tells apart what tables are made from.
    #[must_use]
    pub fn fingerprint(&self, layout: &ElfLayout) -> u64 {
        let code = layout.segments.iter().filter(|segment| segment.executable);
        let places = code.flat_map(|segment| [segment.address, segment.file_size]);
        let places = places.chain([self.address, self.text_address, layout.entry]);
        let places: Vec<u8> = places.flat_map(u64::to_le_bytes).collect();
        checksum(&self.bytes) ^ checksum(&places).rotate_left(32)
    }
}

/// FNV-1a over 64-bit words: against torn writes, not against forgery.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        hash ^= hash >> 29;
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn table() -> Table {
        let bytes = crate::symbolize::modules::vdso::read_own().unwrap();
        let layout = ElfLayout::read(bytes.as_slice()).unwrap();
        Table::build(
            &layout,
            &layout.read_cfi(bytes.as_slice()).unwrap().unwrap(),
        )
        .unwrap()
    }

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open_in(folder.path()).unwrap();
        (folder, cache)
    }

    #[test]
    fn a_stored_table_comes_back() {
        let (_folder, cache) = cache();
        cache.store(b"id", 7, &table()).unwrap();
        assert_eq!(cache.load(b"id", 7), Some(table()));
        assert_eq!(
            cache.load(b"id", 8),
            None,
            "another file with the same build id"
        );
        assert_eq!(cache.load(b"di", 7), None);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let (_folder, cache) = cache();
        cache.store(b"id", 7, &table()).unwrap();
        let path = cache.0.path(&hex(b"id"));
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(97).chain([0, 9, 17, 25]) {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(&path, bad).unwrap();
            assert_eq!(cache.load(b"id", 7), None, "byte {at} changed");
        }
        for length in [0, 16, Header::BYTES, good.len() / 2, good.len() - 1] {
            fs::write(&path, &good[..length]).unwrap();
            assert_eq!(cache.load(b"id", 7), None, "cut to {length}");
        }
    }

    #[test]
    fn a_table_with_indices_out_of_range_is_refused() {
        let good = table();
        let header = good.header();
        for (at, value) in [
            (2, u32::MAX),
            (3, 17),
            (4, u32::MAX),
            (5, u32::MAX - 3),
            (6, good.words().len() as u32),
            (7, header.rows + 1),
            (8, 1 << 30),
            (9, 99),
            (header.pages_at as usize + 1, u32::MAX),
            (header.rows_at as usize, 0xffff),
        ] {
            let mut words = good.words().to_vec();
            words[at] = value;
            assert!(Table::from_words(words).is_err(), "word {at} = {value}");
        }
    }
}
