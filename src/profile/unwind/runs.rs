//! Which part of the mappings' array belongs to whom.
//!
//! A run that is given up may still be read by a walk that looked its process up a moment ago, so
//! it rests for a while before it is written again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::abi::MappingEntry;

/// Far longer than any walk takes.
const REST: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Run {
    entries: Arc<[MappingEntry]>,
    users: u32,
}

/// Allocates runs of array elements; equal runs are one.
#[derive(Debug)]
pub struct Runs {
    /// First element of each free range, and its length.
    free: BTreeMap<u32, u32>,
    resting: VecDeque<(Instant, u32, u32)>,
    used: HashMap<u32, Run>,
    by_content: HashMap<Arc<[MappingEntry]>, u32>,
}

impl Runs {
    /// All of the array is free.
    pub fn new(capacity: u32) -> Self {
        Self {
            free: BTreeMap::from([(0, capacity)]),
            resting: VecDeque::new(),
            used: HashMap::new(),
            by_content: HashMap::new(),
        }
    }

    /// Finds or makes the run with these entries; `write` fills a new one. `None`: no room.
    pub fn add(
        &mut self,
        entries: Vec<MappingEntry>,
        write: impl FnOnce(u32, &[MappingEntry]),
    ) -> Option<u32> {
        let entries: Arc<[MappingEntry]> = entries.into();
        if let Some(first) = self.by_content.get(&entries) {
            self.used.get_mut(first)?.users += 1;
            return Some(*first);
        }
        self.wake(Instant::now());
        // An empty run still needs a number of its own.
        let wanted = (entries.len() as u32).max(1);
        let (&first, &length) = self.free.iter().find(|(_, length)| **length >= wanted)?;
        self.free.remove(&first);
        if length > wanted {
            self.free.insert(first + wanted, length - wanted);
        }
        write(first, &entries);
        self.by_content.insert(entries.clone(), first);
        self.used.insert(first, Run { entries, users: 1 });
        Some(first)
    }

    /// Gives up one use of a run.
    pub fn release(&mut self, first: u32) {
        let Some(run) = self.used.get_mut(&first) else {
            return;
        };
        run.users -= 1;
        if run.users == 0
            && let Some(run) = self.used.remove(&first)
        {
            self.by_content.remove(&run.entries);
            let length = (run.entries.len() as u32).max(1);
            self.resting.push_back((Instant::now(), first, length));
        }
    }

    /// Frees the runs that have rested long enough, joined with their free neighbours.
    fn wake(&mut self, now: Instant) {
        while let Some(&(since, mut first, mut length)) = self.resting.front() {
            if now.duration_since(since) < REST {
                return;
            }
            self.resting.pop_front();
            if let Some(after) = self.free.remove(&(first + length)) {
                length += after;
            }
            if let Some((&before, &before_length)) = self.free.range(..first).next_back()
                && before + before_length == first
            {
                self.free.remove(&before);
                first = before;
                length += before_length;
            }
            self.free.insert(first, length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(start: u64, count: u64) -> Vec<MappingEntry> {
        (0..count)
            .map(|i| MappingEntry {
                start: start + i,
                end: start + i + 1,
                ..Default::default()
            })
            .collect()
    }

    #[test]
    fn equal_runs_are_one_and_freed_ones_are_joined_again() {
        let mut runs = Runs::new(10);
        let a = runs.add(entries(0, 4), |_, _| {}).unwrap();
        let again = runs
            .add(entries(0, 4), |_, _| panic!("written twice"))
            .unwrap();
        assert_eq!(a, again);
        let b = runs.add(entries(9, 6), |_, _| {}).unwrap();
        assert_ne!(a, b);
        assert_eq!(runs.add(entries(5, 1), |_, _| {}), None, "full");
        runs.release(a);
        runs.release(b);
        assert_eq!(
            runs.add(entries(5, 5), |_, _| {}),
            None,
            "`b` rests, `a` is still used"
        );
        runs.release(again);
        std::thread::sleep(REST);
        assert_eq!(runs.add(entries(5, 10), |_, _| {}), Some(0));
    }
}
