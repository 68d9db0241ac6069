//! Heat maps of real runs in a real browser: value on hover, light and dark, nothing cut.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

#[path = "support/browser.rs"]
mod browser;
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use browser::{Browser, Scheme};
use flame::tools::TOOLS;
use flame::tools::heatmap::Heatmap;
use flame::tools::histogram::ROWS;
use support::tool::{alone_and_privileged, flame};

fn screenshots() -> PathBuf {
    support::target_folder().join("screenshots")
}

/// A quarter of a minute in which latency doubles.
fn known_map(path: &Path) {
    let mut heatmap = Heatmap::default();
    for second in 0..15_u64 {
        let mut rows = [0; ROWS];
        for row in 5..12 {
            rows[row + second as usize / 5] = 1 << row;
        }
        heatmap.push(format!("10:00:{second:02}"), &rows, "usecs");
    }
    let mut svg = Vec::new();
    heatmap.write_svg("biolatency", &mut svg).unwrap();
    std::fs::write(path, svg).unwrap();
}

#[test]
fn a_heat_map_tells_values_on_hover_in_light_and_dark() {
    if !browser::available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heat.svg");
    known_map(&path);
    let browser = Browser::open(&path);
    assert_eq!(browser.script_errors(), [""; 0]);
    let look = || {
        let cell = "const cells = [...document.querySelectorAll('rect')]
            .filter(cell => cell.querySelector('title'));
            const cell = cells.find(cell => cell.textContent.startsWith('10:00:07: 2048 '));";
        browser.hover(&format!("{cell} return cell;"));
        let looks = "const style = getComputedStyle(cell);
            return [cells.length, cell.textContent, style.stroke, style.fill,
                getComputedStyle(document.documentElement).backgroundColor];";
        browser.script(&format!("{cell} {looks}"))
    };
    let light = look();
    browser.screenshot(&screenshots().join("heat_light.png"));
    browser.set_scheme(Scheme::Dark);
    let dark = look();
    browser.screenshot(&screenshots().join("heat_dark.png"));
    for looks in [&light, &dark] {
        assert_eq!(looks[0], 15 * 7);
        assert_eq!(looks[1], "10:00:07: 2048 of 2048 – 4095 usecs");
    }
    assert_eq!(
        (&light[2], &dark[2]),
        (&"rgb(0, 0, 0)".into(), &"rgb(255, 255, 255)".into())
    );
    assert_ne!(light[3], dark[3], "the cells' colours");
    assert_ne!(light[4], dark[4], "the ground");
    // The more, the farther from the ground.
    let brightness = "const sum = text => text.match(/\\d+/g).map(Number).reduce((a, b) => a + b);
        return [...Array(8).keys()].map(step => sum(getComputedStyle(
            document.querySelector('.s' + (step + 1))).fill));";
    let steps = |scheme| -> Vec<u64> {
        browser.set_scheme(scheme);
        serde_json::from_value(browser.script(brightness)).unwrap()
    };
    assert!(steps(Scheme::Light).is_sorted_by(|a, b| a > b));
    assert!(steps(Scheme::Dark).is_sorted());
    let outside = browser.script(
        "const page = document.documentElement.getBoundingClientRect();
        const texts = [...document.querySelectorAll('text')].map(text => text.getBoundingClientRect());
        const out = texts.filter(box => box.left < 0 || box.right > page.right || box.bottom > page.bottom);
        const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom - 1 && b.top < a.bottom - 1;
        const both = texts.filter((a, i) => texts.some((b, j) => i < j && overlap(a, b)));
        return [out.length, both.length];",
    );
    assert_eq!(
        outside,
        serde_json::json!([0, 0]),
        "texts outside, and over each other"
    );
}

#[test]
fn every_histogram_tool_draws_one() {
    let Some(_alone) = alone_and_privileged() else {
        return;
    };
    if !browser::available() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for row in TOOLS
        .iter()
        .filter(|row| row.histogram && !row.name.starts_with("zfs"))
    {
        let path = folder.path().join(format!("{}.svg", row.name));
        let mut command = Command::new(flame());
        command
            .args([row.name, "200ms", "6", "--heatmap"])
            .arg(&path);
        support::succeed(&mut command);
        let browser = Browser::open(&path);
        let title = browser.script("return document.querySelector('title').textContent;");
        assert_eq!(title, format!("{}: latency over time", row.name));
        assert_eq!(browser.script_errors(), [""; 0]);
        browser.screenshot(&screenshots().join(format!("heat_{}.png", row.name)));
    }
}
