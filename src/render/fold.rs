//! Stacks in the order of a flame graph: equal ones merged, siblings side by side.
//!
//! The order compares stacks frame by frame. Comparing the folded text instead would tear frames
//! apart: `a;foo.cold` sorts between `a;foo` and `a;foo;b`, since `.` sorts before `;`, and the
//! picture would show two boxes `foo`.

use std::borrow::Cow;

use super::names;
use crate::profile::model::{FrameKind, Profile};

/// The suffixes that tell flame graph tools where a frame's code comes from, and that they do
/// not display: `_[k]` kernel, `_[i]` inlined, `_[j]` JIT (see the `java` palette of Brendan
/// Gregg's `flamegraph.pl`).
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// Mark kernel frames.
    pub kernel: bool,
    /// Mark tasks with `_[w]`. It has no meaning of its own here (tools strip it): it keeps a
    /// process and a function of the same name apart.
    pub task: bool,
}

impl Marks {
    fn of(self, kind: FrameKind) -> &'static str {
        match kind {
            FrameKind::Kernel if self.kernel => "_[k]",
            FrameKind::Task if self.task => "_[w]",
            FrameKind::Inlined => "_[i]",
            FrameKind::Jit => "_[j]",
            _ => "",
        }
    }
}

/// A frame as it is written: a safe name and its mark.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label<'a> {
    /// Safe name, without mark.
    pub name: Cow<'a, str>,
    /// `_[k]` and its like, or nothing.
    pub mark: &'static str,
    /// The kind behind it; the first in order of [`FrameKind`] when several look the same.
    pub kind: FrameKind,
}

impl Label<'_> {
    /// As written before another frame.
    pub fn text(&self) -> String {
        format!("{}{}", self.name, self.mark)
    }

    /// As written at the end of a stack.
    pub fn leaf_text(&self) -> Cow<'_, str> {
        if self.mark.is_empty() {
            names::leaf(&self.name)
        } else {
            Cow::Owned(self.text())
        }
    }
}

/// One line: a path from the root, and how many samples it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// Where the path begins in [`Folded::paths`].
    start: usize,
    depth: usize,
    /// Samples.
    pub count: u64,
}

/// A profile's stacks, sorted and merged. Holds no text of its own but for names that had to be
/// changed.
#[derive(Debug)]
pub struct Folded<'a> {
    /// Unique by name and mark, sorted.
    labels: Vec<Label<'a>>,
    /// The stacks one after the other, as places in `labels`. Copied from the profile, since
    /// comparing them is where the time goes, and a look-up per frame would be paid each time.
    paths: Vec<u32>,
    /// Sorted, unique.
    lines: Vec<Line>,
}

impl<'a> Folded<'a> {
    /// Sorts and merges the stacks of `profile`. Samples without any frame are shown as
    /// [`names::UNKNOWN`].
    pub fn new(profile: &'a Profile, marks: Marks) -> Self {
        let (labels, label_of) = label_frames(profile, marks);
        let stacks = profile.stacks.iter().filter(|stack| stack.count > 0);
        let mut paths = Vec::with_capacity(stacks.clone().map(|stack| stack.frames.len()).sum());
        let mut lines = Vec::with_capacity(profile.stacks.len());
        for stack in stacks {
            lines.push(Line {
                start: paths.len(),
                depth: stack.frames.len(),
                count: stack.count,
            });
            paths.extend(stack.frames.iter().map(|frame| label_of[frame.0 as usize]));
        }
        lines.sort_unstable_by(|a, b| path(&paths, *a).cmp(path(&paths, *b)));
        let mut folded = Self {
            labels,
            paths,
            lines,
        };
        folded.merge_equal();
        folded
    }

    /// The lines, sorted and unique.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The frames of a line, root first.
    pub fn labels(&self, line: Line) -> impl Iterator<Item = &Label<'a>> {
        path(&self.paths, line)
            .iter()
            .map(|label| &self.labels[*label as usize])
    }

    /// The labels of all lines, each once.
    pub fn used_labels(&self) -> impl Iterator<Item = &Label<'a>> {
        let mut used = vec![false; self.labels.len()];
        for line in &self.lines {
            for label in path(&self.paths, *line) {
                used[*label as usize] = true;
            }
        }
        self.labels
            .iter()
            .zip(used)
            .filter_map(|(label, used)| used.then_some(label))
    }

    /// Appends `frame;frame;frame count` and a newline.
    pub fn push_line(&self, line: Line, text: &mut String) {
        let mut labels = self.labels(line).peekable();
        if labels.peek().is_none() {
            text.push_str(names::UNKNOWN);
        }
        while let Some(label) = labels.next() {
            if labels.peek().is_some() {
                text.push_str(&label.name);
                text.push_str(label.mark);
                text.push(';');
            } else {
                text.push_str(&label.leaf_text());
            }
        }
        text.push(' ');
        text.push_str(&line.count.to_string());
        text.push('\n');
    }

    /// Cuts off frames with fewer samples than `count_min`; their samples stay with the deepest
    /// frame that is left, so no width changes. Roots always stay.
    ///
    /// A picture drops narrow frames anyway. Dropping them here means that the text of the
    /// picture's input is never larger than the picture.
    pub fn prune(&mut self, count_min: f64) {
        /// A frame whose end is not yet seen.
        struct Open {
            first_line: usize,
            count: u64,
        }
        let lines = &self.lines;
        let mut depths: Vec<usize> = lines.iter().map(|line| line.depth).collect();
        let mut open: Vec<Open> = Vec::new();
        for index in 0..=lines.len() {
            let shared = match (index.checked_sub(1), lines.get(index)) {
                (Some(previous), Some(line)) => self.shared_depth(lines[previous], *line),
                _ => 0,
            };
            while open.len() > shared {
                let Some(closed) = open.pop() else { break };
                let depth = open.len().max(1);
                if (closed.count as f64) < count_min {
                    for cut in &mut depths[closed.first_line..index] {
                        *cut = depth.min(*cut);
                    }
                }
                if let Some(parent) = open.last_mut() {
                    parent.count += closed.count;
                }
            }
            if let Some(line) = lines.get(index) {
                open.resize_with(line.depth, || Open {
                    first_line: index,
                    count: 0,
                });
                if let Some(leaf) = open.last_mut() {
                    leaf.count += line.count;
                }
            }
        }
        for (line, depth) in self.lines.iter_mut().zip(depths) {
            line.depth = depth;
        }
        self.merge_equal();
    }

    fn merge_equal(&mut self) {
        let paths = &self.paths;
        self.lines.dedup_by(|line, kept| {
            let equal = path(paths, *line) == path(paths, *kept);
            if equal {
                kept.count = kept.count.saturating_add(line.count);
            }
            equal
        });
    }

    fn shared_depth(&self, a: Line, b: Line) -> usize {
        let (a, b) = (path(&self.paths, a), path(&self.paths, b));
        a.iter().zip(b).take_while(|(a, b)| a == b).count()
    }
}

fn path(paths: &[u32], line: Line) -> &[u32] {
    &paths[line.start..line.start + line.depth]
}

/// The unique labels in order, and the place of every frame's label among them.
fn label_frames(profile: &Profile, marks: Marks) -> (Vec<Label<'_>>, Vec<u32>) {
    let mut by_label: Vec<(Label<'_>, u32)> = profile
        .frames
        .iter()
        .zip(0..)
        .map(|(frame, id)| {
            let name = names::frame(&frame.name);
            (
                Label {
                    name,
                    mark: marks.of(frame.kind),
                    kind: frame.kind,
                },
                id,
            )
        })
        .collect();
    by_label.sort_unstable();
    let mut labels: Vec<Label<'_>> = Vec::with_capacity(by_label.len());
    let mut label_of = vec![0; by_label.len()];
    for (label, id) in by_label {
        let known = labels
            .last()
            .is_some_and(|l| l.name == label.name && l.mark == label.mark);
        if !known {
            labels.push(label);
        }
        label_of[id as usize] = labels.len() as u32 - 1;
    }
    (labels, label_of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::model::{Frame, FrameId, Stack};

    const MARKS: Marks = Marks {
        kernel: false,
        task: false,
    };

    /// A profile from `a;b;c` and counts.
    fn profile(stacks: &[(&str, u64)]) -> Profile {
        let mut profile = Profile::default();
        for (path, count) in stacks {
            let frames = path
                .split(';')
                .map(|name| {
                    let frame = Frame {
                        name: name.into(),
                        kind: FrameKind::User,
                    };
                    let known = profile.frames.iter().position(|f| *f == frame);
                    FrameId(known.unwrap_or_else(|| {
                        profile.frames.push(frame);
                        profile.frames.len() - 1
                    }) as u32)
                })
                .collect();
            profile.stacks.push(Stack {
                frames,
                count: *count,
            });
        }
        profile
    }

    fn text(folded: &Folded<'_>) -> String {
        let mut text = String::new();
        for line in folded.lines() {
            folded.push_line(*line, &mut text);
        }
        text
    }

    #[test]
    fn siblings_stay_together_and_equal_stacks_merge() {
        let profile = profile(&[
            ("a;foo;b", 1),
            ("a;foo.cold", 2),
            ("a;foo", 3),
            ("a;foo;b", 4),
        ]);
        assert_eq!(
            text(&Folded::new(&profile, MARKS)),
            "a;foo 3\na;foo;b 5\na;foo.cold 2\n"
        );
    }

    #[test]
    fn names_that_render_equal_merge() {
        let profile = profile(&[("a;x\u{1}", 1), ("a;x\\x01", 2)]);
        assert_eq!(text(&Folded::new(&profile, MARKS)), "a;x\\x01 3\n");
    }

    #[test]
    fn pruning_keeps_every_sample_with_the_deepest_wide_frame() {
        let profile = profile(&[
            ("a;b;c", 1),
            ("a;b;d", 2),
            ("a;b;d;e", 9),
            ("a;f", 1),
            ("z;y;x", 1),
        ]);
        let mut folded = Folded::new(&profile, MARKS);
        folded.prune(3.0);
        assert_eq!(text(&folded), "a;b 1\na;b;d 2\na;b;d;e 9\na 1\nz 1\n");
        folded.prune(10.0);
        assert_eq!(text(&folded), "a;b 1\na;b;d 11\na 1\nz 1\n");
    }

    #[test]
    fn a_count_like_leaf_is_no_second_count() {
        let profile = profile(&[("worker 3;f 1.5", 7), ("worker 3;f 1.5;g", 1)]);
        let text = text(&Folded::new(&profile, MARKS));
        assert_eq!(text, "worker 3;f\u{a0}1.5 7\nworker 3;f 1.5;g 1\n");
    }
}
