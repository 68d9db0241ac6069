//! The perf events a profile can be driven by: names, what the kernel calls them, how to sample.

use perf_event_open_sys::bindings as sys;

use crate::error::Error;

/// What makes the kernel take a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// So many samples per second and CPU (`perf_event_attr::freq`).
    Frequency,
    /// One sample every so many occurrences (`perf_event_attr::sample_period`).
    Every(u64),
}

/// One row of the table of events.
#[derive(Debug)]
pub struct EventRow {
    /// The name `-e` takes.
    pub name: &'static str,
    /// Other spellings that `perf` users know.
    pub aliases: &'static [&'static str],
    /// `perf_event_attr::type`.
    pub perf_type: u32,
    /// `perf_event_attr::config`.
    pub config: u64,
    /// How it is sampled.
    pub sampling: Sampling,
}

/// The event of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// `perf_event_attr::type`.
    pub perf_type: u32,
    /// `perf_event_attr::config`.
    pub config: u64,
    /// How it is sampled.
    pub sampling: Sampling,
}

impl Event {
    /// Whether samples come at a rate known beforehand, so that an expected number exists: only
    /// the CPU clock ticks on an idle CPU too.
    #[must_use]
    pub fn is_wall_clock(&self) -> bool {
        self.perf_type == sys::PERF_TYPE_SOFTWARE
            && self.config == u64::from(sys::PERF_COUNT_SW_CPU_CLOCK)
    }
}

/// The event used without `-e`: it needs no hardware and is what "99 times a second" means.
pub const DEFAULT_EVENT: &str = "cpu-clock";

/// Every named event. Software events that are not clocks are rare enough to take them all.
pub static EVENTS: &[EventRow] = &[
    software(
        "cpu-clock",
        &[],
        sys::PERF_COUNT_SW_CPU_CLOCK,
        Sampling::Frequency,
    ),
    software(
        "task-clock",
        &[],
        sys::PERF_COUNT_SW_TASK_CLOCK,
        Sampling::Frequency,
    ),
    hardware("cycles", &["cpu-cycles"], sys::PERF_COUNT_HW_CPU_CYCLES),
    hardware("instructions", &[], sys::PERF_COUNT_HW_INSTRUCTIONS),
    hardware("cache-references", &[], sys::PERF_COUNT_HW_CACHE_REFERENCES),
    hardware("cache-misses", &[], sys::PERF_COUNT_HW_CACHE_MISSES),
    hardware(
        "branches",
        &["branch-instructions"],
        sys::PERF_COUNT_HW_BRANCH_INSTRUCTIONS,
    ),
    hardware("branch-misses", &[], sys::PERF_COUNT_HW_BRANCH_MISSES),
    hardware("bus-cycles", &[], sys::PERF_COUNT_HW_BUS_CYCLES),
    hardware(
        "stalled-cycles-frontend",
        &["idle-cycles-frontend"],
        sys::PERF_COUNT_HW_STALLED_CYCLES_FRONTEND,
    ),
    hardware(
        "stalled-cycles-backend",
        &["idle-cycles-backend"],
        sys::PERF_COUNT_HW_STALLED_CYCLES_BACKEND,
    ),
    hardware("ref-cycles", &[], sys::PERF_COUNT_HW_REF_CPU_CYCLES),
    cache_read_miss("L1-dcache-load-misses", sys::PERF_COUNT_HW_CACHE_L1D),
    cache_read_miss("LLC-load-misses", sys::PERF_COUNT_HW_CACHE_LL),
    cache_read_miss("dTLB-load-misses", sys::PERF_COUNT_HW_CACHE_DTLB),
    cache_read_miss("iTLB-load-misses", sys::PERF_COUNT_HW_CACHE_ITLB),
    software(
        "page-faults",
        &["faults"],
        sys::PERF_COUNT_SW_PAGE_FAULTS,
        Sampling::Every(1),
    ),
    software(
        "minor-faults",
        &[],
        sys::PERF_COUNT_SW_PAGE_FAULTS_MIN,
        Sampling::Every(1),
    ),
    software(
        "major-faults",
        &[],
        sys::PERF_COUNT_SW_PAGE_FAULTS_MAJ,
        Sampling::Every(1),
    ),
    software(
        "context-switches",
        &["cs"],
        sys::PERF_COUNT_SW_CONTEXT_SWITCHES,
        Sampling::Every(1),
    ),
    software(
        "cpu-migrations",
        &["migrations"],
        sys::PERF_COUNT_SW_CPU_MIGRATIONS,
        Sampling::Every(1),
    ),
    software(
        "alignment-faults",
        &[],
        sys::PERF_COUNT_SW_ALIGNMENT_FAULTS,
        Sampling::Every(1),
    ),
    software(
        "emulation-faults",
        &[],
        sys::PERF_COUNT_SW_EMULATION_FAULTS,
        Sampling::Every(1),
    ),
];

const fn software(
    name: &'static str,
    aliases: &'static [&'static str],
    config: u32,
    sampling: Sampling,
) -> EventRow {
    EventRow {
        name,
        aliases,
        perf_type: sys::PERF_TYPE_SOFTWARE,
        config: config as u64,
        sampling,
    }
}

const fn hardware(name: &'static str, aliases: &'static [&'static str], config: u32) -> EventRow {
    EventRow {
        name,
        aliases,
        perf_type: sys::PERF_TYPE_HARDWARE,
        config: config as u64,
        sampling: Sampling::Frequency,
    }
}

/// `config = cache | operation << 8 | result << 16`, see `perf_event_open(2)`.
const fn cache_read_miss(name: &'static str, cache: u32) -> EventRow {
    let operation = sys::PERF_COUNT_HW_CACHE_OP_READ;
    let result = sys::PERF_COUNT_HW_CACHE_RESULT_MISS;
    EventRow {
        name,
        aliases: &[],
        perf_type: sys::PERF_TYPE_HW_CACHE,
        config: (cache | operation << 8 | result << 16) as u64,
        sampling: Sampling::Frequency,
    }
}

/// The event behind a name of the table, or behind `rHEX`, the CPU's own event code as `perf`
/// spells it. An unknown name is a usage error that lists the known ones.
pub fn by_name(name: &str) -> Result<Event, Error> {
    if let Some(row) = EVENTS
        .iter()
        .find(|row| row.name == name || row.aliases.contains(&name))
    {
        return Ok(Event {
            perf_type: row.perf_type,
            config: row.config,
            sampling: row.sampling,
        });
    }
    raw(name).ok_or_else(|| {
        let known: Vec<&str> = EVENTS.iter().map(|row| row.name).collect();
        Error::Usage(format!(
            "unknown event '{name}' for -e\n  known: {}, or rHEX for a raw event of this CPU",
            known.join(", ")
        ))
    })
}

fn raw(name: &str) -> Option<Event> {
    let digits = name.strip_prefix('r')?;
    // `from_str_radix` alone would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let config = u64::from_str_radix(digits, 16).ok()?;
    Some(Event {
        perf_type: sys::PERF_TYPE_RAW,
        config,
        sampling: Sampling::Frequency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_aliases_are_unique_and_found() {
        let mut seen = HashSet::new();
        for row in EVENTS {
            for name in row.aliases.iter().chain([&row.name]) {
                assert!(seen.insert(*name), "{name} stands twice in the table");
                assert_eq!(by_name(name).unwrap().config, row.config);
                assert!(raw(name).is_none(), "{name} would also be a raw event");
            }
        }
    }

    #[test]
    fn the_default_is_the_cpu_clock() {
        assert!(by_name(DEFAULT_EVENT).unwrap().is_wall_clock());
        assert!(!by_name("task-clock").unwrap().is_wall_clock());
        // The number of cycles is the hardware type's 0, as the CPU clock is the software type's.
        assert!(!by_name("cycles").unwrap().is_wall_clock());
    }

    #[test]
    fn cache_events_are_encoded_as_the_kernel_documents() {
        assert_eq!(by_name("LLC-load-misses").unwrap().config, 0x1_0002);
    }

    #[test]
    fn raw_events_are_hexadecimal() {
        let event = by_name("r01c2").unwrap();
        assert_eq!((event.perf_type, event.config), (sys::PERF_TYPE_RAW, 0x1c2));
        for bad in ["r", "r+1", "rxyz", "r11112222333344445"] {
            assert!(by_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones() {
        let message = by_name("cycels").unwrap_err().to_string();
        assert!(
            message.contains("'cycels'") && message.contains("branch-misses"),
            "{message}"
        );
    }
}
