//! Which file was mapped where, in which process, and when.
//!
//! Two sources are joined: `/proc`, read once at the start and again where records were missed,
//! and the side-band's records of everything since. Files are interned, and so opened, as soon as
//! they are seen, because the process may be gone the next moment.

mod by_address;
mod image;
pub mod proc_fs;
mod timeline;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};

use crate::profile::raw::ImageKey;
use crate::profile::sideband::{Mmap, Record};
use crate::symbolize::modules::{MappedFile, ModuleId, Modules, Sighting};
use crate::symbolize::perf_map::PerfMapOwner;
use image::{Code, Mapping};
use timeline::{Born, Timeline};

/// How far up the family a dead process's file is looked for.
const ANCESTORS_MAX: usize = 4;

/// After reading all of `/proc` because of lost records, how many times as long we do not again.
const SNAPSHOT_REST: u64 = 30;

/// Where the kernel maps `[vsyscall]` into every process (x86-64).
const VSYSCALL: std::ops::Range<u64> = 0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000;

/// What one user address of one process belonged to when it was sampled.
#[derive(Debug, Clone)]
pub enum Location {
    /// Code of a file (or the vDSO, a module of its own).
    File {
        /// The file.
        module: ModuleId,
        /// Offset into the file: `address - mapping start + mapping's file offset`.
        file_offset: u64,
    },
    /// Executable memory without a file: a JIT's. The address itself is what a perf map names.
    Anonymous {
        /// The process whose perf map may know the address.
        owner: Arc<PerfMapOwner>,
    },
    /// No known executable mapping held this address at that time.
    Unmapped,
}

/// All processes of a run, ended ones included.
#[derive(Debug, Default)]
pub struct Processes {
    timeline: Timeline,
    /// The owner of anonymous code by process id, with the start of the image it was seen in.
    owners: HashMap<u32, (u64, Arc<PerfMapOwner>)>,
    owners_count: u32,
    vsyscall: Option<ModuleId>,
    lost: bool,
    /// Processes whose mappings are not what they were at the last [`Processes::take_changed`].
    changed: HashSet<u32>,
    /// Not before this time is `/proc` read again because of lost records.
    snapshot_due_ns: u64,
}

/// A stretch of executable memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// The file it is mapped from and the offset of `start` in it; `None` for anonymous memory.
    pub file: Option<(ModuleId, u64)>,
}

impl Processes {
    /// Knows no process yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what processes have mapped now; all processes when `pids` is `None`. Open the
    /// side-band first, so that nothing falls between the two. A process that is gone is skipped.
    pub fn snapshot(&mut self, pids: Option<&[u32]>, modules: &mut Modules) -> anyhow::Result<()> {
        self.vsyscall
            .get_or_insert_with(|| modules.special("[vsyscall]"));
        let all;
        let pids = if let Some(pids) = pids {
            pids
        } else {
            all = proc_fs::all_pids()?;
            &all
        };
        for pid in pids {
            self.rescan(*pid, modules);
        }
        Ok(())
    }

    /// Takes in what a drain of the side-band brought. If records were lost, `/proc` is read
    /// again, but not so often that a flood of records could keep us busy.
    pub fn apply_all(&mut self, records: &[Record], modules: &mut Modules) -> anyhow::Result<()> {
        for record in records {
            self.apply(record, modules);
        }
        let start_ns = clock_ns(ClockId::Monotonic);
        if self.lost && start_ns >= self.snapshot_due_ns {
            self.lost = false;
            self.snapshot(None, modules)?;
            let end_ns = clock_ns(ClockId::Monotonic);
            self.snapshot_due_ns = end_ns + (end_ns - start_ns) * SNAPSHOT_REST;
        }
        Ok(())
    }

    /// Takes in one record. A loss is only noted, for the next [`Processes::apply_all`].
    pub fn apply(&mut self, record: &Record, modules: &mut Modules) {
        if !record.pid().is_some_and(is_process) && !matches!(record, Record::Lost { .. }) {
            return;
        }
        if !matches!(record, Record::Comm { exec: false, .. }) {
            self.changed.extend(record.pid());
        }
        match record {
            Record::Mmap(mmap) => self.apply_mmap(mmap, modules),
            Record::Comm {
                pid,
                time_ns,
                exec: true,
                ..
            } => self.timeline.exec(*pid, *time_ns),
            Record::Comm { .. } => {}
            // A thread shares everything with its process.
            Record::Fork { pid, ppid, .. } if pid == ppid => {}
            Record::Fork {
                pid, ppid, time_ns, ..
            } => {
                if self.timeline.latest(*ppid).is_none() {
                    self.rescan(*ppid, modules);
                }
                self.timeline.fork(*ppid, *pid, *time_ns, suspended_ns());
            }
            Record::Exit { pid, tid, time_ns } => {
                if pid == tid {
                    self.timeline.exit(*pid, *time_ns);
                }
            }
            Record::Lost { .. } => self.lost = true,
        }
    }

    fn apply_mmap(&mut self, mmap: &Mmap, modules: &mut Modules) {
        if mmap.prot & libc::PROT_EXEC as u32 == 0 {
            return;
        }
        let Some(end) = mmap
            .addr
            .checked_add(mmap.len)
            .filter(|end| *end > mmap.addr)
        else {
            return;
        };
        if self.timeline.latest(mmap.pid).is_none() {
            // Its fork was missed; this is one mapping of many.
            self.rescan(mmap.pid, modules);
        }
        let seen = SeenMapping {
            pid: mmap.pid,
            thread: mmap.pid,
            range: (mmap.addr, end),
            file_offset: mmap.file_offset,
            device_inode: (mmap.dev, mmap.ino),
            generation: Some(mmap.ino_generation),
            path: &mmap.path,
        };
        let code = self.code_of(&seen, mmap.time_ns, modules);
        self.timeline.map(
            mmap.pid,
            Mapping {
                start: mmap.addr,
                end,
                from_ns: mmap.time_ns,
                until_ns: u64::MAX,
                scanned: false,
                code,
            },
        );
    }

    /// Reads again what a process has mapped, as after an address of it was
    /// [`Location::Unmapped`]. Returns whether the process is alive.
    pub fn rescan(&mut self, pid: u32, modules: &mut Modules) -> bool {
        let time_ns = clock_ns(ClockId::Monotonic);
        let Some(stat) = proc_fs::stat(pid).filter(|stat| !stat.ended) else {
            return false;
        };
        let thread = if stat.leader_ended {
            proc_fs::living_thread(pid).unwrap_or(pid)
        } else {
            pid
        };
        let mut mappings = Vec::new();
        let read = proc_fs::for_each_executable(thread, |line| {
            if VSYSCALL.contains(&line.range.0) {
                return;
            }
            let path = proc_fs::unescape(line.path);
            let seen = SeenMapping {
                pid,
                thread,
                range: line.range,
                file_offset: line.file_offset,
                device_inode: line.device_inode,
                generation: None,
                path: &path,
            };
            mappings.push(Mapping {
                start: line.range.0,
                end: line.range.1,
                from_ns: time_ns,
                until_ns: u64::MAX,
                scanned: true,
                code: self.code_of(&seen, time_ns, modules),
            });
        });
        if read.is_err() {
            return false;
        }
        let suspended_ns = suspended_ns();
        // Clock ticks are 1/100 s in all of /proc (USER_HZ).
        let boot_ns = stat.start_ticks.saturating_mul(10_000_000);
        let monotonic_ns = boot_ns.saturating_sub(suspended_ns);
        let born = Some(Born {
            monotonic_ns,
            suspended_ns,
        });
        self.timeline.scan(pid, time_ns, stat.ppid, born, mappings);
        self.changed.insert(pid);
        true
    }

    /// What `address` belonged to when samples of `image` were taken, the first at `first_ns`, the
    /// last at `last_ns` (`CLOCK_MONOTONIC`). [`Location::Unmapped`] too when it changed between.
    #[must_use]
    pub fn resolve(&self, image: ImageKey, address: u64, first_ns: u64, last_ns: u64) -> Location {
        if VSYSCALL.contains(&address)
            && let Some(module) = self.vsyscall
        {
            return Location::File {
                module,
                file_offset: address - VSYSCALL.start,
            };
        }
        let Some(image) = self.timeline.find(image, first_ns, last_ns) else {
            return Location::Unmapped;
        };
        let Some(mapping) = image.lookup(address, last_ns) else {
            return Location::Unmapped;
        };
        let first = image.lookup_known(address, first_ns);
        if first.is_some_and(|first| !first.is_same_code(mapping)) {
            return Location::Unmapped;
        }
        match &mapping.code {
            Code::File {
                module,
                file_offset,
            } => Location::File {
                module: *module,
                file_offset: (address - mapping.start).wrapping_add(*file_offset),
            },
            Code::Anonymous(owner) => Location::Anonymous {
                owner: Arc::clone(owner),
            },
        }
    }

    /// The executable memory of an image at a time, in ascending order; empty when nothing is
    /// known of it.
    #[must_use]
    pub fn layout(&self, image: ImageKey, time_ns: u64) -> Vec<Stretch> {
        self.timeline
            .find(image, time_ns, time_ns)
            .map_or_else(Vec::new, |image| stretches(image, time_ns))
    }

    /// The executable memory of a process now; `None` when it has ended or is not known.
    #[must_use]
    pub fn layout_now(&self, pid: u32) -> Option<Vec<Stretch>> {
        let image = self.timeline.latest(pid).filter(|image| image.is_live())?;
        Some(stretches(image, u64::MAX - 1))
    }

    /// What [`Processes::take_changed`] would give.
    #[must_use]
    pub fn changed(&self) -> &HashSet<u32> {
        &self.changed
    }

    /// Processes whose mappings changed, began or ended since the last call.
    pub fn take_changed(&mut self) -> HashSet<u32> {
        std::mem::take(&mut self.changed)
    }

    /// Processes whose end was not seen and that have code mapped, in no order.
    pub fn live_pids(&self) -> impl Iterator<Item = u32> {
        let has_code = |pid: &u32| {
            self.timeline
                .latest(*pid)
                .is_some_and(image::Image::has_mappings)
        };
        self.timeline.live_pids().filter(has_code)
    }

    /// Images of ended processes that were forgotten to bound memory; their samples have no names.
    #[must_use]
    pub fn forgotten_images(&self) -> u64 {
        self.timeline.forgotten()
    }

    /// What a mapping holds.
    fn code_of(&mut self, seen: &SeenMapping, time_ns: u64, modules: &mut Modules) -> Code {
        let special = match seen.path {
            _ if seen.device_inode.1 != 0 => None,
            b"[vdso]" => Some(modules.vdso(seen.thread, seen.range)),
            b"[uprobes]" => Some(modules.special("[uprobes]")),
            _ => None,
        };
        if let Some(module) = special {
            return Code::File {
                module,
                file_offset: 0,
            };
        }
        // Without an inode there is no file: the heap, stacks, `//anon`, `[anon:NAME]`.
        if seen.device_inode.1 != 0 {
            let ancestors = self.ancestors(seen.pid);
            let file = modules.intern(&Sighting {
                pid: seen.thread,
                ancestors: &ancestors,
                range: seen.range,
                device_inode: seen.device_inode,
                generation: seen.generation,
                path: seen.path,
            });
            if let MappedFile::Module(module) = file {
                return Code::File {
                    module,
                    file_offset: seen.file_offset,
                };
            }
        }
        Code::Anonymous(self.owner(seen, time_ns, modules))
    }

    /// The parents of a process, nearest first, as far as they are known.
    fn ancestors(&self, pid: u32) -> Vec<u32> {
        let parent = |pid: &u32| {
            self.timeline
                .latest(*pid)
                .map(|image| image.parent)
                .filter(|parent| *parent != 0)
        };
        std::iter::successors(parent(&pid), parent)
            .take(ANCESTORS_MAX)
            .collect()
    }

    /// Who names the anonymous code that a process has at a time.
    fn owner(
        &mut self,
        seen: &SeenMapping,
        time_ns: u64,
        modules: &mut Modules,
    ) -> Arc<PerfMapOwner> {
        let pid = seen.pid;
        let image_start_ns = self
            .timeline
            .at(pid, time_ns)
            .map_or(0, |image| image.start_ns);
        if let Some((start_ns, owner)) = self.owners.get(&pid)
            && *start_ns == image_start_ns
        {
            return Arc::clone(owner);
        }
        let mut owner = proc_fs::perf_map_owner(self.owners_count, pid, seen.thread);
        if owner.root.is_some() && !modules.reserve_fd() {
            owner.root = None;
        }
        self.owners_count = self.owners_count.wrapping_add(1);
        let owner = Arc::new(owner);
        self.owners
            .insert(pid, (image_start_ns, Arc::clone(&owner)));
        owner
    }
}

/// An executable mapping as a record or `/proc` describes it.
struct SeenMapping<'a> {
    pid: u32,
    /// The thread of the process by which `/proc` tells of it: the first one, while it lives.
    thread: u32,
    range: (u64, u64),
    file_offset: u64,
    device_inode: (u64, u64),
    generation: Option<u32>,
    path: &'a [u8],
}

/// The kernel says 0 or -1 for tasks outside our PID namespace, and for some that are ending.
fn is_process(pid: u32) -> bool {
    pid != 0 && pid != u32::MAX
}

/// The time this machine was suspended since boot, in nanoseconds.
fn suspended_ns() -> u64 {
    clock_ns(ClockId::Boottime).saturating_sub(clock_ns(ClockId::Monotonic))
}

fn clock_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests;

fn stretches(image: &image::Image, time_ns: u64) -> Vec<Stretch> {
    let pieces = image.layout(time_ns).into_iter();
    pieces
        .map(|(start, end, mapping)| Stretch {
            start,
            end,
            file: match &mapping.code {
                Code::File {
                    module,
                    file_offset,
                } => Some((*module, (start - mapping.start).wrapping_add(*file_offset))),
                Code::Anonymous(_) => None,
            },
        })
        .collect()
}
