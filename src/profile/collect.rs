//! From the kernel's maps to a [`RawProfile`]: each stack once, each sample counted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::Result;

use super::abi::{
    Counters, MAX_FRAMES, SHORT_FRAMES, SampleCount, SampleKey, SnapshotHeader, WalkedStack,
    WholeSampleHeader, user_stack_place,
};
use super::raw::{ImageKey, RawProfile, RawSample, StackId};
use super::unwind::abi::{FRAMES_MAX, Outcome};
use super::unwind::live::CopiedStack;
use super::unwind::walk::Walk;
use crate::bpf::{Bpf, StackMap, split_record};

/// Gathers samples: those that arrive whole while sampling, the counted ones at the end.
#[derive(Debug, Default)]
pub struct Collector {
    stacks: Vec<Box<[u64]>>,
    by_addresses: HashMap<Box<[u64]>, StackId>,
    /// Index into `samples` by what makes samples equal once stacks have their final ids.
    by_identity: HashMap<Identity, usize>,
    samples: Vec<RawSample>,
    /// Whole samples too short for what their header says; the kernel side never sends one.
    pub malformed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    key: SampleKey,
    kernel: Option<StackId>,
    user: Option<StackId>,
    outcome: Option<Outcome>,
}

/// A user stack and how its walk ended.
type WalkedUserStack = (Option<StackId>, Option<Outcome>);

/// A sample whose user stack is still to be walked.
#[derive(Debug)]
pub struct Snapshot {
    key: SampleKey,
    kernel: Box<[u64]>,
    /// What to walk.
    pub stack: CopiedStack,
}

impl Collector {
    /// Takes one record of the `whole_samples` ring.
    pub fn add_whole(&mut self, record: &[u8]) {
        let Some((header, kernel, user)) = parse_whole(record) else {
            self.malformed += 1;
            return;
        };
        let kernel = self.intern_unless_empty(kernel);
        let user = self.intern_unless_empty(user);
        let outcome = Outcome::from_number(header.outcome);
        self.add(
            &header.key,
            &SampleCount::one(header.time_ns),
            kernel,
            (user, outcome),
        );
    }

    /// Takes one record of the `snapshots` ring: to be walked, then given to
    /// [`Collector::add_walked`].
    pub fn read_snapshot(&mut self, record: &[u8]) -> Option<Snapshot> {
        let snapshot = parse_snapshot(record);
        if snapshot.is_none() {
            self.malformed += 1;
        }
        snapshot
    }

    /// Takes a snapshot whose user stack has been walked.
    pub fn add_walked(&mut self, snapshot: Snapshot, walk: Walk) {
        let kernel = self.intern_unless_empty(snapshot.kernel);
        let user = self.intern_unless_empty(walk.addresses.into());
        let count = SampleCount::one(snapshot.stack.time_ns);
        self.add(&snapshot.key, &count, kernel, (user, Some(walk.outcome)));
    }

    /// Takes everything that was counted in the maps. Sampling must have stopped.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn add_counted(&mut self, bpf: &Bpf) -> Result<()> {
        let counted = bpf.read_hash::<SampleKey, SampleCount>("samples")?;
        let mut kernel_stacks = StackReader::new(bpf.stacks("kernel_stacks")?);
        let mut user_stacks = StackReader::new(bpf.stacks("user_stacks")?);
        let short = self.read_walked::<SHORT_FRAMES>(bpf, "short_stacks")?;
        let deep = self.read_walked::<FRAMES_MAX>(bpf, "deep_stacks")?;
        for (key, count) in &counted {
            let kernel = match u32::try_from(key.kernel_stack_id) {
                Ok(id) => Some(kernel_stacks.get(id, self)?),
                Err(_) => None,
            };
            let walked = |stacks: &HashMap<u64, WalkedUserStack>| {
                stacks.get(&key.user_stack).copied().unwrap_or_default()
            };
            let user = match key.user_stack_place {
                user_stack_place::BY_ID => {
                    (Some(user_stacks.get(key.user_stack as u32, self)?), None)
                }
                user_stack_place::SHORT => walked(&short),
                user_stack_place::DEEP => walked(&deep),
                _ => (None, None),
            };
            self.add(key, count, kernel, user);
        }
        Ok(())
    }

    /// Stacks that the kernel side walked by call frame information, by hash.
    fn read_walked<const FRAMES: usize>(
        &mut self,
        bpf: &Bpf,
        map: &str,
    ) -> Result<HashMap<u64, WalkedUserStack>> {
        let stacks = bpf.read_hash::<u64, WalkedStack<FRAMES>>(map)?;
        Ok(stacks
            .iter()
            .map(|(hash, stack)| {
                let count = (stack.count as usize).min(FRAMES);
                let id = self.intern_unless_empty(stack.addresses[..count].into());
                (*hash, (id, Outcome::from_number(stack.outcome)))
            })
            .collect())
    }

    /// The finished raw profile.
    #[must_use]
    pub fn finish(self, per_cpu: bool) -> RawProfile {
        let mut samples = self.samples;
        if !per_cpu {
            for sample in &mut samples {
                sample.cpu = None;
            }
        }
        RawProfile {
            stacks: self.stacks,
            samples,
        }
    }

    fn add(
        &mut self,
        key: &SampleKey,
        count: &SampleCount,
        kernel_stack: Option<StackId>,
        (user_stack, outcome): WalkedUserStack,
    ) {
        let key = SampleKey {
            kernel_stack_id: -1,
            user_stack_place: 0,
            user_stack: 0,
            ..*key
        };
        let identity = Identity {
            key,
            kernel: kernel_stack,
            user: user_stack,
            outcome,
        };
        match self.by_identity.entry(identity) {
            Entry::Occupied(entry) => {
                let sample = &mut self.samples[*entry.get()];
                sample.count += count.count;
                sample.first_ns = sample.first_ns.min(count.first_ns);
                sample.last_ns = sample.last_ns.max(count.last_ns);
            }
            Entry::Vacant(entry) => {
                entry.insert(self.samples.len());
                self.samples.push(RawSample {
                    image: image_of(&key),
                    tid: key.tid,
                    cpu: Some(key.cpu),
                    comm: key.comm,
                    kernel_stack,
                    user_stack,
                    outcome,
                    count: count.count,
                    first_ns: count.first_ns,
                    last_ns: count.last_ns,
                });
            }
        }
    }

    fn intern_unless_empty(&mut self, addresses: Box<[u64]>) -> Option<StackId> {
        (!addresses.is_empty()).then(|| self.intern(addresses))
    }

    fn intern(&mut self, addresses: Box<[u64]>) -> StackId {
        if let Some(id) = self.by_addresses.get(&addresses) {
            return *id;
        }
        let id = StackId(self.stacks.len() as u32);
        self.stacks.push(addresses.clone());
        self.by_addresses.insert(addresses, id);
        id
    }
}

/// Reads each stack of a stack map once: there is no batch call for them.
struct StackReader<'a> {
    map: StackMap<'a>,
    known: HashMap<u32, StackId>,
}

impl<'a> StackReader<'a> {
    fn new(map: StackMap<'a>) -> Self {
        Self {
            map,
            known: HashMap::new(),
        }
    }

    fn get(&mut self, id: u32, collector: &mut Collector) -> Result<StackId> {
        if let Some(known) = self.known.get(&id) {
            return Ok(*known);
        }
        let interned = collector.intern(self.map.get(id)?);
        self.known.insert(id, interned);
        Ok(interned)
    }
}

fn image_of(key: &SampleKey) -> ImageKey {
    ImageKey {
        tgid: key.tgid,
        start_time_low: key.start_time_low,
        exec_id: key.exec_id,
    }
}

fn parse_snapshot(record: &[u8]) -> Option<Snapshot> {
    let (header, stack) = split_record::<SnapshotHeader>(record)?;
    Some(Snapshot {
        key: header.key,
        kernel: header.frames.get(..header.kernel_frames as usize)?.into(),
        stack: CopiedStack {
            image: image_of(&header.key),
            time_ns: header.time_ns,
            registers: header.registers,
            start_stack: header.start_stack,
            bytes: stack.get(..header.stack_bytes as usize)?.into(),
        },
    })
}

type WholeParts = (WholeSampleHeader, Box<[u64]>, Box<[u64]>);

fn parse_whole(record: &[u8]) -> Option<WholeParts> {
    let (header, frames) = split_record::<WholeSampleHeader>(record)?;
    let (kernel_frames, user_frames) = (header.kernel_frames as usize, header.user_frames as usize);
    if kernel_frames > MAX_FRAMES || user_frames > FRAMES_MAX {
        return None;
    }
    let mut words = frames
        .chunks_exact(size_of::<u64>())
        .map(|bytes| bytes.try_into().map_or(0, u64::from_ne_bytes));
    let kernel: Box<[u64]> = words.by_ref().take(kernel_frames).collect();
    let user: Box<[u64]> = words.take(user_frames).collect();
    (kernel.len() == kernel_frames && user.len() == user_frames).then_some((header, kernel, user))
}

/// Adds up the per-CPU counters.
#[must_use]
pub fn sum(per_cpu: &[Counters]) -> Counters {
    per_cpu.iter().fold(Counters::default(), |a, b| Counters {
        taken: a.taken + b.taken,
        idle: a.idle + b.idle,
        filtered: a.filtered + b.filtered,
        counted: a.counted + b.counted,
        rescued_collision: a.rescued_collision + b.rescued_collision,
        rescued_map_full: a.rescued_map_full + b.rescued_map_full,
        rescued_map_busy: a.rescued_map_busy + b.rescued_map_busy,
        lost_ring_full: a.lost_ring_full + b.lost_ring_full,
        no_kernel_stack: a.no_kernel_stack + b.no_kernel_stack,
        no_user_stack: a.no_user_stack + b.no_user_stack,
        untracked_children: a.untracked_children + b.untracked_children,
        snapshots: a.snapshots + b.snapshots,
        snapshots_unsent: a.snapshots_unsent + b.snapshots_unsent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(kernel: &[u64], user: &[u64], time_ns: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [7, 0, 1, 2, 0, u32::MAX, 0, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend(b"postgres\0\0\0\0\0\0\0\0");
        bytes.extend(time_ns.to_ne_bytes());
        for word in [
            kernel.len() as u32,
            user.len() as u32,
            Outcome::Rooted as u32,
            0,
        ] {
            bytes.extend(word.to_ne_bytes());
        }
        for address in kernel.iter().chain(user) {
            bytes.extend(address.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn equal_whole_samples_are_one() {
        let mut collector = Collector::default();
        collector.add_whole(&whole(&[1, 2], &[3], 50));
        collector.add_whole(&whole(&[1, 2], &[3], 40));
        collector.add_whole(&whole(&[1, 2], &[4], 60));
        let raw = collector.finish(false);
        assert_eq!(raw.samples.len(), 2);
        assert_eq!(raw.samples[0].count, 2);
        assert_eq!((raw.samples[0].first_ns, raw.samples[0].last_ns), (40, 50));
        assert_eq!(raw.stacks.len(), 3, "the kernel stack is shared");
        assert_eq!(raw.samples[0].cpu, None);
    }

    #[test]
    fn a_record_shorter_than_it_says_is_counted_not_believed() {
        let mut collector = Collector::default();
        let record = whole(&[1, 2], &[3], 50);
        for cut in 0..record.len() {
            collector.add_whole(&record[..cut]);
        }
        assert_eq!(collector.malformed, record.len() as u64);
        assert!(collector.finish(false).samples.is_empty());
    }
}
