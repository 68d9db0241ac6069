//! Loop devices, and a file whose reads take as long as a test wants: FUSE, served by a thread of
//! the test (`include/uapi/linux/fuse.h`).

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

/// A loop device; detached when dropped.
pub struct LoopDevice {
    pub path: String,
    /// Kept while the device is.
    file: Option<tempfile::NamedTempFile>,
}

pub const DISK_BYTES: u64 = 16 << 20;

impl LoopDevice {
    /// Over a file of its own.
    pub fn new() -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(DISK_BYTES).expect("its size");
        let mut device = Self::over(file.path());
        device.file = Some(file);
        device
    }

    /// Over another file.
    pub fn over(file: &Path) -> Self {
        // Busybox's losetup does not show what it takes.
        let free = Command::new("losetup").arg("-f").output();
        let path = String::from_utf8(free.expect("running losetup").stdout).expect("a path");
        let path = path.trim().to_owned();
        super::succeed(Command::new("losetup").arg(&path).arg(file));
        Self { path, file: None }
    }

    /// Without `/dev/`.
    pub fn name(&self) -> &str {
        self.path.strip_prefix("/dev/").expect("a device")
    }

    /// `count` requests of `bytes` each, past the page cache, one after the other.
    pub fn transfer(&self, count: u64, bytes: usize, write: bool) {
        let mut options = OpenOptions::new();
        options.read(true).write(write).custom_flags(libc::O_DIRECT);
        let file = options.open(&self.path).expect("opening the device");
        // Direct I/O wants whole pages.
        let mut buffer = memmap2::MmapMut::map_anon(bytes).expect("memory");
        for index in 0..count {
            let offset = index * bytes as u64;
            if write {
                file.write_all_at(&buffer, offset).expect("writing");
            } else {
                file.read_exact_at(&mut buffer, offset).expect("reading");
            }
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        Command::new("losetup")
            .args(["-d", &self.path])
            .status()
            .ok();
    }
}

/// A file of [`DISK_BYTES`] zeros, each read of which takes at least the delay.
pub struct SlowFile {
    pub path: PathBuf,
    _folder: tempfile::TempDir,
    server: Option<JoinHandle<()>>,
}

const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const FOPEN_DIRECT_IO: u32 = 1;
const LONGEST_READ: usize = 128 << 10;

impl SlowFile {
    /// Mounts it.
    pub fn new(delay: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("slow");
        File::create(&path).expect("a place to mount on");
        let mut options = OpenOptions::new();
        let fuse = options.read(true).write(true).open("/dev/fuse");
        let fuse = fuse.expect("opening /dev/fuse");
        let text = |text: &str| CString::new(text).expect("no zeros");
        let mode = format!(
            "fd={},rootmode=100600,user_id=0,group_id=0",
            fuse.as_raw_fd()
        );
        let (source, kind, data) = (text("flame-test"), text("fuse"), text(&mode));
        let target = text(path.to_str().expect("UTF-8"));
        // SAFETY: four strings that outlive the call.
        let result = unsafe {
            libc::mount(
                source.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                0,
                data.as_ptr().cast(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self {
            path,
            _folder: folder,
            server: Some(std::thread::spawn(move || serve(fuse, delay))),
        }
    }
}

impl Drop for SlowFile {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(&self.path)
            .status()
            .ok();
        if let Some(server) = self.server.take() {
            server.join().ok();
        }
    }
}

/// Answers until the file is unmounted.
fn serve(mut fuse: File, delay: Duration) {
    let mut request = vec![0; LONGEST_READ + 4096];
    while let Ok(length) = fuse.read(&mut request) {
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("a word"));
        assert!(length >= 40, "shorter than struct fuse_in_header");
        let mut body = Vec::new();
        let mut error = 0;
        match word(4) {
            // The kernel's own version; neither readahead nor larger writes.
            INIT => body = words(&[word(40), word(44), 0, 0, 0, LONGEST_READ as u32, 1], 16),
            GETATTR => body = attributes(),
            OPEN => body = words(&[0, 0, FOPEN_DIRECT_IO], 4),
            READ => {
                std::thread::sleep(delay);
                body = vec![0; word(40 + 16) as usize];
            }
            RELEASE | FLUSH => {}
            _ => error = -libc::ENOSYS,
        }
        let mut answer = Vec::new();
        answer.extend((16 + body.len() as u32).to_ne_bytes());
        answer.extend(error.to_ne_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body);
        // A request that was interrupted meanwhile wants no answer.
        fuse.write_all(&answer).ok();
    }
}

/// These words, and zeros up to `count`.
fn words(first: &[u32], count: usize) -> Vec<u8> {
    let zeros = std::iter::repeat(&0);
    let words = first.iter().chain(zeros).take(count);
    words.flat_map(|word| word.to_ne_bytes()).collect()
}

/// `struct fuse_attr_out` of a regular file.
fn attributes() -> Vec<u8> {
    let mut bytes = Vec::new();
    let attr_valid_s = 3600_u64;
    bytes.extend(attr_valid_s.to_ne_bytes());
    bytes.extend([0; 8]);
    for number in [1, DISK_BYTES, DISK_BYTES / 512, 0, 0, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    let (mode, links, block_bytes) = (libc::S_IFREG | 0o600, 1, 4096);
    for number in [0, 0, 0, mode, links, 0, 0, 0, block_bytes, 0] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes
}
