//! Lines of `/proc/kallsyms`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// A kernel with more text than this in its symbol table does not exist.
const KALLSYMS_BYTES_MAX: u64 = 512 << 20;

/// Reads the file until it ends or `take` has seen enough; what is no line of kallsyms is left out.
///
/// # Errors
/// When the file cannot be opened or read.
pub fn read_while(path: &Path, mut take: impl FnMut(&Line<'_>) -> bool) -> io::Result<()> {
    let file = File::open(path)?.take(KALLSYMS_BYTES_MAX);
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let symbol = std::str::from_utf8(&line).ok().and_then(parse_line);
        if symbol.is_some_and(|symbol| !take(&symbol)) {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// One line of kallsyms: `ffffffff81000000 T _stext` or `… t nf_hook [nf_tables]`.
#[derive(Debug)]
pub struct Line<'a> {
    /// Where it starts.
    pub start: u64,
    kind: u8,
    /// Its name.
    pub name: &'a str,
    /// The module it belongs to; `None` for the kernel itself.
    pub module: Option<&'a str>,
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let mut words = line.split_ascii_whitespace();
    let start = u64::from_str_radix(words.next()?, 16).ok()?;
    let kind = *words.next()?.as_bytes().first()?;
    let name = words.next()?;
    let module = words.next().map(|module| module.trim_matches(['[', ']']));
    Some(Line {
        start,
        kind,
        name,
        module,
    })
}

impl Line<'_> {
    /// Text, and no marker of where text ends: what is behind `_etext` belongs to nobody.
    #[must_use]
    pub fn is_code(&self) -> bool {
        matches!(self.kind, b't' | b'T' | b'w' | b'W')
            && !matches!(self.name, "_etext" | "_einittext" | "__end_rodata")
    }

    /// Which of the names of one address is shown: code before data, global before local before
    /// weak, plain before underscored.
    #[must_use]
    pub fn rank(&self) -> u8 {
        let kind = match self.kind {
            b'T' => 3,
            b't' => 2,
            b'w' | b'W' => 1,
            _ => 0,
        };
        let is_marker = !self.is_code() && kind > 0;
        let plain = u8::from(!self.name.starts_with('_'));
        // A marker wins: at its address the text is over.
        if is_marker { u8::MAX } else { kind * 2 + plain }
    }
}
