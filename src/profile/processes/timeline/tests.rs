//! Each test is a story of one or two processes; times are small numbers of nanoseconds, made
//! large enough (`T`) for the tolerances not to blur them.

use std::sync::Arc;

use super::super::image::{Code, Image, Mapping};
use super::*;
use crate::symbolize::modules::ModuleId;
use crate::symbolize::perf_map::PerfMapOwner;
use proptest::prelude::*;

const T: u64 = 1_000_000_000;
const A: u32 = 100;
const B: u32 = 200;

fn file(module: u32, start: u64, end: u64, from_ns: u64) -> Mapping {
    let code = Code::File {
        module: ModuleId(module),
        file_offset: 0,
    };
    Mapping {
        start,
        end,
        from_ns,
        until_ns: u64::MAX,
        scanned: false,
        code,
    }
}

fn scanned(mapping: Mapping) -> Mapping {
    Mapping {
        scanned: true,
        ..mapping
    }
}

fn jit(start: u64, end: u64, from_ns: u64) -> Mapping {
    let owner = PerfMapOwner {
        id: 0,
        tgid: A,
        ns_pid: A,
        uid: 0,
        root: None,
    };
    Mapping {
        code: Code::Anonymous(Arc::new(owner)),
        ..file(0, start, end, from_ns)
    }
}

fn key(tgid: u32) -> ImageKey {
    ImageKey {
        tgid,
        start_time_low: 0,
        exec_id: 0,
    }
}

/// The module found at an address by samples of exactly one time.
fn module_at(timeline: &Timeline, pid: u32, address: u64, time_ns: u64) -> Option<u32> {
    module_of(
        timeline
            .find(key(pid), time_ns, time_ns)?
            .lookup(address, time_ns)?,
    )
}

fn module_of(mapping: &Mapping) -> Option<u32> {
    match mapping.code {
        Code::File { module, .. } => Some(module.0),
        Code::Anonymous(_) => None,
    }
}

#[test]
fn a_fork_has_its_parents_mappings_until_it_execs() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    timeline.fork(A, B, 2 * T, 0);
    timeline.map(A, file(2, 0x5000, 0x6000, 3 * T));
    timeline.exec(B, 4 * T);
    timeline.map(B, file(3, 0x1000, 0x2000, 5 * T));
    assert_eq!(module_at(&timeline, B, 0x1000, 3 * T), Some(1));
    assert_eq!(
        module_at(&timeline, B, 0x5000, 6 * T),
        None,
        "mapped after the fork"
    );
    assert_eq!(module_at(&timeline, B, 0x1000, 6 * T), Some(3));
    assert_eq!(
        module_at(&timeline, A, 0x1000, 6 * T),
        Some(1),
        "the parent did not exec"
    );
}

#[test]
fn forks_share_mappings_until_one_changes() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    for child in 0..1000 {
        timeline.fork(A, 1000 + child, 2 * T, 0);
    }
    let shared = timeline.latest(A).map(Image::sharers);
    assert_eq!(shared, Some(1001));
}

#[test]
fn an_exec_in_mid_run_separates_two_programs_at_the_same_address() {
    let mut timeline = Timeline::default();
    timeline.scan(A, T, 1, None, vec![scanned(file(1, 0x1000, 0x2000, T))]);
    timeline.exec(A, 3 * T);
    timeline.map(A, file(2, 0x1000, 0x2000, 3 * T + 1));
    assert_eq!(module_at(&timeline, A, 0x1000, 2 * T), Some(1));
    assert_eq!(module_at(&timeline, A, 0x1000, 4 * T), Some(2));
    // Counted under one exec id, so the last sample was taken inside `execve`.
    let image = timeline.find(key(A), 2 * T, 3 * T + 5).unwrap();
    assert_eq!(image.lookup(0x1000, 3 * T + 5).and_then(module_of), Some(1));
}

#[test]
fn an_exec_of_an_unknown_program_lends_no_names_to_it() {
    let mut timeline = Timeline::default();
    timeline.exec(A, 3 * T);
    timeline.map(A, file(2, 0x1000, 0x2000, 3 * T + 1));
    assert!(timeline.find(key(A), 2 * T, 3 * T + 5).is_none());
}

#[test]
fn a_reused_pid_is_a_new_process() {
    let mut timeline = Timeline::default();
    timeline.fork(1, A, T, 0);
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    timeline.exit(A, 2 * T);
    timeline.fork(1, A, 5 * T, 0);
    timeline.map(A, file(2, 0x3000, 0x4000, 5 * T));
    assert_eq!(module_at(&timeline, A, 0x1000, T + 5), Some(1));
    assert_eq!(module_at(&timeline, A, 0x1000, 6 * T), None);
    assert_eq!(module_at(&timeline, A, 0x3000, 6 * T), Some(2));
}

#[test]
fn a_start_time_that_fits_no_known_life_is_unmapped() {
    let mut timeline = Timeline::default();
    timeline.fork(1, A, 5 * T, 0);
    timeline.map(A, file(1, 0x1000, 0x2000, 5 * T));
    let with_start = |start: u64| ImageKey {
        start_time_low: start as u32,
        ..key(A)
    };
    assert!(
        timeline
            .find(with_start(5 * T - 20_000), 6 * T, 6 * T)
            .is_some()
    );
    assert!(timeline.find(with_start(6 * T), 7 * T, 7 * T).is_none());
}

#[test]
fn a_start_time_picks_the_older_life_for_its_late_samples() {
    let mut timeline = Timeline::default();
    for (life, start) in [(1, T), (2, 3 * T)] {
        timeline.fork(1, A, start, 0);
        timeline.map(A, file(life, 0x1000, 0x2000, start));
    }
    let older = ImageKey {
        start_time_low: T as u32,
        ..key(A)
    };
    let image = timeline.find(older, 2 * T, 3 * T + 1).unwrap();
    assert_eq!(image.lookup(0x1000, 2 * T).and_then(module_of), Some(1));
}

#[test]
fn an_overlay_replaces_only_what_it_covers() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(1, 0x1000, 0x9000, T));
    timeline.map(A, file(2, 0x3000, 0x5000, 2 * T));
    let at = |address, time| module_at(&timeline, A, address, time);
    assert_eq!(at(0x2fff, 3 * T), Some(1));
    assert_eq!(at(0x3000, 3 * T), Some(2));
    assert_eq!(at(0x4fff, 3 * T), Some(2));
    assert_eq!(at(0x5000, 3 * T), Some(1));
    assert_eq!(at(0x3000, T + 1), Some(1), "the overlay was not there yet");
    assert_eq!(at(0x9000, 3 * T), None);
}

#[test]
fn a_remap_at_another_offset_is_other_code() {
    let mut timeline = Timeline::default();
    let mut moved = file(1, 0x1000, 0x2000, 2 * T);
    moved.code = Code::File {
        module: ModuleId(1),
        file_offset: 0x4000,
    };
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    timeline.map(A, moved);
    let image = timeline.latest(A).unwrap();
    let (first, last) = (image.lookup_known(0x1000, T), image.lookup(0x1000, 3 * T));
    assert!(!first.unwrap().is_same_code(last.unwrap()));
}

#[test]
fn a_late_record_takes_its_place_below_younger_ones() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(2, 0x1000, 0x2000, 2 * T));
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    assert_eq!(module_at(&timeline, A, 0x1000, T + 5), Some(1));
    assert_eq!(module_at(&timeline, A, 0x1000, 3 * T), Some(2));
}

#[test]
fn late_forks_and_execs_split_what_is_known() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    timeline.map(B, file(3, 0x8000, 0x9000, 4 * T));
    timeline.exec(B, 3 * T);
    timeline.fork(A, B, 2 * T, 0);
    assert_eq!(module_at(&timeline, B, 0x1000, 2 * T + 5), Some(1));
    assert_eq!(module_at(&timeline, B, 0x1000, 5 * T), None);
    assert_eq!(module_at(&timeline, B, 0x8000, 5 * T), Some(3));
    assert_eq!(timeline.live_pids().filter(|pid| *pid == B).count(), 1);
}

#[test]
fn records_older_than_a_scan_do_not_damage_it() {
    let mut timeline = Timeline::default();
    timeline.scan(
        A,
        5 * T,
        1,
        None,
        vec![scanned(file(2, 0x1000, 0x2000, 5 * T))],
    );
    timeline.fork(1, A, T, 0);
    timeline.map(A, file(1, 0x1000, 0x2000, 2 * T));
    timeline.exec(A, 3 * T);
    timeline.map(A, file(2, 0x1000, 0x2000, 3 * T + 1));
    timeline.map(A, file(4, 0x7000, 0x8000, 4 * T));
    assert_eq!(module_at(&timeline, A, 0x1000, 2 * T + 5), Some(1));
    assert_eq!(module_at(&timeline, A, 0x1000, 6 * T), Some(2));
    assert_eq!(module_at(&timeline, A, 0x7000, 4 * T + 5), Some(4));
    assert_eq!(
        module_at(&timeline, A, 0x7000, 6 * T),
        None,
        "the scan shows it was unmapped"
    );
}

#[test]
fn a_scan_ends_what_it_does_not_show_and_explains_what_was_missed() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    timeline.map(A, file(2, 0x3000, 0x4000, T));
    let now = vec![
        file(2, 0x3000, 0x4000, 3 * T),
        file(3, 0x5000, 0x6000, 3 * T),
    ];
    timeline.scan(A, 3 * T, 1, None, now.into_iter().map(scanned).collect());
    assert_eq!(module_at(&timeline, A, 0x1000, 2 * T), Some(1));
    assert_eq!(module_at(&timeline, A, 0x1000, 4 * T), None);
    assert_eq!(module_at(&timeline, A, 0x3000, 4 * T), Some(2));
    assert_eq!(
        module_at(&timeline, A, 0x5000, 2 * T),
        Some(3),
        "its record was lost"
    );
}

#[test]
fn a_scan_of_another_process_under_the_same_pid_begins_a_new_life() {
    let mut timeline = Timeline::default();
    timeline.fork(1, A, T, 0);
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    let born = Some(Born {
        monotonic_ns: 5 * T,
        suspended_ns: 0,
    });
    timeline.scan(
        A,
        6 * T,
        1,
        born,
        vec![scanned(file(2, 0x3000, 0x4000, 6 * T))],
    );
    assert_eq!(module_at(&timeline, A, 0x1000, 7 * T), None);
    assert_eq!(module_at(&timeline, A, 0x3000, 5 * T + 5), Some(2));
    assert_eq!(module_at(&timeline, A, 0x1000, 2 * T), Some(1));
}

#[test]
fn a_process_whose_first_thread_ended_lives_on_if_it_maps() {
    let mut timeline = Timeline::default();
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    timeline.exit(A, 2 * T);
    assert_eq!(timeline.live_pids().count(), 0);
    timeline.map(A, file(2, 0x3000, 0x4000, 3 * T));
    assert_eq!(timeline.live_pids().count(), 1);
    assert_eq!(module_at(&timeline, A, 0x1000, 4 * T), Some(1));
}

#[test]
fn a_growing_jit_region_stays_one_mapping() {
    let mut timeline = Timeline::default();
    for step in 1..1000 {
        timeline.map(A, jit(0x10000, 0x10000 + step * 0x1000, step * T));
        timeline.map(
            A,
            jit(
                0x10000 + (step - 1) * 0x1000,
                0x10000 + step * 0x1000,
                step * T + 1,
            ),
        );
    }
    assert_eq!(timeline.latest(A).map(Image::mapping_count), Some(1));
    timeline.map(A, file(1, 0x12000, 0x13000, 2000 * T));
    assert_eq!(module_at(&timeline, A, 0x12000, 2001 * T), Some(1));
}

#[test]
fn mappings_seen_twice_are_kept_once() {
    let mut timeline = Timeline::default();
    for round in 1..1000 {
        timeline.map(A, file(1, 0x1000, 0x2000, round * T));
    }
    assert_eq!(timeline.latest(A).map(Image::mapping_count), Some(1));
}

#[test]
fn hostile_numbers_of_mappings_are_bounded() {
    let mut timeline = Timeline::default();
    for index in 1..40_000 {
        timeline.map(
            A,
            file(index, u64::from(index) << 12, u64::from(index + 1) << 12, T),
        );
    }
    assert!(timeline.latest(A).map(Image::mapping_count).unwrap() <= 1 << 14);
    assert_eq!(module_at(&timeline, A, 39_999 << 12, 2 * T), Some(39_999));
}

#[test]
fn the_longest_dead_are_forgotten_and_counted() {
    let mut timeline = Timeline {
        dead_max: 10,
        ..Timeline::default()
    };
    timeline.map(A, file(1, 0x1000, 0x2000, T));
    for child in 0..30 {
        let start = T + u64::from(child) * T;
        timeline.fork(A, 1000 + child, start, 0);
        timeline.exit(1000 + child, start + 10);
    }
    assert_eq!(timeline.forgotten(), 20);
    assert!(timeline.latest(1000).is_none());
    assert_eq!(module_at(&timeline, 1029, 0x1000, 30 * T + 5), Some(1));
    assert_eq!(module_at(&timeline, A, 0x1000, 30 * T), Some(1));
}

/// One arbitrary step, over few pids, times and addresses so that they collide.
fn step(timeline: &mut Timeline, kind: u8, pid: u32, other: u32, time_ns: u64, place: u64) {
    let mapping = file(other, place << 12, (place + 2) << 12, time_ns);
    match kind {
        0 => timeline.fork(other, pid, time_ns, 0),
        1 => timeline.exec(pid, time_ns),
        2 => timeline.exit(pid, time_ns),
        3 => timeline.scan(pid, time_ns, other, None, vec![scanned(mapping)]),
        4 => timeline.map(pid, jit(place << 12, (place + 3) << 12, time_ns)),
        _ => timeline.map(pid, mapping),
    }
}

proptest! {
    #[test]
    fn any_order_of_steps_keeps_the_images_in_order(
        steps in prop::collection::vec((0u8..8, 0u32..3, 0u32..3, 0u64..20, 0u64..5), 0..60),
    ) {
        let mut timeline = Timeline { dead_max: 8, ..Timeline::default() };
        for (kind, pid, other, time, place) in steps {
            step(&mut timeline, kind, pid, other, time * T, place);
            for images in timeline.images.values() {
                prop_assert!(!images.is_empty());
                prop_assert!(images.is_sorted_by_key(|image| image.start_ns));
                prop_assert!(images.iter().all(Image::is_in_order));
            }
            for time in 0..20 {
                module_at(&timeline, pid, place << 12, time * T);
            }
        }
    }

    /// What holds whatever the order: a sorted stream and the same stream with two neighbours
    /// swapped give the same answers.
    #[test]
    fn swapped_neighbours_change_nothing(
        places in prop::collection::vec(0u64..5, 2..12),
        swap in 0usize..10,
    ) {
        let mut order: Vec<usize> = (0..places.len()).collect();
        let mut sorted = Timeline::default();
        let mut swapped = Timeline::default();
        let apply = |timeline: &mut Timeline, index: usize| {
            let time = (index as u64 + 1) * T;
            timeline.map(A, file(index as u32, places[index] << 12, (places[index] + 2) << 12, time));
        };
        for index in &order {
            apply(&mut sorted, *index);
        }
        let swap = swap % (places.len() - 1);
        order.swap(swap, swap + 1);
        for index in &order {
            apply(&mut swapped, *index);
        }
        for time in 1..=places.len() as u64 {
            for place in 0..7 {
                let at = |timeline: &Timeline| module_at(timeline, A, place << 12, time * T);
                prop_assert_eq!(at(&sorted), at(&swapped));
            }
        }
    }
}
