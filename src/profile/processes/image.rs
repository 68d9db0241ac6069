//! One program image of a process: its executable mappings, each with the time it came.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::by_address::ByAddress;
use super::timeline::Born;
use crate::symbolize::modules::ModuleId;
use crate::symbolize::perf_map::PerfMapOwner;

/// Most mappings taken from one look at `/proc`: the kernel's default bound on mappings.
const SCANNED_MAX: usize = 1 << 16;

/// Most mappings added by records to those. Each addition compares all, and processes choose how
/// many there are.
const ADDED_MAX: usize = 1 << 12;

/// What a program starts with is kept when mappings must be dropped (their addresses become
/// unmapped, never misnamed): its own code, and that of most libraries.
const FIRST_KEPT: usize = 1 << 10;

/// A mapping's record is written after the mapping took effect.
const EARLY_SAMPLE_NS: u64 = 1_000_000;

/// What an executable mapping holds.
#[derive(Debug, Clone)]
pub enum Code {
    /// Part of a file.
    File {
        /// The file.
        module: ModuleId,
        /// Where in the file the mapping starts.
        file_offset: u64,
    },
    /// What a JIT compiler wrote; the process that mapped it also names it.
    Anonymous(Arc<PerfMapOwner>),
}

/// One executable mapping.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// In force from this time on, until something is laid over it.
    pub from_ns: u64,
    /// Known to be gone from this time on; `u64::MAX` while it is not.
    pub until_ns: u64,
    /// Found in `/proc` at `from_ns`: it may well be older.
    pub scanned: bool,
    /// What it holds.
    pub code: Code,
}

impl Mapping {
    /// Whether they share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    fn in_force(&self, time_ns: u64) -> bool {
        self.from_ns <= time_ns && time_ns < self.until_ns
    }

    /// Whether an address both cover is the same code in both.
    pub fn is_same_code(&self, other: &Self) -> bool {
        match (&self.code, &other.code) {
            (
                Code::File {
                    module,
                    file_offset,
                },
                Code::File {
                    module: other_module,
                    file_offset: other_offset,
                },
            ) => {
                module == other_module
                    && file_offset.wrapping_sub(self.start)
                        == other_offset.wrapping_sub(other.start)
            }
            (Code::Anonymous(owner), Code::Anonymous(other_owner)) => {
                owner.tgid == other_owner.tgid
            }
            _ => false,
        }
    }

    fn is_same_anonymous(&self, other: &Self) -> bool {
        matches!(self.code, Code::Anonymous(_)) && self.is_same_code(other)
    }
}

/// One program image.
#[derive(Debug, Clone)]
pub struct Image {
    /// When it began; 0 when that was not seen.
    pub start_ns: u64,
    /// When it ended; `u64::MAX` as long as it has not.
    pub end_ns: u64,
    /// It began with an exec; otherwise with a fork, or unseen.
    pub began_with_exec: bool,
    /// The parent's process id; 0 when not known.
    pub parent: u32,
    /// When the process (not the image) started.
    pub born: Option<Born>,
    /// When `/proc` was last read; 0 if never.
    scanned_ns: u64,
    /// How many mappings it began with, from `/proc` or the parent.
    first_count: usize,
    /// In the order of `from_ns`. Shared with the parent until either changes.
    mappings: Arc<Vec<Mapping>>,
    /// Made when first needed, and again after a change.
    by_address: OnceLock<Box<ByAddress>>,
}

impl Image {
    /// The image of a process of which nothing is known yet.
    pub fn unseen() -> Self {
        Self {
            start_ns: 0,
            end_ns: u64::MAX,
            began_with_exec: false,
            parent: 0,
            born: None,
            scanned_ns: 0,
            first_count: 0,
            mappings: Arc::default(),
            by_address: OnceLock::new(),
        }
    }

    fn mappings_mut(&mut self) -> &mut Vec<Mapping> {
        self.by_address.take();
        Arc::make_mut(&mut self.mappings)
    }

    /// The mappings that share an address with a range, with their positions, in no order.
    fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (usize, &Mapping)> {
        self.by_address
            .get_or_init(|| Box::new(ByAddress::of(&self.mappings)))
            .overlapping(&self.mappings, start, end)
    }

    /// Of the mappings that cover an address: the newest laid there by a time, and the oldest
    /// after it.
    fn around(&self, address: u64, time_ns: u64) -> (Option<&Mapping>, Option<&Mapping>) {
        let (mut by_then, mut later): (Option<usize>, Option<usize>) = (None, None);
        for (position, mapping) in self.overlapping(address, address.saturating_add(1)) {
            if mapping.from_ns <= time_ns {
                by_then = by_then.max(Some(position));
            } else {
                later = Some(later.map_or(position, |later| later.min(position)));
            }
        }
        let at = |position: Option<usize>| self.mappings.get(position?);
        (at(by_then), at(later))
    }

    /// Whether its end was not seen.
    pub fn is_live(&self) -> bool {
        self.end_ns == u64::MAX
    }

    /// Whether it has mappings at all.
    pub fn has_mappings(&self) -> bool {
        !self.mappings.is_empty()
    }

    /// Whether neither its beginning nor any mapping of it is known.
    pub fn is_blank(&self) -> bool {
        self.start_ns == 0 && !self.has_mappings() && self.scanned_ns == 0
    }

    /// The last time something is known to have happened in it.
    pub fn changed_ns(&self) -> u64 {
        let newest_ns = self.mappings.last().map_or(0, |mapping| mapping.from_ns);
        self.start_ns.max(newest_ns).max(self.scanned_ns)
    }

    /// The mapping that held `address` at a time: the newest laid there by then. Failing that, one
    /// found in `/proc` later, as it may have been there before; or one whose record is a moment
    /// younger than the sample.
    pub fn lookup(&self, address: u64, time_ns: u64) -> Option<&Mapping> {
        let (by_then, later) = self.around(address, time_ns);
        by_then
            .filter(|mapping| time_ns < mapping.until_ns)
            .or_else(|| {
                later.filter(|later| later.scanned || later.from_ns - time_ns < EARLY_SAMPLE_NS)
            })
    }

    /// The mapping that is known to have held `address` at a time.
    pub fn lookup_known(&self, address: u64, time_ns: u64) -> Option<&Mapping> {
        self.around(address, time_ns)
            .0
            .filter(|mapping| time_ns < mapping.until_ns)
    }

    /// The address space at a time, in ascending order and without overlaps: pieces of mappings,
    /// each with the mapping it is a piece of.
    pub fn layout(&self, time_ns: u64) -> Vec<(u64, u64, &Mapping)> {
        let mut pieces: BTreeMap<u64, (u64, &Mapping)> = BTreeMap::new();
        for mapping in self
            .mappings
            .iter()
            .filter(|mapping| mapping.in_force(time_ns))
        {
            // What begins below and reaches in keeps its lower end, and its upper one if it
            // reaches beyond.
            let below = pieces
                .range(..mapping.end)
                .next_back()
                .map(|(start, piece)| (*start, *piece));
            if let Some((start, (end, older))) = below
                && end > mapping.end
            {
                pieces.insert(mapping.end, (end, older));
                if start < mapping.start {
                    pieces.insert(start, (mapping.start, older));
                }
            }
            if let Some((_, (end, _))) = pieces.range_mut(..mapping.start).next_back() {
                *end = (*end).min(mapping.start);
            }
            let covered: Vec<u64> = pieces
                .range(mapping.start..mapping.end)
                .map(|(start, _)| *start)
                .collect();
            for start in covered {
                pieces.remove(&start);
            }
            pieces.insert(mapping.start, (mapping.end, mapping));
        }
        pieces
            .into_iter()
            .map(|(start, (end, mapping))| (start, end, mapping))
            .collect()
    }

    /// Adds a mapping seen at `mapping.from_ns`, which may be older than others.
    pub fn map(&mut self, mut mapping: Mapping) {
        if !mapping.scanned && mapping.from_ns < self.scanned_ns {
            mapping.until_ns = mapping.until_ns.min(self.scanned_ns);
        }
        let overlapping = |other: &&Mapping| other.overlaps(&mapping);
        let newest_first = self.mappings.iter().rev();
        if says_the_same(
            newest_first
                .filter(overlapping)
                .find(|older| older.from_ns <= mapping.from_ns),
            &mapping,
        ) {
            return;
        }
        let kept_max = self.first_count + ADDED_MAX;
        let mappings = self.mappings_mut();
        absorb_anonymous(mappings, &mut mapping);
        if mappings.len() >= kept_max {
            let first_kept = kept_max - ADDED_MAX + FIRST_KEPT;
            mappings.drain(first_kept..first_kept + ADDED_MAX / 4);
        }
        let position = mappings.partition_point(|older| older.from_ns <= mapping.from_ns);
        mappings.insert(position, mapping);
    }

    /// `/proc` showed exactly these mappings, in the order of addresses: what else was in force is
    /// gone.
    pub fn scan(&mut self, time_ns: u64, mut scanned: Vec<Mapping>) {
        scanned.truncate(SCANNED_MAX);
        self.scanned_ns = self.scanned_ns.max(time_ns);
        if self.mappings.is_empty() {
            self.first_count = scanned.len();
            *self.mappings_mut() = scanned;
            return;
        }
        let still_there = |known: &Mapping| {
            let behind = scanned.partition_point(|now| now.start <= known.start);
            let now = behind.checked_sub(1).and_then(|last| scanned.get(last));
            now.is_some_and(|now| known.end <= now.end && now.is_same_code(known))
        };
        let gone = |known: &Mapping| known.in_force(time_ns) && !still_there(known);
        if self.mappings.iter().any(gone) {
            for mapping in self.mappings_mut() {
                if gone(mapping) {
                    mapping.until_ns = time_ns;
                }
            }
        }
        scanned.retain(|mapping| {
            let newest = self
                .overlapping(mapping.start, mapping.end)
                .filter(|(_, older)| older.from_ns <= mapping.from_ns)
                .max_by_key(|(position, _)| *position);
            !says_the_same(newest.map(|(_, newest)| newest), mapping)
        });
        for mapping in scanned {
            self.map(mapping);
        }
    }

    /// The mappings a child forked at a time starts with.
    pub fn inheritable(&self, time_ns: u64) -> Arc<Vec<Mapping>> {
        let had = |mapping: &Mapping| mapping.scanned || mapping.from_ns <= time_ns;
        if self.mappings.iter().all(had) {
            return Arc::clone(&self.mappings);
        }
        Arc::new(
            self.mappings
                .iter()
                .filter(|mapping| had(mapping))
                .cloned()
                .collect(),
        )
    }

    /// Puts the parent's mappings below what is already known of this image.
    pub fn inherit(&mut self, inherited: Arc<Vec<Mapping>>, time_ns: u64) {
        self.by_address.take();
        if self.mappings.is_empty() && self.scanned_ns == 0 {
            self.first_count = inherited.len().min(SCANNED_MAX);
            self.mappings = inherited;
            return;
        }
        let own = std::mem::take(&mut self.mappings);
        for mapping in inherited.iter() {
            // Found in the parent after the fork, but there before.
            let from_ns = mapping.from_ns.min(time_ns);
            self.map(Mapping {
                from_ns,
                scanned: false,
                ..mapping.clone()
            });
        }
        for mapping in own.iter() {
            self.map(mapping.clone());
        }
    }

    /// Ends at a time; all that is known of the time after moves to `younger`.
    pub fn split_off(&mut self, time_ns: u64, younger: &mut Self) {
        if self.end_ns > time_ns {
            younger.end_ns = self.end_ns;
            self.end_ns = time_ns;
        }
        if self.scanned_ns > time_ns {
            younger.scanned_ns = std::mem::take(&mut self.scanned_ns);
            // The scan told the age and the parent of the process of then.
            younger.born = self.born;
            younger.parent = self.parent;
        }
        if self
            .mappings
            .last()
            .is_some_and(|newest| newest.from_ns >= time_ns)
        {
            let mappings = self.mappings_mut();
            let first = mappings.partition_point(|mapping| mapping.from_ns < time_ns);
            younger.mappings = Arc::new(mappings.split_off(first));
        }
        self.shrink();
    }

    /// Gives back spare memory; for an image that will not change any more.
    pub fn shrink(&mut self) {
        if let Some(mappings) = Arc::get_mut(&mut self.mappings) {
            mappings.shrink_to_fit();
        }
    }
}

/// Whether the newest mapping at a place and time already says what another one there does.
fn says_the_same(newest: Option<&Mapping>, mapping: &Mapping) -> bool {
    newest.is_some_and(|newest| {
        newest.start <= mapping.start
            && mapping.end <= newest.end
            && newest.until_ns >= mapping.until_ns
            && newest.is_same_code(mapping)
    })
}

/// A JIT's memory grows, and is switched between writable and executable, piece by piece. Where
/// only mappings of the same owner overlap, one that spans them all says the same.
fn absorb_anonymous(mappings: &mut Vec<Mapping>, new: &mut Mapping) {
    let mut overlapped = mappings
        .iter()
        .filter(|older| older.overlaps(new))
        .peekable();
    if overlapped.peek().is_none() || !overlapped.all(|older| older.is_same_anonymous(new)) {
        return;
    }
    let before = new.clone();
    mappings.retain(|older| {
        if !older.overlaps(&before) {
            return true;
        }
        new.start = new.start.min(older.start);
        new.end = new.end.max(older.end);
        new.from_ns = new.from_ns.min(older.from_ns);
        new.until_ns = new.until_ns.max(older.until_ns);
        new.scanned |= older.scanned;
        false
    });
}

#[cfg(test)]
impl Image {
    pub fn sharers(&self) -> usize {
        Arc::strong_count(&self.mappings)
    }

    pub fn mapping_count(&self) -> usize {
        self.mappings.len()
    }

    pub fn is_in_order(&self) -> bool {
        self.mappings.is_sorted_by_key(|mapping| mapping.from_ns)
    }
}
