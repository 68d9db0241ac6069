//! The time of day, as reports show it.

/// Local time as `HH:MM:SS`.
#[must_use]
pub fn time_of_day() -> String {
    // SAFETY: `time` takes a null pointer; `tm` is plain data that `localtime_r` fills in.
    let tm = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const now, &raw mut tm);
        tm
    };
    format!("{:02}:{:02}:{:02}", tm.tm_hour, tm.tm_min, tm.tm_sec)
}

/// Seconds since 1970, to the millisecond.
#[must_use]
pub fn unix_seconds() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |elapsed| (elapsed.as_secs_f64() * 1e3).round() / 1e3)
}
