//! Colours: by where the code comes from, or one of inferno's palettes.

use std::str::FromStr;

use inferno::flamegraph::color::Color;
use inferno::flamegraph::{Palette, color::PaletteMap};

use super::fold::Label;
use super::names;
use crate::error::Error;
use crate::profile::model::FrameKind;

/// Kinds in the order of the legend, what it calls them, and their colours. All are light enough
/// for black text in light and dark pages alike; kernel, inlined and JIT keep the hues that
/// users of `flamegraph.pl` know, and no two differ by red and green alone.
pub const KINDS: [(FrameKind, &str, Color); 6] = [
    (
        FrameKind::User,
        "user",
        Color {
            r: 247,
            g: 210,
            b: 90,
        },
    ),
    (
        FrameKind::Inlined,
        "inlined",
        Color {
            r: 120,
            g: 205,
            b: 215,
        },
    ),
    (
        FrameKind::Jit,
        "JIT",
        Color {
            r: 135,
            g: 205,
            b: 110,
        },
    ),
    (
        FrameKind::Kernel,
        "kernel",
        Color {
            r: 235,
            g: 138,
            b: 65,
        },
    ),
    (
        FrameKind::Unknown,
        "no name",
        Color {
            r: 205,
            g: 165,
            b: 205,
        },
    ),
    (
        FrameKind::Task,
        "task",
        Color {
            r: 198,
            g: 202,
            b: 208,
        },
    ),
];

/// The inferno palette called `name`.
///
/// # Errors
/// [`Error::Usage`] that lists the known names.
pub fn by_name(name: &str) -> Result<Palette, Error> {
    Palette::from_str(name).map_err(|_| {
        let name = names::printable(name, 100);
        let known = Palette::VARIANTS.join(", ");
        Error::Usage(format!("unknown colors '{name}'; known colors: {known}"))
    })
}

/// The colour of `kind`, a little lighter or darker by `text`, so that neighbours differ.
pub fn color(kind: FrameKind, text: &str) -> Color {
    let base = KINDS
        .iter()
        .find(|(known, ..)| *known == kind)
        .map_or(KINDS[0].2, |row| row.2);
    // FNV-1a: the same colour on every machine and in every version.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let shade_pct = 93 + ((hash >> 32) % 15) as u32;
    let scale = |channel: u8| (u32::from(channel) * shade_pct / 100).min(255) as u8;
    Color {
        r: scale(base.r),
        g: scale(base.g),
        b: scale(base.b),
    }
}

/// A map for inferno that colours every frame of `labels`, and the root that inferno adds.
pub fn by_kind<'a>(labels: impl Iterator<Item = &'a Label<'a>>) -> PaletteMap {
    let mut map = PaletteMap::default();
    map.insert("", color(FrameKind::Task, ""));
    for label in labels {
        let color = color(label.kind, &label.name);
        map.insert(label.text(), color);
        map.insert(label.leaf_text(), color);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inferno_palette_is_known_and_others_are_listed() {
        for name in Palette::VARIANTS {
            by_name(name).unwrap();
        }
        let error = by_name("pink\x1b").unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("'pink\\x1b'") && error.to_string().contains("java"));
    }

    #[test]
    fn shades_of_different_kinds_never_meet() {
        let distance = |a: Color, b: Color| {
            a.r.abs_diff(b.r)
                .max(a.g.abs_diff(b.g))
                .max(a.b.abs_diff(b.b))
        };
        for (kind, ..) in KINDS {
            for (other, ..) in KINDS.iter().filter(|row| row.0 != kind) {
                for a in 0..50 {
                    for b in 0..50 {
                        let (a, b) = (color(kind, &a.to_string()), color(*other, &b.to_string()));
                        assert!(distance(a, b) >= 20, "{kind:?} {a} {other:?} {b}");
                    }
                }
            }
        }
    }
}
