//! Reads the structs of an object's BTF, for tests that compare both sides of the boundary.

use std::collections::HashMap;

use object::{Object, ObjectSection};

/// A struct as BTF describes it: size and byte offset of each member.
pub struct Layout {
    pub size: usize,
    pub members: HashMap<String, usize>,
}

const KIND_STRUCT: u32 = 4;

/// The structs of an object's `.BTF` section. Format: Documentation/bpf/btf.rst.
pub fn structs(object: &[u8]) -> HashMap<String, Layout> {
    let file = object::File::parse(object).unwrap();
    let btf = file.section_by_name(".BTF").unwrap().data().unwrap();
    let word = |at: usize| u32::from_le_bytes(btf[at..at + 4].try_into().unwrap());
    let header_bytes = word(4) as usize;
    let types = header_bytes + word(8) as usize;
    let types_end = types + word(12) as usize;
    let strings = header_bytes + word(16) as usize;
    let name = |offset: u32| {
        let start = strings + offset as usize;
        let end = btf[start..].iter().position(|byte| *byte == 0).unwrap() + start;
        String::from_utf8(btf[start..end].to_vec()).unwrap()
    };

    let mut found = HashMap::new();
    let mut at = types;
    while at < types_end {
        let (name_offset, info, size) = (word(at), word(at + 4), word(at + 8));
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        at += 12;
        let extra = match kind {
            1 | 14 | 17 => 4,                        // integer, variable, declaration tag
            3 => 12,                                 // array
            KIND_STRUCT | 5 | 15 | 19 => 12 * count, // struct, union, data section, 64-bit enumeration
            6 | 13 => 8 * count,                     // enumeration, function prototype
            _ => 0,
        };
        if kind == KIND_STRUCT {
            let members = (0..count)
                .map(|index| {
                    let member = at + 12 * index;
                    (
                        name(word(member)),
                        (word(member + 8) & 0x00ff_ffff) as usize / 8,
                    )
                })
                .collect();
            found.insert(
                name(name_offset),
                Layout {
                    size: size as usize,
                    members,
                },
            );
        }
        at += extra;
    }
    found
}
