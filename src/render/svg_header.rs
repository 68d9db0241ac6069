//! Adds to inferno's SVG what inferno has no option for: more lines of text, a legend, colours
//! for dark pages.
//!
//! inferno's output streams through [`HeaderWriter`]. All that precedes the frames is held back,
//! edited and passed on; the frames follow untouched, moved down as a whole. Every edit must find
//! its place exactly once: when a new inferno writes something else, writing fails instead of
//! giving a broken picture.

use std::fmt::Write as _;
use std::io::{self, Write};

/// Where inferno's frames begin. Names cannot contain it: quotes and `<` are escaped in text.
const FRAMES_START: &str = r#"<svg id="frames" "#;
/// The header is a script of 15 KB and a few lines of bounded text.
const HEADER_BYTES_MAX: usize = 256 * 1024;
const LINE_HEIGHT_PX: usize = 17;
/// The first added line is one below inferno's subtitle.
const FIRST_LINE_Y_PX: usize = 48 + LINE_HEIGHT_PX;

/// What stands above the frames. All texts are printable and short enough, not yet escaped.
#[derive(Debug, Clone, Default)]
pub struct Header {
    /// The title, as given to inferno.
    pub title: String,
    /// The line below, as given to inferno.
    pub subtitle: String,
    /// Further lines.
    pub lines: Vec<String>,
    /// Names and colours (`#rrggbb`).
    pub legend: Vec<(&'static str, String)>,
    /// For screen readers and programs: never cut.
    pub description: Vec<String>,
}

impl Header {
    fn added_height_px(&self) -> usize {
        (self.lines.len() + usize::from(!self.legend.is_empty())) * LINE_HEIGHT_PX
    }

    /// The colours of the page and its texts; frames keep theirs, with black text on them.
    fn style(&self) -> String {
        format!(
            r"
:root {{ color-scheme: light dark; background: #fcfcfc; }}
.note {{ text-anchor: middle; fill: #555; }}
#subtitle {{ fill: #222; }}
#details, #matched {{ transform: translate(0, {}px); }}
#search {{ opacity: 0.6; }}
@media (prefers-color-scheme: dark) {{
:root {{ background: #16181d; }}
#background stop {{ stop-color: #16181d; }}
#title, #details, #search, #matched, #unzoom {{ fill: #f0f0f0; }}
#subtitle {{ fill: #d5d5d5; }}
.note {{ fill: #b0b4bb; }}
#frames > *:hover {{ stroke: none; }}
#frames > *:hover > rect {{ stroke: white; stroke-width: 1; }}
.parent {{ opacity: 0.75; }}
}}
",
            self.added_height_px()
        )
    }

    /// The added lines as text elements.
    fn text_elements(&self) -> String {
        let mut svg = String::new();
        let mut y = FIRST_LINE_Y_PX;
        // Writing to a String cannot fail.
        for line in &self.lines {
            let line = escape(line);
            _ = write!(svg, r#"<text class="note" x="50%" y="{y}">{line}</text>"#);
            y += LINE_HEIGHT_PX;
        }
        if !self.legend.is_empty() {
            _ = write!(svg, r#"<text id="legend" class="note" x="50%" y="{y}">"#);
            for (index, (name, color)) in self.legend.iter().enumerate() {
                let gap = if index > 0 { "\u{a0}\u{a0}\u{a0}" } else { "" };
                let name = escape(name);
                _ = write!(svg, r#"{gap}<tspan fill="{color}">■</tspan> {name}"#);
            }
            svg.push_str("</text>");
        }
        svg
    }

    /// inferno's header with everything added.
    fn edit(&self, header: &str) -> io::Result<String> {
        let added = self.added_height_px();
        let height = between(header, r#"<svg version="1.1" width="1200" height=""#, "\"")?;
        let height_px: usize = height.parse().map_err(|_| changed("height"))?;
        let new_height = height_px + added;
        // The document type would point at a file elsewhere.
        let doctype = between(header, "<!DOCTYPE", ">")?;
        let description = escape(&self.description.join("\n"));
        let edits = [
            (format!("<!DOCTYPE{doctype}>"), String::new()),
            (
                format!(r#"width="1200" height="{height}" onload="#),
                format!(r#"width="1200" height="{new_height}" onload="#),
            ),
            (
                format!(r#"viewBox="0 0 1200 {height}""#),
                format!(r#"viewBox="0 0 1200 {new_height}""#),
            ),
            (
                format!(r#"width="100%" height="{height}" fill="url(#background)""#),
                format!(r#"width="100%" height="{new_height}" fill="url(#background)""#),
            ),
            ("</style>".into(), format!("{}</style>", self.style())),
            ("<defs>".into(), format!("<desc>{description}</desc><defs>")),
        ];
        let mut header = header.to_owned();
        for (old, new) in edits {
            if header.matches(&old).count() != 1 {
                return Err(changed(&old));
            }
            header = header.replacen(&old, &new, 1);
        }
        header.push_str(&self.text_elements());
        Ok(header)
    }
}

/// Passes inferno's output on to `inner`, with the header edited.
#[derive(Debug)]
pub struct HeaderWriter<W> {
    inner: W,
    header: Header,
    /// What came so far; `None` once the frames have begun.
    held: Option<Vec<u8>>,
}

impl<W: Write> HeaderWriter<W> {
    /// Edits what is written according to `header`.
    pub fn new(inner: W, header: Header) -> Self {
        Self {
            inner,
            header,
            held: Some(Vec::new()),
        }
    }

    /// Must be called at the end.
    ///
    /// # Errors
    /// When no frames came by, and those of `inner`.
    pub fn finish(mut self) -> io::Result<()> {
        if self.held.is_some() {
            return Err(changed(FRAMES_START));
        }
        self.inner.flush()
    }
}

impl<W: Write> Write for HeaderWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(held) = &mut self.held else {
            return self.inner.write(bytes);
        };
        let seen = held.len().saturating_sub(FRAMES_START.len());
        held.extend_from_slice(bytes);
        let window = &held[seen..];
        let start = window
            .windows(FRAMES_START.len())
            .position(|candidate| candidate == FRAMES_START.as_bytes());
        if let Some(start) = start {
            let (header, frames) = held.split_at(seen + start);
            let header = std::str::from_utf8(header).map_err(|_| changed("encoding"))?;
            let edited = self.header.edit(header)?;
            self.inner.write_all(edited.as_bytes())?;
            let y = self.header.added_height_px();
            self.inner
                .write_all(format!(r#"{FRAMES_START}y="{y}" "#).as_bytes())?;
            self.inner.write_all(&frames[FRAMES_START.len()..])?;
            self.held = None;
        } else if held.len() > HEADER_BYTES_MAX {
            return Err(changed(FRAMES_START));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_some() {
            Ok(())
        } else {
            self.inner.flush()
        }
    }
}

/// The text between the first `start` and the next `end`.
fn between<'a>(text: &'a str, start: &str, end: &str) -> io::Result<&'a str> {
    let (_, rest) = text.split_once(start).ok_or_else(|| changed(start))?;
    let (found, _) = rest.split_once(end).ok_or_else(|| changed(end))?;
    Ok(found)
}

fn changed(what: &str) -> io::Error {
    io::Error::other(format!(
        "the flame graph library writes an unknown header: {what}"
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = concat!(
        r#"<?xml?><!DOCTYPE svg "x"><svg version="1.1" width="1200" height="50" onload="init(evt)" "#,
        r#"viewBox="0 0 1200 50"><defs></defs><style>a</style>"#,
        r#"<rect width="100%" height="50" fill="url(#background)"/><svg id="frames" x="10"/></svg>"#,
    );

    fn edited(svg: &str, bytes_per_write: usize) -> io::Result<String> {
        let header = Header {
            lines: vec!["a<b".into(), "]]>".into()],
            ..Header::default()
        };
        let mut out = Vec::new();
        let mut writer = HeaderWriter::new(&mut out, header);
        for chunk in svg.as_bytes().chunks(bytes_per_write) {
            writer.write_all(chunk)?;
        }
        writer.finish()?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_header_is_edited_however_it_is_cut_into_writes() {
        let whole = edited(KNOWN, KNOWN.len()).unwrap();
        assert!(whole.contains(r#"y="34" x="10"/></svg>"#), "{whole}");
        assert!(
            whole.contains(">a&lt;b</text>") && whole.contains(">]]&gt;</text>"),
            "{whole}"
        );
        assert!(
            whole.contains(r#"height="84""#) && !whole.contains(r#"height="50""#),
            "{whole}"
        );
        for bytes_per_write in 1..40 {
            assert_eq!(edited(KNOWN, bytes_per_write).unwrap(), whole);
        }
    }

    #[test]
    fn an_unknown_header_is_an_error_and_nothing_is_written_over_it() {
        for (old, new) in [
            ("<!DOCTYPE", "<!doctype"),
            (r#"height="50" onload"#, r#"height="51" onload"#),
            (r#"viewBox="0 0 1200 50""#, r#"viewBox="0 0 1200 60""#),
            ("</style>", "</Style>"),
            ("</style>", "</style><style></style>"),
            ("<defs>", "<g>"),
            ("url(#background)", "white"),
            (r#"id="frames""#, r#"id="flames""#),
        ] {
            let error = edited(&KNOWN.replacen(old, new, 1), 64).unwrap_err();
            assert!(
                error.to_string().contains("unknown header"),
                "{old}: {error}"
            );
        }
        assert!(edited(&"x".repeat(HEADER_BYTES_MAX + 1), 4096).is_err());
    }
}
