//! The picture works in a real browser: zoom, search, reset, light and dark.

// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/browser.rs"]
mod browser;
#[path = "support/profile.rs"]
mod profile;

use std::path::PathBuf;

use browser::{Browser, Scheme};
use flame::render::{PictureOptions, by_name, output};

fn screenshots() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/screenshots")
}

fn rendered(folder: &tempfile::TempDir, options: &PictureOptions) -> PathBuf {
    let path = folder.path().join("flame.svg");
    output::write_atomically(&path, |out| {
        (by_name("svg").unwrap().write)(&profile::mixed(), options, out)
    })
    .unwrap();
    path
}

#[test]
fn zoom_search_and_reset_work_in_light_and_dark() {
    if !browser::available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let browser = Browser::open(&rendered(&folder, &PictureOptions::default()));
    assert_eq!(browser.script_errors(), [""; 0]);
    browser.set_scheme(Scheme::Light);
    browser.screenshot(&screenshots().join("light.png"));
    let light = page_color(&browser);

    // 210 of 766 samples on 1180 pixels; the whole width when zoomed.
    let (before, after) = browser.zoom("HeapTupleSatisfies");
    assert!((before - 1180.0 * 210.0 / 766.0).abs() < 2.0, "{before}");
    assert!((after - 1180.0).abs() < 2.0, "{after}");
    assert!(browser.frame_width_px("poll") < 1.0);
    browser.set_scheme(Scheme::Dark);
    browser.screenshot(&screenshots().join("dark_zoomed.png"));
    browser.reset_zoom();
    assert!((browser.frame_width_px("HeapTupleSatisfies") - before).abs() < 2.0);

    let matched_pct = browser.search("^do_syscall_64");
    assert!(
        (matched_pct - 100.0 * 160.0 / 766.0).abs() < 0.1,
        "{matched_pct}"
    );
    browser.screenshot(&screenshots().join("dark_search.png"));
    browser.reset_search();
    browser.screenshot(&screenshots().join("dark.png"));
    let dark = page_color(&browser);
    assert_ne!(light, dark, "the page does not follow prefers-color-scheme");

    assert!(
        browser.has_frame("]]>&\"'\\u{202e}\\x1b[2J"),
        "names are shown as they are"
    );
    assert_eq!(browser.script_errors(), [""; 0]);
}

#[test]
fn no_text_is_cut_at_1200_pixels_and_none_overlaps_the_frames() {
    if !browser::available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for inverted in [false, true] {
        let options = PictureOptions {
            inverted,
            title: Some("a long title ".repeat(40)),
            ..PictureOptions::default()
        };
        let browser = Browser::open(&rendered(&folder, &options));
        browser.screenshot(&screenshots().join(format!("long_title_inverted_{inverted}.png")));
        let outside = browser.script(
            "const frames = [...document.querySelectorAll('#frames rect')]
                .map(rect => rect.getBoundingClientRect());
            const top = Math.min(...frames.map(box => box.top));
            const bottom = Math.max(...frames.map(box => box.bottom));
            const page = document.documentElement.getBoundingClientRect();
            const bad = [...document.querySelectorAll('#title, #subtitle, .note')]
                .map(text => [text.textContent, text.getBoundingClientRect()])
                .filter(([_, box]) => box.left < 0 || box.right > 1200 || box.bottom > top);
            return [bad.map(([text]) => text), bottom <= page.bottom];",
        );
        assert_eq!(
            outside,
            serde_json::json!([[], true]),
            "inverted: {inverted}"
        );
        assert_eq!(browser.script_errors(), [""; 0]);
    }
}

fn page_color(browser: &Browser) -> String {
    let color = "return getComputedStyle(document.querySelector('#background stop')).stopColor;";
    browser.script(color).as_str().unwrap().to_owned()
}
