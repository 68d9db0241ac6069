//! Mappings in the order of their addresses: which ones share an address with a range.
//!
//! An image keeps its mappings in the order of time, newer ones over older ones. Every sampled
//! address asks what lies under it, and a process may have tens of thousands of mappings.

use super::image::Mapping;

/// Positions in a list of mappings by start address, with how far those up to each one reach.
#[derive(Debug, Clone)]
pub struct ByAddress {
    positions: Vec<u32>,
    /// The greatest end address among the mappings up to here.
    reach: Vec<u64>,
}

impl ByAddress {
    /// The index of a list; useless once the list has changed.
    pub fn of(mappings: &[Mapping]) -> Self {
        let mut positions: Vec<u32> = (0..mappings.len() as u32).collect();
        positions.sort_by_key(|position| mappings[*position as usize].start);
        let reach = positions
            .iter()
            .scan(0, |reach: &mut u64, position| {
                *reach = mappings[*position as usize].end.max(*reach);
                Some(*reach)
            })
            .collect();
        Self { positions, reach }
    }

    /// The mappings of the list that share an address with a range, in no order.
    pub fn overlapping<'a>(
        &'a self,
        mappings: &'a [Mapping],
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = (usize, &'a Mapping)> {
        let at = |position: u32| (position as usize, &mappings[position as usize]);
        let below = self
            .positions
            .partition_point(|position| at(*position).1.start < end);
        self.positions[..below]
            .iter()
            .zip(&self.reach[..below])
            .rev()
            .take_while(move |(_, reach)| **reach > start)
            .map(move |(position, _)| at(*position))
            .filter(move |(_, mapping)| mapping.end > start)
    }
}
