//! What is checked in every guest: one row of the table for each.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::report::Outcome;
use super::tools;

/// Points by which a measured share may miss the workload's own truth: three hundred samples under
/// emulation, two processors on what the host has left.
const SHARE_TOLERANCE_POINTS: f64 = 10.0;

/// The functions of the workload of that name.
const THREE_FUNCTIONS: [&str; 3] = ["cheap", "medium", "costly"];

/// One check: a script for the guest, and what its output must say.
#[derive(Debug)]
pub struct Check {
    /// The row's name; a file name too.
    pub name: &'static str,
    /// What the table shows in the row's first cell.
    pub title: &'static str,
    /// Runs under `sh` in an empty folder, with `flame` and the workloads on the path.
    pub script: &'static str,
    /// Looks at what the script printed; gives the words of the table's cell.
    pub judge: fn(&Outcome) -> Result<String>,
}

/// All checks that need nothing but the kernel, in the order in which a guest runs them.
pub fn all() -> impl Iterator<Item = &'static Check> {
    CHECKS.iter().chain(tools::CHECKS)
}

/// The checks of `profile`, and the verifier's of all objects.
const CHECKS: &[Check] = &[
    Check {
        name: "objects",
        title: "verifier: all objects",
        script: "xtask verify /objects/*.bpf.o",
        judge: every_program_loads,
    },
    Check {
        name: "profile-command",
        title: "`profile --unwind fp -- COMMAND`",
        script: "flame --unwind fp -o out.folded -- three_functions 4 || exit; cat out.folded",
        judge: three_functions,
    },
    Check {
        name: "profile-pid",
        title: "`profile --unwind fp -p PID`",
        script: "three_functions 1000 & pid=$!
            flame --unwind fp -p $pid 4 -o out.folded; status=$?
            kill $pid
            cat out.folded
            exit $status",
        judge: three_functions,
    },
    Check {
        name: "profile-kernel",
        title: "`profile --unwind fp -a`: kernel frames",
        script: "flame --unwind fp -a -o out.folded -- kernel_loop 4 || exit; cat out.folded",
        judge: kernel_frames,
    },
    Check {
        name: "profile-cfi",
        title: "`profile -- COMMAND`, no frame pointers",
        script: "flame -o out.folded -- bare_functions 4 || exit; cat out.folded",
        judge: whole_stacks,
    },
    Check {
        name: "profile-cgroup",
        title: "`profile --unwind fp --cgroup PATH`",
        script: "mkdir -p /sys/fs/cgroup/outer/inner
            cp /bin/three_functions stranger
            ./stranger 1000 & stranger=$!
            (echo 0 >/sys/fs/cgroup/outer/inner/cgroup.procs; exec three_functions 1000) & pid=$!
            flame --unwind fp --cgroup /sys/fs/cgroup/outer 4 -o out.folded; status=$?
            kill $pid $stranger
            cat out.folded
            exit $status",
        judge: nobody_outside_the_cgroup,
    },
];

fn every_program_loads(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    // "profile switches=on sample ok 1234"
    let mut programs = 0;
    let mut instructions = None;
    for line in outcome.stdout.lines() {
        let words: Vec<_> = line.split(' ').collect();
        if words.get(3) != Some(&"ok") {
            continue;
        }
        programs += 1;
        let count = words.get(4).and_then(|count| count.parse::<u32>().ok());
        instructions = instructions.max(count);
    }
    ensure!(programs > 0, "no program was loaded");
    Ok(match instructions {
        Some(most) => format!("{programs} loads, at most {most} instructions verified"),
        None => format!("{programs} loads"),
    })
}

fn three_functions(outcome: &Outcome) -> Result<String> {
    let run = Run::read(outcome)?;
    let worst = run.worst_share_points(&THREE_FUNCTIONS)?;
    for function in THREE_FUNCTIONS {
        run.has_chain(&["main", "work", function])?;
    }
    Ok(format!(
        "{} samples, shares within {worst:.1} points",
        run.total()
    ))
}

/// Stacks by call frame information from the program's start on; before 5.15 the fallback, and a
/// word about it.
fn whole_stacks(outcome: &Outcome) -> Result<String> {
    let run = Run::read(outcome)?;
    if outcome.stderr.contains("cannot walk stacks by .eh_frame") {
        return Ok(format!(
            "{} samples, by frame pointers, and says so",
            run.total()
        ));
    }
    let started = run.count(|stack| stack.get(1).is_some_and(|frame| frame == "_start"));
    let working = run.count(|stack| stack.iter().any(|frame| frame == "work"));
    ensure!(
        working > 0 && started * 100 >= working * 98,
        "{started} of {working} samples begin at _start\n{}",
        run.heaviest()
    );
    run.has_chain(&["main", "work", "costly"])?;
    Ok(format!("{working} samples, whole from _start on"))
}

/// The workload is two levels down from the cgroup asked for; the stranger is outside.
fn nobody_outside_the_cgroup(outcome: &Outcome) -> Result<String> {
    let run = Run::read(outcome)?;
    let strangers = run.count(|stack| !stack.iter().any(|frame| frame == "three_functions"));
    ensure!(
        strangers == 0,
        "{strangers} samples from outside\n{}",
        run.heaviest()
    );
    three_functions(outcome)
}

fn kernel_frames(outcome: &Outcome) -> Result<String> {
    let run = Run::read(outcome)?;
    run.has_chain(&["main", "work", "read_zeros"])?;
    let in_kernel = run.count(|stack| {
        let caller = stack.iter().position(|frame| frame == "read_zeros");
        caller.is_some_and(|at| {
            stack
                .iter()
                .skip(at + 1)
                .any(|frame| is_named_kernel(frame))
        })
    });
    let reading = run.count(|stack| stack.iter().any(|frame| frame == "read_zeros"));
    ensure!(
        in_kernel * 10 >= reading * 9,
        "only {in_kernel} of {reading} samples of read_zeros have named kernel frames"
    );
    let nameless = run.count(|stack| stack.iter().any(|frame| is_nameless_kernel(frame)));
    ensure!(
        nameless * 50 <= run.total(),
        "{nameless} samples have kernel frames without a name"
    );
    Ok(format!(
        "{in_kernel} of {reading} samples with named kernel frames"
    ))
}

fn is_named_kernel(frame: &str) -> bool {
    frame.ends_with("_[k]") && !is_nameless_kernel(frame)
}

fn is_nameless_kernel(frame: &str) -> bool {
    frame.ends_with("_[k]") && (frame.starts_with("[unknown]") || frame.starts_with("0x"))
}

/// The check's script ended with status 0.
///
/// # Errors
/// When it did not; with its last words.
pub fn succeeded(outcome: &Outcome) -> Result<()> {
    let status = outcome.status;
    let said = || {
        let lines: Vec<_> = outcome
            .stdout
            .lines()
            .chain(outcome.stderr.lines())
            .collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    };
    ensure!(
        status == Some(0),
        "exit status {}\n{}",
        status.unwrap_or(-1),
        said()
    );
    Ok(())
}

/// A workload's truth and its profile, out of one check's stdout.
#[derive(Debug, Default)]
struct Run {
    /// Frames from the root to the leaf, and samples.
    stacks: Vec<(Vec<String>, u64)>,
    /// CPU time by function: as the workload measured it, or where it was ended before it could
    /// tell (a slow host must not let it end first), the parts that it is made of.
    truth: BTreeMap<String, f64>,
}

impl Run {
    fn read(outcome: &Outcome) -> Result<Self> {
        succeeded(outcome)?;
        let mut run = Self::default();
        for line in outcome.stdout.lines() {
            if line.starts_with('{') {
                let truth: serde_json::Value = serde_json::from_str(line)?;
                let times = truth["cpu_ns"].as_object().context("no cpu_ns")?;
                for (name, ns) in times {
                    run.truth
                        .insert(name.clone(), ns.as_f64().context("no number")?);
                }
                continue;
            }
            let (stack, count) = line.rsplit_once(' ').context("not a folded stack")?;
            let frames = stack.split(';').map(str::to_owned).collect();
            let count = count
                .parse()
                .with_context(|| format!("not a folded stack: {line}"))?;
            run.stacks.push((frames, count));
        }
        ensure!(run.total() > 50, "only {} samples", run.total());
        if run.truth.is_empty() {
            let designed = THREE_FUNCTIONS.iter().zip([10.0, 30.0, 60.0]);
            run.truth = designed
                .map(|(name, share)| ((*name).to_owned(), share))
                .collect();
        }
        Ok(run)
    }

    fn total(&self) -> u64 {
        self.count(|_| true)
    }

    fn count(&self, condition: impl Fn(&[String]) -> bool) -> u64 {
        let matching = self.stacks.iter().filter(|(frames, _)| condition(frames));
        matching.map(|(_, count)| count).sum()
    }

    /// Of the samples with the chain's last frame, 98 in 100 have the whole chain.
    fn has_chain(&self, chain: &[&str]) -> Result<()> {
        let (Some(leaf), length) = (chain.last(), chain.len()) else {
            return Ok(());
        };
        let with_leaf = self.count(|frames| frames.iter().any(|frame| frame == leaf));
        let whole = self.count(|frames| frames.windows(length).any(|part| part == chain));
        ensure!(
            with_leaf > 0 && whole * 100 >= with_leaf * 98,
            "{whole} of {with_leaf} samples have the chain {}\n{}",
            chain.join(";"),
            self.heaviest()
        );
        Ok(())
    }

    /// How many points the function is off whose share is furthest from the truth.
    fn worst_share_points(&self, functions: &[&str]) -> Result<f64> {
        let samples: Vec<u64> = functions
            .iter()
            .map(|name| self.count(|frames| frames.iter().any(|frame| frame == name)))
            .collect();
        let sampled: u64 = samples.iter().sum();
        let spent: f64 = functions
            .iter()
            .filter_map(|name| self.truth.get(*name))
            .sum();
        let mut worst: f64 = 0.0;
        for (name, count) in functions.iter().zip(samples) {
            let truth = self
                .truth
                .get(*name)
                .with_context(|| format!("no truth of {name}"))?;
            let measured = count as f64 / sampled.max(1) as f64;
            worst = worst.max(100.0 * (measured - truth / spent).abs());
        }
        ensure!(
            worst <= SHARE_TOLERANCE_POINTS,
            "a share is off by {worst:.1} points; truth {:?}\n{}",
            self.truth,
            self.heaviest()
        );
        Ok(worst)
    }

    fn heaviest(&self) -> String {
        let mut stacks: Vec<_> = self.stacks.iter().collect();
        stacks.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let lines = stacks.iter().take(12);
        let lines: Vec<_> = lines
            .map(|(frames, count)| format!("{} {count}", frames.join(";")))
            .collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::{
        Outcome, every_program_loads, kernel_frames, nobody_outside_the_cgroup, three_functions,
    };

    fn outcome(stdout: &str) -> Outcome {
        Outcome {
            stdout: stdout.to_owned(),
            stderr: String::new(),
            status: Some(0),
        }
    }

    const TRUTH: &str = r#"{"cpu_ns": {"cheap": 10, "medium": 30, "costly": 60}}"#;

    #[test]
    fn shares_and_chains_are_held_against_the_truth() {
        let stacks = "x;main;work;cheap 12\nx;main;work;medium 30\nx;main;work;costly 58\n";
        let cell = three_functions(&outcome(&format!("{TRUTH}\n{stacks}"))).unwrap();
        assert_eq!(cell, "100 samples, shares within 2.0 points");

        let off = stacks.replace("cheap 12", "cheap 90");
        assert!(three_functions(&outcome(&format!("{TRUTH}\n{off}"))).is_err());
        let without_caller = stacks.replace("work;costly", "costly");
        assert!(three_functions(&outcome(&format!("{TRUTH}\n{without_caller}"))).is_err());
    }

    #[test]
    fn a_stranger_in_the_cgroup_is_seen() {
        let mut text = format!("{TRUTH}\n");
        for (function, count) in [("cheap", 10), ("medium", 30), ("costly", 60)] {
            writeln!(text, "three_functions;main;work;{function} {count}").unwrap();
        }
        assert!(nobody_outside_the_cgroup(&outcome(&text)).is_ok());
        text += "stranger;main;work;cheap 1\n";
        assert!(nobody_outside_the_cgroup(&outcome(&text)).is_err());
    }

    #[test]
    fn kernel_frames_must_have_names() {
        let named = "x;main;work;read_zeros;vfs_read_[k] 100\n";
        assert!(kernel_frames(&outcome(named)).is_ok());
        assert!(kernel_frames(&outcome(&named.replace("vfs_read", "[unknown]"))).is_err());
    }

    #[test]
    fn a_refused_program_or_none_at_all_fails() {
        let lines = "profile switches=off sample ok 900\nprofile switches=on sample ok 1200\n";
        let cell = every_program_loads(&outcome(lines)).unwrap();
        assert_eq!(cell, "2 loads, at most 1200 instructions verified");
        assert!(every_program_loads(&outcome("")).is_err());
        let mut refused = outcome(lines);
        refused.status = Some(1);
        assert!(every_program_loads(&refused).is_err());
    }
}
