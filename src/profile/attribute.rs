//! From addresses to a named [`Profile`]: ask for every unique address once, then put the names
//! into the stacks and keep account of what has none.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::abi::MAX_FRAMES;
use super::model::{Frame, FrameId, FrameKind, Profile, Stack};
use super::processes::{Location, Processes};
use super::raw::{RawProfile, RawSample, StackId};
use super::unwind::abi::{INTERRUPTED, Outcome};
use crate::symbolize::modules::{ModuleId, Modules};
use crate::symbolize::perf_map::PerfMapOwner;
use crate::symbolize::{Queries, Symbols};

/// Functions that threads and processes start in: a stack that ends in one of them is whole.
/// Frame pointers alone cannot tell the outermost frame otherwise.
static ENTRY_POINTS: &[&str] = &[
    "_start",
    "_dl_start_user",
    "__libc_start_main",
    "__libc_start_call_main",
    "clone",
    "clone3",
    "__clone",
    "__clone3",
    "start_thread",
    "thread_start",
    "ret_from_fork",
    "runtime.goexit",
    "runtime.goexit.abi0",
    "runtime.rt0_go.abi0",
    "_rt0_amd64",
];

const UNKNOWN: &str = "[unknown]";

/// Whether the walk marked a user address as one at which a signal interrupted execution. No user
/// address has bit 63; kernel addresses have bit 62 as well.
fn is_user_mark(address: u64) -> bool {
    address >> 62 == 0b10
}

const TOO_DEEP: &str = "deeper than 127 frames";

/// The addresses to look names up for, leaf first.
///
/// A return address points behind its call, which may be the last instruction of a function: the
/// call itself is what is looked up. Not so where execution stood: the leaf, and what a signal
/// interrupted, which the walk marks. The frame before that one is the kernel's signal trampoline,
/// which nobody called.
fn lookup_addresses(stack: &[u64]) -> impl Iterator<Item = u64> {
    stack.iter().enumerate().map(move |(depth, &address)| {
        let follows_trampoline = stack.get(depth + 1).is_some_and(|next| is_user_mark(*next));
        if is_user_mark(address) {
            address & !INTERRUPTED
        } else if depth == 0 || follows_trampoline {
            address
        } else {
            address.saturating_sub(1)
        }
    })
}

/// Every address of a raw profile, each unique one once.
#[must_use]
pub fn queries(raw: &RawProfile, processes: &Processes) -> Queries {
    let mut kernel = HashSet::new();
    let mut files: HashMap<ModuleId, HashSet<u64>> = HashMap::new();
    let mut anonymous: HashMap<u32, (Arc<PerfMapOwner>, HashSet<u64>)> = HashMap::new();
    for sample in &raw.samples {
        kernel.extend(lookup_addresses(stack(raw, sample.kernel_stack)));
        for address in lookup_addresses(stack(raw, sample.user_stack)) {
            match locate(processes, sample, address) {
                Location::File {
                    module,
                    file_offset,
                } => {
                    files.entry(module).or_default().insert(file_offset);
                }
                Location::Anonymous { owner } => {
                    let id = owner.id;
                    anonymous
                        .entry(id)
                        .or_insert((owner, HashSet::new()))
                        .1
                        .insert(address);
                }
                Location::Unmapped => {}
            }
        }
    }
    Queries {
        kernel: kernel.into_iter().collect(),
        files: files
            .into_iter()
            .map(|(id, set)| (id, set.into_iter().collect()))
            .collect(),
        anonymous: anonymous
            .into_values()
            .map(|(owner, set)| (owner, set.into_iter().collect()))
            .collect(),
    }
}

/// Reads `/proc` again for processes that are alive and hold a sampled address of which nothing
/// is known: a record was lost, or the mapping is older than what was read.
pub fn rescan_unmapped(raw: &RawProfile, processes: &mut Processes, modules: &mut Modules) {
    let mut rescanned = HashSet::new();
    for sample in &raw.samples {
        // Only the leaf is known to be code; what follows may be garbage of a broken walk.
        let leaf = stack(raw, sample.user_stack).first();
        if let Some(&leaf) = leaf
            && matches!(locate(processes, sample, leaf), Location::Unmapped)
            && rescanned.insert(sample.image.tgid)
        {
            processes.rescan(sample.image.tgid, modules);
        }
    }
}

fn stack(raw: &RawProfile, id: Option<StackId>) -> &[u64] {
    id.map_or(&[], |id| &raw.stacks[id.0 as usize])
}

fn locate(processes: &Processes, sample: &RawSample, address: u64) -> Location {
    processes.resolve(sample.image, address, sample.first_ns, sample.last_ns)
}

/// How task frames are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct TaskFrames {
    /// The thread's ids follow its name.
    pub per_thread: bool,
    /// The CPU comes first.
    pub per_cpu: bool,
}

/// Puts names into stacks. The result's `meta` and the kernel side's counters in `quality` are
/// the caller's to fill in.
#[must_use]
pub fn attribute(
    raw: &RawProfile,
    processes: &Processes,
    symbols: &Symbols,
    tasks: TaskFrames,
) -> Attributed {
    let mut builder = Builder {
        raw,
        processes,
        symbols,
        tasks,
        profile: Profile::default(),
        frame_ids: HashMap::new(),
        stack_ids: HashMap::new(),
        unknown: HashMap::new(),
        truncated: HashMap::new(),
    };
    for sample in &raw.samples {
        builder.add(sample);
    }
    builder.finish()
}

/// A named profile, and where the nameless frames were.
#[derive(Debug)]
pub struct Attributed {
    /// Named stacks and counts.
    pub profile: Profile,
    /// Frames without a name, weighted by samples.
    pub unknown: UnknownFrames,
}

/// Nameless frames by place, weighted by samples.
pub type UnknownFrames = HashMap<UnknownIn, u64>;

/// Where a nameless frame was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownIn {
    /// The kernel.
    Kernel,
    /// A file.
    Module(ModuleId),
    /// Executable memory without a file.
    Anonymous,
    /// No known mapping.
    Unmapped,
}

struct Builder<'a> {
    raw: &'a RawProfile,
    processes: &'a Processes,
    symbols: &'a Symbols,
    tasks: TaskFrames,
    profile: Profile,
    frame_ids: HashMap<Frame, FrameId>,
    stack_ids: HashMap<Box<[FrameId]>, usize>,
    unknown: UnknownFrames,
    truncated: HashMap<&'static str, u64>,
}

impl Builder<'_> {
    fn add(&mut self, sample: &RawSample) {
        let mut frames = self.task_frames(sample);
        let user = stack(self.raw, sample.user_stack);
        if !user.is_empty() {
            self.add_user_frames(sample, user, &mut frames);
        }
        let kernel = stack(self.raw, sample.kernel_stack);
        self.add_kernel_frames(sample, kernel, &mut frames);

        let frames = frames.into_boxed_slice();
        if let Some(&index) = self.stack_ids.get(&frames) {
            self.profile.stacks[index].count += sample.count;
        } else {
            self.stack_ids
                .insert(frames.clone(), self.profile.stacks.len());
            self.profile.stacks.push(Stack {
                frames,
                count: sample.count,
            });
        }
    }

    fn task_frames(&mut self, sample: &RawSample) -> Vec<FrameId> {
        let mut frames = Vec::new();
        if self.tasks.per_cpu
            && let Some(cpu) = sample.cpu
        {
            frames.push(self.intern(&format!("cpu {cpu}"), FrameKind::Task));
        }
        let end = sample
            .comm
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(sample.comm.len());
        let mut name = String::from_utf8_lossy(&sample.comm[..end]).into_owned();
        if self.tasks.per_thread {
            // As `stackcollapse-perf.pl --tid` writes it.
            let _ = write!(name, "-{}/{}", sample.image.tgid, sample.tid);
        }
        frames.push(self.intern(&name, FrameKind::Task));
        frames
    }

    /// Appends a user stack, outermost frame first.
    fn add_user_frames(&mut self, sample: &RawSample, stack: &[u64], frames: &mut Vec<FrameId>) {
        let mut groups: Vec<Vec<FrameId>> = Vec::with_capacity(stack.len());
        let (mut is_named, mut is_broken) = (true, false);
        let mut outermost: Option<FrameId> = None;
        for address in lookup_addresses(stack) {
            let location = locate(self.processes, sample, address);
            let (names, place) = lookup(self.symbols, &location, address);
            if sample.outcome.is_none()
                && is_behind_the_start(outermost.map(|id| self.name(id)), names)
            {
                break;
            }
            let mut group = Vec::new();
            match names {
                Some(names) => group.extend(names.iter().map(|frame| self.intern_frame(frame))),
                None => group.push(self.intern(UNKNOWN, FrameKind::Unknown)),
            }
            if names.is_none_or(has_unknown) {
                is_named = false;
                *self.unknown.entry(place).or_default() += sample.count;
            }
            outermost = group.first().copied();
            groups.push(group);
            // What follows an address that is no code is not a stack.
            if matches!(location, Location::Unmapped) && sample.outcome.is_none() {
                is_broken = true;
                break;
            }
        }
        frames.extend(groups.into_iter().rev().flatten());

        let end = match sample.outcome {
            Some(Outcome::Rooted) => None,
            Some(outcome) => Some(outcome.cause()),
            None => self.end_by_frame_pointers(stack, outermost.filter(|_| !is_broken)),
        };
        let quality = &mut self.profile.quality;
        quality.user_stacks += sample.count;
        if let Some(cause) = end {
            *self.truncated.entry(cause).or_default() += sample.count;
        } else {
            quality.rooted += sample.count;
            if is_named {
                quality.rooted_and_named += sample.count;
            }
        }
    }

    /// Why a stack walked by frame pointers is not whole; `None` when it ends where threads and
    /// processes start.
    fn end_by_frame_pointers(
        &self,
        stack: &[u64],
        outermost: Option<FrameId>,
    ) -> Option<&'static str> {
        let name = outermost.map(|id| self.name(id));
        if name.is_some_and(|name| ENTRY_POINTS.contains(&name)) {
            None
        } else if stack.len() >= MAX_FRAMES {
            Some(TOO_DEEP)
        } else {
            Some("frame pointer chain ended early")
        }
    }

    fn add_kernel_frames(&mut self, sample: &RawSample, stack: &[u64], frames: &mut Vec<FrameId>) {
        if stack.len() >= MAX_FRAMES {
            *self.truncated.entry(TOO_DEEP).or_default() += sample.count;
        }
        let addresses: Vec<u64> = lookup_addresses(stack).collect();
        for address in addresses.iter().rev() {
            let names = self.symbols.kernel.get(address);
            if names.is_none_or(|names| has_unknown(names)) {
                *self.unknown.entry(UnknownIn::Kernel).or_default() += sample.count;
            }
            match names {
                Some(names) => frames.extend(names.iter().map(|frame| self.intern_frame(frame))),
                None => frames.push(self.intern(UNKNOWN, FrameKind::Unknown)),
            }
        }
    }

    fn name(&self, id: FrameId) -> &str {
        &self.profile.frames[id.0 as usize].name
    }

    fn intern(&mut self, name: &str, kind: FrameKind) -> FrameId {
        self.intern_frame(&Frame {
            name: name.into(),
            kind,
        })
    }

    fn intern_frame(&mut self, frame: &Frame) -> FrameId {
        if let Some(id) = self.frame_ids.get(frame) {
            return *id;
        }
        let id = FrameId(self.profile.frames.len() as u32);
        self.profile.frames.push(frame.clone());
        self.frame_ids.insert(frame.clone(), id);
        id
    }

    fn finish(mut self) -> Attributed {
        let mut truncated: Vec<_> = self.truncated.into_iter().collect();
        truncated.sort_by_key(|(cause, count)| (Reverse(*count), *cause));
        self.profile.quality.truncated = truncated;
        Attributed {
            profile: self.profile,
            unknown: self.unknown,
        }
    }
}

fn has_unknown(names: &[Frame]) -> bool {
    names.iter().any(|frame| frame.kind == FrameKind::Unknown)
}

/// Whether a chain has gone on past the start of a program. glibc calls `main` with something else
/// than a frame pointer in its register: what a walk reads there is no caller.
fn is_behind_the_start(callee: Option<&str>, caller: Option<&[Frame]>) -> bool {
    let is_start = |name: &str| name.starts_with("__libc_start_main") || name == "_start";
    callee == Some("__libc_start_call_main")
        && !caller.is_some_and(|names| names.iter().any(|frame| is_start(&frame.name)))
}

/// The names of a user address, and where it was for the account of what has none.
fn lookup<'a>(
    symbols: &'a Symbols,
    location: &Location,
    address: u64,
) -> (Option<&'a [Frame]>, UnknownIn) {
    match location {
        Location::File {
            module,
            file_offset,
        } => (
            symbols
                .files
                .get(&(*module, *file_offset))
                .map(|frames| &**frames),
            UnknownIn::Module(*module),
        ),
        Location::Anonymous { owner } => (
            symbols
                .anonymous
                .get(&(owner.id, address))
                .map(|frames| &**frames),
            UnknownIn::Anonymous,
        ),
        Location::Unmapped => (None, UnknownIn::Unmapped),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::raw::ImageKey;

    #[test]
    fn kernel_frames_whose_names_are_hidden_are_in_the_account() {
        let image = ImageKey {
            tgid: 1,
            start_time_low: 0,
            exec_id: 0,
        };
        let raw = RawProfile {
            stacks: vec![Box::new([7])],
            samples: vec![RawSample {
                image,
                tid: 0,
                cpu: None,
                comm: *b"dd\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                kernel_stack: Some(StackId(0)),
                user_stack: None,
                outcome: None,
                count: 5,
                first_ns: 1,
                last_ns: 2,
            }],
        };
        let hidden: Box<[Frame]> = Box::new([Frame {
            name: UNKNOWN.into(),
            kind: FrameKind::Unknown,
        }]);
        let mut symbols = Symbols::default();
        symbols.kernel.insert(7, hidden);
        let attributed = attribute(&raw, &Processes::new(), &symbols, TaskFrames::default());
        assert_eq!(attributed.unknown[&UnknownIn::Kernel], 5);
        assert_eq!(attributed.profile.total(), 5);
    }
}
