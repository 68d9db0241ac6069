//! Tables of real binaries against gimli's own reading of their call frame information, found
//! through `.eh_frame_hdr`: a way of its own from address to rows.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use flame::profile::unwind::abi::{Rule, cfa, fp};
use flame::profile::unwind::elf::ElfLayout;
use flame::profile::unwind::table::Table;
use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EhFrameHdr, EndianSlice, LittleEndian, RegisterRule,
    UnwindContext, UnwindSection, UnwindTableRow, X86_64,
};
use object::{Object, ObjectSection, ObjectSegment};

/// A small generator of reproducible addresses (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn build(path: &Path) -> Table {
    let file = File::open(path).unwrap();
    let layout = ElfLayout::read(&file).unwrap();
    let started = Instant::now();
    let cfi = layout.read_cfi(&file).unwrap().unwrap();
    let table = Table::build(&layout, &cfi).unwrap();
    let header = table.header();
    eprintln!(
        "{}: {} rows, {} rules, page bits {}, {} KiB, {:?}",
        path.display(),
        header.rows,
        header.rules,
        header.page_bits,
        table.words().len() / 256,
        started.elapsed()
    );
    table
}

/// Compares our rule with gimli's row. Returns whether the walk supports it.
fn agree(ours: Option<Rule>, row: Option<(&UnwindTableRow<usize>, bool)>, pc: u64) -> bool {
    let kind = ours.map_or(cfa::NONE, |rule| rule.cfa);
    let Some((row, signal)) = row else {
        // The entry point ends the stack even where nothing describes it.
        assert!(
            kind == cfa::NONE || kind == cfa::STOP,
            "{pc:x}: {ours:?} out of nowhere"
        );
        return true;
    };
    let ours = ours.unwrap_or_else(|| panic!("{pc:x}: nothing for {row:?}"));
    if signal || row.register(X86_64::RA) == Some(RegisterRule::Undefined) {
        let expected = if signal { cfa::SIGNAL } else { cfa::STOP };
        assert_eq!(kind, expected, "{pc:x}: {row:?}");
        return true;
    }
    if kind == cfa::UNSUPPORTED {
        return false;
    }
    assert_eq!(
        row.register(X86_64::RA),
        Some(RegisterRule::Offset(ours.ra_offset.into())),
        "{pc:x}: {row:?}"
    );
    match *row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            let expected = match register {
                X86_64::RSP => cfa::SP,
                X86_64::RBP => cfa::FP,
                _ => cfa::REGISTER,
            };
            assert_eq!(
                (kind, i64::from(ours.cfa_offset)),
                (expected, offset),
                "{pc:x}: {row:?}"
            );
        }
        CfaRule::Expression(_) => {
            assert!(
                [cfa::PLT, cfa::SP_DEREF, cfa::FP_DEREF].contains(&kind),
                "{pc:x}: {row:?}"
            );
        }
    }
    match row.register(X86_64::RBP) {
        None | Some(RegisterRule::SameValue) => assert_eq!(ours.fp, fp::SAME, "{pc:x}"),
        Some(RegisterRule::Offset(offset)) => {
            assert_eq!(
                (ours.fp, i64::from(ours.fp_offset)),
                (fp::AT_CFA, offset),
                "{pc:x}"
            );
        }
        Some(RegisterRule::Expression(_)) => assert_eq!(ours.fp, fp::AT_FP, "{pc:x}"),
        Some(_) => assert_eq!(ours.fp, fp::UNDEFINED, "{pc:x}"),
    }
    true
}

fn compare(path: &str) {
    let path = Path::new(path);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
        return;
    }
    let table = build(path);
    let bytes = std::fs::read(path).unwrap();
    let object = object::File::parse(bytes.as_slice()).unwrap();
    let section = |name: &str| {
        let section = object.section_by_name(name).unwrap();
        (section.address(), section.data().unwrap())
    };
    let ((frame_at, frame), (header_at, header)) = (section(".eh_frame"), section(".eh_frame_hdr"));
    let bases = BaseAddresses::default()
        .set_eh_frame(frame_at)
        .set_eh_frame_hdr(header_at)
        .set_text(section(".text").0);
    let header = EhFrameHdr::new(header, LittleEndian)
        .parse(&bases, 8)
        .unwrap();
    let header = header.table().unwrap();
    let frame = EhFrame::new(frame, LittleEndian);
    let mut context = UnwindContext::new();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let code: Vec<_> = object
        .segments()
        .filter(|segment| matches!(segment.flags(), object::SegmentFlags::Elf { p_flags, .. } if p_flags & 1 != 0))
        .map(|segment| (segment.address(), segment.file_range().1))
        .collect();
    let mut unsupported = 0;
    for _ in 0..10_000 {
        let (start, size) = code[random.next(code.len() as u64) as usize];
        let pc = start + random.next(size);
        let fde = header
            .fde_for_address(&frame, &bases, pc, |section, bases, offset| {
                section.cie_from_offset(bases, offset)
            })
            .ok();
        let row = fde.as_ref().and_then(|fde| {
            let row = fde
                .unwind_info_for_address(&frame, &bases, &mut context, pc)
                .ok()?;
            Some((row, fde.is_signal_trampoline()))
        });
        unsupported += u32::from(!agree(table.find_rule(pc), row, pc));
    }
    eprintln!("  {unsupported} of 10000 addresses unsupported");
    assert!(
        unsupported < 50,
        "{unsupported} of 10000 addresses unsupported"
    );
    let (rows, unsupported) = compare_all_rows(&table, &frame, &bases, &code);
    eprintln!("  {unsupported} of {rows} rows unsupported");
    assert!(rows > 100 && unsupported * 200 < rows);
}

/// Compares the first and the last address of every row of every function. Gives the rows, and
/// those that the walk does not support.
fn compare_all_rows(
    table: &Table,
    frame: &EhFrame<EndianSlice<LittleEndian>>,
    bases: &BaseAddresses,
    code: &[(u64, u64)],
) -> (u64, u64) {
    let (mut count, mut unsupported) = (0, 0);
    let mut context = UnwindContext::new();
    let mut entries = frame.entries(bases);
    while let Some(entry) = entries.next().unwrap() {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let fde = partial.parse(EhFrame::cie_from_offset).unwrap();
        let start = fde.initial_address();
        if !code
            .iter()
            .any(|(at, size)| (*at..at + size).contains(&start))
        {
            continue;
        }
        let mut rows = fde.rows(frame, bases, &mut context).unwrap();
        while let Some(row) = rows.next_row().unwrap() {
            let (first, behind) = (row.start_address(), row.end_address());
            if first >= behind {
                continue;
            }
            count += 1;
            let signal = fde.is_signal_trampoline();
            agree(table.find_rule(first), Some((row, signal)), first);
            let last = behind - 1;
            let supported = agree(table.find_rule(last), Some((row, signal)), last);
            unsupported += u64::from(!supported);
        }
    }
    (count, unsupported)
}

#[test]
fn the_c_library() {
    compare("/lib/x86_64-linux-gnu/libc.so.6");
}

#[test]
fn openssl_with_its_assembly() {
    compare("/usr/lib/x86_64-linux-gnu/libcrypto.so.3");
}

#[test]
fn postgres() {
    compare("/usr/lib/postgresql/15/bin/postgres");
}

#[test]
fn node() {
    compare("/usr/bin/node");
}

#[test]
fn llvm_with_a_million_rows() {
    compare("/usr/lib/x86_64-linux-gnu/libLLVM.so.19.1");
}

#[test]
fn a_loaders_own_vdso() {
    let bytes = flame::symbolize::modules::vdso::read_own().unwrap();
    let layout = ElfLayout::read(bytes.as_slice()).unwrap();
    let cfi = layout.read_cfi(bytes.as_slice()).unwrap().unwrap();
    let table = Table::build(&layout, &cfi).unwrap();
    assert!(table.header().rows > 10);
}

/// Without section headers `.eh_frame` is found through `PT_GNU_EH_FRAME`.
#[test]
fn a_file_without_section_headers_has_the_same_table() {
    let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let whole = ElfLayout::read(bytes.as_slice()).unwrap();
    let whole = Table::build(&whole, &whole.read_cfi(bytes.as_slice()).unwrap().unwrap()).unwrap();
    // e_shoff, and e_shnum and e_shstrndx.
    bytes[0x28..0x30].fill(0);
    bytes[0x3c..0x40].fill(0);
    let bare = ElfLayout::read(bytes.as_slice()).unwrap();
    let bare = Table::build(&bare, &bare.read_cfi(bytes.as_slice()).unwrap().unwrap()).unwrap();
    assert!(
        whole == bare,
        "{:?} is not {:?}",
        bare.header(),
        whole.header()
    );
}

#[test]
fn this_program_as_rust_and_its_linker_made_it() {
    compare(std::env::current_exe().unwrap().to_str().unwrap());
}
