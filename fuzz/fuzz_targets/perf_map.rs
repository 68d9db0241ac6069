//! Any bytes as a JIT compiler's `/tmp/perf-PID.map`.
#![no_main]

use flame::symbolize::perf_map::read_names;
use libfuzzer_sys::fuzz_target;

/// A name is cut at 4 KiB, and then has an ellipsis.
const NAME_BYTES_MAX: usize = 4096 + 3;

fuzz_target!(|bytes: &[u8]| {
    let addresses: Vec<u64> = (0..64).map(|i| i << 8).chain([u64::MAX]).collect();
    let names = read_names(bytes, &addresses).expect("reading memory cannot fail");
    assert_eq!(names.len(), addresses.len());
    for name in names.iter().flatten() {
        assert!((1..=NAME_BYTES_MAX).contains(&name.len()));
    }
});
