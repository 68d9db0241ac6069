//! Any bytes as the call frame information of a file that is otherwise in order, in both dialects.
#![no_main]

use std::sync::LazyLock;

use flame::profile::unwind::elf::{Cfi, CfiKind, ElfLayout};
use flame::profile::unwind::table::Table;
use libfuzzer_sys::fuzz_target;

const CODE_ADDRESS: u64 = 0x40_0000;
const CODE_BYTES: u64 = 1 << 20;
const CFI_ADDRESS: u64 = 0x20_0000;

/// One megabyte of code, and headers that say so.
static LAYOUT: LazyLock<ElfLayout> = LazyLock::new(|| {
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend([2_u16, 62].map(u16::to_le_bytes).concat()); // ET_EXEC, EM_X86_64
    file.extend(1_u32.to_le_bytes());
    file.extend([CODE_ADDRESS, 64, 0].map(u64::to_le_bytes).concat()); // e_entry, e_phoff, e_shoff
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].map(u16::to_le_bytes).concat());
    file.extend([1_u32, 5].map(u32::to_le_bytes).concat()); // PT_LOAD, PF_R | PF_X
    let segment = [0, CODE_ADDRESS, CODE_ADDRESS, CODE_BYTES, CODE_BYTES, 4096];
    file.extend(segment.map(u64::to_le_bytes).concat());
    ElfLayout::read(file.as_slice()).expect("a valid file")
});

fuzz_target!(|bytes: &[u8]| {
    for kind in [CfiKind::EhFrame, CfiKind::DebugFrame] {
        let cfi = Cfi {
            kind,
            bytes: bytes.to_vec(),
            address: CFI_ADDRESS,
            text_address: CODE_ADDRESS,
        };
        let Ok(table) = Table::build(&LAYOUT, &cfi) else { continue };
        Table::from_words(table.words().to_vec()).expect("a built table is valid");
        for offset in (0..CODE_BYTES).step_by(997) {
            std::hint::black_box(table.find_rule(CODE_ADDRESS + offset));
        }
        assert_eq!(table.find_rule(CODE_ADDRESS - 1), None);
    }
});
