//! One output format per file behind one row of a table.

use std::io::{self, Write};

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
