//! Any bytes as an ELF file: both readers of its headers, the table that is compiled from its call
//! frame information, and the functions that are read from it.
#![no_main]

use flame::profile::unwind::elf::ElfLayout;
use flame::profile::unwind::table::Table;
use flame::symbolize::elf::Image;
use flame::symbolize::functions::Functions;
use libfuzzer_sys::fuzz_target;
use std::hint::black_box;

fuzz_target!(|bytes: &[u8]| {
    name(bytes);
    let Ok(layout) = ElfLayout::read(bytes) else { return };
    black_box(layout.bias(0x7000_0000, 0x7000_2000, 0));
    let Ok(Some(cfi)) = layout.read_cfi(bytes) else { return };
    black_box(cfi.fingerprint(&layout));
    let Ok(table) = Table::build(&layout, &cfi) else { return };
    let header = table.header();
    Table::from_words(table.words().to_vec()).expect("a built table is valid");
    for offset in (0..u64::from(header.span)).step_by(1 + header.span as usize / 256) {
        black_box(table.find_rule(header.base.wrapping_add(offset)));
    }
});

/// What the naming of code asks of the file.
fn name(bytes: &[u8]) {
    let Some(image) = Image::parse(bytes) else { return };
    let functions = Functions::default();
    for offset in (0..bytes.len() as u64).step_by(1 + bytes.len() / 16) {
        let Some(vaddr) = image.vaddr(offset) else { continue };
        black_box(image.code_section(vaddr));
        black_box(image.bytes_at(bytes, vaddr));
        if let Some(function) = functions.around(&image, bytes, vaddr) {
            assert!(function.contains(&vaddr));
        }
    }
}
