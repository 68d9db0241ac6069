//! A latency heat map over time as SVG: columns are intervals, rows powers of two, colour counts.

use std::io::{self, Write};

use super::histogram::{ROWS, row_bounds};

/// Beyond this many columns neighbours are merged, so that no run is too long for a picture.
const COLUMNS_MAX: usize = 600;
const CELL_WIDTH_MIN: usize = 2;
const CELL_WIDTH_MAX: usize = 24;
const CELL_HEIGHT: usize = 16;
const PICTURE_WIDTH: usize = 1000;
const LABELS_WIDTH: usize = 150;
const TITLE_HEIGHT: usize = 34;
const AXIS_HEIGHT: usize = 26;
/// Shades of the colour scale, from few to many; counts are told apart by their logarithm.
const SHADES: u64 = 8;

#[derive(Debug)]
struct Column {
    /// When it ended.
    time: String,
    rows: [u64; ROWS],
}

/// Columns as they come in.
#[derive(Debug, Default)]
pub struct Heatmap {
    columns: Vec<Column>,
    /// Counted intervals that make one column; doubles when the picture is full.
    merged: usize,
    pending: usize,
    unit: &'static str,
}

impl Heatmap {
    /// Adds what one interval counted.
    pub fn push(&mut self, time: String, rows: &[u64; ROWS], unit: &'static str) {
        self.unit = unit;
        self.merged = self.merged.max(1);
        match self.columns.last_mut() {
            Some(column) if self.pending > 0 && self.pending < self.merged => {
                add(&mut column.rows, rows);
                column.time = time;
                self.pending += 1;
            }
            _ => {
                self.columns.push(Column { time, rows: *rows });
                self.pending = 1;
            }
        }
        if self.columns.len() > COLUMNS_MAX {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.merged *= 2;
        let mut halved: Vec<Column> = Vec::with_capacity(self.columns.len() / 2 + 1);
        for (index, column) in self.columns.drain(..).enumerate() {
            match halved.last_mut() {
                Some(last) if index % 2 == 1 => {
                    add(&mut last.rows, &column.rows);
                    last.time = column.time;
                }
                _ => halved.push(column),
            }
        }
        self.columns = halved;
    }

    /// Writes the picture. Readable on light and dark backgrounds; every cell tells its count on
    /// hover.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_svg(&self, tool: &str, out: &mut dyn Write) -> io::Result<()> {
        let counted = |row: &usize| self.columns.iter().any(|column| column.rows[*row] > 0);
        let first = (1..ROWS).find(counted).unwrap_or(1);
        let last = (1..ROWS).rfind(counted).unwrap_or(1);
        let largest = self
            .columns
            .iter()
            .flat_map(|column| column.rows)
            .max()
            .unwrap_or(0);
        let cell_width =
            (PICTURE_WIDTH / self.columns.len().max(1)).clamp(CELL_WIDTH_MIN, CELL_WIDTH_MAX);
        let width = LABELS_WIDTH + cell_width * self.columns.len().max(1) + 20;
        let height = TITLE_HEIGHT + CELL_HEIGHT * (last - first + 1) + AXIS_HEIGHT;
        write_head(out, tool, self.unit, largest, width.max(420), height)?;
        for row in first..=last {
            let y = TITLE_HEIGHT + CELL_HEIGHT * (last - row);
            let (low, high) = row_bounds(row);
            writeln!(
                out,
                r#"<text class="label" x="{}" y="{}">{low} – {high}</text>"#,
                LABELS_WIDTH - 8,
                y + 12
            )?;
            for (index, column) in self.columns.iter().enumerate() {
                let count = column.rows[row];
                if count == 0 {
                    continue;
                }
                writeln!(
                    out,
                    r#"<rect class="s{}" x="{}" y="{y}" width="{cell_width}" height="{CELL_HEIGHT}"><title>{}: {count} of {low} – {high} {}</title></rect>"#,
                    shade(count, largest),
                    LABELS_WIDTH + cell_width * index,
                    column.time,
                    self.unit
                )?;
            }
        }
        self.write_times(out, cell_width, height)?;
        writeln!(out, "</svg>")
    }

    fn write_times(&self, out: &mut dyn Write, cell_width: usize, height: usize) -> io::Result<()> {
        // A label is some 60 pixels wide.
        let step = (80 / cell_width).max(1);
        for (index, column) in self.columns.iter().enumerate().step_by(step) {
            writeln!(
                out,
                r#"<text x="{}" y="{}">{}</text>"#,
                LABELS_WIDTH + cell_width * index,
                height - 9,
                column.time
            )?;
        }
        Ok(())
    }
}

fn add(rows: &mut [u64; ROWS], others: &[u64; ROWS]) {
    for (row, other) in rows.iter_mut().zip(others) {
        *row += other;
    }
}

/// 1 for the smallest count, [`SHADES`] for the largest.
fn shade(count: u64, largest: u64) -> u64 {
    if largest <= 1 {
        return SHADES;
    }
    let share = (count as f64).ln() / (largest as f64).ln();
    1 + (share * (SHADES - 1) as f64).round() as u64
}

fn write_head(
    out: &mut dyn Write,
    tool: &str,
    unit: &str,
    largest: u64,
    width: usize,
    height: usize,
) -> io::Result<()> {
    writeln!(
        out,
        r#"<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">
<title>{tool}: latency over time</title>
<style>
svg {{ background: #fff; font: 12px system-ui, sans-serif; }}
text {{ fill: #333; }} .label {{ text-anchor: end; }} .title {{ font-size: 15px; }}
rect:hover {{ stroke: #000; }}"#
    )?;
    // A single hue from light to dark; on a dark ground many is bright and few is dim.
    for step in 1..=SHADES {
        let light = 92 - 9 * step;
        writeln!(out, ".s{step} {{ fill: hsl(14 85% {light}%); }}")?;
    }
    writeln!(
        out,
        "@media (prefers-color-scheme: dark) {{\nsvg {{ background: #16181d; }} text {{ fill: #ddd; }} \
         rect:hover {{ stroke: #fff; }}"
    )?;
    for step in 1..=SHADES {
        let light = 16 + 8 * step;
        writeln!(out, ".s{step} {{ fill: hsl(14 85% {light}%); }}")?;
    }
    writeln!(
        out,
        "}}\n</style>\n<text class=\"title\" x=\"12\" y=\"22\">{tool}: latency in {unit} over time, \
         darkest = {largest}</text>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(counts: &[(usize, u64)]) -> [u64; ROWS] {
        let mut rows = [0; ROWS];
        for (row, count) in counts {
            rows[*row] = *count;
        }
        rows
    }

    fn svg(heatmap: &Heatmap) -> String {
        let mut bytes = Vec::new();
        heatmap.write_svg("biolatency", &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_counted_cell_tells_its_count_on_hover() {
        let mut heatmap = Heatmap::default();
        heatmap.push("10:00:01".into(), &rows(&[(3, 1), (5, 90)]), "usecs");
        heatmap.push("10:00:02".into(), &rows(&[(4, 7)]), "usecs");
        let svg = svg(&heatmap);
        assert_eq!(svg.matches("<rect").count(), 3);
        assert!(svg.contains("<title>10:00:01: 90 of 16 – 31 usecs</title>"));
        assert!(svg.contains("<title>10:00:02: 7 of 8 – 15 usecs</title>"));
        assert!(svg.contains(r#"class="s8""#) && svg.contains(r#"class="s1""#));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn a_long_run_loses_no_counts() {
        let mut heatmap = Heatmap::default();
        for _ in 0..5000 {
            heatmap.push("10:00:00".into(), &rows(&[(3, 1)]), "usecs");
        }
        assert!(heatmap.columns.len() <= COLUMNS_MAX);
        let total: u64 = heatmap.columns.iter().map(|column| column.rows[3]).sum();
        assert_eq!(total, 5000);
    }

    #[test]
    fn an_empty_run_is_still_a_picture() {
        assert!(svg(&Heatmap::default()).ends_with("</svg>\n"));
    }
}
