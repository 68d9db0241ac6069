//! The comparison as a Markdown table.

use std::fmt::Write;
use std::fs;

use super::Options;
use super::profilers::{Profiler, Run};

/// One measure: what it is called, and its value in a run where it has one.
type Row = (&'static str, fn(&Run) -> Option<f64>, fn(f64) -> String);

const ROWS: &[Row] = &[
    (
        "BPF time per sample",
        |run| run.bpf_ns_per_sample,
        |ns| format!("{:.2} µs", ns / 1e3),
    ),
    (
        "CPU while sampling, of one core",
        |run| Some(run.cpu_pct),
        |pct| format!("{pct:.2} %"),
    ),
    (
        "start until it samples",
        |run| Some(run.start?.as_secs_f64()),
        |seconds| format!("{seconds:.2} s"),
    ),
    (
        "… caches empty",
        |run| Some(run.cold?.start.as_secs_f64()),
        |seconds| format!("{seconds:.2} s"),
    ),
    (
        "end of sampling to finished file",
        |run| Some(run.finish.as_secs_f64()),
        |seconds| format!("{seconds:.3} s"),
    ),
    (
        "… caches empty",
        |run| Some(run.cold?.finish.as_secs_f64()),
        |seconds| format!("{seconds:.3} s"),
    ),
    (
        "peak RSS of the largest process",
        |run| Some(run.peak_rss_bytes as f64),
        |bytes| format!("{:.0} MB", bytes / 1e6),
    ),
    (
        "samples taken / expected",
        |run| Some(run.taken_pct),
        |pct| format!("{pct:.1} %"),
    ),
];

/// Medians of all rounds, a column per profiler, under a line on how they were measured.
pub fn markdown(columns: &[(Profiler, Vec<Run>)], options: &Options) -> String {
    let mut table = circumstances(options);
    let names: Vec<_> = columns
        .iter()
        .map(|(profiler, _)| profiler.name())
        .collect();
    // Writing to a String cannot fail.
    writeln!(
        table,
        "\n\n| | {} |\n|---|{}",
        names.join(" | "),
        "---|".repeat(names.len())
    )
    .ok();
    for (what, value, print) in ROWS {
        let cells: Vec<_> = columns
            .iter()
            .map(|(_, runs)| median(runs.iter().filter_map(value)).map_or("–".into(), print))
            .collect();
        writeln!(table, "| {what} | {} |", cells.join(" | ")).ok();
    }
    table
}

fn circumstances(options: &Options) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Medians of {} interleaved runs of {} s each, whole machine, {} Hz, {cpus} CPUs, Linux {}; \
         load: `pgbench -S -c {}` at scale {}.",
        options.runs,
        options.seconds,
        options.frequency_hz,
        kernel.trim(),
        options.clients,
        options.scale,
    )
}

/// The middle value; the mean of the two middle ones of an even number.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
