//! One output format per file behind one row of a table.
//!
//! Adding a format is: one file with a `write` function, one row in [`FORMATS`].

use std::io::{self, Write};
use std::path::Path;

use crate::error::Error;
use crate::profile::model::Profile;

mod fold;
mod folded;
pub mod names;
pub mod output;
mod palette;
mod quality;
pub mod summary;
mod svg;
mod svg_header;

pub use palette::by_name as palette_by_name;
pub use quality::quality_lines;

/// Frames narrower than this percentage of the picture are left out unless the user says
/// otherwise: about one pixel on a common screen, and it bounds the picture to a thousand
/// frames per level, which any browser opens at once.
pub const DEFAULT_MIN_WIDTH_PCT: f64 = 0.1;

/// How pictures look; formats take from it what concerns them.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureOptions {
    /// Title; the command line when `None`.
    pub title: Option<String>,
    /// inferno's palette name; kernel, user, inlined and JIT frames get distinct colours when
    /// `None`.
    pub colors: Option<String>,
    /// Icicle graph: roots on top.
    pub inverted: bool,
    /// Frames narrower than this percentage of the picture are left out.
    pub min_width_pct: f64,
    /// Mark kernel frames with `_[k]` in text formats.
    pub annotate_kernel: bool,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self {
            title: None,
            colors: None,
            inverted: false,
            min_width_pct: DEFAULT_MIN_WIDTH_PCT,
            annotate_kernel: false,
        }
    }
}

/// One row of the table of formats.
#[derive(Debug)]
pub struct FormatRow {
    /// The name `--format` takes.
    pub name: &'static str,
    /// File extensions that select it, without the dot.
    pub extensions: &'static [&'static str],
    /// One line for `--help`.
    pub about: &'static str,
    /// Writes a profile in many small pieces: give it a buffered writer. A profile without
    /// samples is an error of kind [`io::ErrorKind::InvalidInput`]; nothing is written then.
    pub write: fn(&Profile, &PictureOptions, &mut dyn Write) -> io::Result<()>,
}

/// Every format `flame` writes.
pub static FORMATS: &[FormatRow] = &[
    FormatRow {
        name: "svg",
        extensions: &["svg"],
        about: "interactive flame graph for a browser: zoom, search, light and dark",
        write: svg::write,
    },
    FormatRow {
        name: "folded",
        extensions: &["folded", "txt"],
        about: "collapsed stacks, one per line with its count, as flame graph tools read them",
        write: folded::write,
    },
];

/// The format called `name`.
///
/// # Errors
/// [`Error::Usage`] that lists the known names.
pub fn by_name(name: &str) -> Result<&'static FormatRow, Error> {
    FORMATS
        .iter()
        .find(|format| format.name == name)
        .ok_or_else(|| {
            let known: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
            let name = names::printable(name, 100);
            Error::Usage(format!(
                "unknown format '{name}'; known formats: {}",
                known.join(", ")
            ))
        })
}

/// The format that `path`'s extension selects, in any case.
///
/// # Errors
/// [`Error::Usage`] that lists the known extensions and names `--format`.
pub fn by_extension(path: &Path) -> Result<&'static FormatRow, Error> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    let selects = |known: &&str| known.eq_ignore_ascii_case(&extension);
    FORMATS
        .iter()
        .find(|format| format.extensions.iter().any(selects))
        .ok_or_else(|| {
            let known: Vec<_> = FORMATS
                .iter()
                .flat_map(|format| format.extensions)
                .map(|extension| format!(".{extension}"))
                .collect();
            let path = path.to_string_lossy();
            Error::Usage(format!(
                "cannot tell the format of '{}' from its extension; known extensions: {}; \
                 or name the format with --format",
                names::printable(&path, 1000),
                known.join(", ")
            ))
        })
}

/// What every format answers to a profile that has nothing to show.
fn refuse_empty(profile: &Profile) -> io::Result<()> {
    if profile.total() == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the profile has no samples",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_select_formats_in_any_case() {
        assert_eq!(by_extension(Path::new("a/out.SVG")).unwrap().name, "svg");
        assert_eq!(by_extension(Path::new("x.txt")).unwrap().name, "folded");
        assert_eq!(by_extension(Path::new("x.folded")).unwrap().name, "folded");
    }

    #[test]
    fn an_unknown_format_is_a_usage_error_that_lists_the_known_ones() {
        for error in [
            by_name("png").unwrap_err(),
            by_extension(Path::new("x.png")).unwrap_err(),
            by_extension(Path::new("noextension")).unwrap_err(),
        ] {
            assert_eq!(error.exit_status(), 2);
            assert!(error.to_string().contains("svg"), "{error}");
            assert!(error.to_string().contains("folded"), "{error}");
        }
    }

    #[test]
    fn no_extension_or_name_is_claimed_twice() {
        let mut seen = std::collections::HashSet::new();
        for format in FORMATS {
            assert_eq!(by_name(format.name).unwrap().name, format.name);
            assert!(
                format
                    .extensions
                    .iter()
                    .all(|extension| seen.insert(extension))
            );
        }
    }

    #[test]
    fn an_empty_profile_is_refused_by_every_format() {
        for format in FORMATS {
            let mut out = Vec::new();
            let error = (format.write)(&Profile::default(), &PictureOptions::default(), &mut out)
                .unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}", format.name);
            assert!(out.is_empty(), "{}", format.name);
        }
    }
}
