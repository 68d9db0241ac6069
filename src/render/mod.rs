//! One output format per file behind one row of a table.

use std::io::{self, Write};

use crate::error::Error;
use crate::profile::model::Profile;

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

/// One row of the table of formats.
#[derive(Debug)]
pub struct FormatRow {
    /// The name `--format` takes.
    pub name: &'static str,
    /// File extensions that select it, without the dot.
    pub extensions: &'static [&'static str],
    /// One line for `--help`.
    pub about: &'static str,
    /// Writes a profile.
    pub write: fn(&Profile, &PictureOptions, &mut dyn Write) -> io::Result<()>,
}

/// Every format.
pub static FORMATS: &[FormatRow] = &[
    FormatRow {
        name: "svg",
        extensions: &["svg"],
        about: "interactive flame graph",
        write,
    },
    FormatRow {
        name: "folded",
        extensions: &["folded", "txt"],
        about: "folded stacks",
        write,
    },
];

fn write(_: &Profile, _: &PictureOptions, _: &mut dyn Write) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The format with this name.
pub fn by_name(name: &str) -> Result<&'static FormatRow, Error> {
    let row = FORMATS.iter().find(|row| row.name == name);
    row.ok_or_else(|| Error::Usage(format!("unknown format '{name}'")))
}

/// The format of files with this extension.
pub fn by_extension(extension: &str) -> Result<&'static FormatRow, Error> {
    let row = FORMATS
        .iter()
        .find(|row| row.extensions.contains(&extension));
    row.ok_or_else(|| Error::Usage(format!("unknown extension '{extension}'")))
}
