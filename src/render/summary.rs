//! What a terminal shows after a run: the functions that took most of the time themselves, and
//! the account of the samples.

use super::fold::{Folded, Marks};
use super::names;
use super::quality::{quality_lines, thousands};
use crate::profile::model::{FrameKind, Profile};

/// Bytes of a name that a terminal line has room for.
const NAME_BYTES_MAX: usize = 100;

/// Self time of one function: samples that hit it, and not what it called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTime {
    /// Name, safe for terminals.
    pub name: String,
    /// Samples.
    pub samples: u64,
    /// Where its code comes from.
    pub kind: FrameKind,
}

/// The `count_max` functions with the most samples of their own, most first.
#[must_use]
pub fn top_functions(profile: &Profile, count_max: usize) -> Vec<SelfTime> {
    let folded = Folded::new(
        profile,
        Marks {
            kernel: true,
            task: true,
        },
    );
    let mut by_label = std::collections::HashMap::new();
    for line in folded.lines() {
        let leaf = folded.labels(*line).last();
        let key = leaf.map_or((names::UNKNOWN, FrameKind::Unknown), |leaf| {
            (&*leaf.name, leaf.kind)
        });
        *by_label.entry(key).or_insert(0_u64) += line.count;
    }
    let mut top: Vec<_> = by_label.into_iter().collect();
    // By name when equal, so that the same profile always reads the same.
    top.sort_unstable_by(|(a, a_count), (b, b_count)| b_count.cmp(a_count).then(a.cmp(b)));
    top.into_iter()
        .take(count_max)
        .map(|((name, kind), samples)| SelfTime {
            name: names::printable(name, NAME_BYTES_MAX).into_owned(),
            samples,
            kind,
        })
        .collect()
}

/// The summary, line by line: top functions with their share and samples, then
/// [`quality_lines`].
#[must_use]
pub fn summary_lines(profile: &Profile, functions_max: usize) -> Vec<String> {
    let total = profile.total().max(1);
    let mut lines = Vec::new();
    let top = top_functions(profile, functions_max);
    if !top.is_empty() {
        lines.push("   self  samples  function".to_owned());
    }
    for function in top {
        let share_pct = 100.0 * function.samples as f64 / total as f64;
        let samples = thousands(function.samples);
        let kind = match function.kind {
            FrameKind::Kernel => " (kernel)",
            FrameKind::Task => " (task, no stack)",
            FrameKind::Inlined => " (inlined)",
            FrameKind::Jit => " (JIT)",
            FrameKind::User | FrameKind::Unknown => "",
        };
        lines.push(format!(
            "{share_pct:5.1} %  {samples:>7}  {}{kind}",
            function.name
        ));
    }
    lines.extend(quality_lines(&profile.quality));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::model::{Frame, FrameId, Stack};

    #[test]
    fn self_time_counts_leaves_and_escapes_names() {
        let frame = |name: &str, kind| Frame {
            name: name.into(),
            kind,
        };
        let stack = |frames: &[u32], count| Stack {
            frames: frames.iter().map(|id| FrameId(*id)).collect(),
            count,
        };
        let profile = Profile {
            frames: vec![
                frame("task", FrameKind::Task),
                frame("\x1b]0;owned\x07", FrameKind::User),
                frame("read", FrameKind::Kernel),
                frame("read", FrameKind::User),
            ],
            stacks: vec![
                stack(&[0, 1], 6),
                stack(&[0, 1, 2], 3),
                stack(&[0, 3], 2),
                stack(&[0], 1),
            ],
            ..Profile::default()
        };
        assert_eq!(
            summary_lines(&profile, 3),
            [
                "   self  samples  function",
                " 50.0 %        6  \\x1b]0:owned\\x07",
                " 25.0 %        3  read (kernel)",
                " 16.7 %        2  read",
                "samples: 0 taken · 0 in the picture · lost 0",
            ]
        );
        assert_eq!(
            top_functions(&profile, 9)
                .iter()
                .map(|f| f.samples)
                .sum::<u64>(),
            12
        );
    }
}
