//! Any registers, stack and code under any rules: the walk ends, with at most as many frames as it
//! may have; and where frame pointers are not needed, ruling them out changes nothing.
#![no_main]

use flame::profile::unwind::abi::{
    FRAMES_MAX, LINE_WORDS, MappingEntry, Outcome, PAGE_BITS_MAX, TABLE_VERSION, TableHeader, mapping_kind,
};
use flame::profile::unwind::table::Table;
use flame::profile::unwind::walk::{AddressSpace, Captured, STACK_POINTER, WithoutCfi, unwind_user};
use libfuzzer_sys::fuzz_target;

const CODE_START: u64 = 1 << 32;
const RULES_MAX: usize = 64;

/// The input of one walk: registers, where the stack lies below or above its pointer and how far
/// above it begins, the rules, the bytes of the stack and of the code.
type Input<'a> = ([u64; 21], i16, u16, Vec<[u32; 4]>, Vec<u8>, &'a [u8]);

fuzz_target!(|input: Input| {
    let (registers, stack_offset, stack_left, rules, code, stack) = input;
    let table = table(&rules);
    let stack_start = registers[STACK_POINTER].wrapping_add_signed(stack_offset.into());
    let start_stack = registers[STACK_POINTER].wrapping_add(stack_left.into());
    let jit = MappingEntry {
        start: 0,
        end: CODE_START,
        kind: mapping_kind::FRAME_POINTERS,
        ..MappingEntry::default()
    };
    let module = MappingEntry {
        start: CODE_START,
        end: u64::MAX,
        bias: CODE_START,
        ..MappingEntry::default()
    };
    let parts = [(stack_start, stack), (CODE_START, code.as_slice())];
    let memory = Captured { parts: &parts };
    let walk = |without_cfi| {
        let process = AddressSpace { mappings: &[jit, module], start_stack, without_cfi };
        unwind_user(&registers, &memory, &process, |_| table.as_ref())
    };
    let through = walk(WithoutCfi::FramePointers);
    assert!((1..=FRAMES_MAX).contains(&through.addresses.len()));
    let stopped = walk(WithoutCfi::Stop);
    assert!((1..=FRAMES_MAX).contains(&stopped.addresses.len()));
    if stopped.outcome != Outcome::NoCfi {
        assert_eq!(stopped, through);
    }
});

/// A table of one page: a row every eight bytes, a rule for each.
fn table(rules: &[[u32; 4]]) -> Option<Table> {
    let rules = &rules[..rules.len().min(RULES_MAX)];
    let count = rules.len() as u32;
    let pages_at = LINE_WORDS as u32;
    let rows_at = pages_at + 2;
    let rules_at = (rows_at + count).next_multiple_of(4);
    let header = TableHeader {
        base: 0,
        span: 1 << PAGE_BITS_MAX,
        page_bits: PAGE_BITS_MAX,
        pages_at,
        rows_at,
        rules_at,
        rows: count,
        rules: count,
        version: TABLE_VERSION,
    };
    let mut words = header.to_words().to_vec();
    words.extend([0, count]);
    words.extend((0..count).map(|row| (8 * row) << 16 | row));
    words.resize(rules_at as usize, 0);
    words.extend(rules.iter().flatten());
    words.resize(words.len().next_multiple_of(LINE_WORDS), 0);
    (count > 0).then(|| Table::from_words(words).expect("a valid table"))
}
