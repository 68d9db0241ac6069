//! What every process had mapped at every time: a pure state machine, fed in roughly the order
//! of time.
//!
//! A process id goes through *images*: one begins when the process is forked (with a copy of its
//! parent's mappings) and with every exec (with none). An image keeps all its mappings, each with
//! the time from which it was in force; the newest that covers an address wins, so a mapping laid
//! over older ones replaces just the part it covers, and asking for an earlier time still finds
//! what was there then.
//!
//! Records come sorted, but those of one CPU can be read later than younger ones of another, and
//! a scan of `/proc` tells the state of *now* while older records are still unread. Therefore
//! every step is written so that it may come late: a fork or exec at time T splits the image that
//! covers T, giving what is known from T on to the younger part; a mapping older than a scan ends
//! at the scan, as the scan already shows what became of it.

use std::collections::{HashMap, VecDeque};

use super::image::{Image, Mapping};
use crate::profile::raw::ImageKey;

/// Images of ended processes that are kept; about 0.5 KB each. Beyond, the longest dead are
/// forgotten, and counted.
const DEAD_IMAGES_MAX: usize = 1 << 16;

/// How far a process's start time as samples state it may lie from the one we know. A fork's
/// record follows the start by the duration of the fork; `/proc` rounds to 10 ms.
const START_TOLERANCE_NS: u64 = 500_000_000;

/// Samples of a young process may carry a time slightly before that of its first record.
const EARLY_SAMPLE_NS: u64 = 1_000_000;

/// When a process started, on the two clocks that kernels count it with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Born {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub monotonic_ns: u64,
    /// `CLOCK_BOOTTIME` minus `CLOCK_MONOTONIC`: the time suspended, in nanoseconds.
    pub suspended_ns: u64,
}

impl Born {
    fn is_near(self, monotonic_ns: u64) -> bool {
        self.monotonic_ns.abs_diff(monotonic_ns) < START_TOLERANCE_NS
    }

    /// Whether a start time of which only the low half is known can be this one.
    fn matches_low(self, low: u32) -> bool {
        [
            self.monotonic_ns,
            self.monotonic_ns.wrapping_add(self.suspended_ns),
        ]
        .iter()
        .any(|ns| {
            u64::from((*ns as u32).wrapping_sub(low).cast_signed().unsigned_abs())
                < START_TOLERANCE_NS
        })
    }
}

/// All images of all processes.
#[derive(Debug)]
pub struct Timeline {
    /// By process id, oldest first; never an empty list.
    images: HashMap<u32, Vec<Image>>,
    /// Process id and beginning of the images that ended, in the order they did.
    dead: VecDeque<(u32, u64)>,
    dead_max: usize,
    forgotten: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            images: HashMap::new(),
            dead: VecDeque::new(),
            dead_max: DEAD_IMAGES_MAX,
            forgotten: 0,
        }
    }
}

impl Timeline {
    /// The image of `pid` at a time, if one had begun by then.
    pub fn at(&self, pid: u32, time_ns: u64) -> Option<&Image> {
        self.images
            .get(&pid)?
            .iter()
            .rfind(|image| image.start_ns <= time_ns)
    }

    /// The latest image of `pid`.
    pub fn latest(&self, pid: u32) -> Option<&Image> {
        self.images.get(&pid)?.last()
    }

    /// Process ids whose end was not seen, in no order.
    pub fn live_pids(&self) -> impl Iterator<Item = u32> {
        self.images
            .iter()
            .filter(|(_, images)| images.last().is_some_and(Image::is_live))
            .map(|(pid, _)| *pid)
    }

    /// Images of ended processes that were forgotten to bound memory.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// A new process got its parent's mappings.
    pub fn fork(&mut self, parent: u32, child: u32, time_ns: u64, suspended_ns: u64) {
        let inherited = self
            .at(parent, time_ns)
            .map(|image| image.inheritable(time_ns));
        let image = self.split(child, time_ns);
        image.began_with_exec = false;
        image.parent = parent;
        image.born = Some(Born {
            monotonic_ns: time_ns,
            suspended_ns,
        });
        if let Some(inherited) = inherited {
            image.inherit(inherited, time_ns);
        }
        self.forget();
    }

    /// A process replaced everything it had mapped.
    pub fn exec(&mut self, pid: u32, time_ns: u64) {
        let before = self
            .at(pid, time_ns)
            .map(|image| (image.parent, image.born));
        let image = self.split(pid, time_ns);
        image.began_with_exec = true;
        if let Some((parent, born)) = before {
            image.parent = parent;
            image.born = born;
        }
        self.forget();
    }

    /// The process's first thread ended, and with it, but for rare programs, the process.
    pub fn exit(&mut self, pid: u32, time_ns: u64) {
        let Some(images) = self.images.get_mut(&pid) else {
            return;
        };
        let Some(image) = images.iter_mut().rfind(|image| image.start_ns <= time_ns) else {
            return;
        };
        // Should another thread go on, what it maps brings the image to life again.
        if image.is_live() && image.changed_ns() <= time_ns {
            image.end_ns = time_ns;
            image.shrink();
            self.dead.push_back((pid, image.start_ns));
            self.forget();
        }
    }

    /// Memory was mapped executable.
    pub fn map(&mut self, pid: u32, mapping: Mapping) {
        let images = self
            .images
            .entry(pid)
            .or_insert_with(|| vec![Image::unseen()]);
        let position = images
            .iter()
            .rposition(|image| image.start_ns <= mapping.from_ns);
        let position = position.unwrap_or(0);
        let is_latest = position + 1 == images.len();
        if let Some(image) = images.get_mut(position) {
            if is_latest && image.end_ns < mapping.from_ns {
                image.end_ns = u64::MAX;
            }
            image.map(mapping);
        }
    }

    /// `/proc` showed exactly these mappings at a time. `born` is when `/proc` says the process
    /// started: if that is another process than the known one, its end was missed.
    pub fn scan(
        &mut self,
        pid: u32,
        time_ns: u64,
        parent: u32,
        born: Option<Born>,
        mappings: Vec<Mapping>,
    ) {
        let known = self.latest(pid).and_then(|image| image.born);
        if let (Some(known), Some(born)) = (known, born)
            && !born.is_near(known.monotonic_ns)
        {
            self.split(pid, born.monotonic_ns).began_with_exec = false;
        }
        let images = self
            .images
            .entry(pid)
            .or_insert_with(|| vec![Image::unseen()]);
        let Some(image) = images.last_mut() else {
            return;
        };
        image.end_ns = u64::MAX;
        image.parent = parent;
        image.born = image.born.or(born);
        image.scan(time_ns, mappings);
        self.forget();
    }

    /// The image that samples of `key`, taken from `first_ns` to `last_ns`, belong to.
    pub fn find(&self, key: ImageKey, first_ns: u64, last_ns: u64) -> Option<&Image> {
        let images = self.images.get(&key.tgid)?;
        let began = |image: &&Image| image.start_ns <= last_ns.saturating_add(EARLY_SAMPLE_NS);
        // A start time of zero means that it is not known.
        let born = |image: &&Image| {
            key.start_time_low == 0
                || image
                    .born
                    .is_none_or(|born| born.matches_low(key.start_time_low))
        };
        let mut position = images.iter().rposition(|image| image.start_ns <= last_ns);
        if position.is_none() {
            position = images.iter().rposition(|image| began(&image));
        }
        if !images.get(position?).as_ref().is_some_and(&born) {
            position = images
                .iter()
                .rposition(|image| began(&image) && born(&image));
        }
        // The key tells execs apart, so samples on both sides of one can only have been counted
        // together if they belong to the older side: its last ones were taken inside `execve`,
        // after the record was written.
        let mut position = position?;
        while images[position].began_with_exec && first_ns < images[position].start_ns {
            position = position.checked_sub(1)?;
        }
        images.get(position)
    }

    /// Begins an image of `pid` at a time, ending the one that covers it. The new image gets
    /// what is already known of the time after.
    fn split(&mut self, pid: u32, time_ns: u64) -> &mut Image {
        let images = self.images.entry(pid).or_default();
        let mut position = images.partition_point(|image| image.start_ns <= time_ns);
        let mut image = Image::unseen();
        image.start_ns = time_ns;
        if let Some(older) = position
            .checked_sub(1)
            .and_then(|older| images.get_mut(older))
        {
            let was_live = older.is_live();
            older.split_off(time_ns, &mut image);
            if older.is_blank() {
                position -= 1;
                images.remove(position);
            } else if was_live {
                self.dead.push_back((pid, older.start_ns));
            }
        } else if let Some(younger) = images.first() {
            image.end_ns = younger.start_ns;
        }
        images.insert(position, image);
        &mut images[position]
    }

    /// Drops the longest dead images beyond the bound.
    fn forget(&mut self) {
        while self.dead.len() > self.dead_max {
            let Some((pid, start_ns)) = self.dead.pop_front() else {
                return;
            };
            let Some(images) = self.images.get_mut(&pid) else {
                continue;
            };
            let len_before = images.len();
            images.retain(|image| image.start_ns != start_ns || image.is_live());
            self.forgotten += (len_before - images.len()) as u64;
            if images.is_empty() {
                self.images.remove(&pid);
            }
        }
    }
}

#[cfg(test)]
mod tests;
