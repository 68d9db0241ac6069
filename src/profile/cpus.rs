//! Which CPUs are online.

use anyhow::Context;

/// The most CPUs a list may name; Linux itself stops at 8192 (`CONFIG_NR_CPUS`).
const CPUS_MAX: usize = 1 << 16;

/// The numbers of the CPUs that are online now, in ascending order.
///
/// Source: `/sys/devices/system/cpu/online` (Documentation/admin-guide/cputopology.rst).
pub fn online_cpus() -> anyhow::Result<Vec<u32>> {
    let path = "/sys/devices/system/cpu/online";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    parse_cpu_list(&text).with_context(|| format!("{path} is not a list of CPUs: {text:?}"))
}

/// Parses the kernel's list format: `0-3,5,7-8`.
fn parse_cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for range in text.trim_end().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || cpus.len() + (last - first) as usize >= CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_and_single_cpus() {
        assert_eq!(parse_cpu_list("0\n"), Some(vec![0]));
        assert_eq!(parse_cpu_list("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["", "a", "3-1", "0-", "0-4294967295", "-1"] {
            assert_eq!(parse_cpu_list(text), None, "{text:?}");
        }
    }

    #[test]
    fn this_machine_has_a_cpu() {
        assert!(!online_cpus().unwrap().is_empty());
    }
}
