//! Tables on disk, by build id, so that the next run finds them compiled.
//!
//! The folder is ours alone, and what is read from it is still checked: a file may be torn, from
//! another version, or planted. A table that passes the checks can name wrong frames, but cannot
//! make anybody read outside of it; a planted one would have to come from ourselves or root.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use super::abi::TABLE_VERSION;
use super::elf::{Cfi, ElfLayout};
use super::table::Table;

/// The folder is kept below this, in bytes.
const CACHE_BYTES_MAX: u64 = 256 << 20;
/// No single table is larger, in bytes.
const FILE_BYTES_MAX: u64 = 128 << 20;
const MAGIC: [u8; 8] = *b"flameunw";

/// A folder of tables.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    bytes_max: u64,
}

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
    /// Opens the user's cache, making it if need be: `$XDG_CACHE_HOME/flame/unwind`, else
    /// `~/.cache/flame/unwind`, else (root without a home) `/var/cache/flame/unwind`.
    pub fn open() -> Result<Self> {
        let variable = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path: &PathBuf| path.is_absolute())
        };
        let base = variable("XDG_CACHE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .or_else(|| {
                rustix::process::geteuid()
                    .is_root()
                    .then(|| "/var/cache".into())
            })
            .context("neither XDG_CACHE_HOME nor HOME is set")?;
        Self::open_in(&base.join("flame"), CACHE_BYTES_MAX)
    }

    /// Opens a cache in a folder of its own.
    pub fn open_in(folder: &Path, bytes_max: u64) -> Result<Self> {
        let folder = folder.join("unwind");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        let metadata = fs::symlink_metadata(&folder)?;
        ensure!(metadata.is_dir(), "{} is not a folder", folder.display());
        ensure!(
            metadata.uid() == rustix::process::geteuid().as_raw()
                && metadata.mode() & 0o777 == 0o700,
            "{} is not ours alone",
            folder.display()
        );
        Ok(Self { folder, bytes_max })
    }

    /// The table of a module, or `None` when it is not there or not good. `fingerprint` is
    /// [`Cfi::fingerprint`]: a file that claims another's build id does not get its table.
    #[must_use]
    pub fn load(&self, build_id: &[u8], fingerprint: u64) -> Option<Table> {
        let path = self.path(build_id);
        match read(&path, fingerprint) {
            Ok(table) => table,
            Err(error) => {
                tracing::debug!("{}: {error:#}", path.display());
                None
            }
        }
    }

    /// Keeps a table, and drops the least recently used ones beyond the cache's size. The file
    /// appears under its name when it is whole.
    pub fn store(&self, build_id: &[u8], fingerprint: u64, table: &Table) -> Result<()> {
        let words: Vec<u8> = table
            .words()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        if words.len() as u64 > FILE_BYTES_MAX.min(self.bytes_max) {
            return Ok(());
        }
        let header = Header {
            version: TABLE_VERSION,
            words: table.words().len() as u32,
            checksum: checksum(&words),
            fingerprint,
        };
        // Created with mode 0600, and removed when anything below fails.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&header.to_bytes())?;
        file.write_all(&words)?;
        file.persist(self.path(build_id))
            .map_err(|error| error.error)?;
        self.evict()
    }

    fn path(&self, build_id: &[u8]) -> PathBuf {
        let name = build_id
            .iter()
            .fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        self.folder.join(name)
    }

    /// Removes the files used longest ago until the rest fits.
    fn evict(&self) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_file() {
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|file| file.1).sum();
        for (_, bytes, path) in files {
            if total <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= bytes;
        }
        Ok(())
    }
}

fn read(path: &Path, fingerprint: u64) -> Result<Option<Table>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let mut file = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let metadata = file.metadata()?;
    ensure!(
        metadata.is_file() && metadata.len() <= FILE_BYTES_MAX,
        "not one of our files"
    );
    ensure!(
        metadata.uid() == rustix::process::geteuid().as_raw(),
        "another user's file"
    );
    let mut bytes = vec![0; metadata.len() as usize];
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
    let table = Table::from_words(words.collect())?;
    touch(&file);
    Ok(Some(table))
}

/// Marks a file as used now; a failure only makes it look older than it is.
fn touch(file: &File) {
    if let Err(error) = file.set_modified(SystemTime::now()) {
        tracing::debug!("cannot mark a cached table as used: {error}");
    }
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn table() -> Table {
        let bytes = crate::profile::unwind::vdso::read().unwrap();
        let layout = ElfLayout::read(bytes.as_slice()).unwrap();
        Table::build(
            &layout,
            &layout.read_cfi(bytes.as_slice()).unwrap().unwrap(),
        )
        .unwrap()
    }

    fn cache(bytes_max: u64) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open_in(folder.path(), bytes_max).unwrap();
        (folder, cache)
    }

    #[test]
    fn a_stored_table_comes_back() {
        let (_folder, cache) = cache(CACHE_BYTES_MAX);
        cache.store(b"id", 7, &table()).unwrap();
        assert_eq!(cache.load(b"id", 7), Some(table()));
        assert_eq!(
            cache.load(b"id", 8),
            None,
            "another file with the same build id"
        );
        assert_eq!(cache.load(b"di", 7), None);
        let mode = fs::metadata(cache.path(b"id")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let (_folder, cache) = cache(CACHE_BYTES_MAX);
        cache.store(b"id", 7, &table()).unwrap();
        let path = cache.path(b"id");
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

    #[test]
    fn the_least_recently_used_goes_first() {
        let size = 4 * table().words().len() as u64 + Header::BYTES as u64;
        let (_folder, cache) = cache(2 * size);
        let age = |id: &[u8], seconds| {
            let file = File::options().write(true).open(cache.path(id)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
                .unwrap();
        };
        cache.store(b"a", 7, &table()).unwrap();
        cache.store(b"b", 7, &table()).unwrap();
        age(b"a", 1);
        age(b"b", 2);
        assert!(cache.load(b"a", 7).is_some(), "used now");
        cache.store(b"c", 7, &table()).unwrap();
        assert!(cache.load(b"a", 7).is_some());
        assert_eq!(cache.load(b"b", 7), None);
    }

    #[test]
    fn a_folder_open_to_others_or_a_planted_link_is_not_used() {
        let (folder, cache) = cache(CACHE_BYTES_MAX);
        cache.store(b"id", 7, &table()).unwrap();
        fs::rename(cache.path(b"id"), folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), cache.path(b"id")).unwrap();
        assert_eq!(cache.load(b"id", 7), None, "a link");
        fs::set_permissions(&cache.folder, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(Cache::open_in(folder.path(), CACHE_BYTES_MAX).is_err());
    }
}
