//! One check for each tool: the repository's own tests of exact loads, run in the guest, and the
//! hooks that the tool took there.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::checks::{Check, succeeded};
use super::report::Outcome;

/// Functions that `ext4_*` matches on every kernel; ext4 is built in.
const EXT4_FUNCTIONS_MIN: usize = 500;

/// How long one link to all of them may take by the guest's clock. A quiet one needs tenths of a
/// second, but an emulated processor has only what its host has left.
const ONE_LINK_MS_MAX: f64 = 10_000.0;

/// A check of a tool: its row, its arguments, its load in words, the tests.
macro_rules! tool {
    ($row:literal, $arguments:literal, $load:literal, $test:literal, $names:literal) => {
        Check {
            name: $row,
            title: concat!("`", $arguments, "`: ", $load),
            script: concat!(
                "flame ",
                $arguments,
                " --explain-hooks --json || exit\n",
                "export FLAME=/bin/flame CI=true\n",
                "set -- ",
                $names,
                "\necho asked $#\n",
                $test,
                " --exact --nocapture \"$@\""
            ),
            judge: counts_exactly,
        }
    };
}

/// The checks of all tools.
pub const CHECKS: &[Check] = &[
    tool!(
        "biolatency",
        "biolatency",
        "each of 160 requests",
        "tools_block",
        "biolatency_counts_each_request_once"
    ),
    tool!(
        "biotop",
        "biotop",
        "requests, bytes, direction, owner",
        "tools_block",
        "biotop_and_biocount_know_bytes_direction_and_owner"
    ),
    tool!(
        "biocount",
        "biocount",
        "requests, bytes, direction",
        "tools_block",
        "biotop_and_biocount_know_bytes_direction_and_owner"
    ),
    Check {
        name: "cachestat",
        title: "`cachestat`: cold, warm and random reads to the page",
        script: "flame cachestat --explain-hooks --json || exit
            truncate -s 32M /run/disk.img
            disk=$(losetup -f)
            losetup $disk /run/disk.img && mke2fs -b 4096 $disk >/dev/null || exit
            mkdir -p /disk && mount -t ext4 $disk /disk || exit
            echo asked 1
            FLAME=/bin/flame CI=true TEST_DISK_FOLDER=/disk tools_memory --exact --nocapture \
                cachestat_tells_cold_from_warm_to_the_page",
        judge: counts_exactly,
    },
    tool!(
        "runqlat",
        "runqlat",
        "each wait of two loops on one CPU",
        "tools_scheduler",
        "runqlat_agrees_with_the_schedulers_own_account"
    ),
    tool!(
        "syslat",
        "syslat",
        "each of 12 345 calls; known sleeps",
        "tools_calls",
        "syslat_counts_each_call syslat_times_a_known_sleep_and_can_leave_it_out"
    ),
    tool!(
        "vfslat",
        "vfslat",
        "each of 200 reads and 300 writes",
        "tools_calls",
        "vfslat_counts_file_reads_and_writes_apart"
    ),
    tool!(
        "tcplife",
        "tcplife",
        "bytes and owner of both ends",
        "tools_tcp",
        "tcplife_knows_the_bytes_the_time_and_the_owner_of_both_ends"
    ),
    tool!(
        "tcpretrans",
        "tcpretrans",
        "each retransmit, and its sender",
        "tools_tcp",
        "tcpretrans_counts_each_lost_syn_and_charges_the_caller"
    ),
    tool!(
        "kmalloc",
        "kmalloc",
        "messages and their bytes",
        "tools_memory",
        "kmalloc_counts_messages_and_their_bytes"
    ),
    tool!(
        "pagealloc",
        "pagealloc",
        "3000 touched pages",
        "tools_memory",
        "pagealloc_counts_touched_pages"
    ),
    tool!(
        "funccount-kernel",
        "funccount __x64_sys_getppid",
        "each call, two functions apart",
        "funccount_exact",
        "each_call_of_kernel_functions_is_counted_apart"
    ),
    tool!(
        "funccount-tracepoint",
        "funccount t:syscalls:sys_enter_getppid",
        "each hit, tracefs mounted or not",
        "funccount_exact",
        "each_hit_of_a_tracepoint_is_counted tracefs_need_not_be_mounted"
    ),
    tool!(
        "funccount-user",
        "funccount /bin/flame:main",
        "each call",
        "funccount_exact",
        "each_call_of_a_user_function_is_counted \
         several_user_functions_are_counted_apart_or_not_at_all"
    ),
    Check {
        name: "funccount-many",
        title: "`funccount 'ext4_*'` (`ext4_ext_*` by kprobes): time to attach",
        // One by one, all would take half a minute of the guest's time.
        script: "pattern='ext4_ext_*'
            flame funccount ext4_sync_file --explain-hooks | grep -q '^kprobe.multi:' && pattern='ext4_*'
            flame funccount -vv \"$pattern\" --explain-hooks --json",
        judge: many_functions,
    },
];

/// All tests that were asked for ran and passed; the hooks.
fn counts_exactly(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    ensure!(
        !outcome.stderr.contains("skipped"),
        "a test was skipped\n{}",
        outcome.stderr
    );
    let asked = number_after(&outcome.stdout, "asked ").context("no number of tests")?;
    let passed = number_after(&outcome.stdout, "test result: ok. ").context("no result")?;
    ensure!(passed == asked, "{passed} of {asked} tests ran");
    Ok(by_kind(&hooks(outcome)?))
}

fn number_after(text: &str, words: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(words))?;
    rest.split(' ').next()?.parse().ok()
}

/// What `--explain-hooks --json` printed.
fn hooks(outcome: &Outcome) -> Result<Vec<String>> {
    let explained = outcome
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|line| line.get("hooks").cloned())
        .context("no hooks")?;
    let hooks: Vec<_> = explained
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|hook| Some(hook["hook"].as_str()?.to_owned()))
        .collect();
    ensure!(!hooks.is_empty(), "no hooks");
    Ok(hooks)
}

/// `tp_btf block_rq_issue, block_rq_complete; kprobe filemap_read`.
fn by_kind(hooks: &[String]) -> String {
    let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
    for hook in hooks {
        let (kind, place) = hook.split_once(':').unwrap_or((hook, ""));
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, places)) => places.push(place),
            None => kinds.push((kind, vec![place])),
        }
    }
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, places)| format!("{kind} {}", places.join(", ")))
        .collect();
    kinds.join("; ")
}

fn many_functions(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    let hooks = hooks(outcome)?;
    let kind = hooks[0].split(':').next().unwrap_or_default();
    let attached_ms = outcome
        .stderr
        .split_once("attached_ms=")
        .and_then(|(_, rest)| rest.split_ascii_whitespace().next()?.parse::<f64>().ok())
        .with_context(|| format!("no time\n{}", outcome.stderr))?;
    ensure!(
        kind != "kprobe.multi"
            || hooks.len() >= EXT4_FUNCTIONS_MIN && attached_ms <= ONE_LINK_MS_MAX,
        "{} functions by one link took {attached_ms} ms",
        hooks.len()
    );
    Ok(format!(
        "{} functions by {kind} in {:.2} s",
        hooks.len(),
        attached_ms / 1000.0
    ))
}

#[cfg(test)]
mod tests {
    use super::{Outcome, counts_exactly, many_functions};

    const HOOKS: &str =
        r#"{"hooks":[{"hook":"tp_btf:a"},{"hook":"kprobe:b"},{"hook":"tp_btf:c"}]}"#;

    fn outcome(stdout: &str, stderr: &str) -> Outcome {
        Outcome {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            status: Some(0),
        }
    }

    #[test]
    fn all_tests_that_were_asked_for_must_have_run() {
        let passed = |count| {
            let text = format!("{HOOKS}\nasked 2\ntest result: ok. {count} passed; 0 failed\n");
            counts_exactly(&outcome(&text, ""))
        };
        assert_eq!(passed(2).unwrap(), "tp_btf a, c; kprobe b");
        assert!(passed(1).is_err());
        let text = format!("{HOOKS}\nasked 1\ntest result: ok. 1 passed\n");
        assert!(counts_exactly(&outcome(&text, "skipped: needs root")).is_err());
        assert!(counts_exactly(&outcome("asked 1\ntest result: ok. 1 passed\n", "")).is_err());
    }

    #[test]
    fn the_time_of_one_link_is_bounded() {
        let hooks: Vec<_> = (0..600)
            .map(|index| format!(r#"{{"hook":"kprobe.multi:ext4_{index}"}}"#))
            .collect();
        let text = format!(r#"{{"hooks":[{}]}}"#, hooks.join(","));
        let cell = many_functions(&outcome(&text, "DEBUG attached attached_ms=250\n")).unwrap();
        assert_eq!(cell, "600 functions by kprobe.multi in 0.25 s");
        assert!(many_functions(&outcome(&text, "attached_ms=99000\n")).is_err());
        let one_by_one = text.replace("kprobe.multi", "kprobe");
        assert!(many_functions(&outcome(&one_by_one, "attached_ms=99000\n")).is_ok());
        let few = r#"{"hooks":[{"hook":"kprobe.multi:ext4_0"}]}"#;
        assert!(many_functions(&outcome(few, "attached_ms=1\n")).is_err());
    }
}
