//! The account of every sample in words: the same ones in the picture and on the terminal.

use super::names;
use crate::profile::model::Quality;

/// Modules with unnamed frames that are listed by name.
const UNKNOWN_MODULES_MAX: usize = 3;

/// Expected, taken and lost samples; how whole the stacks are; which modules lack names and what
/// would help. Plain text, safe for terminals; each line is a topic and may be long.
#[must_use]
pub fn quality_lines(quality: &Quality) -> Vec<String> {
    let mut lines = vec![sample_line(quality)];
    lines.extend(stack_line(quality));
    lines.extend(unknown_line(quality));
    lines
}

fn sample_line(quality: &Quality) -> String {
    let taken = thousands(quality.taken);
    let mut parts = vec![match quality.expected {
        Some(expected) => format!(
            "{taken} taken of {} expected ({})",
            thousands(expected),
            percent(quality.taken, expected)
        ),
        None => format!("{taken} taken"),
    }];
    parts.push(format!("{} in the picture", thousands(quality.recorded)));
    for (count, what) in [(quality.idle, "idle"), (quality.filtered, "filtered out")] {
        if count > 0 {
            parts.push(format!("{} {what}", thousands(count)));
        }
    }
    parts.push(by_cause("lost", &quality.lost));
    if !quality.rescued.is_empty() {
        parts.push(by_cause("kept by a fallback", &quality.rescued));
    }
    if !quality.missed.is_empty() {
        parts.push(format!("also missed: {}", causes(&quality.missed)));
    }
    format!("samples: {}", parts.join(" · "))
}

fn stack_line(quality: &Quality) -> Option<String> {
    let mut parts = Vec::new();
    if quality.user_stacks > 0 {
        let of_stacks = |count| percent(count, quality.user_stacks);
        parts.push(format!("{} rooted", of_stacks(quality.rooted)));
        parts.push(format!(
            "{} rooted and named",
            of_stacks(quality.rooted_and_named)
        ));
    }
    if !quality.truncated.is_empty() {
        parts.push(by_cause("truncated", &quality.truncated));
    }
    (!parts.is_empty()).then(|| format!("user stacks: {}", parts.join(" · ")))
}

fn unknown_line(quality: &Quality) -> Option<String> {
    let (listed, rest) = quality
        .unknown
        .split_at(quality.unknown.len().min(UNKNOWN_MODULES_MAX));
    let mut parts: Vec<_> = listed
        .iter()
        .map(|unknown| {
            let module = names::printable(&unknown.module, 60);
            let mut part = format!("{module} {}", thousands(unknown.frames));
            if !unknown.remedy.is_empty() {
                part = format!("{part} ({})", names::printable(&unknown.remedy, 120));
            }
            part
        })
        .collect();
    if !rest.is_empty() {
        let frames = rest.iter().map(|unknown| unknown.frames).sum();
        parts.push(format!("{} more modules {}", rest.len(), thousands(frames)));
    }
    (!parts.is_empty()).then(|| format!("unnamed frames: {}", parts.join(" · ")))
}

/// `lost 3 (map full 2, ring full 1)`, or `lost 0`.
fn by_cause(what: &str, counts: &[(&'static str, u64)]) -> String {
    let total = thousands(counts.iter().map(|(_, count)| count).sum());
    if counts.is_empty() {
        return format!("{what} {total}");
    }
    format!("{what} {total} ({})", causes(counts))
}

fn causes(counts: &[(&'static str, u64)]) -> String {
    let causes: Vec<_> = counts
        .iter()
        .map(|(cause, count)| format!("{cause} {}", thousands(*count)))
        .collect();
    causes.join(", ")
}

/// `part` of `whole`, with the digits that tell 99.97 % from 100 %, and never rounded up to it.
fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".into();
    }
    let basis_points = (u128::from(part) * 10_000 / u128::from(whole)) as u64;
    match (basis_points / 100, basis_points % 100) {
        (full, 0) => format!("{full} %"),
        (full, hundredths) => format!("{full}.{hundredths:02} %"),
    }
}

/// A count with a comma between groups of three digits, as inferno writes them.
pub(super) fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::model::UnknownModule;

    #[test]
    fn every_loss_is_told() {
        let module = |name: &str, frames| UnknownModule {
            module: name.into(),
            frames,
            remedy: format!("install {name}-dbg"),
        };
        let quality = Quality {
            expected: Some(10_000),
            taken: 9_999,
            recorded: 5_000,
            idle: 4_000,
            filtered: 996,
            lost: vec![("stack map full", 2), ("count map full", 1)],
            rescued: vec![("stack-map collision", 7)],
            missed: vec![("side-band records", 12), ("children not followed", 1)],
            user_stacks: 3000,
            rooted: 2999,
            rooted_and_named: 1500,
            truncated: vec![("deeper than 127 frames", 1)],
            unknown: vec![
                module("a\x1b", 1000),
                module("b", 3),
                module("c", 2),
                module("d", 1),
            ],
        };
        assert_eq!(
            quality_lines(&quality),
            [
                "samples: 9,999 taken of 10,000 expected (99.99 %) · 5,000 in the picture · \
                 4,000 idle · 996 filtered out · lost 3 (stack map full 2, count map full 1) · \
                 kept by a fallback 7 (stack-map collision 7) · \
                 also missed: side-band records 12, children not followed 1",
                "user stacks: 99.96 % rooted · 50 % rooted and named · \
                 truncated 1 (deeper than 127 frames 1)",
                "unnamed frames: a\\x1b 1,000 (install a\\x1b-dbg) · b 3 (install b-dbg) · \
                 c 2 (install c-dbg) · 1 more modules 1",
            ]
        );
    }

    #[test]
    fn a_flawless_run_is_short_and_still_says_that_nothing_was_lost() {
        let quality = Quality {
            taken: 5,
            recorded: 5,
            ..Quality::default()
        };
        assert_eq!(
            quality_lines(&quality),
            ["samples: 5 taken · 5 in the picture · lost 0"]
        );
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(thousands),
            ["0", "999", "1,000", "1,234,567"]
        );
    }
}
