//! One `profile` run from its configuration to the written files.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags};

use super::abi::Counters;
use super::attribute::{self, TaskFrames};
use super::collect::{self, Collector, Snapshot};
use super::command::Command;
use super::config::{ProfileConfig, Targets, Unwind};
use super::model::{Meta, Profile};
use super::processes::{Processes, proc_fs};
use super::progress::Progress;
use super::quality;
use super::sampler::Sampler;
use super::sideband::{Record, SideBand};
use super::signals::{self, Signals};
use super::unwind::abi::KNOWN_RULES_PER_CPU;
use super::unwind::live::{ReadAhead, Unwinder};
use super::unwind::maps::UnwindMaps;
use super::unwind::walk::WithoutCfi;
use super::{cgroup, cpus, report};
use crate::bpf::{Bpf, Global, Ring, Settings};
use crate::preflight;
use crate::symbolize::{self, kernel_text, modules::Modules, unpacked};
use crate::wait::wait_for;

/// How often the kernel's buffers are emptied while sampling.
const TICK: Duration = Duration::from_millis(100);
/// Pause after an early wake-up: a storm of short-lived processes must not cost a core.
const PAUSE: Duration = Duration::from_millis(10);
/// The smallest ring buffer there can be.
const PAGE_BYTES: u32 = 4096;
/// The time in which a command is expected to have loaded its libraries.
const COMMAND_START: Duration = Duration::from_millis(20);
/// The pause is this many times as long as the drain before it took: in a flood of records some
/// are lost, which is counted and mended, rather than that we take part in the load.
const PAUSE_PER_DRAIN: u32 = 9;
const PAUSE_MAX: Duration = Duration::from_millis(300);

/// Runs a profile and writes its outputs.
///
/// # Errors
/// Every error is for the user: it says what is wrong and what helps. Nothing is written then.
pub fn run(config: &ProfileConfig) -> Result<()> {
    report::check_outputs(config)?;
    preflight::check_profile(config)?;
    // The fork comes first: this process has no threads yet.
    let command = match &config.targets {
        Targets::Command(words) => Some(Command::prepare(words)?),
        Targets::System | Targets::Pids(_) => None,
    };
    signals::start_workers()?;
    let mut session = Session::open(config, command)?;
    // Before this, a signal ends the program as it ends any other: there is nothing to save.
    let signals = Signals::catch()?;
    let progress = Progress::start(config, session.sampler.cpus());
    let sampled = session.sample(config, &signals, &progress)?;
    signals.give_up_on_next()?;
    progress.naming();
    let finished = session.finish(config, sampled);
    progress.finish();
    let finished = finished?;
    report::write(config, &finished)?;
    quality::gate(config, &finished.profile.quality)
}

struct Session {
    bpf: Bpf,
    ring: Ring,
    sampler: Sampler,
    sideband: SideBand,
    processes: Processes,
    modules: Modules,
    /// `None` when user stacks are walked by frame pointers.
    unwinder: Option<Unwinder>,
    /// The ring of samples with copied stacks.
    snapshot_ring: Ring,
    /// Samples whose stacks wait for the side-band to catch up.
    snapshots: Vec<Snapshot>,
    collector: Collector,
    /// Side-band records of one drain; kept for its memory.
    records: Vec<Record>,
    command: Option<Command>,
    /// `None` without kernel stacks, and until it samples.
    kernel_text: Option<kernel_text::Reading>,
}

/// A finished profile and what it cost.
#[derive(Debug)]
pub struct Finished {
    /// The named profile with its account.
    pub profile: Profile,
    /// What the run cost, for `--stats`.
    pub cost: quality::Cost,
}

impl Session {
    fn open(config: &ProfileConfig, command: Option<Command>) -> Result<Self> {
        let online = cpus::online_cpus()?;
        let sampled: Vec<u32> = online
            .iter()
            .copied()
            .filter(|cpu| config.cpu.is_none_or(|c| c == *cpu))
            .collect();
        // The side-band runs before /proc is read, so that nothing falls between the two.
        let sideband = SideBand::open(&online)?;
        let targets: Option<Vec<u32>> = match &config.targets {
            Targets::System => None,
            Targets::Pids(pids) => Some(pids.clone()),
            Targets::Command(_) => Some(command.iter().map(Command::pid).collect()),
        };
        let settings = settings(config, sampled.len())?;
        let (bpf, known) = rayon::join(
            || Bpf::load("profile", &settings),
            || Known::read(config, targets.as_deref()),
        );
        let (mut bpf, known) = (bpf?, known?);
        if let Some(pids) = &targets {
            bpf.attach_tp_btf("follow_fork", "sched_process_fork")?;
            bpf.attach_tp_btf("follow_exit", "sched_process_exit")?;
            for pid in pids {
                bpf.insert("targets", *pid, 1_u8)?;
            }
            // The end of one that ended before it could be followed would be waited for in vain.
            for pid in pids.iter().filter(|pid| !is_alive(**pid)) {
                bpf.remove("targets", *pid)?;
            }
        }
        let (program, unwinder) =
            load_sampling(&mut bpf, config, targets.as_deref(), known.tables)?;
        let sampler = Sampler::open(
            &mut bpf,
            program,
            &sampled,
            &config.event,
            config.frequency_hz,
        )?;
        bpf.forget_kernel_types();
        let mut session = Self {
            ring: bpf.take_ring("whole_samples")?,
            snapshot_ring: bpf.take_ring("snapshots")?,
            bpf,
            sampler,
            sideband,
            processes: known.processes,
            modules: known.modules,
            unwinder,
            snapshots: Vec::new(),
            collector: Collector::default(),
            records: Vec::new(),
            command,
            kernel_text: None,
        };
        session.update_unwinder()?;
        Ok(session)
    }

    /// Samples until the duration is over, a signal arrives, or all targets have ended. Gives the
    /// time sampled.
    fn sample(
        &mut self,
        config: &ProfileConfig,
        signals: &Signals,
        progress: &Progress,
    ) -> Result<Duration> {
        self.sampler.start()?;
        let start = Instant::now();
        tracing::info!(cpus = self.sampler.cpus(), "sampling");
        if let Some(command) = &mut self.command {
            command.release()?;
            self.follow_start(start)?;
        }
        // Not before: on a busy machine it would keep the first sample waiting.
        self.kernel_text = config.kernel_stacks.then(kernel_text::Reading::start);
        loop {
            let elapsed = start.elapsed();
            if config.duration.is_some_and(|duration| elapsed >= duration)
                || signals.take()
                || self.targets_have_ended(config)?
            {
                break;
            }
            let left = config
                .duration
                .map_or(TICK, |duration| duration.saturating_sub(elapsed));
            let woken_early = self.wait(signals, left.min(TICK))?;
            let drain_start = Instant::now();
            self.drain()?;
            progress.update(start.elapsed());
            if woken_early {
                let pause = (drain_start.elapsed() * PAUSE_PER_DRAIN).clamp(PAUSE, PAUSE_MAX);
                let mut fds = [PollFd::new(signals, PollFlags::IN)];
                wait_for(&mut fds, Some(pause.min(left)))?;
            }
        }
        self.sampler.stop()?;
        let sampled = start.elapsed();
        self.drain()?;
        Ok(sampled)
    }

    /// Reads the side-band closely while the command maps its libraries, so that hardly a sample of
    /// its first milliseconds has to wait for its tables.
    fn follow_start(&mut self, start: Instant) -> Result<()> {
        while start.elapsed() < COMMAND_START {
            self.drain()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sleeps until a side-band buffer fills, a signal arrives or the time is over. Whether it
    /// was not the time.
    fn wait(&self, signals: &Signals, timeout: Duration) -> Result<bool> {
        let mut fds: Vec<PollFd<'_>> = self
            .sideband
            .fds()
            .chain([signals.as_fd()])
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        wait_for(&mut fds, Some(timeout))
    }

    fn drain(&mut self) -> Result<()> {
        self.records.clear();
        self.sideband.drain(&mut self.records);
        self.processes.apply_all(&self.records, &mut self.modules)?;
        self.update_unwinder()?;
        // Only those of the last time: what the side-band says of them has been read by now.
        self.walk_snapshots();
        let Self {
            collector,
            snapshots,
            ..
        } = self;
        self.snapshot_ring
            .drain(|record| snapshots.extend(collector.read_snapshot(record)));
        self.ring.drain(|record| collector.add_whole(record));
        Ok(())
    }

    fn update_unwinder(&mut self) -> Result<()> {
        let changed = self.processes.take_changed();
        let Some(unwinder) = &mut self.unwinder else {
            return Ok(());
        };
        for record in &self.records {
            if let Record::Fork { pid, ppid, .. } = record {
                unwinder.follow(*ppid, *pid);
            }
        }
        unwinder.update(&changed, &self.processes, &self.modules)
    }

    fn walk_snapshots(&mut self) {
        let Some(unwinder) = &self.unwinder else {
            return;
        };
        for snapshot in self.snapshots.drain(..) {
            let walk = unwinder.walk(&snapshot.stack, &self.processes, &self.modules);
            self.collector.add_walked(snapshot, walk);
        }
    }

    fn targets_have_ended(&mut self, config: &ProfileConfig) -> Result<bool> {
        match (&config.targets, &mut self.command) {
            (Targets::System, _) => Ok(false),
            (Targets::Command(_), Some(command)) => Ok(command.has_exited()),
            _ => self.bpf.is_empty("targets"),
        }
    }

    fn finish(&mut self, config: &ProfileConfig, sampled: Duration) -> Result<Finished> {
        self.walk_snapshots();
        let by_cpu = self.bpf.read_per_cpu::<Counters>("counters")?;
        // With -I idle samples are among the others.
        let idle_of = |counters: &Counters| {
            if config.include_idle {
                counters.taken
            } else {
                counters.idle
            }
        };
        let idle: Vec<u64> = by_cpu.iter().map(idle_of).collect();
        let expected = self.sampler.expected_samples(&idle)?;
        let counters = collect::sum(&by_cpu);
        self.collector.add_counted(&self.bpf)?;
        let malformed = self.collector.malformed;
        let raw = std::mem::take(&mut self.collector).finish(config.per_cpu);
        if raw.samples.is_empty() {
            return Err(quality::explain_no_samples(config, &counters, sampled));
        }
        attribute::rescan_unmapped(&raw, &mut self.processes, &mut self.modules);
        let queries = attribute::queries(&raw, &self.processes);
        tracing::info!(
            kernel_addresses = queries.kernel.len(),
            modules = queries.files.len(),
            "naming"
        );
        let options = symbolize::Options {
            inline: config.inline,
            unpacked: unpacked::open_folder().map(Arc::new),
            kernel_text: self
                .kernel_text
                .take()
                .and_then(kernel_text::Reading::finish)
                .map(Arc::new),
            ..Default::default()
        };
        let symbols = symbolize::symbolize(&queries, |id| self.modules.get(id), &options);
        let tasks = TaskFrames {
            per_thread: config.per_thread,
            per_cpu: config.per_cpu,
        };
        let attributed = attribute::attribute(&raw, &self.processes, &symbols, tasks);

        let mut profile = attributed.profile;
        profile.meta = meta(config, sampled, self.sampler.cpus());
        quality::account(&mut profile.quality, &counters, expected, malformed);
        profile.quality.missed = quality::non_zero(&[
            ("side-band records", self.sideband.lost()),
            ("children not followed", counters.untracked_children),
            (
                "ended processes forgotten",
                self.processes.forgotten_images(),
            ),
            ("files not opened, see ulimit -n", self.modules.out_of_fds()),
            ("stacks not copied", counters.snapshots_unsent),
            (
                "unwind tables without room",
                self.unwinder.as_ref().map_or(0, Unwinder::unplaced),
            ),
        ]);
        profile.quality.unknown =
            quality::unknown_modules(&attributed.unknown, &self.modules, &symbols);
        let unwinder_bytes = self.unwinder.as_ref().map_or(0, Unwinder::memory_bytes);
        let cost = quality::Cost::of(&self.bpf, unwinder_bytes);
        Ok(Finished { profile, cost })
    }
}

/// What is known of the processes before it samples.
struct Known {
    processes: Processes,
    modules: Modules,
    /// `None` when user stacks are walked by frame pointers.
    tables: Option<ReadAhead>,
}

impl Known {
    fn read(config: &ProfileConfig, targets: Option<&[u32]>) -> Result<Self> {
        let (mut processes, mut modules) = (Processes::new(), Modules::new());
        processes.snapshot(targets, &mut modules)?;
        let tables = walks_by_cfi(config).then(|| ReadAhead::of(&processes, &modules));
        Ok(Self {
            processes,
            modules,
            tables,
        })
    }
}

/// Loads the program that samples: by call frame information unless that was ruled out or this
/// kernel cannot run it. Gives the program's name.
fn load_sampling(
    bpf: &mut Bpf,
    config: &ProfileConfig,
    targets: Option<&[u32]>,
    tables: Option<ReadAhead>,
) -> Result<(&'static str, Option<Unwinder>)> {
    const BY_FRAME_POINTERS: &str = "sample";
    const WITH_CFI: &str = "sample_with_cfi";
    if let Some(tables) = tables {
        match bpf.load_perf_event(WITH_CFI) {
            Ok(()) => {
                let maps = UnwindMaps::new(
                    bpf.map_fd("unwind_tables")?,
                    bpf.map_fd("unwind_processes")?,
                    &bpf.map_fd("unwind_mappings")?,
                )?;
                let wanted = targets.map(|pids| pids.iter().copied().collect());
                let without_cfi = match config.unwind {
                    Unwind::Dwarf => WithoutCfi::Stop,
                    Unwind::Auto | Unwind::Fp => WithoutCfi::FramePointers,
                };
                return Ok((
                    WITH_CFI,
                    Some(Unwinder::new(maps, tables, wanted, without_cfi)),
                ));
            }
            Err(error) if config.unwind == Unwind::Auto => tracing::warn!(
                "this kernel cannot walk stacks by .eh_frame (that needs 5.15), frame pointers \
                 are used: expect stacks without callers ({})",
                error.root_cause()
            ),
            Err(error) => return Err(error),
        }
    }
    bpf.load_perf_event(BY_FRAME_POINTERS)?;
    Ok((BY_FRAME_POINTERS, None))
}

/// Elements of `unwind_known_rules` and `unwind_known_index`: a part for every CPU there may be.
fn known_rules() -> Result<u32> {
    Ok(cpus::possible_cpus()? * KNOWN_RULES_PER_CPU)
}

fn walks_by_cfi(config: &ProfileConfig) -> bool {
    config.user_stacks && config.unwind != Unwind::Fp
}

fn is_alive(pid: u32) -> bool {
    proc_fs::stat(pid).is_some_and(|stat| !stat.ended)
}

fn meta(config: &ProfileConfig, sampled: Duration, cpus: usize) -> Meta {
    let uname = rustix::system::uname();
    Meta {
        command_line: config.command_line.clone(),
        host: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        duration: sampled,
        frequency_hz: config.frequency_hz,
        event: config.event.clone(),
        cpus: cpus as u32,
    }
}

/// Sizes the maps for the samples that can come, within bounds; what does not fit travels through
/// the ring buffer.
fn settings(config: &ProfileConfig, cpus: usize) -> Result<Settings> {
    let seconds = config
        .duration
        .map_or(60.0, |duration| duration.as_secs_f64())
        .min(3600.0);
    let samples = (seconds * config.frequency_hz as f64 * cpus as f64) as u32;
    let entries = samples.next_power_of_two().clamp(8192, 65536);
    let ring_bytes = (cpus as u32 * 256 * 1024)
        .next_power_of_two()
        .clamp(1 << 20, 1 << 26);
    // A few hundred milliseconds of samples with their stacks: as long as the largest tables take.
    let snapshot_bytes = (cpus as u64 * config.frequency_hz * 8192).next_power_of_two();
    let snapshot_bytes = snapshot_bytes.clamp(4 << 20, 64 << 20) as u32;
    let (cgroup_id, cgroup_level) = match &config.cgroup {
        Some(path) => cgroup::id_and_level(path)?,
        None => (0, 0),
    };
    let by_cfi = walks_by_cfi(config);
    // The kernel allocates every entry beforehand.
    let if_needed = |needed: bool, entries: u32| if needed { entries } else { 1 };
    let filters = !matches!(config.targets, Targets::System);
    Ok(Settings::default()
        .global("want_kernel_stacks", Global::Bool(config.kernel_stacks))
        .global("want_user_stacks", Global::Bool(config.user_stacks))
        .global("per_thread", Global::Bool(config.per_thread))
        .global("per_cpu", Global::Bool(config.per_cpu))
        .global("include_idle", Global::Bool(config.include_idle))
        .global("filter_processes", Global::Bool(filters))
        .global("inherit", Global::Bool(config.inherit))
        .global("filter_cgroup_id", Global::U64(cgroup_id))
        .global("filter_cgroup_level", Global::U32(cgroup_level))
        .max_entries("targets", if_needed(filters, 65536))
        .max_entries("samples", entries)
        .global(
            "unwind_by_frame_pointers",
            Global::Bool(config.unwind != Unwind::Dwarf),
        )
        .max_entries(
            "user_stacks",
            if_needed(config.unwind != Unwind::Dwarf, entries.min(32768)),
        )
        .max_entries("short_stacks", if_needed(by_cfi, entries.min(32768)))
        .max_entries("deep_stacks", if_needed(by_cfi, (entries / 16).max(256)))
        .max_entries("unwind_processes", if_needed(by_cfi, 32768))
        .max_entries("unwind_known_rules", if_needed(by_cfi, known_rules()?))
        .max_entries("unwind_known_index", if_needed(by_cfi, known_rules()?))
        .max_entries(
            "snapshots",
            if_needed(by_cfi, snapshot_bytes).max(PAGE_BYTES),
        )
        .max_entries("kernel_stacks", entries.min(16384))
        .max_entries("whole_samples", ring_bytes))
}
