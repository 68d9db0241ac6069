//! Where functions start and end, from call frame information.
//!
//! Every C, C++ and Rust program carries it for its exceptions, stripped or not (Linux Standard
//! Base, "Exception Frames"). Usually `.eh_frame_hdr` has a search table; static programs often
//! lack it, and then `.eh_frame` is read through once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use gimli::UnwindSection;
use gimli::{BaseAddresses, CieOrFde, CommonInformationEntry, EhFrame, EndianSlice, NativeEndian};

use super::elf::Image;

/// More functions than this are not read from a file without a search table.
const FUNCTIONS_MAX: usize = 1 << 20;

/// Version 1, a pointer to `.eh_frame` relative to itself in four bytes, four bytes that count the
/// rows, rows of four bytes relative to the header: no linker writes another form.
const SEARCH_TABLE: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

type Slice<'data> = EndianSlice<'data, NativeEndian>;

/// The functions of one file.
#[derive(Debug, Default)]
pub struct Functions {
    /// Sorted by address; filled when first needed.
    scanned: OnceLock<Vec<Range<u64>>>,
}

impl Functions {
    /// The virtual addresses of the function around `vaddr`; `None` when no call frame
    /// information covers it.
    #[must_use]
    pub fn around(&self, image: &Image, data: &[u8], vaddr: u64) -> Option<Range<u64>> {
        if image.eh_frame_hdr.is_some() {
            return search(image, data, vaddr);
        }
        let functions = self.scanned.get_or_init(|| scan(image, data));
        let after = functions.partition_point(|function| function.start <= vaddr);
        let function = functions.get(after.checked_sub(1)?)?;
        function.contains(&vaddr).then(|| function.clone())
    }
}

/// Looks one address up in the search table of `.eh_frame_hdr`: pairs of a function's start and of
/// where its description is, both relative to the table's own header.
fn search(image: &Image, data: &[u8], vaddr: u64) -> Option<Range<u64>> {
    let hdr_vaddr = image.eh_frame_hdr?;
    let hdr = image
        .bytes_at(data, hdr_vaddr)?
        .strip_prefix(&SEARCH_TABLE)?;
    let word = |bytes: &[u8]| Some(i32::from_ne_bytes(*bytes.first_chunk()?));
    let from_hdr = |relative: i32| hdr_vaddr.wrapping_add_signed(relative.into());
    let eh_frame_vaddr = from_hdr(word(hdr)?.wrapping_add(SEARCH_TABLE.len() as i32));
    let count = word(hdr.get(4..)?)?.cast_unsigned() as usize;
    let rows = hdr.get(8..)?.as_chunks::<8>().0;
    let rows = rows.get(..count)?;
    let after = rows.partition_point(|row| word(row).is_some_and(|start| from_hdr(start) <= vaddr));
    let row = rows.get(after.checked_sub(1)?)?;
    let fde_vaddr = from_hdr(word(&row[4..])?);
    let offset = usize::try_from(fde_vaddr.checked_sub(eh_frame_vaddr)?).ok()?;

    let bases = BaseAddresses::default().set_eh_frame(eh_frame_vaddr);
    let eh_frame = eh_frame(image, image.bytes_at(data, eh_frame_vaddr)?);
    let fde = eh_frame
        .fde_from_offset(&bases, offset.into(), EhFrame::cie_from_offset)
        .ok()?;
    Some(fde.initial_address()..fde.end_address()).filter(|range| range.contains(&vaddr))
}

/// Reads all of `.eh_frame`.
fn scan(image: &Image, data: &[u8]) -> Vec<Range<u64>> {
    let mut functions = Vec::new();
    let Some(section) = &image.eh_frame else {
        return functions;
    };
    let Some(bytes) = image.bytes_at(data, section.start) else {
        return functions;
    };
    let bytes = bytes
        .get(..(section.end - section.start) as usize)
        .unwrap_or(bytes);
    let bases = BaseAddresses::default().set_eh_frame(section.start);
    let eh_frame = eh_frame(image, bytes);
    // Each once: what thousands of functions share can be megabytes long.
    let mut cies: HashMap<usize, gimli::Result<CommonInformationEntry<Slice<'_>>>> = HashMap::new();
    let mut entries = eh_frame.entries(&bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else {
            continue;
        };
        let fde = partial.parse(|section, bases, offset| {
            let cie = cies.entry(offset.0);
            cie.or_insert_with(|| section.cie_from_offset(bases, offset))
                .clone()
        });
        if let Ok(fde) = fde {
            functions.push(fde.initial_address()..fde.end_address());
        }
        if functions.len() >= FUNCTIONS_MAX {
            break;
        }
    }
    functions.sort_unstable_by_key(|function| function.start);
    functions
}

fn eh_frame<'data>(image: &Image, bytes: &'data [u8]) -> EhFrame<Slice<'data>> {
    let mut eh_frame = EhFrame::new(bytes, NativeEndian);
    eh_frame.set_address_size(image.address_bytes);
    eh_frame
}
