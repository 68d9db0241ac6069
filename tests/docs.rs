//! The documentation does not lag behind: its links lead somewhere, and it knows every option.

// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that a reader of the repository may start from.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "docs", "samples", "samples/workloads"] {
        for entry in fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// The targets of a page's links, `[text](target)`, code blocks left out.
fn link_targets(markdown: &str) -> Vec<&str> {
    let prose = markdown.split("```").step_by(2);
    prose
        .flat_map(|text| text.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
        .collect()
}

/// The names that a page's headings can be linked by.
fn anchors(markdown: &str) -> Vec<String> {
    let prose = markdown.split("```").step_by(2);
    prose
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix('#'))
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// Why a link of `page` leads nowhere.
fn broken(page: &Path, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        page.to_path_buf()
    } else {
        page.parent().unwrap().join(file)
    };
    if !path.exists() {
        return Some(format!("{}: no file {file}", page.display()));
    }
    let is_missing = |anchor: &str| {
        let text = fs::read_to_string(&path).unwrap();
        !anchors(&text).iter().any(|known| known == anchor)
    };
    (!anchor.is_empty() && is_missing(anchor)).then(|| {
        format!(
            "{}: no heading #{anchor} in {}",
            page.display(),
            path.display()
        )
    })
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let mut seen = 0;
    let mut complaints = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in link_targets(&text) {
            if !target.contains("://") {
                seen += 1;
                complaints.extend(broken(&page, target));
            }
        }
    }
    assert!(seen > 10, "only {seen} links were found");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_option_of_the_help_is_on_the_page_of_profile() {
    let page = fs::read_to_string(repository().join("docs/profile.md")).unwrap();
    let mut command = flame::cli::command();
    command.build();
    let options: Vec<_> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long())
        .collect();
    assert!(options.contains(&"frequency") && options.contains(&"help"));
    for option in options {
        assert!(
            page.split(|c: char| !c.is_alphanumeric() && c != '-')
                .any(|word| word.strip_prefix("--") == Some(option)),
            "docs/profile.md does not mention --{option}"
        );
    }
}

#[test]
fn every_format_and_event_is_on_the_page_of_profile() {
    let page = fs::read_to_string(repository().join("docs/profile.md")).unwrap();
    let formats = flame::render::FORMATS.iter().map(|row| row.name);
    let events = flame::profile::event::EVENTS.iter().map(|row| row.name);
    for name in formats.chain(events) {
        assert!(
            page.contains(&format!("`{name}`")),
            "docs/profile.md does not mention {name}"
        );
    }
}
