//! The kernel side's walk, on programs whose stacks are known exactly. Needs root.

mod recorder;

use recorder::{Recorder, Workload};

use flame::profile::unwind::abi::Outcome;

#[test]
fn scratch() {
    let mode = std::env::var("MODE").unwrap_or("user".into());
    let workload = if let Ok(pid) = std::env::var("PID") { Workload::existing(pid.parse().unwrap()) } else { Workload::start("deep", &["-O2", "-fomit-frame-pointer", "-pthread"], &mode) };
    let started = std::time::Instant::now();
    let recorder = Recorder::start(&workload);
    eprintln!("loaded in {:?}", started.elapsed());
    let walks = recorder.record(std::time::Duration::from_secs(2));
    let mut outcomes = std::collections::BTreeMap::new();
    let mut frames = 0;
    for walk in &walks {
        frames += walk.addresses.len();
        *outcomes.entry(format!("{:?}", Outcome::from_number(walk.outcome))).or_insert(0) += 1;
    }
    eprintln!("{} walks, {} frames, {outcomes:?}", walks.len(), frames);
    recorder.print_stats(frames);
    let mut shown = std::collections::HashSet::new();
    for walk in &walks {
        if walk.outcome != 1 && shown.insert(walk.outcome) || (walk.outcome == 1 && shown.insert(walk.addresses.len() as u32 + 1000) && shown.len() < 8) {
            eprintln!("{:?} {}", Outcome::from_number(walk.outcome), walk.addresses.len());
            for a in walk.addresses.iter().rev().take(12).rev() {
                eprintln!("   {:x} {}", a, recorder.name(*a));
            }
        }
    }
}
