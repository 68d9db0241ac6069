//! Any bytes as an ELF file: no panic, no hang, and a table that passes its own checks.
#![no_main]

use flame::profile::unwind::elf::ElfLayout;
use flame::profile::unwind::table::Table;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(layout) = ElfLayout::read(bytes) else { return };
    let Ok(Some(cfi)) = layout.read_cfi(bytes) else { return };
    let Ok(table) = Table::build(&layout, &cfi) else { return };
    let header = table.header();
    Table::from_words(table.words().to_vec()).expect("a built table is valid");
    for offset in (0..u64::from(header.span)).step_by(1 + header.span as usize / 256) {
        std::hint::black_box(table.find_rule(header.base.wrapping_add(offset)));
    }
});
