//! Collapsed stacks: `task;frame;frame count`, root first, one line per unique stack.
//!
//! The format of Brendan Gregg's `stackcollapse-*.pl`, read by every flame graph tool.

use std::io::{self, Write};

use super::fold::{Folded, Marks};
use super::{PictureOptions, refuse_empty};
use crate::profile::model::Profile;

/// Writes `profile`; the same profile always gives the same bytes.
pub fn write(profile: &Profile, options: &PictureOptions, out: &mut dyn Write) -> io::Result<()> {
    refuse_empty(profile)?;
    let marks = Marks {
        kernel: options.annotate_kernel,
        task: false,
    };
    let folded = Folded::new(profile, marks);
    let mut text = String::new();
    for line in folded.lines() {
        text.clear();
        folded.push_line(*line, &mut text);
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}
