//! The ZFS tools against what ZFS and the kernel count themselves.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::checks::{Check, succeeded};
use super::super::report::Outcome;

/// Records that each load reads, of 128 KiB.
const RECORDS: u64 = 64;

/// What `delay.sh` adds to each read of the disk, less a tick of the kernel's clock.
const DELAY_US: u64 = 40_000 - 4_000;

/// The pool's kstat begins before `spa_sync` and ends after it; between lie a lock and a sum over
/// the disks, and the host may take the CPU away.
const TXG_TOLERANCE_NS: u64 = 50_000_000;

/// All checks, in their order: the first one makes the pool.
pub const CHECKS: &[Check] = &[
    Check {
        name: "zfs-pool",
        title: "a pool on a file",
        script: "mkdir -p /etc && ln -s /proc/self/mounts /etc/mtab
            # Nothing is synced but what a check asks for.
            echo 3600 >/sys/module/zfs/parameters/zfs_txg_timeout
            mkdir /disks
            truncate -s 512M /disks/vdev
            zpool create -o cachefile=none -O compression=off -O atime=off -m /tank tank /disks/vdev \
                || exit
            cat /sys/module/zfs/version",
        judge: version,
    },
    Check {
        name: "zfs-arc",
        title: "`zfs-arc` against the `arcstats` kstat",
        script: include_str!("arc.sh"),
        judge: arc_is_the_kstats,
    },
    Check {
        name: "zfs-txg",
        title: "`zfs-txg` against the `txgs` kstat",
        script: include_str!("txg.sh"),
        judge: syncs_are_the_kstats,
    },
    Check {
        name: "zfs-zio",
        title: "`zfs-zio` against a count by ftrace",
        script: include_str!("zio.sh"),
        judge: every_zio_is_counted,
    },
    Check {
        name: "zfs-zio-delayed",
        title: "`zfs-zio`, each read of the disk delayed by 40 ms",
        script: include_str!("delay.sh"),
        judge: reads_take_their_delay,
    },
    Check {
        name: "zfs-metaslab",
        title: "`zfs-metaslab` against a count by ftrace",
        script: include_str!("metaslab.sh"),
        judge: every_allocation_is_counted,
    },
];

fn version(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    Ok(format!("OpenZFS {}", outcome.stdout.trim()))
}

/// The lines behind a word.
fn lines<'a>(outcome: &'a Outcome, word: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = outcome.stdout.lines();
    lines.filter_map(move |line| line.strip_prefix(word)?.strip_prefix(' '))
}

fn objects(outcome: &Outcome, word: &str) -> Result<Vec<Value>> {
    let objects = lines(outcome, word).map(serde_json::from_str);
    Ok(objects.collect::<Result<_, _>>()?)
}

/// The report, which is a tool's last object.
fn report(outcome: &Outcome, word: &str) -> Result<Value> {
    let report = objects(outcome, word)?.pop().context("no report")?;
    let losses = &report["losses"];
    ensure!(
        losses.as_object().is_some_and(serde_json::Map::is_empty),
        "not everything was counted: {losses}"
    );
    Ok(report)
}

fn rows<'a>(report: &'a Value, of: &str) -> Result<&'a Vec<Value>> {
    let rows = report[of].as_array();
    rows.with_context(|| format!("the report has no {of}"))
}

fn number(row: &Value, field: &str) -> Result<u64> {
    let number = row[field].as_u64();
    number.with_context(|| format!("no {field} in {row}"))
}

const OUTCOMES: [&str; 3] = ["hits", "iohits", "misses"];

fn arc_is_the_kstats(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    let before = kstat(outcome, "before");
    let after = kstat(outcome, "after");
    let report_by_command = report(outcome, "json")?;
    let rows_by_command = rows(&report_by_command, "rows")?;
    let mut total = 0;
    for class in [
        "demand data",
        "demand metadata",
        "prefetch data",
        "prefetch metadata",
    ] {
        for result in OUTCOMES {
            let name = format!("{}_{result}", class.replace(' ', "_"));
            let at = |kstat: &BTreeMap<&str, u64>| {
                let value = kstat.get(name.as_str()).copied();
                value.with_context(|| format!("the kstat has no {name}"))
            };
            let truth = at(&after)? - at(&before)?;
            let mut counted = 0;
            for row in rows_by_command.iter().filter(|row| row["class"] == class) {
                counted += number(row, result)?;
            }
            ensure!(counted == truth, "{name}: {counted}, the kstat {truth}");
            total += truth;
        }
    }
    let classes = report(outcome, "cgroup")?;
    let in_cgroup = rows(&classes, "classes")?;
    for (whose, row) in [
        (
            "dd",
            find(rows_by_command, &[("comm", "dd"), ("class", "demand data")])?,
        ),
        ("the cgroup", find(in_cgroup, &[("class", "demand data")])?),
    ] {
        let seen = OUTCOMES.map(|result| number(row, result).unwrap_or(0));
        ensure!(
            seen == [RECORDS, 0, RECORDS],
            "{whose} has {seen:?} hits, I/O hits and misses of {RECORDS} records, \
             read cold and warm"
        );
    }
    Ok(format!(
        "all {total} accesses in 12 classes, {RECORDS} cold and {RECORDS} warm reads exact"
    ))
}

fn find<'a>(rows: &'a [Value], labels: &[(&str, &str)]) -> Result<&'a Value> {
    let has_labels = |row: &&Value| labels.iter().all(|(name, value)| row[*name] == *value);
    rows.iter()
        .find(has_labels)
        .with_context(|| format!("no row with {labels:?}"))
}

fn kstat<'a>(outcome: &'a Outcome, word: &'a str) -> BTreeMap<&'a str, u64> {
    let counters = lines(outcome, word).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        Some((words.next()?, words.nth(1)?.parse().ok()?))
    });
    counters.collect()
}

fn syncs_are_the_kstats(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    let mut truth = BTreeMap::new();
    for line in lines(outcome, "kstat") {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        // txg birth state ndirty nread nwritten reads writes otime qtime wtime stime
        if let [txg, _, "C", .., sync_ns] = words[..] {
            truth.insert(txg.parse::<u64>()?, sync_ns.parse::<u64>()?);
        }
    }
    let mut objects = objects(outcome, "json")?;
    let report = objects.pop().context("no report")?;
    let mut worst_ns = 0;
    for event in &objects {
        let (txg, sync_ns) = (number(event, "txg")?, number(event, "sync_ns")?);
        ensure!(event["pool"] == "tank", "another pool: {event}");
        let whole_ns = *truth
            .get(&txg)
            .with_context(|| format!("the kstat has no group {txg}"))?;
        ensure!(
            sync_ns <= whole_ns && whole_ns - sync_ns < TXG_TOLERANCE_NS,
            "group {txg}: {sync_ns} ns, the kstat {whole_ns} ns"
        );
        worst_ns = worst_ns.max(whole_ns - sync_ns);
    }
    let txgs = objects.iter().map(|event| number(event, "txg"));
    let txgs: Vec<_> = txgs.collect::<Result<_>>()?;
    let (first, last) = (txgs.first().context("no events")?, txgs.last());
    let in_kstat = truth.range(first..=last.unwrap_or(first)).count();
    ensure!(
        txgs.len() == in_kstat && in_kstat >= 6,
        "{} events, {in_kstat} groups in the kstat",
        txgs.len()
    );
    let histograms = rows(&report, "histograms")?;
    let counted = number(find(histograms, &[("pool", "tank")])?, "count")?;
    ensure!(
        counted == txgs.len() as u64,
        "{counted} in the histogram, {} events",
        txgs.len()
    );
    Ok(format!(
        "{} groups, within {:.1} ms",
        txgs.len(),
        worst_ns as f64 / 1e6
    ))
}

/// What `own_counts` printed, by value.
fn own_counts(outcome: &Outcome, word: &str) -> Result<BTreeMap<i64, u64>> {
    let mut counts = BTreeMap::new();
    for line in lines(outcome, word) {
        let (value, count) = line.split_once(' ').context("not a value and a count")?;
        counts.insert(value.parse()?, count.parse()?);
    }
    ensure!(!counts.is_empty(), "the kernel itself counted nothing");
    Ok(counts)
}

fn every_zio_is_counted(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    let truth = own_counts(outcome, "create")?;
    let report = report(outcome, "json")?;
    let types = rows(&report, "types")?;
    let names = ["null", "read", "write", "free", "claim", "flush", "trim"];
    let mut cells = Vec::new();
    for (number_of_type, name) in names.iter().enumerate() {
        let expected = truth.get(&(number_of_type as i64)).copied().unwrap_or(0);
        let Ok(row) = find(types, &[("type", name)]) else {
            ensure!(expected == 0, "no {name}, the kernel counted {expected}");
            continue;
        };
        let (created, done) = (number(row, "created")?, number(row, "done")?);
        ensure!(
            created == expected,
            "{created} of type {name} created, the kernel counted {expected}"
        );
        // A pool keeps a parent for later I/O in each of its four groups, and one for each CPU.
        let kept = if *name == "null" { 8 } else { 0 };
        ensure!(
            done <= created && created <= done + kept,
            "of {created} {name} only {done} are done"
        );
        cells.push(format!("{created} {name}"));
    }
    let least = RECORDS;
    for name in ["read", "write"] {
        let created = number(find(types, &[("type", name)])?, "created")?;
        ensure!(
            created >= least,
            "only {created} {name} for {least} records"
        );
    }
    Ok(format!("{}: all created and done", cells.join(", ")))
}

fn reads_take_their_delay(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    let report = report(outcome, "json")?;
    let reads = find(rows(&report, "histograms")?, &[("type", "read")])?;
    let (p50_us, max_us) = (number(reads, "p50")?, number(reads, "max")?);
    let (mut delayed, mut at_once) = (0, 0);
    for row in rows(reads, "rows")? {
        let is_delayed = number(row, "high")? >= DELAY_US;
        let part = if is_delayed {
            &mut delayed
        } else {
            &mut at_once
        };
        *part += number(row, "count")?;
    }
    // A record is read by a ZIO and by its child on the disk; a tiny block is in the pointer.
    ensure!(
        delayed >= 32 && at_once <= 2,
        "of the reads of 16 records {delayed} were delayed, {at_once} not"
    );
    ensure!(
        p50_us < 3 * DELAY_US,
        "half of the reads took more than {p50_us} us"
    );
    Ok(format!(
        "{delayed} reads, half within {:.1} ms, the longest {:.1} ms",
        p50_us as f64 / 1e3,
        max_us as f64 / 1e3
    ))
}

fn every_allocation_is_counted(outcome: &Outcome) -> Result<String> {
    succeeded(outcome)?;
    let truth = own_counts(outcome, "alloc")?;
    let report = report(outcome, "json")?;
    let histograms = rows(&report, "histograms")?;
    let allocated = number(find(histograms, &[("result", "allocated")])?, "count")?;
    let expected = truth.get(&0).copied().unwrap_or(0);
    ensure!(
        allocated == expected && allocated >= 256,
        "{allocated} allocations, the kernel counted {expected}"
    );
    let failed: u64 = truth
        .iter()
        .filter(|(error, _)| **error != 0)
        .map(|(_, count)| count)
        .sum();
    let counted =
        find(histograms, &[("result", "failed")]).map_or(Ok(0), |row| number(row, "count"))?;
    ensure!(
        counted == failed,
        "{counted} failures, the kernel counted {failed}"
    );
    Ok(format!("{allocated} allocations, {failed} failed"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn outcome(stdout: &str) -> Outcome {
        Outcome {
            stdout: stdout.to_owned(),
            stderr: String::new(),
            status: Some(0),
        }
    }

    #[test]
    fn an_access_too_many_or_of_another_class_is_seen() {
        let mut text = String::new();
        for class in [
            "demand_data",
            "demand_metadata",
            "prefetch_data",
            "prefetch_metadata",
        ] {
            for result in OUTCOMES {
                let is_read = class == "demand_data" && result != "iohits";
                let after = if is_read { 164 } else { 100 };
                writeln!(
                    text,
                    "before {class}_{result} 4 100\nafter {class}_{result} 4 {after}"
                )
                .unwrap();
            }
        }
        let row = r#""class": "demand data", "hits": 64, "iohits": 0, "misses": 64"#;
        writeln!(
            text,
            "json {{\"losses\": {{}}, \"rows\": [{{\"comm\": \"dd\", {row}}}]}}"
        )
        .unwrap();
        writeln!(
            text,
            "cgroup {{\"losses\": {{}}, \"classes\": [{{{row}}}]}}"
        )
        .unwrap();
        let judged = arc_is_the_kstats(&outcome(&text)).unwrap();
        assert!(judged.starts_with("all 128 accesses"), "{judged}");

        let too_many = text.replace("\"hits\": 64", "\"hits\": 65");
        assert!(arc_is_the_kstats(&outcome(&too_many)).is_err());
        let prefetched = text.replace("\"demand data\"", "\"prefetch data\"");
        assert!(arc_is_the_kstats(&outcome(&prefetched)).is_err());
        let lost = text.replacen("\"losses\": {}", "\"losses\": {\"ring_full\": 1}", 1);
        assert!(arc_is_the_kstats(&outcome(&lost)).is_err());
    }

    #[test]
    fn a_sync_that_is_missing_or_longer_than_the_kstats_is_seen() {
        let mut text = String::new();
        for txg in 4..10 {
            writeln!(
                text,
                "json {{\"pool\": \"tank\", \"txg\": {txg}, \"sync_ns\": 900}}"
            )
            .unwrap();
            writeln!(text, "kstat {txg} 7 C 0 0 0 0 0 1 2 3 1000").unwrap();
        }
        text += "kstat 10 7 O 0 0 0 0 0 0 0 0 0\n";
        text += "json {\"losses\": {}, \"histograms\": [{\"pool\": \"tank\", \"count\": 6}]}\n";
        let judged = syncs_are_the_kstats(&outcome(&text)).unwrap();
        assert_eq!(judged, "6 groups, within 0.0 ms");

        let longer = text.replacen("\"sync_ns\": 900", "\"sync_ns\": 1001", 1);
        assert!(syncs_are_the_kstats(&outcome(&longer)).is_err());
        let missing = text.replace(
            "json {\"pool\": \"tank\", \"txg\": 6, \"sync_ns\": 900}\n",
            "",
        );
        assert!(syncs_are_the_kstats(&outcome(&missing)).is_err());
    }

    #[test]
    fn a_zio_or_an_allocation_that_is_missing_is_seen() {
        let types = r#"{"type": "null", "created": 9, "done": 5},
            {"type": "read", "created": 70, "done": 70},
            {"type": "write", "created": 80, "done": 80}"#
            .replace('\n', "");
        let text = format!(
            "create 0 9\ncreate 1 70\ncreate 2 80\njson {{\"losses\": {{}}, \"types\": [{types}]}}\n"
        );
        assert!(every_zio_is_counted(&outcome(&text)).is_ok());
        for wrong in ["create 1 71", "create 5 1\ncreate 1 70"] {
            assert!(every_zio_is_counted(&outcome(&text.replace("create 1 70", wrong))).is_err());
        }
        let under_way = text.replace("\"done\": 80", "\"done\": 79");
        assert!(every_zio_is_counted(&outcome(&under_way)).is_err());

        let text = "alloc 0 256\nalloc 52 1\njson {\"losses\": {}, \"histograms\": [\
                    {\"result\": \"allocated\", \"count\": 256}, \
                    {\"result\": \"failed\", \"count\": 1}]}\n";
        let judged = every_allocation_is_counted(&outcome(text)).unwrap();
        assert_eq!(judged, "256 allocations, 1 failed");
        for wrong in ["alloc 0 257", "alloc 0 256\nalloc 28 1"] {
            let text = text.replace("alloc 0 256", wrong);
            assert!(every_allocation_is_counted(&outcome(&text)).is_err());
        }
    }

    #[test]
    fn reads_that_took_no_delay_are_seen() {
        let report = |below: u64| {
            format!(
                "json {{\"losses\": {{}}, \"histograms\": [{{\"type\": \"read\", \"p50\": 44000, \
                 \"max\": 60000, \"rows\": [{{\"high\": 511, \"count\": {below}}}, \
                 {{\"high\": 65535, \"count\": 34}}]}}]}}\n"
            )
        };
        assert!(reads_take_their_delay(&outcome(&report(1))).is_ok());
        assert!(reads_take_their_delay(&outcome(&report(20))).is_err());
    }
}
