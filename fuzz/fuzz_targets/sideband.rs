//! Any bytes as side-band records, and what becomes of processes that did what they say.
#![no_main]

use flame::profile::processes::Processes;
use flame::profile::raw::ImageKey;
use flame::profile::sideband::{Record, parse_all};
use flame::symbolize::modules::Modules;
use libfuzzer_sys::fuzz_target;

/// Beyond the kernel's largest process id: `/proc` must know none of them.
const NO_PROCESS: u32 = 1 << 30;
/// A header, two ids, and what is appended to all.
const RECORD_BYTES_MIN: usize = 8 + 8 + 16;

fuzz_target!(|bytes: &[u8]| {
    let mut records = Vec::new();
    let _ = parse_all(bytes, &mut records);
    assert!(records.len() * RECORD_BYTES_MIN <= bytes.len());
    let mut processes = Processes::new();
    let mut modules = Modules::new();
    for record in &mut records {
        to_nobody(record);
        processes.apply(record, &mut modules);
    }
    for pid in processes.take_changed() {
        if let Some(layout) = processes.layout_now(pid) {
            assert!(layout.iter().all(|stretch| stretch.start < stretch.end));
            assert!(layout.is_sorted_by(|low, high| low.end <= high.start));
        }
        for record in &records {
            let (key, time_ns) = (ImageKey { tgid: pid, start_time_low: 0, exec_id: 0 }, record.time_ns());
            let layout = processes.layout(key, time_ns);
            assert!(layout.is_sorted_by(|low, high| low.end <= high.start));
            if let Record::Mmap(mmap) = record {
                std::hint::black_box(processes.resolve(key, mmap.addr, time_ns, time_ns));
            }
        }
    }
});

/// Few processes, so that records meet; none that exists, and no file that does.
fn to_nobody(record: &mut Record) {
    let move_id = |id: &mut u32| *id = NO_PROCESS | (*id & 3);
    match record {
        Record::Mmap(mmap) => {
            move_id(&mut mmap.pid);
            mmap.ino = 0;
            mmap.path = mmap.path.strip_prefix(b"[").unwrap_or(&mmap.path).into();
        }
        Record::Comm { pid, tid, .. } | Record::Exit { pid, tid, .. } => {
            move_id(pid);
            move_id(tid);
        }
        Record::Fork { pid, ppid, tid, .. } => {
            move_id(pid);
            move_id(ppid);
            move_id(tid);
        }
        Record::Lost { .. } => {}
    }
}
