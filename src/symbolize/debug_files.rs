//! Finding the separate file that holds a stripped file's symbols and DWARF.
//!
//! Places and order are GDB's ("Debugging Information in Separate Files"): by build id under
//! the debug directories, then by `.gnu_debuglink` next to the file, in `.debug/` beside it, and
//! under the debug directories. Each is looked for inside the root of the process that mapped
//! the file, and by build id (which cannot mistake one file for another) on the host, too.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::elf::Image;
use super::modules::Module;
use super::rooted::{self, LastLink};
use super::stable_file::StableFile;

/// The debug directory of every distribution.
pub const DEFAULT_DEBUG_DIR: &str = "/usr/lib/debug";

/// The longest hash in use is SHA-512.
const BUILD_ID_BYTES_MAX: usize = 64;

/// A debug file that was checked to belong to its module.
#[derive(Debug)]
pub struct DebugFile {
    /// The file.
    pub file: StableFile,
    /// What is in it.
    pub image: Image,
}

/// The debug file of a module, if there is one.
#[must_use]
pub fn find(module: &Module, image: &Image, debug_dirs: &[PathBuf]) -> Option<DebugFile> {
    let own = module.root.as_deref().map(AsFd::as_fd);
    let by_build_id = || {
        let roots = own.map(Some).into_iter().chain([None]);
        roots.flat_map(|root| build_id_paths(image, debug_dirs).map(move |path| (root, path)))
    };
    let by_link = link_paths(&module.path, image, debug_dirs).map(|path| (own, path));
    by_build_id()
        .chain(by_link)
        .find_map(|(root, path)| open_checked(root, &path, module, image))
}

/// Where a file with this image's build id belongs, relative to a root.
fn build_id_paths<'a>(image: &Image, dirs: &'a [PathBuf]) -> impl Iterator<Item = PathBuf> + 'a {
    let name = match image.build_id.split_first() {
        // Two bytes make a path; anything shorter than a hash is bogus.
        Some((first, rest)) if rest.len() >= 7 => {
            Some(format!(".build-id/{first:02x}/{}.debug", hex(rest)))
        }
        _ => None,
    };
    dirs.iter()
        .filter_map(move |dir| name.as_ref().map(|name| dir.join(name)))
}

/// Where the file that `.gnu_debuglink` names may be, relative to a root.
fn link_paths(
    module: &Path,
    image: &Image,
    debug_dirs: &[PathBuf],
) -> impl Iterator<Item = PathBuf> {
    let link = image
        .debug_link
        .as_ref()
        .map(|(name, _)| Path::new(OsStr::from_bytes(name)));
    let is_plain = |link: &&Path| {
        let mut components = link.components();
        matches!(
            (components.next(), components.next()),
            (Some(Component::Normal(_)), None)
        )
    };
    let mut paths = Vec::new();
    if let (Some(link), Some(folder)) = (link.filter(is_plain), module.parent()) {
        paths.push(folder.join(link));
        paths.push(folder.join(".debug").join(link));
        let inside = folder.strip_prefix("/").unwrap_or(folder);
        paths.extend(debug_dirs.iter().map(|dir| dir.join(inside).join(link)));
    }
    paths.into_iter()
}

/// Bytes as hexadecimal digits, no more than a build id has.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(BUILD_ID_BYTES_MAX)
        .fold(String::new(), |mut digits, byte| {
            // Writing to a String cannot fail.
            let _ = write!(digits, "{byte:02x}");
            digits
        })
}

fn open_checked(
    root: Option<BorrowedFd<'_>>,
    path: &Path,
    module: &Module,
    image: &Image,
) -> Option<DebugFile> {
    let file = rooted::open_regular(root, path, LastLink::Follow, |_| true).ok()?;
    if is_module_itself(&file, module) {
        return None;
    }
    let file = StableFile::of(&file).ok()?;
    let debug_image = Image::parse(file.data())?;
    let belongs = if image.build_id.is_empty() || debug_image.build_id.is_empty() {
        image
            .debug_link
            .as_ref()
            .is_some_and(|(_, crc)| crc32fast::hash(file.data()) == *crc)
    } else {
        image.build_id == debug_image.build_id
    };
    (belongs && (debug_image.has_dwarf || debug_image.has_symtab)).then_some(DebugFile {
        file,
        image: debug_image,
    })
}

/// A debug link may name the file it is in.
fn is_module_itself(file: &File, module: &Module) -> bool {
    let identity = |file: &File| {
        rustix::fs::fstat(file)
            .map(|stat| (stat.st_dev, stat.st_ino))
            .ok()
    };
    module
        .file
        .as_ref()
        .is_some_and(|own| identity(own) == identity(file))
}
