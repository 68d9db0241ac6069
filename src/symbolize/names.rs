//! How a symbol becomes the name of a frame, and what stands in where there is no symbol.

use std::fmt::{self, Write};
use std::path::Path;

use cpp_demangle::DemangleOptions;

/// Longer names are cut, with an ellipsis.
const NAME_BYTES_MAX: usize = 4096;

/// Longer mangled names are shown as they are: demangling is work, and a file may say anything.
const MANGLED_BYTES_MAX: usize = 64 << 10;

/// Longer file names are cut in `[module+0xoffset]`.
const MODULE_CHARS_MAX: usize = 128;

/// A symbol's name as a reader wants it: C++ and Rust demangled without hashes, bounded.
///
/// A few bytes of mangled name can stand for gigabytes (every substitution may double what it
/// refers to), so demangling stops where the name would be cut anyway.
#[must_use]
pub fn display_name(symbol: &str) -> Box<str> {
    // GNU symbol versions: `memcpy@@GLIBC_2.14`.
    let base = symbol.split_once('@').map_or(symbol, |(base, _)| base);
    let symbol = if base.is_empty() { symbol } else { base };
    if symbol.len() <= MANGLED_BYTES_MAX
        && let Some(name) = demangle(symbol)
    {
        return name;
    }
    cut(symbol)
}

/// A name as it is, cut where it gets too long for any reader.
#[must_use]
pub fn cut(name: &str) -> Box<str> {
    let mut bounded = Bounded::default();
    // Full is all it can report, and full it is cut.
    let _ = bounded.write_str(name);
    bounded.into_name()
}

fn demangle(symbol: &str) -> Option<Box<str>> {
    let mut name = Bounded::default();
    if let Ok(rust) = rustc_demangle::try_demangle(symbol) {
        let written = write!(name, "{rust:#}");
        return (written.is_ok() || name.full).then(|| name.into_name());
    }
    if !is_cpp(symbol) {
        return None;
    }
    // GCC's clones: `_Z3foov.constprop.0`; cpp_demangle prints them as `foo() [clone …]`.
    let parsed = cpp_demangle::Symbol::new(symbol).ok()?;
    let written = parsed.structured_demangle(&mut name, &DemangleOptions::default());
    (written.is_ok() || name.full).then(|| name.into_name())
}

/// Whether a symbol is mangled the C++ or Rust way.
#[must_use]
pub fn is_mangled(symbol: &str) -> bool {
    is_cpp(symbol) || symbol.starts_with("_R")
}

fn is_cpp(symbol: &str) -> bool {
    symbol.starts_with("_Z") || symbol.starts_with("___Z") || symbol.starts_with("_GLOBAL__")
}

/// The name of code without a symbol: the module and a virtual address in it.
#[must_use]
pub fn unnamed(module: &Path, vaddr: u64) -> Box<str> {
    format!("[{}+{vaddr:#x}]", module_name(module)).into()
}

/// A module's file name without anything that could break out of `[…]` or of a line.
#[must_use]
pub fn module_name(module: &Path) -> String {
    let name = module
        .file_name()
        .unwrap_or(module.as_os_str())
        .to_string_lossy();
    let name = name.trim_matches(['[', ']']);
    let clean = |c: char| {
        if c.is_control() || matches!(c, '[' | ']' | ';') {
            '_'
        } else {
            c
        }
    };
    let name: String = name.chars().take(MODULE_CHARS_MAX).map(clean).collect();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name
    }
}

/// A string that refuses to grow beyond [`NAME_BYTES_MAX`].
#[derive(Default)]
struct Bounded {
    text: String,
    full: bool,
}

impl Bounded {
    fn into_name(self) -> Box<str> {
        let mut text = self.text;
        if self.full {
            text.push('…');
        }
        text.into_boxed_str()
    }
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let room = NAME_BYTES_MAX - self.text.len();
        if piece.len() <= room {
            self.text.push_str(piece);
            return Ok(());
        }
        let cut = piece.floor_char_boundary(room);
        self.text.push_str(&piece[..cut]);
        self.full = true;
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demangles_cpp_and_both_rust_schemes_without_hashes() {
        assert_eq!(&*display_name("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(
            &*display_name("_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE"),
            "core::fmt::Write::write_fmt"
        );
        assert_eq!(
            &*display_name("_RNvCskwGfYPst2Cb_3foo16example_function"),
            "foo::example_function"
        );
        assert_eq!(&*display_name("memcpy@@GLIBC_2.14"), "memcpy");
        assert_eq!(&*display_name("main"), "main");
    }

    #[test]
    fn a_small_name_that_stands_for_gigabytes_is_cut() {
        // f(A, B<A, A>, B<B<A, A>, B<A, A>>, …): each argument holds the one before it twice.
        let mut symbol = "_Z1f1A1BIS_S_E".to_owned();
        for level in 1..35 {
            let last = char::from_digit(level, 36).unwrap().to_ascii_uppercase();
            write!(symbol, "S0_IS{last}_S{last}_E").unwrap();
        }
        let name = display_name(&symbol);
        assert!(
            name.starts_with("f(A, B<A, A>, B<B<A, A>, B<A, A> >"),
            "{name}"
        );
        assert!(name.ends_with('…') && name.len() <= NAME_BYTES_MAX + '…'.len_utf8());
    }

    #[test]
    fn a_megabyte_of_a_name_is_cut_on_a_character() {
        let name = display_name(&"é".repeat(500_000));
        assert!(name.len() <= NAME_BYTES_MAX + '…'.len_utf8());
        assert!(name.ends_with("é…"));
    }

    #[test]
    fn module_names_stay_inside_their_brackets() {
        assert_eq!(
            &*unnamed(Path::new("/usr/lib/libfoo.so.1"), 0x1f0),
            "[libfoo.so.1+0x1f0]"
        );
        assert_eq!(&*unnamed(Path::new("[vdso]"), 1), "[vdso+0x1]");
        assert_eq!(
            &*unnamed(Path::new("/tmp/a];b\n\u{1b}[31m"), 1),
            "[a__b___31m+0x1]"
        );
        assert!(unnamed(Path::new(&"x".repeat(5000)), 1).len() < 200);
    }
}
