//! `zfs-arc`: hits and misses of ZFS' cache.
//!
//! Totals are the kstat's, which costs nothing and needs no hook. Who it was, the kstat does not
//! know: that is what the programs are for.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Map, Value, json};

use super::comm_table::TopArgs;
use super::hooks::{self, HookUse, Need, Shape, Way};
use super::interval::Rhythm;
use super::kernel_side::{ReportKey, Tally};
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Report, Tool, ToolRow, zfs};
use crate::bpf::{Bpf, Global, Hook};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "zfs-arc",
    about: "ZFS cache (ARC) hits, I/O hits and misses",
    histogram: false,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    /// Count per command
    #[arg(short = 'P', long = "commands")]
    per_command: bool,

    #[command(flatten)]
    top: TopArgs,
}

const KSTAT: &str = "/proc/spl/kstat/zfs/arcstats";

/// By `id` of the kernel side: bit 0 is prefetch, bit 1 metadata. The kstat's words.
const CLASSES: [(&str, &str); 4] = [
    ("demand data", "demand_data"),
    ("prefetch data", "prefetch_data"),
    ("demand metadata", "demand_metadata"),
    ("prefetch metadata", "prefetch_metadata"),
];

const INSTEAD: &str = "run it without -P, -p and --cgroup: totals need no hook";

static READS: Need = Need {
    what: "what a read is for",
    ways: &[Way {
        attach: &[
            ("read", Hook::Kprobe("arc_read")),
            ("buf_access", Hook::Kprobe("arc_buf_access")),
        ],
        shape: Shape::OfModule,
        since: "OpenZFS 0.8 and later, CONFIG_KPROBES",
    }],
    instead: INSTEAD,
    optional: false,
};

static OUTCOMES: Need = Need {
    what: "hits, I/O hits and misses",
    ways: &[
        Way {
            attach: &[
                ("iohit", Hook::Kprobe("trace_zfs_arc__iohit")),
                ("hit", Hook::Kprobe("trace_zfs_arc__hit")),
                ("miss", Hook::Kprobe("trace_zfs_arc__miss")),
            ],
            shape: Shape::OfModule,
            since: "OpenZFS 2.2 and later, CONFIG_KPROBES",
        },
        Way {
            attach: &[
                ("hit", Hook::Kprobe("trace_zfs_arc__hit")),
                ("miss", Hook::Kprobe("trace_zfs_arc__miss")),
            ],
            shape: Shape::OfModule,
            since: "OpenZFS 2.1, CONFIG_KPROBES",
        },
    ],
    instead: INSTEAD,
    optional: false,
};

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    zfs::require()?;
    if !options.per_command && !context.filters_tasks {
        return Ok(Box::new(Totals::new()?));
    }
    let settings = context
        .settings()
        .global("per_command", Global::Bool(options.per_command));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&READS, &OUTCOMES])?;
    let (per_command, top) = (options.per_command, options.top.top);
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::EverySecond,
        Box::new(move |tallies| {
            if per_command {
                commands_report(tallies, top)
            } else {
                classes_report(&by_class(tallies))
            }
        }),
    )))
}

/// Accesses by outcome.
#[derive(Debug, Clone, Copy, Default)]
struct Accesses {
    hits: u64,
    iohits: u64,
    misses: u64,
}

/// By the index of [`CLASSES`].
type Classes = [Accesses; CLASSES.len()];

impl Accesses {
    /// As the kernel side counts: all, I/O hits, misses.
    fn of(tally: &Tally) -> Self {
        Self {
            hits: tally.count.saturating_sub(tally.amount + tally.extra),
            iohits: tally.amount,
            misses: tally.extra,
        }
    }

    /// The counters are sums over CPUs that move on meanwhile, so one may seem to go back.
    fn since(self, before: Self) -> Self {
        Self {
            hits: self.hits.saturating_sub(before.hits),
            iohits: self.iohits.saturating_sub(before.iohits),
            misses: self.misses.saturating_sub(before.misses),
        }
    }

    fn all(self) -> u64 {
        self.hits + self.iohits + self.misses
    }

    fn hit_percent(self) -> f64 {
        match self.all() {
            0 => 0.0,
            all => 100.0 * self.hits as f64 / all as f64,
        }
    }
}

impl std::ops::AddAssign for Accesses {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.iohits += other.iohits;
        self.misses += other.misses;
    }
}

/// The kstat's counters, reported as differences.
struct Totals {
    hooks: Vec<HookUse>,
    seen: Classes,
    gathered: Classes,
}

impl Totals {
    fn new() -> Result<Self> {
        Ok(Self {
            hooks: vec![HookUse {
                hook: format!("kstat:{KSTAT}"),
                program: "none",
                why: "totals, as ZFS itself counts them".to_owned(),
            }],
            seen: read_kstat()?,
            gathered: Classes::default(),
        })
    }
}

impl Tool for Totals {
    fn rhythm(&self) -> Rhythm {
        Rhythm::EverySecond
    }

    fn bpf(&self) -> Option<&Bpf> {
        None
    }

    fn hooks(&self) -> &[HookUse] {
        &self.hooks
    }

    fn collect(&mut self) -> Result<()> {
        let now = read_kstat()?;
        for ((gathered, now), seen) in self.gathered.iter_mut().zip(now).zip(self.seen) {
            *gathered += now.since(seen);
        }
        self.seen = now;
        Ok(())
    }

    fn report(&mut self) -> Report {
        classes_report(&std::mem::take(&mut self.gathered))
    }
}

fn read_kstat() -> Result<Classes> {
    let text = fs::read_to_string(KSTAT).with_context(|| format!("cannot read {KSTAT}"))?;
    Ok(parse_kstat(&text))
}

/// Lines are `name type value`. Before 2.2 there are no I/O hits.
fn parse_kstat(text: &str) -> Classes {
    let mut classes = Classes::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(value)) = (words.next(), words.nth(1)) else {
            continue;
        };
        for (class, (_, prefix)) in classes.iter_mut().zip(CLASSES) {
            let outcome = name.strip_prefix(prefix);
            let counter = match outcome {
                Some("_hits") => &mut class.hits,
                Some("_iohits") => &mut class.iohits,
                Some("_misses") => &mut class.misses,
                _ => continue,
            };
            *counter = value.parse().unwrap_or(0);
        }
    }
    classes
}

fn by_class(tallies: &[(ReportKey, Tally)]) -> Classes {
    let mut classes = Classes::default();
    for (key, tally) in tallies {
        if let Some(class) = classes.get_mut(key.id as usize) {
            *class += Accesses::of(tally);
        }
    }
    classes
}

const TITLES: &str = "      HITS     IOHITS     MISSES    HIT%";

fn numbers(accesses: Accesses) -> String {
    format!(
        " {:>10} {:>10} {:>10} {:>6.2}%",
        accesses.hits,
        accesses.iohits,
        accesses.misses,
        accesses.hit_percent()
    )
}

fn json_row(labels: &[(&str, &str)], accesses: Accesses) -> Map<String, Value> {
    let labels = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).into()));
    let mut row: Map<String, Value> = labels.collect();
    row.extend([
        ("hits".to_owned(), accesses.hits.into()),
        ("iohits".to_owned(), accesses.iohits.into()),
        ("misses".to_owned(), accesses.misses.into()),
        ("hit_percent".to_owned(), json!(accesses.hit_percent())),
    ]);
    row
}

fn classes_report(classes: &Classes) -> Report {
    let mut text = format!("{:<17} {TITLES}\n", "CLASS");
    let mut rows = Vec::new();
    let mut all = Accesses::default();
    for (accesses, (class, _)) in classes.iter().zip(CLASSES) {
        let _ = writeln!(text, "{class:<17}{}", numbers(*accesses));
        rows.push(Value::Object(json_row(&[("class", class)], *accesses)));
        all += *accesses;
    }
    let _ = writeln!(text, "{:<17}{}", "all", numbers(all));
    let mut json = json_row(&[], all);
    json.insert("classes".to_owned(), rows.into());
    Report { text, json }
}

fn commands_report(tallies: &[(ReportKey, Tally)], top: usize) -> Report {
    let mut tallies = tallies.to_vec();
    tallies.sort_by_key(|(key, tally)| (std::cmp::Reverse(tally.count), key.comm, key.id));
    tallies.truncate(top);
    let mut text = format!("{:<16} {:<17} {TITLES}\n", "COMM", "CLASS");
    let mut rows = Vec::new();
    for (key, tally) in &tallies {
        let (class, _) = CLASSES.get(key.id as usize).copied().unwrap_or_default();
        let comm = key.comm();
        let accesses = Accesses::of(tally);
        let _ = writeln!(text, "{comm:<16} {class:<17}{}", numbers(accesses));
        let labels = [("comm", comm.as_str()), ("class", class)];
        rows.push(Value::Object(json_row(&labels, accesses)));
    }
    Report {
        text,
        json: Map::from_iter([("rows".to_owned(), rows.into())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KSTAT_TEXT: &str = "9 1 0x01 147 39984 5000 6000\n\
                              name                            type data\n\
                              hits                            4    1100\n\
                              demand_data_hits                4    900\n\
                              demand_data_iohits              4    60\n\
                              demand_data_misses              4    40\n\
                              prefetch_metadata_hits          4    200\n\
                              demand_hit_predictive_prefetch  4    77\n\
                              prefetch_data_misses            4    damaged\n\
                              cut";

    #[test]
    fn the_kstat_is_read_by_class() {
        let report = classes_report(&parse_kstat(KSTAT_TEXT));
        assert_eq!(
            report.text,
            "CLASS                   HITS     IOHITS     MISSES    HIT%\n\
             demand data              900         60         40  90.00%\n\
             prefetch data              0          0          0   0.00%\n\
             demand metadata            0          0          0   0.00%\n\
             prefetch metadata        200          0          0 100.00%\n\
             all                     1100         60         40  91.67%\n"
        );
        assert_eq!(report.json["misses"], 40);
        assert_eq!(report.json["classes"][0]["iohits"], 60);
    }

    #[test]
    fn commands_come_by_their_accesses() {
        let entry = |comm: &[u8], id, count: u64| {
            let mut key = ReportKey {
                epoch: 0,
                id,
                detail: 0,
                comm: [0; 16],
            };
            key.comm[..comm.len()].copy_from_slice(comm);
            let tally = Tally {
                count,
                amount: 0,
                extra: 1,
            };
            (key, tally)
        };
        let entries = [
            entry(b"few", 0, 3),
            entry(b"most", 3, 100),
            entry(b"none", 0, 1),
        ];
        let report = commands_report(&entries, 2);
        assert_eq!(
            report.text,
            "COMM             CLASS                   HITS     IOHITS     MISSES    HIT%\n\
             most             prefetch metadata         99          0          1  99.00%\n\
             few              demand data                2          0          1  66.67%\n"
        );
    }
}
