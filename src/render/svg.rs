//! The flame graph for a browser, drawn by inferno.
//!
//! inferno draws frames and brings zoom and search; [`super::svg_header`] adds the account of the
//! samples, the legend and the dark colours to what it writes above the frames.

use std::fmt::Write as _;
use std::io::{self, Write};

use inferno::flamegraph::color::{BackgroundColor, Color};
use inferno::flamegraph::{self, Direction, Options, TextTruncateDirection};

use super::fold::{Folded, Marks};
use super::quality::{quality_lines, thousands};
use super::svg_header::{Header, HeaderWriter};
use super::{PictureOptions, names, palette, refuse_empty};
use crate::profile::model::{FrameKind, Meta, Profile};

/// Characters of the title that fit between the two buttons of a 1200 pixel picture.
const TITLE_CHARS_MAX: usize = 95;
/// Characters of the other lines that fit.
const LINE_CHARS_MAX: usize = 155;
/// The page; `svg_header` has the dark one.
const PAGE_COLOR: Color = Color {
    r: 252,
    g: 252,
    b: 252,
};
/// Bounds the description for machines; a command line can be megabytes long.
const DESCRIPTION_LINE_BYTES_MAX: usize = 16 * 1024;

/// Writes `profile` as one self-contained SVG.
pub fn write(profile: &Profile, options: &PictureOptions, out: &mut dyn Write) -> io::Result<()> {
    refuse_empty(profile)?;
    let mut folded = Folded::new(
        profile,
        Marks {
            kernel: true,
            task: true,
        },
    );
    folded.prune(options.min_width_pct / 100.0 * profile.total() as f64);

    let header = header(profile, options, &folded);
    let mut drawing = Options::default();
    let mut kind_colors;
    if let Some(name) = &options.colors {
        drawing.colors = palette::by_name(name)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    } else {
        kind_colors = palette::by_kind(folded.used_labels());
        drawing.palette_map = Some(&mut kind_colors);
    }
    drawing.title.clone_from(&header.title);
    drawing.subtitle = Some(header.subtitle.clone());
    drawing.min_width = options.min_width_pct;
    drawing.deterministic = true;
    drawing.bgcolors = Some(BackgroundColor::Flat(PAGE_COLOR));
    drawing.text_truncate_direction = TextTruncateDirection::Right;
    if options.inverted {
        drawing.direction = Direction::Inverted;
    }
    // What inferno calls a flame chart is the one way to give it lines that are sorted by frame
    // and not by text (see `fold`). It takes them last first.
    drawing.flame_chart = true;
    let mut text = String::new();
    for line in folded.lines() {
        folded.push_line(*line, &mut text);
    }
    drop(folded);

    let mut writer = HeaderWriter::new(out, header);
    flamegraph::from_lines(&mut drawing, text.lines().rev(), &mut writer)?;
    writer.finish()
}

fn header(profile: &Profile, options: &PictureOptions, folded: &Folded<'_>) -> Header {
    let title = options
        .title
        .as_deref()
        .unwrap_or(&profile.meta.command_line);
    let title = if title.trim().is_empty() {
        "flame"
    } else {
        title
    };
    let subtitle = subtitle(&profile.meta, profile.total());
    let mut quality = quality_lines(&profile.quality);
    if options.min_width_pct > 0.0 {
        quality.push(format!(
            "not drawn: frames below {} % of all samples",
            options.min_width_pct
        ));
    }
    let mut description = vec![
        names::printable(title, DESCRIPTION_LINE_BYTES_MAX).into_owned(),
        names::printable(&profile.meta.command_line, DESCRIPTION_LINE_BYTES_MAX).into_owned(),
        subtitle.clone(),
    ];
    description.dedup();
    description.extend(quality.iter().cloned());
    Header {
        title: cut(
            &names::printable(title, DESCRIPTION_LINE_BYTES_MAX),
            TITLE_CHARS_MAX,
        ),
        subtitle: cut(&subtitle, LINE_CHARS_MAX),
        lines: quality
            .iter()
            .flat_map(|line| wrap(line, LINE_CHARS_MAX))
            .collect(),
        legend: if options.colors.is_none() {
            legend(folded)
        } else {
            Vec::new()
        },
        description,
    }
}

/// The kinds of frame in the picture, with their colours.
fn legend(folded: &Folded<'_>) -> Vec<(&'static str, String)> {
    let mut used: Vec<FrameKind> = folded.used_labels().map(|label| label.kind).collect();
    used.sort_unstable();
    used.dedup();
    palette::KINDS
        .iter()
        .filter(|(kind, ..)| used.contains(kind))
        .map(|(_, name, color)| {
            (
                *name,
                format!("#{:02x}{:02x}{:02x}", color.r, color.g, color.b),
            )
        })
        .collect()
}

fn subtitle(meta: &Meta, samples: u64) -> String {
    let mut parts = Vec::new();
    if !meta.host.is_empty() {
        parts.push(names::printable(&meta.host, 64).into_owned());
    }
    if !meta.kernel.is_empty() {
        parts.push(format!("Linux {}", names::printable(&meta.kernel, 64)));
    }
    let mut sampling = format!("{:.1} s", meta.duration.as_secs_f64());
    // Writing to a String cannot fail.
    if meta.frequency_hz > 0 {
        _ = write!(sampling, " at {} Hz", meta.frequency_hz);
    }
    match meta.cpus {
        0 => {}
        1 => sampling.push_str(" on 1 CPU"),
        cpus => _ = write!(sampling, " on {cpus} CPUs"),
    }
    parts.push(sampling);
    if !meta.event.is_empty() {
        parts.push(names::printable(&meta.event, 64).into_owned());
    }
    parts.push(format!("{} samples", thousands(samples)));
    parts.join(" · ")
}

/// At most `chars_max` characters of `text`, the last one `…` when it was cut.
fn cut(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars()
        .take(chars_max.saturating_sub(1))
        .chain(['…'])
        .collect()
}

/// `text` in lines of at most `chars_max` characters: broken at its ` · `, between words where a
/// part is longer than a line, and a word that is longer than a line is cut.
fn wrap(text: &str, chars_max: usize) -> Vec<String> {
    let length = |text: &str| text.chars().count();
    let mut lines = vec![String::new()];
    let mut push = |separator: &str, piece: &str| match lines.last_mut() {
        Some(line) if line.is_empty() => line.push_str(piece),
        Some(line) if length(line) + length(separator) + length(piece) <= chars_max => {
            line.push_str(separator);
            line.push_str(piece);
        }
        _ => lines.push(piece.to_owned()),
    };
    for part in text.split(" · ") {
        if length(part) <= chars_max {
            push(" · ", part);
            continue;
        }
        for (index, word) in part.split(' ').enumerate() {
            push(if index == 0 { " · " } else { " " }, &cut(word, chars_max));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_parts_then_words_and_words_too_long_are_cut() {
        assert_eq!(wrap("aa · bb · cc dd", 9), ["aa · bb", "cc dd"]);
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaaa b", 5), ["aaaa…", "b"]);
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
