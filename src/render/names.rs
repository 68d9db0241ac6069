//! Untrusted text made safe for files and terminals.
//!
//! Function, process and file names come from binaries, perf maps and `/proc`: whoever controls
//! a process controls them. Hazardous characters are replaced by a visible escape that has none
//! of them: `\x1b` for control characters, `\u{202e}` for invisible or reordering ones. A
//! backslash itself stays as it is: the escapes are for eyes, not for decoding.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Longest frame name that is written, in bytes.
pub const FRAME_NAME_BYTES_MAX: usize = 1024;

/// What a frame without a name is called.
pub const UNKNOWN: &str = "[unknown]";

const ELLIPSIS: char = '…';

/// `text` without anything that a terminal obeys, that reorders or hides its neighbours, or that
/// XML 1.0 forbids; at most `bytes_max` bytes, the last character `…` when it was cut.
#[must_use]
pub fn printable(text: &str, bytes_max: usize) -> Cow<'_, str> {
    escape(text, bytes_max, is_hazard)
}

/// A frame's name as the folded format and the picture hold it: [`printable`], and in addition
///
/// - trimmed, since readers of the folded format trim lines, and [`UNKNOWN`] when nothing is left;
/// - `;` (the separator of frames) becomes `:`;
/// - a trailing `_[k]`, `_[i]`, `_[j]`, `_[w]` (a mark, which only we may set) becomes `_(k)`;
/// - a leading `# `, or `#` alone (a comment, for some readers) becomes `\x23 `.
#[must_use]
pub fn frame(name: &str) -> Cow<'_, str> {
    let name = name.trim();
    if name.is_empty() {
        return Cow::Borrowed(UNKNOWN);
    }
    let mut clean = escape(name, FRAME_NAME_BYTES_MAX, |c| c == ';' || is_hazard(c));
    if &*clean == "#" || clean.starts_with("# ") {
        clean = Cow::Owned(format!("\\x23{}", &clean[1..]));
    }
    if let Some(letter) = mark_letter(&clean) {
        let bare = &clean[..clean.len() - "_[k]".len()];
        clean = Cow::Owned(format!("{bare}_({letter})"));
    }
    clean
}

/// `name` as the last frame of a folded line. `flamegraph.pl` and inferno read two trailing
/// numbers as a comparison of two profiles, so `worker 3` gets a no-break space before its
/// number: it looks the same and is no separator.
#[must_use]
pub fn leaf(name: &str) -> Cow<'_, str> {
    match name.rsplit_once(' ') {
        Some((head, last)) if last.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.')) => {
            Cow::Owned(format!("{head}\u{a0}{last}"))
        }
        _ => Cow::Borrowed(name),
    }
}

fn mark_letter(name: &str) -> Option<char> {
    ['k', 'i', 'j', 'w'].into_iter().find(|&letter| {
        name.strip_suffix(']')
            .and_then(|rest| rest.strip_suffix(letter))
            .is_some_and(|rest| rest.ends_with("_["))
    })
}

fn escape(text: &str, bytes_max: usize, replace: fn(char) -> bool) -> Cow<'_, str> {
    // Looks at no more than can be kept: a name may be megabytes long.
    let head = &text[..text.floor_char_boundary(bytes_max)];
    if head.len() == text.len() && !text.contains(replace) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(head.len());
    for c in head.chars() {
        match c {
            _ if !replace(c) => clean.push(c),
            ';' => clean.push(':'),
            // Writing to a String cannot fail.
            '\0'..='\u{ff}' => _ = write!(clean, "\\x{:02x}", u32::from(c)),
            _ => _ = write!(clean, "\\u{{{:x}}}", u32::from(c)),
        }
        if clean.len() > bytes_max {
            break;
        }
    }
    if clean.len() > bytes_max || head.len() < text.len() {
        clean.truncate(clean.floor_char_boundary(bytes_max.saturating_sub(ELLIPSIS.len_utf8())));
        clean.push(ELLIPSIS);
    }
    Cow::Owned(clean)
}

fn is_hazard(c: char) -> bool {
    match c {
        // Most names are ASCII: decide those first.
        ' '..='~' => false,
        _ if c.is_control() => true,
        // Bidirectional marks, embeddings, overrides and isolates; zero-width characters.
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        // Line and paragraph separators.
        | '\u{2028}' | '\u{2029}'
        // Not XML 1.0 characters (https://www.w3.org/TR/xml/#charsets), nor characters at all.
        | '\u{fffe}' | '\u{ffff}'
        // Tag characters: invisible copies of ASCII.
        | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_not_copied() {
        for name in [
            "main",
            "std::vec::Vec<T, A>::push",
            "Web Content 3",
            "größe",
            "日本",
        ] {
            assert!(
                matches!(frame(name), Cow::Borrowed(same) if same == name),
                "{name}"
            );
        }
    }

    #[test]
    fn hostile_characters_become_visible() {
        assert_eq!(frame("a;b\n<script>"), "a:b\\x0a<script>");
        assert_eq!(frame("\x1b[31mred\x7f"), "\\x1b[31mred\\x7f");
        assert_eq!(frame("x\u{9b}y\u{85}z"), "x\\x9by\\x85z");
        assert_eq!(
            frame("a\u{202e}b\u{200d}c\u{ffff}"),
            "a\\u{202e}b\\u{200d}c\\u{ffff}"
        );
    }

    #[test]
    fn nothing_becomes_unknown() {
        for name in ["", "   ", "\n", "\u{3000}"] {
            assert_eq!(frame(name), UNKNOWN);
        }
    }

    #[test]
    fn marks_and_comments_cannot_be_forged() {
        assert_eq!(frame("evil_[k]"), "evil_(k)");
        assert_eq!(frame("evil_[k]_[w]"), "evil_[k]_(w)");
        assert_eq!(frame("array_[0]"), "array_[0]");
        assert_eq!(frame("  # hidden"), "\\x23 hidden");
        assert_eq!(frame("#"), "\\x23");
    }

    #[test]
    fn long_names_are_cut_on_a_character() {
        let long = "é".repeat(1 << 20);
        let clean = frame(&long);
        assert!(clean.len() <= FRAME_NAME_BYTES_MAX && clean.len() > FRAME_NAME_BYTES_MAX - 8);
        assert!(clean.ends_with('…'));
        let escaped = "\x01".repeat(2000);
        assert!(frame(&escaped).len() <= FRAME_NAME_BYTES_MAX);
        assert!(frame(&escaped).ends_with('…'));
    }

    #[test]
    fn a_number_at_the_end_of_a_leaf_is_no_count() {
        assert_eq!(
            [leaf("worker 3"), leaf("v 1.5")],
            ["worker\u{a0}3", "v\u{a0}1.5"]
        );
        assert_eq!(
            [leaf("worker3"), leaf("worker 3a")],
            ["worker3", "worker 3a"]
        );
    }
}
