//! What is kept on disk from run to run: a folder for each kind, ours alone and bounded.
//!
//! What comes out of a folder must still be checked by whoever put it there: a file may be torn by
//! a crash, or from another version. A planted one would have to come from ourselves or root.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

/// A folder of files of one kind.
#[derive(Debug)]
pub struct CacheFolder {
    path: PathBuf,
    bytes_max: u64,
}

impl CacheFolder {
    /// Opens the user's folder for a kind, making it if need be: `$XDG_CACHE_HOME/flame/KIND`, else
    /// `~/.cache/flame/KIND`, else (root without a home) `/var/cache/flame/KIND`. It is kept below
    /// `bytes_max`.
    pub fn open(kind: &str, bytes_max: u64) -> Result<Self> {
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
        Self::open_in(&base.join("flame"), kind, bytes_max)
    }

    /// Opens the folder for a kind below another place.
    pub fn open_in(base: &Path, kind: &str, bytes_max: u64) -> Result<Self> {
        let path = base.join(kind);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let metadata = fs::symlink_metadata(&path)?;
        ensure!(metadata.is_dir(), "{} is not a folder", path.display());
        ensure!(
            is_ours(&metadata) && metadata.mode() & 0o777 == 0o700,
            "{} is not ours alone",
            path.display()
        );
        Ok(Self { path, bytes_max })
    }

    /// A file's place.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Opens a file and marks it as used now; `None` when there is none.
    pub fn open_file(&self, name: &str) -> Result<Option<File>> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(self.path(name));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let metadata = file.metadata()?;
        ensure!(
            metadata.is_file() && metadata.len() <= self.bytes_max,
            "not one of our files"
        );
        ensure!(is_ours(&metadata), "another user's file");
        // A failure only makes it look older than it is.
        if let Err(error) = file.set_modified(SystemTime::now()) {
            tracing::debug!("cannot mark {name} as used: {error}");
        }
        Ok(Some(file))
    }

    /// Keeps a file, and drops the least recently used ones beyond the folder's size. The file
    /// appears under its name when it is whole.
    pub fn store(&self, name: &str, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<()> {
        // Created with mode 0600, and removed when anything below fails.
        let mut file = tempfile::NamedTempFile::new_in(&self.path)?;
        write(file.as_file_mut())?;
        file.persist(self.path(name)).map_err(|error| error.error)?;
        self.evict()
    }

    /// Removes the files used longest ago until the rest fits.
    fn evict(&self) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
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

fn is_ours(metadata: &fs::Metadata) -> bool {
    metadata.uid() == rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn folder(bytes_max: u64) -> (tempfile::TempDir, CacheFolder) {
        let base = tempfile::tempdir().unwrap();
        let folder = CacheFolder::open_in(base.path(), "kind", bytes_max).unwrap();
        (base, folder)
    }

    fn store(folder: &CacheFolder, name: &str) {
        folder
            .store(name, |file| file.write_all(&[7; 100]))
            .unwrap();
    }

    fn has(folder: &CacheFolder, name: &str) -> bool {
        folder.open_file(name).unwrap().is_some()
    }

    #[test]
    fn a_stored_file_comes_back_and_is_ours_alone() {
        let (_base, folder) = folder(1000);
        store(&folder, "a");
        let mut bytes = Vec::new();
        let mut file = folder.open_file("a").unwrap().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 100]);
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(!has(&folder, "b"));
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let (_base, folder) = folder(1000);
        let failed = folder.store("a", |file| {
            file.write_all(&[7; 100])?;
            Err(io::Error::other("no space left"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_dir(&folder.path).unwrap().count(), 0);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (_base, folder) = folder(250);
        let age = |name, seconds| {
            let file = File::options().write(true).open(folder.path(name)).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            file.set_modified(time).unwrap();
        };
        store(&folder, "a");
        store(&folder, "b");
        age("a", 1);
        age("b", 2);
        assert!(has(&folder, "a"), "used now");
        store(&folder, "c");
        assert!(has(&folder, "a"));
        assert!(!has(&folder, "b"));
    }

    #[test]
    fn a_folder_open_to_others_or_a_planted_link_is_not_used() {
        let (base, folder) = folder(1000);
        store(&folder, "a");
        fs::rename(folder.path("a"), base.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(base.path().join("elsewhere"), folder.path("a")).unwrap();
        assert!(folder.open_file("a").is_err(), "a link");
        fs::set_permissions(&folder.path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(CacheFolder::open_in(base.path(), "kind", 1000).is_err());
    }
}
