//! Names for the linker's call stubs: `puts@plt`.
//!
//! A stub has no symbol. On x86-64 it jumps through a slot of the global offset table
//! (`ff 25 rel32`, after an optional `endbr64` or `bnd`), and the relocation of that slot names
//! the function (System V ABI, AMD64 supplement, "Procedure Linkage Table").

use std::collections::HashMap;

use object::{Architecture, Object, ObjectSymbol, ObjectSymbolTable, RelocationTarget};

use super::elf::Image;

/// More relocations than this are not read.
const RELOCATIONS_MAX: usize = 1 << 20;

/// `jmp *rel32(%rip)`.
const JUMP_THROUGH_SLOT: [u8; 2] = [0xff, 0x25];

/// The slots of one file's global offset table, by virtual address.
#[derive(Debug, Default)]
pub struct Slots<'data>(HashMap<u64, &'data str>);

impl<'data> Slots<'data> {
    /// Reads a file's dynamic relocations; empty for other machines than x86-64.
    #[must_use]
    pub fn read(data: &'data [u8]) -> Self {
        let Ok(file) = object::File::parse(data) else {
            return Self::default();
        };
        if file.architecture() != Architecture::X86_64 {
            return Self::default();
        }
        let (Some(symbols), Some(relocations)) =
            (file.dynamic_symbol_table(), file.dynamic_relocations())
        else {
            return Self::default();
        };
        let named = relocations
            .take(RELOCATIONS_MAX)
            .filter_map(|(slot, relocation)| {
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    return None;
                };
                let name = symbols.symbol_by_index(index).ok()?.name().ok()?;
                (!name.is_empty()).then_some((slot, name))
            });
        Self(named.collect())
    }

    /// The function that the stub around `vaddr` jumps to.
    #[must_use]
    pub fn target(&self, data: &[u8], image: &Image, vaddr: u64) -> Option<&'data str> {
        let section = image.code_section(vaddr)?;
        // Stubs are 16 bytes each; without `endbr64`, those of `.plt.got` are 8.
        for stub_bytes in [8, 16] {
            let within = vaddr - section.addresses.start;
            let stub = section.addresses.start + within / stub_bytes * stub_bytes;
            let bytes = image.bytes_at(data, stub)?.get(..stub_bytes as usize)?;
            let Some(at) = bytes.windows(2).position(|pair| pair == JUMP_THROUGH_SLOT) else {
                continue;
            };
            let Some(&[a, b, c, d]) = bytes.get(at + 2..at + 6) else {
                continue;
            };
            let relative = i64::from(i32::from_le_bytes([a, b, c, d]));
            let next = stub + at as u64 + 6;
            if let Some(name) = self.0.get(&next.wrapping_add_signed(relative)) {
                return Some(name);
            }
        }
        None
    }
}

/// Whether a section holds call stubs.
#[must_use]
pub fn holds_stubs(section: &str) -> bool {
    section == ".plt" || section.starts_with(".plt.") || section == ".iplt"
}
