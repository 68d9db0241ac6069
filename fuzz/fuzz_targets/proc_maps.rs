//! Any bytes as `/proc/PID/maps`, `stat` and `status`.
#![no_main]

use flame::profile::processes::proc_fs::{parse_stat, parse_status, read_maps, unescape};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut path_bytes = 0;
    read_maps(bytes, |mapping| {
        assert!(mapping.range.0 < mapping.range.1);
        assert!(unescape(mapping.path).len() <= mapping.path.len());
        path_bytes += mapping.path.len();
    })
    .expect("reading memory cannot fail");
    assert!(path_bytes <= bytes.len());
    std::hint::black_box((parse_stat(bytes), parse_status(bytes)));
});
