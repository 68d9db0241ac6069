//! Results reach their place whole or not at all.
//!
//! A file is written under a temporary name in the same folder and renamed, so a reader never
//! sees half of it and a failed write leaves the old file alone. What that means for the target:
//!
//! - A symbolic link is replaced, not followed. `flame` runs as root and writes to places like
//!   `/tmp`, where a link may be a trap.
//! - Devices, pipes and open file descriptors (`/dev/null`, `/dev/stdout`, `/dev/fd/63`, a FIFO)
//!   are written to directly. Those that somebody else planted in a shared folder are refused, and
//!   so are block devices.
//! - The mode of a file that the user owns is kept; a new file gets what the umask leaves. The
//!   owner is always the user who runs `flame`.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Access, PROC_SUPER_MAGIC, access, statfs};

use super::names;
use crate::error::Error;
use crate::profile::config::Destination;

const BUFFER_BYTES: usize = 64 * 1024;
/// Bits that a user can set with `chmod`, but for set-user-id and its like.
const MODE_BITS: u32 = 0o777;
const STICKY_BIT: u32 = 0o1000;
const WORLD_WRITABLE: u32 = 0o002;

/// Where the bytes of a path's result really go.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// Standard output under one of its file names.
    Stdout,
    /// A device, a pipe or a descriptor: opened and written to.
    Direct,
    /// A file of the given mode (`None`: a new one's), put in place by renaming.
    Renamed { mode: Option<u32> },
}

/// Writes a result to its destination; see [`write_atomically`] and [`write_stdout`].
pub fn write_to(
    destination: &Destination,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    match destination {
        Destination::Stdout => write_stdout(write),
        Destination::File(path) => write_atomically(path, write),
    }
}

/// Writes to standard output. A reader that left early is no error.
///
/// # Errors
/// [`Error::Failed`] when `write` or the output fails.
pub fn write_stdout(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
    // A descriptor of its own: `io::Stdout` takes a closed standard output for success and
    // flushes at every line.
    let stdout = rustix::stdio::stdout()
        .try_clone_to_owned()
        .map_err(|error| failed("cannot write to standard output", &error))?;
    write_stream(File::from(stdout), write)
        .map_err(|error| failed("cannot write to standard output", &error))
}

/// Calls `write` with a buffered writer and puts what it wrote in place of `path`, at once.
///
/// # Errors
/// [`Error::Failed`] when `write` fails or the file cannot be written; `path` is then as before.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    match target(path)? {
        Target::Stdout => write_stdout(write),
        Target::Direct => OpenOptions::new()
            .write(true)
            .open(path)
            .and_then(|file| write_stream(file, write))
            .map_err(|error| cannot_write(path, &error)),
        Target::Renamed { mode } => {
            write_renamed(path, mode, write).map_err(|error| cannot_write(path, &error))
        }
    }
}

/// Finds out, before time is spent on sampling, whether a result can be written to `path`. Leaves
/// nothing behind.
///
/// # Errors
/// [`Error::Failed`] with the reason and a remedy.
pub fn check_writable(path: &Path) -> Result<(), Error> {
    match target(path)? {
        Target::Stdout => Ok(()),
        // Opening would block on a FIFO that has no reader yet.
        Target::Direct => {
            access(path, Access::WRITE_OK).map_err(|error| cannot_write(path, &error.into()))
        }
        // Nothing but creating a file tells for sure: think of read-only file systems and quotas.
        // Without a name where the file system can: nothing stays, whenever we are killed.
        Target::Renamed { .. } => tempfile::tempfile_in(folder_of(path))
            .map(drop)
            .map_err(|error| cannot_write(path, &error)),
    }
}

fn target(path: &Path) -> Result<Target, Error> {
    let refuse = |what: &str, remedy: &str| {
        Err(Error::Failed {
            problem: format!("cannot write to {}: it is {what}", shown(path)),
            remedy: remedy.into(),
        })
    };
    if path.file_name().is_none() {
        return refuse("not a file name", "name a file with -o");
    }
    if let Some(entry) = procfs_entry(path) {
        let own_descriptors = Path::new("/proc/self/fd").canonicalize().ok();
        let is_stdout =
            entry.ends_with("1") && folder_of(&entry).canonicalize().ok() == own_descriptors;
        return Ok(if is_stdout {
            Target::Stdout
        } else {
            Target::Direct
        });
    }
    let own = match path.symlink_metadata() {
        Ok(own) => own,
        // A missing folder shows when the temporary file is made.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Target::Renamed { mode: None });
        }
        Err(error) => return Err(cannot_write(path, &error)),
    };
    if !replaceable(path, &own) && !own.is_dir() {
        return refuse(
            "another user's in a shared folder, where only its owner may replace it",
            "choose another name, or a folder of your own",
        );
    }
    if own.is_file() {
        let kept = own.uid() == rustix::process::geteuid().as_raw();
        return Ok(Target::Renamed {
            mode: kept.then_some(own.mode() & MODE_BITS),
        });
    }
    // Behind a link, only devices and pipes matter: the link to anything else is replaced.
    let Ok(behind) = path.metadata() else {
        return Ok(Target::Renamed { mode: None });
    };
    let kind = behind.file_type();
    if kind.is_dir() {
        return refuse("a directory", "name a file in it, such as flame.svg");
    }
    if kind.is_file() {
        return Ok(Target::Renamed { mode: None });
    }
    if !(kind.is_fifo() || kind.is_char_device()) {
        return refuse(
            "a block device or a socket",
            "name a file, a pipe or /dev/stdout",
        );
    }
    if planted(path, &own) {
        return refuse(
            "a link, pipe or device of another user in a shared folder",
            "name a file in a folder of your own",
        );
    }
    Ok(Target::Direct)
}

/// The entry of procfs that `path` is, or is a link to, as `/dev/stdout` is one to
/// `/proc/self/fd/1`: nothing can be renamed to it.
fn procfs_entry(path: &Path) -> Option<PathBuf> {
    let in_procfs =
        |path: &Path| statfs(folder_of(path)).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC);
    if in_procfs(path) {
        return Some(path.to_owned());
    }
    let own = path.symlink_metadata().ok()?;
    let link = path.read_link().ok().filter(|_| !planted(path, &own))?;
    let entry = folder_of(path).join(link);
    in_procfs(&entry).then_some(entry)
}

/// Could `path` be a trap: of another user than we or root, in a folder where anyone may create
/// files?
fn planted(path: &Path, own: &Metadata) -> bool {
    let shared = folder_of(path)
        .metadata()
        .is_ok_and(|folder| folder.mode() & (STICKY_BIT | WORLD_WRITABLE) != 0);
    shared && own.uid() != 0 && own.uid() != rustix::process::geteuid().as_raw()
}

/// May we rename over `path`? In a sticky folder only root and the owners of the file and the
/// folder may.
fn replaceable(path: &Path, own: &Metadata) -> bool {
    let we = rustix::process::geteuid();
    let sticky_of_others = folder_of(path)
        .metadata()
        .is_ok_and(|folder| folder.mode() & STICKY_BIT != 0 && folder.uid() != we.as_raw());
    we.is_root() || own.uid() == we.as_raw() || !sticky_of_others
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The temporary files there are. Only who holds the lock creates, renames or removes one.
static TEMPORARY: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn temporary() -> MutexGuard<'static, Vec<PathBuf>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes what is half-written, and lets no other thread begin anew or put a file in place: the
/// last thing before the program is ended in the middle of its work.
pub fn abandon() {
    let files = temporary();
    for path in files.iter() {
        // Whether it could be removed changes nothing about the end.
        let _ = std::fs::remove_file(path);
    }
    std::mem::forget(files);
}

/// A new file beside `path`, removed when dropped. `O_EXCL` and a random name: no link of that
/// name is ever followed.
struct Temporary(tempfile::NamedTempFile);

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let mut files = temporary();
        let file = tempfile::Builder::new()
            .prefix(".flame-")
            .suffix(".tmp")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder_of(path))?;
        files.push(file.path().to_owned());
        Ok(Self(file))
    }

    /// Puts the file in place of `path`, or removes it.
    fn persist(self, path: &Path) -> io::Result<()> {
        let mut files = temporary();
        files.retain(|other| other != self.0.path());
        let placed = self.0.persist(path);
        placed.map(drop).map_err(|error| error.error)
    }

    fn discard(self) {
        let mut files = temporary();
        files.retain(|other| other != self.0.path());
        drop(self.0);
    }
}

fn write_renamed(
    path: &Path,
    mode: Option<u32>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = Temporary::beside(path)?;
    match fill(file.0.as_file(), mode, write) {
        Ok(()) => file.persist(path),
        Err(error) => {
            file.discard();
            Err(error)
        }
    }
}

fn fill(
    file: &File,
    mode: Option<u32>,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    let mut buffer = BufWriter::with_capacity(BUFFER_BYTES, file);
    write(&mut buffer)?;
    buffer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

fn write_stream(
    file: File,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let written = write(&mut buffer).and_then(|()| buffer.flush());
    // What could not be written must not be tried again on drop.
    drop(buffer.into_parts());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    failed(&format!("cannot write {}", shown(path)), error)
}

fn failed(problem: &str, error: &io::Error) -> Error {
    let remedy = match error.kind() {
        ErrorKind::NotFound => "create the folder first, or name another one with -o",
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "name a folder you may write to with -o"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "free some space, or name a folder on another file system with -o"
        }
        ErrorKind::NotADirectory => "name a file in a folder with -o",
        ErrorKind::InvalidFilename => "choose a shorter file name with -o",
        _ => "name another place with -o",
    };
    Error::Failed {
        problem: format!("{problem}: {error}"),
        remedy: remedy.into(),
    }
}

fn shown(path: &Path) -> String {
    names::printable(&path.to_string_lossy(), 4096).into_owned()
}
