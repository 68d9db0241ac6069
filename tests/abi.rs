//! The structs that cross the kernel boundary stand once in C and once in Rust. The objects' BTF
//! says what the C compiler made of them; every field must be at the same place on this side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::mem::{offset_of, size_of};

use flame::profile::abi;
use flame::profile::unwind::abi::FRAMES_MAX;
use object::{Object, ObjectSection};

/// A struct as BTF describes it: size and byte offset of each member.
struct Layout {
    size: usize,
    members: HashMap<String, usize>,
}

const KIND_STRUCT: u32 = 4;

/// The structs of an object's `.BTF` section. Format: Documentation/bpf/btf.rst.
fn structs(object: &[u8]) -> HashMap<String, Layout> {
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

macro_rules! assert_same_layout {
    ($structs:expr, $c_name:expr, $rust:ty, [$($field:ident),+ $(,)?]) => {{
        let layout = &$structs[$c_name];
        let fields: &[(&str, usize)] = &[$((stringify!($field), offset_of!($rust, $field))),+];
        for (field, offset) in fields {
            assert_eq!(layout.members.get(*field), Some(offset), "{}.{field}", $c_name);
        }
        layout
    }};
}

#[test]
fn profile_structs_agree() {
    let structs = structs(flame::bpf::object("profile").unwrap());

    let key = assert_same_layout!(
        structs,
        "sample_key",
        abi::SampleKey,
        [
            tgid,
            tid,
            start_time_low,
            exec_id,
            cpu,
            kernel_stack_id,
            user_stack_place,
            reserved,
            user_stack,
            comm
        ]
    );
    assert_eq!(
        (key.size, key.members.len()),
        (size_of::<abi::SampleKey>(), 10)
    );

    let count = assert_same_layout!(
        structs,
        "sample_count",
        abi::SampleCount,
        [count, first_ns, last_ns]
    );
    assert_eq!(
        (count.size, count.members.len()),
        (size_of::<abi::SampleCount>(), 3)
    );

    let whole = assert_same_layout!(
        structs,
        "whole_sample",
        abi::WholeSampleHeader,
        [key, time_ns, kernel_frames, user_frames, outcome, reserved]
    );
    assert_eq!(whole.members["frames"], size_of::<abi::WholeSampleHeader>());

    let snapshot = assert_same_layout!(
        structs,
        "stack_snapshot",
        abi::SnapshotHeader,
        [key, time_ns, kernel_frames, stack_bytes, registers, frames]
    );
    assert_eq!(snapshot.members["stack"], size_of::<abi::SnapshotHeader>());

    for (name, size) in [
        (
            "short_stack",
            size_of::<abi::WalkedStack<{ abi::SHORT_FRAMES }>>(),
        ),
        ("deep_stack", size_of::<abi::WalkedStack<FRAMES_MAX>>()),
    ] {
        let stack = assert_same_layout!(
            structs,
            name,
            abi::WalkedStack<FRAMES_MAX>,
            [outcome, count, addresses]
        );
        assert_eq!(stack.size, size);
    }

    let counters = assert_same_layout!(
        structs,
        "counters",
        abi::Counters,
        [
            taken,
            idle,
            filtered,
            counted,
            rescued_collision,
            rescued_map_full,
            rescued_map_busy,
            lost_ring_full,
            no_kernel_stack,
            no_user_stack,
            untracked_children,
            snapshots,
            snapshots_unsent,
        ]
    );
    assert_eq!(
        (counters.size, counters.members.len()),
        (size_of::<abi::Counters>(), 13)
    );
}

#[test]
fn every_object_has_one_text_section_at_most() {
    for mode in flame::bpf::modes() {
        let file = object::File::parse(flame::bpf::object(mode).unwrap()).unwrap();
        let text = file
            .sections()
            .filter(|section| section.name().unwrap().starts_with(".text") && section.size() > 0);
        assert!(
            text.count() <= 1,
            "{mode}: the loader links only one .text section"
        );
    }
}
