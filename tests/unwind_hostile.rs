//! Hostile input to the unwinder's user-space half: whatever it is given, it neither panics nor
//! hangs, and what it accepts stays within its bounds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use flame::profile::unwind::abi::{FRAMES_MAX, MappingEntry, Rule, mapping_kind};
use flame::profile::unwind::elf::ElfLayout;
use flame::profile::unwind::table::Table;
use flame::profile::unwind::walk::{AddressSpace, Captured, WithoutCfi, unwind_user};
use flame::symbolize::elf::Image;
use flame::symbolize::functions::Functions;
use flame::symbolize::modules::vdso;
use proptest::prelude::*;

/// A table from whatever these bytes are.
fn build(bytes: &[u8]) -> Option<Table> {
    let layout = ElfLayout::read(bytes).ok()?;
    std::hint::black_box(layout.bias(0x7000_0000, 0x7000_2000, 0));
    let cfi = layout.read_cfi(bytes).ok()??;
    Table::build(&layout, &cfi).ok()
}

/// Whatever was accepted passes its own checks and answers for every address.
fn probe(table: &Table) {
    let header = table.header();
    assert_eq!(
        Table::from_words(table.words().to_vec())
            .expect("valid")
            .words(),
        table.words()
    );
    for offset in (0..u64::from(header.span)).step_by(1 + header.span as usize / 4096) {
        std::hint::black_box(table.find_rule(header.base.wrapping_add(offset)));
    }
    std::hint::black_box(table.find_rule(u64::MAX));
    std::hint::black_box(table.find_rule(0));
}

/// What this thread took so far: others may keep the machine busy.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

proptest! {
    #[test]
    fn a_damaged_elf_file(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40)) {
        let mut bytes = vdso::read_own().unwrap();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(table) = build(&bytes) {
            probe(&table);
        }
    }

    #[test]
    fn damaged_call_frame_information(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200)) {
        let bytes = vdso::read_own().unwrap();
        let layout = ElfLayout::read(bytes.as_slice()).unwrap();
        let mut cfi = layout.read_cfi(bytes.as_slice()).unwrap().unwrap();
        for (at, value) in damage {
            let at = at.index(cfi.bytes.len());
            cfi.bytes[at] = value;
        }
        if let Ok(table) = Table::build(&layout, &cfi) {
            probe(&table);
        }
    }

    #[test]
    fn arbitrary_words_as_a_table(words in prop::collection::vec(any::<u32>(), 0..256)) {
        if let Ok(table) = Table::from_words(words) {
            probe(&table);
        }
    }

    #[test]
    fn a_rule_survives_its_words(words in any::<[u32; 4]>()) {
        prop_assert_eq!(Rule::from_words(words).to_words(), words);
    }

    #[test]
    fn an_arbitrary_stack(
        registers in any::<[u64; 21]>(),
        stack in prop::collection::vec(any::<u8>(), 0..4096),
        offset in 0..0x2000_u64,
        kind in 0..2_u32,
        stops in any::<bool>(),
        start_stack in 0..0x2000_u64,
    ) {
        let bytes = vdso::read_own().unwrap();
        let table = build(&bytes).unwrap();
        let mut registers = registers;
        registers[16] = 0x7000_0000 + offset;
        registers[19] = 0x1000;
        let all = MappingEntry { start: 0, end: 1 << 47, kind: mapping_kind::FRAME_POINTERS, ..Default::default() };
        let vdso = MappingEntry { start: 0x7000_0000, end: 0x7000_2000, bias: 0x7000_0000, table: 0, kind };
        let stack = Captured { parts: &[(0x1000, &stack), (0x7000_0000, &bytes)] };
        let without_cfi = if stops { WithoutCfi::Stop } else { WithoutCfi::FramePointers };
        let mappings = [all, vdso];
        let process = AddressSpace { mappings: &mappings, start_stack, without_cfi };
        let walk = unwind_user(&registers, &stack, &process, |_| Some(&table));
        prop_assert!((1..=FRAMES_MAX).contains(&walk.addresses.len()));
    }
}

/// One long CIE that thousands of functions share would cost its length each time.
#[test]
fn a_shared_endless_program_is_refused_in_time() {
    let vdso = vdso::read_own().unwrap();
    let layout = ElfLayout::read(vdso.as_slice()).unwrap();
    let mut cfi = layout.read_cfi(vdso.as_slice()).unwrap().unwrap();
    let code = layout
        .segments
        .iter()
        .find(|segment| segment.executable)
        .unwrap();
    let mut bytes = Vec::new();
    // CIE: length, id 0, version 1, no augmentation, alignments 1 and -8, return address 16.
    let program = [0x0a, 0x0b].repeat(400_000); // remember_state, restore_state
    bytes.extend(((4 + 5 + program.len()) as u32).to_le_bytes());
    bytes.extend([0, 0, 0, 0, 1, 0, 1, 0x78, 16]);
    bytes.extend(program);
    for _ in 0..200_000 {
        let fde_at = bytes.len() as u32;
        bytes.extend(20_u32.to_le_bytes());
        bytes.extend((fde_at + 4).to_le_bytes());
        bytes.extend(code.address.to_le_bytes());
        bytes.extend(16_u64.to_le_bytes());
    }
    cfi.bytes = bytes;
    let started_s = cpu_seconds();
    let error = Table::build(&layout, &cfi).unwrap_err();
    assert!(error.to_string().contains("too complex"), "{error}");
    let took_s = cpu_seconds() - started_s;
    assert!(took_s < 10.0, "{took_s} s");
}

/// An ELF file of one segment, with a `.eh_frame` and no search table for it.
fn with_eh_frame(content: &[u8]) -> Vec<u8> {
    const NAMES: &[u8] = b"\0.eh_frame\0.names\0";
    const CONTENT_AT: u64 = 64 + 56;
    let names_at = CONTENT_AT + content.len() as u64;
    let sections_at = names_at + NAMES.len() as u64;
    let mut file = Vec::new();
    let halves = |file: &mut Vec<u8>, values: &[u16]| {
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    let words = |file: &mut Vec<u8>, values: &[u32]| {
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    let longs = |file: &mut Vec<u8>, values: &[u64]| {
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    halves(&mut file, &[2, 62]); // ET_EXEC, EM_X86_64
    words(&mut file, &[1]);
    longs(&mut file, &[0, 64, sections_at]);
    words(&mut file, &[0]);
    halves(&mut file, &[64, 56, 1, 64, 3, 2]);
    words(&mut file, &[1, 5]); // PT_LOAD, PF_R | PF_X
    longs(&mut file, &[0, 0, 0, names_at, names_at, 4096]);
    file.extend(content);
    file.extend(NAMES);
    file.extend([0; 64]);
    let mut section = |name: u32, kind: u32, at: u64, size: u64| {
        words(&mut file, &[name, kind]);
        longs(&mut file, &[2, at, at, size]);
        words(&mut file, &[0, 0]);
        longs(&mut file, &[8, 0]);
    };
    section(1, 1, CONTENT_AT, content.len() as u64);
    section(11, 3, names_at, NAMES.len() as u64);
    file
}

/// To find out where functions start, everything that they share is read once, not once for each.
#[test]
fn functions_that_share_an_endless_name_are_read_in_time() {
    let mut content = Vec::new();
    // A CIE whose augmentation, a string, says megabytes of times that this is a signal frame.
    let mut cie = vec![0, 0, 0, 0, 1, b'z'];
    cie.resize(1 << 20, b'S');
    cie.extend([0, 1, 0x78, 16, 0]);
    content.extend((cie.len() as u32).to_le_bytes());
    content.extend(cie);
    for _ in 0..400_000 {
        let at = content.len() as u32;
        content.extend(24_u32.to_le_bytes());
        content.extend((at + 4).to_le_bytes());
        content.extend([0; 20]);
    }
    let file = with_eh_frame(&content);
    let image = Image::parse(&file).unwrap();
    assert!(image.eh_frame.is_some() && image.eh_frame_hdr.is_none());
    let started_s = cpu_seconds();
    assert_eq!(Functions::default().around(&image, &file, 64), None);
    let took_s = cpu_seconds() - started_s;
    assert!(took_s < 10.0, "{took_s} s");
}

/// The search table says where a function's description is: before all of them, for instance.
#[test]
fn a_search_table_that_points_out_of_its_section() {
    let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let image = Image::parse(&whole).unwrap();
    let header = image.eh_frame_hdr.unwrap();
    let code = image
        .code
        .iter()
        .max_by_key(|code| code.addresses.end - code.addresses.start);
    let middle = code.map(|code| u64::midpoint(code.addresses.start, code.addresses.end));
    let around = |vaddr: &u64| {
        Functions::default()
            .around(&image, &whole, *vaddr)
            .is_some()
    };
    let vaddr = (middle.unwrap()..).take(4096).find(around).unwrap();
    let found = |file: &[u8]| Functions::default().around(&image, file, vaddr);
    let table = image.bytes_at(&whole, header).unwrap();
    let table_at = table.as_ptr() as usize - whole.as_ptr() as usize + 12;
    let count = u32::from_le_bytes(whole[table_at - 4..table_at].try_into().unwrap()) as usize;
    for place in [0_i32, i32::MIN, i32::MAX, -1] {
        let mut damaged = whole.clone();
        for row in 0..count {
            let at = table_at + 8 * row + 4;
            damaged[at..at + 4].copy_from_slice(&place.to_le_bytes());
        }
        assert_eq!(found(&damaged), None);
    }
    for rows in [0, u32::MAX] {
        let mut damaged = whole.clone();
        damaged[table_at - 4..table_at].copy_from_slice(&rows.to_le_bytes());
        assert_eq!(found(&damaged), None);
    }
}
