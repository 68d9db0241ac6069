//! Folded stacks, read back and asked about.

use std::fmt;

/// One line of a folded file: frames from the root to the leaf, and a count.
#[derive(Debug, Clone)]
pub struct Line {
    pub frames: Vec<String>,
    pub count: u64,
}

impl Line {
    /// The frames without the kernel's (`_[k]`, of `-a`): an interrupt may stand on any stack.
    pub fn user_frames(&self) -> &[String] {
        let kernel = self
            .frames
            .iter()
            .rev()
            .take_while(|frame| frame.ends_with("_[k]"))
            .count();
        &self.frames[..self.frames.len() - kernel]
    }

    /// The user functions that were really called, without those inlined into them (`_[i]`).
    pub fn called(&self) -> Vec<&str> {
        let user = self.user_frames().iter().map(String::as_str);
        user.filter(|frame| !frame.ends_with("_[i]")).collect()
    }
}

/// A folded file.
#[derive(Debug, Clone, Default)]
pub struct Folded {
    pub lines: Vec<Line>,
}

impl Folded {
    /// Reads `a;b;c 12` lines; anything else is a broken file.
    pub fn parse(text: &str) -> Self {
        let parse = |line: &str| {
            let (stack, count) = line.rsplit_once(' ')?;
            let frames: Vec<_> = stack.split(';').map(String::from).collect();
            let whole = frames.iter().all(|frame| !frame.is_empty());
            whole.then_some(Line {
                frames,
                count: count.parse().ok()?,
            })
        };
        let lines = text.lines();
        let lines = lines.map(|line| parse(line).unwrap_or_else(|| panic!("not folded: {line:?}")));
        Self {
            lines: lines.collect(),
        }
    }

    /// All samples.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.count).sum()
    }

    /// The samples whose frames satisfy a condition.
    pub fn count(&self, condition: impl Fn(&Line) -> bool) -> u64 {
        self.lines
            .iter()
            .filter(|line| condition(line))
            .map(|line| line.count)
            .sum()
    }

    /// The samples with a frame of this name anywhere.
    pub fn count_frame(&self, name: &str) -> u64 {
        self.count(|line| line.frames.iter().any(|frame| frame == name))
    }

    /// The stacks whose root starts with a task's name.
    pub fn of_task(&self, name: &str) -> Self {
        let mut lines = self.lines.clone();
        lines.retain(|line| line.frames[0].starts_with(name));
        Self { lines }
    }

    /// Asserts that a frame that starts with `from` calls one that starts with `to`.
    pub fn assert_frame_follows(&self, from: &str, to: &str) {
        let follows = |line: &Line| {
            line.frames
                .windows(2)
                .any(|pair| pair[0].starts_with(from) && pair[1].starts_with(to))
        };
        assert!(self.count(follows) > 0, "{from} never calls {to}\n{self}");
    }

    /// The share of each name among the samples of all of them, in percent.
    pub fn shares_pct<'a>(&self, names: &[&'a str]) -> Vec<(&'a str, f64)> {
        let counts: Vec<_> = names.iter().map(|name| self.count_frame(name)).collect();
        let total: u64 = counts.iter().sum();
        let pct = |count: u64| 100.0 * count as f64 / total.max(1) as f64;
        names
            .iter()
            .zip(counts)
            .map(|(name, count)| (*name, pct(count)))
            .collect()
    }

    /// Asserts that the calls through the last frame of `chain` are that chain and nothing else:
    /// between the task and the chain there may be only the frames of a process's or thread's start.
    ///
    /// One sample in a hundred may miss a caller: between a call and the end of the prologue the
    /// frame pointer is still the caller's.
    pub fn assert_chain(&self, chain: &[&str]) {
        let leaf = chain.last().expect("a chain has a leaf");
        let through_leaf = self.count_frame(leaf);
        let exact = self.count(|line| {
            let called = &line.called()[1..];
            called.len() >= chain.len() && {
                let (below, above) = called.split_at(called.len() - chain.len());
                above == chain && below.iter().all(|frame| is_start_frame(frame))
            }
        });
        assert!(
            through_leaf > 0 && exact * 100 >= through_leaf * 99,
            "{exact} of {through_leaf} samples have the chain {chain:?}\n{self}"
        );
    }
}

/// The C library's frames below `main` or a thread's function. Its file is stripped on most
/// machines, so they may have no names.
fn is_start_frame(frame: &str) -> bool {
    [
        "_start",
        "__libc_start",
        "start_thread",
        "clone",
        "__clone",
        "[libc.so.6+",
        "[unknown]",
    ]
    .iter()
    .any(|start| frame.starts_with(start))
}

impl fmt::Display for Folded {
    /// The heaviest stacks, for the messages of failed assertions.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines: Vec<_> = self.lines.iter().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.count));
        for line in lines.iter().take(25) {
            writeln!(out, "{} {}", line.frames.join(";"), line.count)?;
        }
        write!(
            out,
            "{} samples in {} stacks",
            self.total(),
            self.lines.len()
        )
    }
}
