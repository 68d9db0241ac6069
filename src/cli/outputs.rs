//! Which formats are written where.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::profile::config::{Destination, Output};
use crate::render::{self, FormatRow};

/// The words that decide it.
#[derive(Debug, Default)]
pub struct Words<'a> {
    /// What `-o` was given, each time.
    pub files: &'a [OsString],
    /// What `--format` was given.
    pub format: Option<&'a str>,
    /// Whether `-f` was given.
    pub folded: bool,
    /// What `--stats` was given: not an output, but it must not overwrite one.
    pub stats: Option<&'a Path>,
}

/// The outputs of one run: never empty, at most one of them standard output.
pub fn resolve(words: &Words, stdout_is_terminal: bool) -> Result<Vec<Output>, Error> {
    let format = words.format.map(format_by_name).transpose()?;
    let folded = format_by_name("folded")?;
    let mut outputs = Vec::new();
    for file in words.files {
        outputs.push(if file == "-" {
            Output {
                format: format.unwrap_or(folded),
                destination: Destination::Stdout,
            }
        } else {
            let path = PathBuf::from(file);
            let format = format.map_or_else(|| render::by_extension(&path), Ok)?;
            Output {
                format,
                destination: Destination::File(path),
            }
        });
    }
    if words.folded {
        if outputs.is_empty() && format.is_some_and(|format| format.name != folded.name) {
            return Err(Error::Usage(
                "-f writes folded stacks to standard output: for another format use -o - --format"
                    .to_string(),
            ));
        }
        outputs.push(Output {
            format: folded,
            destination: Destination::Stdout,
        });
    }
    if outputs.is_empty() {
        outputs.push(default_output(format, stdout_is_terminal)?);
    }
    if words.stats == Some(Path::new("-")) {
        return Err(Error::Usage(
            "--stats needs a file: standard output is for -f and -o -".to_string(),
        ));
    }
    refuse_collisions(&outputs, words.stats)?;
    Ok(outputs)
}

/// A picture where someone looks, text where a pipe or a file is.
fn default_output(
    format: Option<&'static FormatRow>,
    stdout_is_terminal: bool,
) -> Result<Output, Error> {
    if stdout_is_terminal {
        let format = format.map_or_else(|| format_by_name("svg"), Ok)?;
        let extension = format.extensions.first().copied().unwrap_or(format.name);
        let path = PathBuf::from(format!("flame.{extension}"));
        Ok(Output {
            format,
            destination: Destination::File(path),
        })
    } else {
        let format = format.map_or_else(|| format_by_name("folded"), Ok)?;
        Ok(Output {
            format,
            destination: Destination::Stdout,
        })
    }
}

fn format_by_name(name: &str) -> Result<&'static FormatRow, Error> {
    render::by_name(name).map_err(|_| {
        Error::Usage(format!(
            "unknown format '{name}' for --format\n{}",
            known_formats()
        ))
    })
}

fn known_formats() -> String {
    let rows = render::FORMATS.iter().map(|row| {
        let extensions: Vec<String> = row.extensions.iter().map(|ext| format!(".{ext}")).collect();
        format!("{} ({})", row.name, extensions.join(", "))
    });
    format!("  formats: {}", rows.collect::<Vec<_>>().join(", "))
}

fn refuse_collisions(outputs: &[Output], stats: Option<&Path>) -> Result<(), Error> {
    let on_stdout = outputs
        .iter()
        .filter(|output| output.destination == Destination::Stdout);
    if on_stdout.count() > 1 {
        return Err(Error::Usage(
            "two results cannot both go to standard output: keep one of -f and -o -".to_string(),
        ));
    }
    let files = outputs
        .iter()
        .filter_map(|output| match &output.destination {
            Destination::File(path) => Some(path.as_path()),
            Destination::Stdout => None,
        });
    let mut seen = HashSet::new();
    for path in files.chain(stats) {
        if path.as_os_str().is_empty() {
            return Err(Error::Usage("an output file needs a name".to_string()));
        }
        if !seen.insert(place_of(path)) {
            return Err(Error::Usage(format!(
                "{} is written to twice",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Where a file will be, whichever way its folder is spelled. The last part is not resolved: a
/// rename replaces a symbolic link, it does not follow it.
fn place_of(path: &Path) -> PathBuf {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
    }
}
