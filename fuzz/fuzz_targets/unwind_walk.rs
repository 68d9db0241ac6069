//! Any registers and stack under any table that is accepted: the walk ends.
#![no_main]

use flame::profile::unwind::abi::{FRAMES_MAX, MappingEntry, mapping_kind};
use flame::profile::unwind::table::Table;
use flame::profile::unwind::walk::{Captured, unwind_user};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: ([u64; 21], Vec<u32>, Vec<u8>, u64)| {
    let (registers, words, stack, stack_start) = input;
    let table = Table::from_words(words).ok();
    let jit = MappingEntry {
        start: 0,
        end: 1 << 32,
        kind: mapping_kind::FRAME_POINTERS,
        ..MappingEntry::default()
    };
    let module = MappingEntry { start: 1 << 32, end: u64::MAX, ..MappingEntry::default() };
    let memory = Captured { parts: &[(stack_start, &stack)] };
    let walk = unwind_user(&registers, &memory, &[jit, module], |_| table.as_ref());
    assert!((1..=FRAMES_MAX).contains(&walk.addresses.len()));
});
