//! What the formats write, byte for byte. `FLAME_BLESS=1 cargo test` accepts a change.

// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/profile.rs"]
mod profile;

use std::path::PathBuf;

use flame::render::{PictureOptions, by_name, summary};

fn render(format: &str, options: &PictureOptions) -> String {
    let mut out = Vec::new();
    (by_name(format).unwrap().write)(&profile::mixed(), options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn assert_golden(file: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if std::env::var_os("FLAME_BLESS").is_some() {
        std::fs::write(&path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; FLAME_BLESS=1 makes it", path.display()));
    if expected != actual {
        let differs = expected
            .lines()
            .zip(actual.lines())
            .position(|(old, new)| old != new);
        panic!("{file} differs from line {differs:?}; FLAME_BLESS=1 accepts:\n{actual}");
    }
}

#[test]
fn folded() {
    assert_golden(
        "mixed.folded",
        &render("folded", &PictureOptions::default()),
    );
}

#[test]
fn folded_with_kernel_marks() {
    let options = PictureOptions {
        annotate_kernel: true,
        ..PictureOptions::default()
    };
    assert_golden("mixed_annotated.folded", &render("folded", &options));
}

#[test]
fn svg() {
    assert_golden("mixed.svg", &render("svg", &PictureOptions::default()));
}

#[test]
fn svg_inverted_with_a_palette() {
    let options = PictureOptions {
        title: Some("reads <& writes>".into()),
        colors: Some("java".into()),
        inverted: true,
        min_width_pct: 5.0,
        annotate_kernel: false,
    };
    assert_golden("mixed_inverted.svg", &render("svg", &options));
}

#[test]
fn terminal_summary() {
    assert_golden(
        "mixed_summary.txt",
        &summary::summary_lines(&profile::mixed(), 8).join("\n"),
    );
}
