//! What a finished run leaves behind: the outputs, the statistics, the summary on the terminal.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use serde::Serialize;

use super::config::{Destination, ProfileConfig};
use super::model::{Meta, Quality};
use super::session::Finished;
use crate::render::{output, quality_lines, summary::summary_lines};

/// Functions in the summary on the terminal.
const TOP_FUNCTIONS: usize = 10;

/// Refuses outputs that cannot be written before time is spent on sampling.
///
/// # Errors
/// Names the path and the remedy.
pub fn check_outputs(config: &ProfileConfig) -> Result<()> {
    let files = config
        .outputs
        .iter()
        .filter_map(|output| match &output.destination {
            Destination::File(path) => Some(path),
            Destination::Stdout => None,
        });
    for path in files.chain(&config.stats) {
        output::check_writable(path)?;
    }
    Ok(())
}

/// The quality block as `--stats` writes it.
#[derive(Serialize)]
struct Statistics<'a> {
    meta: &'a Meta,
    quality: &'a Quality,
    cost: &'a super::quality::Cost,
}

/// Writes every output and the statistics, then tells what was found.
///
/// # Errors
/// When an output cannot be written; what was there before is unharmed.
pub fn write(config: &ProfileConfig, finished: &Finished) -> Result<()> {
    let Finished { profile, cost } = finished;
    for out in &config.outputs {
        output::write_to(&out.destination, |writer| {
            (out.format.write)(profile, &config.picture, writer)
        })?;
    }
    if let Some(path) = &config.stats {
        let statistics = Statistics {
            meta: &profile.meta,
            quality: &profile.quality,
            cost,
        };
        output::write_atomically(path, |writer| {
            serde_json::to_writer_pretty(&mut *writer, &statistics)?;
            writer.write_all(b"\n")
        })?;
    }
    if !config.quiet {
        tell(config, finished);
    }
    Ok(())
}

/// A summary for people: in full on a terminal, only the account of the samples elsewhere.
fn tell(config: &ProfileConfig, finished: &Finished) {
    let mut text = String::new();
    let lines = if std::io::stderr().is_terminal() {
        summary_lines(&finished.profile, TOP_FUNCTIONS)
    } else {
        quality_lines(&finished.profile.quality)
    };
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    for out in &config.outputs {
        if let Destination::File(path) = &out.destination {
            text.push_str("wrote ");
            text.push_str(&crate::render::names::printable(
                &path.to_string_lossy(),
                4096,
            ));
            text.push('\n');
        }
    }
    // Nothing to do about a closed stderr: the results are written.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
