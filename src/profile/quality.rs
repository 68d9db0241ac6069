//! The account of every sample: what the kernel side counted, what has no name, what it cost.

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;

use super::abi::Counters;
use super::attribute::{UnknownFrames, UnknownIn};
use super::config::{ProfileConfig, Targets};
use super::model::{Quality, UnknownModule};
use crate::bpf::Bpf;
use crate::error::Error;
use crate::symbolize::modules::Modules;
use crate::symbolize::{Symbols, names};

/// Modules listed by name; the rest are added up.
const UNKNOWN_MODULES_SHOWN: usize = 20;

/// Fills the kernel side's counters into the account.
pub fn account(quality: &mut Quality, counters: &Counters, expected: Option<u64>, malformed: u64) {
    quality.expected = expected;
    quality.taken = counters.taken;
    quality.idle = counters.idle;
    quality.filtered = counters.filtered;
    let rescued = [
        ("stack map collision", counters.rescued_collision),
        ("map full", counters.rescued_map_full),
        ("map busy", counters.rescued_map_busy),
    ];
    quality.rescued = non_zero(&rescued);
    quality
        .rescued
        .extend(non_zero(&[("stack walked later", counters.snapshots)]));
    let rescued_count: u64 = rescued.iter().map(|(_, count)| count).sum();
    quality.recorded =
        (counters.counted + counters.snapshots + rescued_count).saturating_sub(malformed);
    quality.lost = non_zero(&[
        ("ring buffer full", counters.lost_ring_full),
        ("malformed", malformed),
    ]);
    quality.truncated.extend(non_zero(&[
        ("no kernel stack", counters.no_kernel_stack),
        ("no user stack", counters.no_user_stack),
    ]));
}

/// Counts with their names, without those that are zero.
#[must_use]
pub fn non_zero(counts: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    counts
        .iter()
        .copied()
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Nameless frames by module with what would help, most frequent first.
#[must_use]
pub fn unknown_modules(
    unknown: &UnknownFrames,
    modules: &Modules,
    symbols: &Symbols,
) -> Vec<UnknownModule> {
    let mut by_name: HashMap<String, UnknownModule> = HashMap::new();
    for (place, frames) in unknown {
        let (module, remedy) = describe(*place, modules, symbols);
        by_name
            .entry(module.clone())
            .or_insert(UnknownModule {
                module,
                frames: 0,
                remedy,
            })
            .frames += frames;
    }
    let mut list: Vec<UnknownModule> = by_name.into_values().collect();
    list.sort_by(|a, b| {
        b.frames
            .cmp(&a.frames)
            .then_with(|| a.module.cmp(&b.module))
    });
    if list.len() > UNKNOWN_MODULES_SHOWN {
        let rest = list.split_off(UNKNOWN_MODULES_SHOWN);
        list.push(UnknownModule {
            module: format!("[{} more modules]", rest.len()),
            frames: rest.iter().map(|module| module.frames).sum(),
            remedy: String::new(),
        });
    }
    list
}

fn describe(place: UnknownIn, modules: &Modules, symbols: &Symbols) -> (String, String) {
    let (name, remedy) = match place {
        UnknownIn::Kernel => (
            "[kernel]",
            symbols.kernel_problem.clone().unwrap_or_default(),
        ),
        UnknownIn::Anonymous => (
            "[anonymous]",
            symbols
                .anonymous_problems
                .values()
                .next()
                .cloned()
                .unwrap_or_default(),
        ),
        UnknownIn::Unmapped => (
            "[unmapped]",
            "addresses that are no code of any file: frame pointers led astray (--unwind fp), or \
             code that was mapped and gone in between"
                .to_owned(),
        ),
        UnknownIn::Module(id) => {
            let path = &modules.get(id).path;
            return (
                names::module_name(path),
                symbols.file_problems.get(&id).cloned().unwrap_or_default(),
            );
        }
    };
    (name.to_owned(), remedy)
}

/// What the run itself cost.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cost {
    /// The profiler's own CPU time in nanoseconds, user and system.
    pub cpu_ns: u64,
    /// Its peak resident memory in bytes.
    pub peak_rss_bytes: u64,
    /// Kernel memory of the BPF maps in bytes.
    pub map_memory_bytes: u64,
    /// Kernel memory of unwind tables and processes' mappings in bytes.
    pub unwind_memory_bytes: u64,
    /// Time spent in BPF programs in nanoseconds; 0 unless `kernel.bpf_stats_enabled` is 1.
    pub bpf_run_ns: u64,
    /// Runs of BPF programs; 0 unless `kernel.bpf_stats_enabled` is 1.
    pub bpf_runs: u64,
}

impl Cost {
    /// The cost so far.
    #[must_use]
    pub fn of(bpf: &Bpf, unwind_memory_bytes: u64) -> Self {
        // SAFETY: `getrusage` fills the struct it is given; all-zero is a valid value for it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
            usage
        };
        let nanoseconds =
            |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
        let (bpf_run_ns, bpf_runs) = bpf.run_time();
        Self {
            cpu_ns: nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime),
            peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
            map_memory_bytes: bpf.map_memory_bytes(),
            unwind_memory_bytes,
            bpf_run_ns,
            bpf_runs,
        }
    }
}

/// Why there is nothing to draw, as an error that helps.
#[must_use]
pub fn explain_no_samples(
    config: &ProfileConfig,
    counters: &Counters,
    sampled: Duration,
) -> anyhow::Error {
    let seconds = sampled.as_secs_f64();
    let Counters {
        taken,
        idle,
        filtered,
        lost_ring_full,
        ..
    } = *counters;
    let problem = format!(
        "no samples in {seconds:.1} s: {taken} taken, {idle} of them idle, {filtered} belonged to \
         something else, {lost_ring_full} lost"
    );
    let remedy = if taken == 0 {
        format!(
            "the event {} never fired; try without -e, or longer",
            config.event
        )
    } else if !matches!(config.targets, Targets::System) {
        "the process used no CPU in that time: it waits for something. Check the PID (a parent \
         may only wait for its children), put it under load, or sample longer"
            .to_owned()
    } else if config.cgroup.is_some() {
        "the cgroup used no CPU in that time; check the path, or sample longer".to_owned()
    } else if !config.user_stacks || !config.kernel_stacks {
        "all the time was spent on the side that -U or -K leaves out".to_owned()
    } else {
        "the machine was idle; -I includes idle CPUs, or sample longer".to_owned()
    };
    Error::Failed { problem, remedy }.into()
}

/// Fails when fewer stacks than `--min-quality` asks for are rooted and named.
///
/// # Errors
/// [`Error::GateFailed`] with the percentage reached.
pub fn gate(config: &ProfileConfig, quality: &Quality) -> anyhow::Result<()> {
    let Some(wanted_pct) = config.min_quality_pct else {
        return Ok(());
    };
    let reached_pct = match quality.user_stacks {
        0 => 100.0,
        stacks => quality.rooted_and_named as f64 * 100.0 / stacks as f64,
    };
    if reached_pct < wanted_pct {
        return Err(Error::GateFailed(format!(
            "{reached_pct:.1} % of the user stacks are rooted and named, --min-quality asks for \
             {wanted_pct} %"
        ))
        .into());
    }
    Ok(())
}
