//! Which files blazesym may read.
//!
//! It trusts four things that a file may lie about: how large a compressed section says it is (so
//! much is allocated, or the program aborts), how far it really unpacks, the files that the file
//! refers to, which it opens whatever they are, and how deep inlined functions nest. Nobody gets
//! away with the first; for the others, files of root and of the user we run as are trusted.

use super::dwarf_nesting;
use super::elf::Image;
use super::stable_file::StableFile;

/// Whether blazesym may read a file's DWARF.
#[must_use]
pub fn may_read_dwarf(file: &StableFile, image: &Image) -> bool {
    // We follow debug links ourselves, and blazesym would follow them again and fail.
    let follows_links = image.has_links && image.debug_link.is_some();
    image.has_dwarf
        && !follows_links
        && image.unpacked_bytes <= unpacked_bytes_max()
        && (file.trusted()
            || !(image.has_compressed || image.has_links)
                && dwarf_nesting::is_bearable(file.data()))
}

/// Whether blazesym may read a file's symbols.
#[must_use]
pub fn may_read_symbols(file: &StableFile, image: &Image) -> bool {
    // Without a symbol table blazesym unpacks MiniDebugInfo.
    file.trusted() || image.has_symtab || !image.has_mini_debug_info
}

/// A quarter of the machine's memory.
fn unpacked_bytes_max() -> u64 {
    let memory = rustix::system::sysinfo();
    memory.totalram.saturating_mul(memory.mem_unit.into()) / 4
}
