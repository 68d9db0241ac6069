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
/// Of a time of day under the columns, with some room.
const TIME_WIDTH: usize = 80;
const SWATCH_WIDTH: usize = 18;
/// The title, and the legend under it.
const TITLE_HEIGHT: usize = 62;
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
                r#"<text class="label" x="{}" y="{}">{} – {}</text>"#,
                LABELS_WIDTH - 8,
                y + 12,
                duration(low, self.unit),
                duration(high + 1, self.unit)
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
        let step = (TIME_WIDTH / cell_width).max(1);
        let mut last = "";
        for (index, column) in self.columns.iter().enumerate().step_by(step) {
            // Columns may be shorter than a second.
            if column.time == last {
                continue;
            }
            last = &column.time;
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

/// A row's border as people read it: `512 µs`, `1.02 ms`, `1.05 s`.
fn duration(value: u64, unit: &str) -> String {
    let us = match unit {
        "usecs" => value as f64,
        "msecs" => value as f64 * 1e3,
        _ => return value.to_string(),
    };
    let (scaled, name) = match us {
        ..1e3 => return format!("{us} µs"),
        ..1e6 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let decimals = match scaled {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$} {name}")
}

fn add(rows: &mut [u64; ROWS], others: &[u64; ROWS]) {
    for (row, other) in rows.iter_mut().zip(others) {
        *row += other;
    }
}

/// The colours, from one to the largest count; between them goes its logarithm.
fn write_legend(out: &mut dyn Write, largest: u64) -> io::Result<()> {
    let (x, y) = (LABELS_WIDTH, TITLE_HEIGHT - 24);
    writeln!(
        out,
        r#"<text class="label" x="{}" y="{}">count in a cell: 1</text>"#,
        x - 8,
        y + 11
    )?;
    for step in 1..=SHADES {
        let at = x + SWATCH_WIDTH * (step as usize - 1);
        writeln!(
            out,
            r#"<rect class="s{step}" x="{at}" y="{y}" width="{SWATCH_WIDTH}" height="14"/>"#
        )?;
    }
    let end = x + SWATCH_WIDTH * SHADES as usize + 8;
    writeln!(out, r#"<text x="{end}" y="{}">{largest}</text>"#, y + 11)
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
        "}}\n</style>\n<text class=\"title\" x=\"12\" y=\"22\">{tool}: latency in {unit} over time</text>"
    )?;
    write_legend(out, largest)
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
        let legend = SHADES as usize;
        assert_eq!(svg.matches("<rect").count(), 3 + legend);
        assert_eq!(svg.matches("<title>10:00:0").count(), 3);
        assert!(svg.contains("<title>10:00:01: 90 of 16 – 31 usecs</title>"));
        assert!(svg.contains("<title>10:00:02: 7 of 8 – 15 usecs</title>"));
        assert!(svg.contains(r#"class="s8""#) && svg.contains(r#"class="s1""#));
        assert!(svg.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn borders_are_read_in_the_unit_that_fits() {
        let of = |value| duration(value, "usecs");
        assert_eq!([of(0), of(512)], ["0 µs", "512 µs"]);
        assert_eq!(
            [of(1024), of(65_536), of(524_288)],
            ["1.02 ms", "65.5 ms", "524 ms"]
        );
        assert_eq!(of(1 << 20), "1.05 s");
        assert_eq!(duration(2, "msecs"), "2.00 ms");
    }

    #[test]
    fn columns_shorter_than_a_second_share_a_label() {
        let mut heatmap = Heatmap::default();
        for _ in 0..40 {
            heatmap.push("10:00:01".into(), &rows(&[(3, 1)]), "usecs");
        }
        assert_eq!(svg(&heatmap).matches(">10:00:01<").count(), 1);
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
