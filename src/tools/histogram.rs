//! Distributions: bcc's log2 rows, and percentiles under them.
//!
//! The kernel side counts in four slots an octave. Rows are sums of slots, so they are exact;
//! percentiles interpolate in a slot and are within an eighth of the truth.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::bpf::Pod;

const SLOTS_PER_OCTAVE_LOG2: u32 = 2;
const SLOTS_PER_OCTAVE: u64 = 1 << SLOTS_PER_OCTAVE_LOG2;
/// `HISTOGRAM_SLOTS` of `ebpf/include/report.h`.
pub const SLOTS: usize = 160;
/// Rows of a table, as many as bcc has. Row 1 is `0 -> 1`; row 0 is never used.
pub const ROWS: usize = 64;
/// Beyond this row bcc's table is wider, and its stars fewer.
const LAST_NARROW_ROW: usize = 32;
const STARS: u64 = 40;

/// `struct histogram` of the kernel side.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Histogram {
    /// Of all values.
    pub sum: u64,
    /// The largest value.
    pub max: u64,
    /// Counts by range.
    pub slots: [u64; SLOTS],
}
// SAFETY: integers without padding, C layout.
unsafe impl Pod for Histogram {}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            sum: 0,
            max: 0,
            slots: [0; SLOTS],
        }
    }
}

/// The smallest value of a slot.
fn slot_start(slot: usize) -> u64 {
    let slot = slot as u64;
    if slot < SLOTS_PER_OCTAVE {
        return slot;
    }
    let octave = slot >> SLOTS_PER_OCTAVE_LOG2;
    let mantissa = SLOTS_PER_OCTAVE | (slot & (SLOTS_PER_OCTAVE - 1));
    mantissa << (octave - 1)
}

/// bcc's row of a value: one more than its log2, and 1 for 0.
fn row_of(value: u64) -> usize {
    value.max(1).ilog2() as usize + 1
}

/// The smallest and the largest value of a row.
#[must_use]
pub fn row_bounds(row: usize) -> (u64, u64) {
    let low = (1_u64 << row) >> 1;
    let high = (1_u64 << row) - 1;
    (if low == high { low - 1 } else { low }, high)
}

impl Histogram {
    /// Adds another one's values.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        for (own, others) in self.slots.iter_mut().zip(&other.slots) {
            *own += others;
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// Counts by bcc's rows.
    #[must_use]
    pub fn rows(&self) -> [u64; ROWS] {
        let mut rows = [0; ROWS];
        for (slot, count) in self.slots.iter().enumerate() {
            rows[row_of(slot_start(slot)).min(ROWS - 1)] += count;
        }
        rows
    }

    /// The largest value. Two CPUs may race for it on the kernel side, but it cannot lie below
    /// the top slot.
    #[must_use]
    pub fn max(&self) -> u64 {
        let top = self.slots.iter().rposition(|count| *count > 0);
        self.max.max(top.map_or(0, slot_start))
    }

    /// The value that this share of all values does not exceed, interpolated within a slot.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = self.count() as f64 * percent / 100.0;
        let mut below = 0_u64;
        for (slot, count) in self.slots.iter().enumerate() {
            if *count > 0 && (below + count) as f64 >= wanted {
                let start = slot_start(slot);
                let width = slot_start(slot + 1) - start;
                let into = (wanted - below as f64) / *count as f64;
                // A slot of one value is exact; of a wider one the last value is width - 1 away.
                let value = start + ((width - 1) as f64 * into).round() as u64;
                return value.min(self.max());
            }
            below += count;
        }
        self.max()
    }

    /// bcc's table (`print_log2_hist`), and the percentiles under it.
    #[must_use]
    pub fn table(&self, unit: &str) -> String {
        let mut text = log2_table(&self.rows(), unit);
        if self.count() > 0 {
            let p = |percent| self.percentile(percent);
            let _ = writeln!(
                text,
                "     p50 = {}, p90 = {}, p99 = {}, p99.9 = {}, max = {} {unit}",
                p(50.0),
                p(90.0),
                p(99.0),
                p(99.9),
                self.max()
            );
        }
        text
    }

    /// For `--json`.
    #[must_use]
    pub fn json(&self, unit: &str) -> Value {
        let rows = self.rows();
        let rows: Vec<_> = (1..ROWS)
            .filter(|row| rows[*row] > 0)
            .map(|row| {
                let (low, high) = row_bounds(row);
                json!({"low": low, "high": high, "count": rows[row]})
            })
            .collect();
        json!({
            "unit": unit,
            "count": self.count(),
            "sum": self.sum,
            "p50": self.percentile(50.0),
            "p90": self.percentile(90.0),
            "p99": self.percentile(99.0),
            "p99_9": self.percentile(99.9),
            "max": self.max(),
            "rows": rows,
        })
    }
}

fn log2_table(rows: &[u64; ROWS], unit: &str) -> String {
    let mut text = String::new();
    let Some(last) = rows.iter().rposition(|count| *count > 0) else {
        return text;
    };
    let largest = rows.iter().copied().max().unwrap_or(1);
    let wide = last > LAST_NARROW_ROW;
    let (indent, header_width, width, stars) = if wide {
        (15, 29, 20, STARS / 2)
    } else {
        (5, 19, 10, STARS)
    };
    let _ = writeln!(
        text,
        "{:indent$}{unit:<header_width$} : count     distribution",
        ""
    );
    for (row, count) in rows.iter().enumerate().take(last + 1).skip(1) {
        let (low, high) = row_bounds(row);
        let filled = (u128::from(*count) * u128::from(stars) / u128::from(largest)) as usize;
        let _ = writeln!(
            text,
            "{low:>width$} -> {high:<width$} : {count:<8} |{:<stars$}|",
            "*".repeat(filled),
            stars = stars as usize
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel side's `slot_of`.
    fn slot_of(value: u64) -> usize {
        if value < SLOTS_PER_OCTAVE {
            return value as usize;
        }
        let log = value.ilog2();
        let slot = (u64::from(log - SLOTS_PER_OCTAVE_LOG2 + 1) << SLOTS_PER_OCTAVE_LOG2)
            | ((value >> (log - SLOTS_PER_OCTAVE_LOG2)) & (SLOTS_PER_OCTAVE - 1));
        (slot as usize).min(SLOTS - 1)
    }

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        for value in values {
            histogram.slots[slot_of(*value)] += 1;
            histogram.sum += value;
            histogram.max = histogram.max.max(*value);
        }
        histogram
    }

    #[test]
    fn slots_begin_where_they_should() {
        for value in (0..5000).chain([1 << 20, (1 << 30) - 1, 1 << 39]) {
            let slot = slot_of(value);
            assert!(
                slot_start(slot) <= value && value < slot_start(slot + 1),
                "{value}"
            );
        }
    }

    #[test]
    fn rows_are_bccs() {
        assert_eq!(row_bounds(1), (0, 1));
        assert_eq!(row_bounds(2), (2, 3));
        assert_eq!(row_bounds(10), (512, 1023));
        let rows = of(&[0, 1, 2, 3, 4, 1023, 1024]).rows();
        assert_eq!(
            (rows[1], rows[2], rows[3], rows[10], rows[11]),
            (2, 2, 1, 1, 1)
        );
    }

    #[test]
    fn the_table_is_bccs_byte_for_byte() {
        let mut values = vec![1; 2];
        values.extend([3; 80]);
        values.extend([5; 41]);
        let table = of(&values).table("usecs");
        assert_eq!(
            table,
            "     usecs               : count     distribution
         0 -> 1          : 2        |*                                       |
         2 -> 3          : 80       |****************************************|
         4 -> 7          : 41       |********************                    |
     p50 = 3, p90 = 5, p99 = 5, p99.9 = 5, max = 5 usecs
"
        );
    }

    #[test]
    fn beyond_row_32_the_table_is_wide() {
        let table = of(&[1 << 33]).table("nsecs");
        let mut lines = table.lines();
        assert_eq!(
            lines.next().unwrap(),
            "               nsecs                         : count     distribution"
        );
        assert_eq!(
            lines.nth(33).unwrap(),
            "          8589934592 -> 17179869183          : 1        |********************|"
        );
    }

    #[test]
    fn percentiles_are_within_an_eighth() {
        let values: Vec<u64> = (1..=100_000).collect();
        let histogram = of(&values);
        for (percent, truth) in [(50.0, 50_000.0), (90.0, 90_000.0), (99.0, 99_000.0)] {
            let found = histogram.percentile(percent) as f64;
            assert!((found / truth - 1.0).abs() < 0.125, "{percent}: {found}");
        }
        assert_eq!(histogram.max(), 100_000);
        assert_eq!(
            of(&[700; 9]).percentile(99.9),
            700,
            "never beyond the maximum"
        );
    }

    #[test]
    fn nothing_counted_prints_nothing() {
        assert_eq!(Histogram::default().table("usecs"), "");
        assert_eq!(Histogram::default().percentile(50.0), 0);
    }
}
