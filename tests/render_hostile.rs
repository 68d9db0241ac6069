//! Names from processes can break neither the SVG nor the folded format.

// clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/profile.rs"]
mod profile;

use flame::profile::model::{FrameKind, Profile, UnknownModule};
use flame::render::{PictureOptions, by_name, summary};
use proptest::prelude::*;
use quick_xml::events::Event;

fn render(format: &str, profile: &Profile, options: &PictureOptions) -> String {
    let mut out = Vec::new();
    (by_name(format).unwrap().write)(profile, options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Is every character one that XML 1.0 allows, outside of markup and in it?
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Parses the whole document; the titles of its frames, and the samples of the whole picture.
fn parse_svg(svg: &str) -> (Vec<String>, u64) {
    assert!(svg.chars().all(is_xml_char));
    let mut reader = quick_xml::Reader::from_str(svg);
    reader.config_mut().enable_all_checks(true);
    let (mut titles, mut in_title, mut depth, mut samples) = (Vec::new(), false, 0_i32, 0);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(tag) => {
                depth += 1;
                in_title = tag.name().as_ref() == b"title";
                if in_title {
                    titles.push(String::new());
                }
                let tag_name = tag.name();
                let known: [&[u8]; 10] = [
                    b"svg",
                    b"defs",
                    b"linearGradient",
                    b"style",
                    b"script",
                    b"text",
                    b"tspan",
                    b"g",
                    b"title",
                    b"desc",
                ];
                assert!(known.contains(&tag_name.as_ref()), "{tag_name:?}");
                for attribute in tag.attributes() {
                    let attribute = attribute.unwrap();
                    if attribute.key.as_ref() == b"total_samples" {
                        samples = std::str::from_utf8(&attribute.value)
                            .unwrap()
                            .parse()
                            .unwrap();
                    }
                }
            }
            Event::Text(text) if in_title => {
                titles
                    .last_mut()
                    .unwrap()
                    .push_str(&text.xml10_content().unwrap());
            }
            Event::GeneralRef(entity) => {
                let name = entity.decode().unwrap();
                let known = ["lt", "gt", "amp", "quot", "apos"];
                assert!(known.contains(&&*name), "{name}");
                if in_title {
                    let text = quick_xml::escape::resolve_predefined_entity(&name).unwrap();
                    titles.last_mut().unwrap().push_str(text);
                }
            }
            Event::End(_) => {
                depth -= 1;
                in_title = false;
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    (titles, samples)
}

/// Reads a folded line as flame graph tools do: is there one count, and how many frames?
fn parse_folded(line: &str) -> (usize, u64) {
    let (stack, count) = line.trim().rsplit_once(' ').unwrap();
    assert!(!line.starts_with("# "), "read as a comment: {line:?}");
    if let Some((_, last)) = stack.trim_end().rsplit_once(' ') {
        let number = !last.is_empty() && last.chars().all(|c| c.is_ascii_digit() || c == '.');
        assert!(!number, "read as a comparison: {line:?}");
    }
    (stack.split(';').count(), count.parse().unwrap())
}

fn hostile_name() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        proptest::collection::vec(any::<char>(), 0..8).prop_map(String::from_iter),
        "[ ;#0-9.\\n\\r\\t_\\[\\]kijw]{0,8}",
        "[a-c] ?[0-9]{1,3}",
        "(]]>|<script>|</style>|<svg id=\"frames\" |-->|&lt;|\"){1,3}",
        "[\u{0}-\u{20}\u{7f}-\u{a0}\u{2028}\u{202e}\u{fffe}\u{ffff}]{0,4}",
        Just("x".repeat(1 << 20)),
    ]
}

fn kind() -> impl Strategy<Value = FrameKind> {
    use FrameKind::{Inlined, Jit, Kernel, Task, Unknown, User};
    proptest::sample::select(vec![Task, Kernel, User, Inlined, Jit, Unknown])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn names_break_nothing(
        stacks in proptest::collection::vec(
            (proptest::collection::vec((hostile_name(), kind()), 1..6), 1_u64..1000), 1..8),
        text in hostile_name(),
        named_palette in any::<bool>(),
    ) {
        let stacks: Vec<_> = stacks
            .iter()
            .map(|(frames, count)| {
                (frames.iter().map(|(name, kind)| (name.as_str(), *kind)).collect(), *count)
            })
            .collect();
        let mut profile = profile::from_stacks(&stacks);
        profile.meta.command_line.clone_from(&text);
        profile.meta.host.clone_from(&text);
        profile.meta.kernel.clone_from(&text);
        profile.meta.event.clone_from(&text);
        profile.quality.unknown.push(UnknownModule {
            module: text.clone(),
            frames: 1,
            remedy: text.clone(),
        });

        let options = PictureOptions {
            min_width_pct: 0.0,
            colors: named_palette.then(|| "java".into()),
            annotate_kernel: named_palette,
            ..PictureOptions::default()
        };
        let folded = render("folded", &profile, &options);
        let mut depths_and_counts: Vec<_> = folded.lines().map(parse_folded).collect();
        // Stacks that look the same are one line: compare what merging keeps.
        let mut expected = std::collections::BTreeMap::new();
        for (frames, count) in &stacks {
            *expected.entry(frames.len()).or_insert(0) += count;
        }
        let mut actual = std::collections::BTreeMap::new();
        for (depth, count) in depths_and_counts.drain(..) {
            *actual.entry(depth).or_insert(0) += count;
        }
        prop_assert_eq!(actual, expected);

        let svg = render("svg", &profile, &options);
        let (titles, samples) = parse_svg(&svg);
        prop_assert_eq!(samples, profile.total(), "inferno understood every line");
        prop_assert!(titles.iter().all(|title| !title.contains("%;")), "no comparison");

        for line in summary::summary_lines(&profile, 10) {
            prop_assert!(!line.chars().any(char::is_control), "{:?}", line);
        }
    }
}

#[test]
fn every_kind_has_its_colour_and_marks_are_not_shown() {
    let svg = render("svg", &profile::mixed(), &PictureOptions::default());
    let (titles, _) = parse_svg(&svg);
    let marked = titles.iter().find(|title| {
        ["_[k] ", "_[i] ", "_[j] ", "_[w] "]
            .iter()
            .any(|mark| title.contains(mark))
    });
    assert_eq!(marked, None);
    let fill_of = |name: &str| {
        let (_, rest) = svg.split_once(&format!("<title>{name} (")).unwrap();
        let (_, rest) = rest.split_once("fill=\"rgb(").unwrap();
        let (rgb, _) = rest.split_once(")\"").unwrap();
        let rgb: Vec<i32> = rgb
            .split(',')
            .map(|channel| channel.parse().unwrap())
            .collect();
        (name.to_owned(), rgb)
    };
    let fills = [
        "postgres",
        "ExecScan",
        "vfs_read",
        "HeapTupleSatisfies",
        "Lmain",
        "[libz.so.1.3+0x1a2b]",
    ]
    .map(fill_of);
    let distance = |a: &[i32], b: &[i32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).max();
    for (index, (name, fill)) in fills.iter().enumerate() {
        for (other, other_fill) in &fills[index + 1..] {
            assert!(
                distance(fill, other_fill) >= Some(20),
                "{name} {fill:?}, {other} {other_fill:?}"
            );
        }
    }
    // A C++ name and a C name, both plain functions, share their hue whatever they are called.
    let (_, cpp) = fill_of("server::Pool&lt;server::Http, std::allocator&lt;char&gt; &gt;::run()");
    assert!(
        distance(&cpp, &fills[1].1) < Some(40),
        "{cpp:?} {:?}",
        fills[1]
    );
}

#[test]
fn the_picture_needs_nothing_from_elsewhere() {
    let svg = render("svg", &profile::mixed(), &PictureOptions::default());
    for reference in ["<!DOCTYPE", "href=", "@import", "<image", "src="] {
        assert!(!svg.contains(reference), "{reference}");
    }
}

#[test]
fn narrow_frames_are_not_drawn_and_their_samples_still_count() {
    let profile = profile::mixed();
    let options = PictureOptions {
        min_width_pct: 5.0,
        ..PictureOptions::default()
    };
    let (titles, samples) = parse_svg(&render("svg", &profile, &options));
    assert_eq!(samples, profile.total());
    assert!(
        !titles
            .iter()
            .any(|title| title.starts_with("too_narrow_to_draw"))
    );
    let postgres = titles
        .iter()
        .find(|title| title.starts_with("postgres ("))
        .unwrap();
    assert_eq!(postgres, "postgres (490 samples, 63.97%)");
}
