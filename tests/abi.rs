//! The structs that cross the kernel boundary stand once in C and once in Rust. The objects' BTF
//! says what the C compiler made of them; every field must be at the same place on this side.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::mem::{offset_of, size_of};

use flame::profile::abi;
use flame::profile::unwind::abi::FRAMES_MAX;
use object::{Object, ObjectSection};

mod btf;

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
    let structs = btf::structs(flame::bpf::object("profile").unwrap());

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
        [
            key,
            time_ns,
            kernel_frames,
            stack_bytes,
            start_stack,
            registers,
            frames
        ]
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
