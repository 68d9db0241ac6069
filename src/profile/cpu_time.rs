//! How long CPUs idled: some kernels and hypervisors stop the sampling clock on an idle CPU, and
//! samples that nobody could take must not count as missing.

use std::collections::HashMap;
use std::fs;

/// The length of a tick of /proc/stat in nanoseconds (`USER_HZ` is 100 in all of /proc).
const TICK_NS: u64 = 10_000_000;

/// Time without work since boot in nanoseconds, by CPU: idle, waiting for I/O, or taken away by
/// the hypervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdleTimes(HashMap<u32, u64>);

impl IdleTimes {
    /// Reads /proc/stat; empty when that cannot be read.
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// Lines are `cpuN user nice system idle iowait irq softirq steal …` (proc(5)).
    fn parse(text: &str) -> Self {
        let by_cpu = text.lines().filter_map(|line| {
            let (name, times) = line.split_once(' ')?;
            let cpu = name.strip_prefix("cpu")?.parse().ok()?;
            let ticks: Vec<u64> = times
                .split_ascii_whitespace()
                .map_while(|word| word.parse().ok())
                .collect();
            let without_work = ticks.get(3)? + ticks.get(4)? + ticks.get(7).unwrap_or(&0);
            Some((cpu, without_work.saturating_mul(TICK_NS)))
        });
        Self(by_cpu.collect())
    }

    /// Time without work of a CPU since `earlier`, in nanoseconds.
    #[must_use]
    pub fn since(&self, earlier: &Self, cpu: u32) -> u64 {
        match (self.0.get(&cpu), earlier.0.get(&cpu)) {
            (Some(now), Some(then)) => now.saturating_sub(*then),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_iowait_and_steal_are_time_without_work() {
        let then = IdleTimes::parse("cpu  9 9 9 9\ncpu0 5 0 5 100 10 0 0 1 0 0\nintr 1 2\n");
        let now = IdleTimes::parse("cpu0 9 0 9 150 20 0 0 2 0 0\ncpu1 0 0 0 7\n");
        assert_eq!(now.since(&then, 0), 61 * TICK_NS);
        assert_eq!(
            now.since(&then, 1),
            0,
            "not there before, and a line cut short"
        );
    }
}
