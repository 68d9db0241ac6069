//! `cachestat`: page-cache hits, misses and dirtied pages.

use anyhow::Result;
use clap::{ArgMatches, Args};
use serde_json::{Value, json};

use super::hooks::{self, Need, Shape, Way};
use super::interval::Rhythm;
use super::kernel_side::{ReportKey, Tally};
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Report, Tool, ToolRow};
use crate::bpf::Hook;

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "cachestat",
    about: "Page-cache hits, misses, dirtied pages and hit ratio",
    histogram: false,
    options: NoOptions::augment_args,
    start,
};

#[derive(Debug, Args)]
struct NoOptions {}

/// What a tally's id means on the kernel side.
const ACCESSES: u32 = 1;
const MISSES: u32 = 2;
const DIRTIES: u32 = 3;

const INSTEAD: &str =
    "use kernel 6.12 or later, or one built with CONFIG_KPROBES; `vmstat 1` shows the disk's side";

static READS: Need = Need {
    what: "reads through the page cache",
    ways: &[
        Way {
            attach: &[("get_pages", Hook::TpBtf("mm_filemap_get_pages"))],
            shape: Shape::Parameters(3),
            since: "6.12",
        },
        Way {
            attach: &[("filemap_read", Hook::Kprobe("filemap_read"))],
            shape: Shape::Parameters(3),
            since: "5.12, CONFIG_KPROBES",
        },
        Way {
            attach: &[("filemap_read", Hook::Kprobe("generic_file_buffered_read"))],
            shape: Shape::Parameters(3),
            since: "before 5.12, CONFIG_KPROBES",
        },
    ],
    instead: INSTEAD,
    optional: false,
};

static FAULTS: Need = Need {
    what: "faults on mapped files",
    ways: &[
        Way {
            attach: &[
                ("fault", Hook::TpBtf("mm_filemap_fault")),
                ("map_pages", Hook::TpBtf("mm_filemap_map_pages")),
            ],
            shape: Shape::Parameters(2),
            since: "6.12",
        },
        Way {
            attach: &[("filemap_fault", Hook::Kprobe("filemap_fault"))],
            shape: Shape::Parameters(1),
            since: "5.10 and later, CONFIG_KPROBES",
        },
    ],
    instead: INSTEAD,
    optional: false,
};

static ADDITIONS: Need = Need {
    what: "pages that come into the cache",
    ways: &[Way {
        attach: &[(
            "add_to_page_cache",
            Hook::TpBtf("mm_filemap_add_to_page_cache"),
        )],
        shape: Shape::Parameters(1),
        since: "5.10 and later",
    }],
    instead: INSTEAD,
    optional: false,
};

static DIRTIED: Need = Need {
    what: "pages that become dirty",
    ways: &[
        Way {
            attach: &[("dirty_folio", Hook::TpBtf("writeback_dirty_folio"))],
            shape: Shape::Parameters(2),
            since: "5.18",
        },
        Way {
            attach: &[("dirty_page", Hook::TpBtf("writeback_dirty_page"))],
            shape: Shape::Parameters(2),
            since: "before 5.18",
        },
    ],
    instead: INSTEAD,
    optional: false,
};

fn start(_: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let mut bpf = context.load(ROW.name, &context.settings())?;
    let needs = [&ADDITIONS, &DIRTIED, &FAULTS, &READS];
    let used = hooks::attach(&mut bpf, &context.kernel, &needs)?;
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::EverySecond,
        Box::new(|tallies| {
            let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
            report(tallies, &memory)
        }),
    )))
}

fn report(tallies: &[(ReportKey, Tally)], memory: &str) -> Report {
    let pages = |what| {
        let of_kind = tallies.iter().filter(|(key, _)| key.id == what);
        of_kind.map(|(_, tally)| tally.count).sum::<u64>()
    };
    let (accesses, misses, dirties) = (pages(ACCESSES), pages(MISSES), pages(DIRTIES));
    // Readahead brings in pages before, and sometimes without, their access.
    let hits = accesses.saturating_sub(misses);
    let looked_up = hits + misses;
    let ratio = if looked_up == 0 {
        0.0
    } else {
        100.0 * hits as f64 / looked_up as f64
    };
    let (buffers_mb, cached_mb) = (
        meminfo_kb(memory, "Buffers") / 1024,
        meminfo_kb(memory, "Cached") / 1024,
    );
    let text = format!(
        "{:>8} {:>8} {:>8} {:>12} {:>10} {:>7}\n\
         {hits:>8} {misses:>8} {dirties:>8} {buffers_mb:>12} {cached_mb:>10} {ratio:>6.2}%\n",
        "HITS", "MISSES", "DIRTIES", "BUFFERS_MB", "CACHED_MB", "HIT%"
    );
    let json = json!({
        "accesses": accesses,
        "hits": hits,
        "misses": misses,
        "dirties": dirties,
        "buffers_mb": buffers_mb,
        "cached_mb": cached_mb,
        "hit_percent": ratio,
    });
    let Value::Object(json) = json else {
        return Report::default();
    };
    Report { text, json }
}

fn meminfo_kb(memory: &str, field: &str) -> u64 {
    memory
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .and_then(|value| value.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(id: u32, count: u64) -> (ReportKey, Tally) {
        let key = ReportKey {
            epoch: 0,
            id,
            detail: 0,
            comm: [0; 16],
        };
        let tally = Tally {
            count,
            ..Tally::default()
        };
        (key, tally)
    }

    #[test]
    fn misses_are_no_hits() {
        let tallies = [tally(ACCESSES, 400), tally(MISSES, 100), tally(DIRTIES, 7)];
        let report = report(&tallies, "Buffers:  2048 kB\nCached:  10240 kB\n");
        assert_eq!(
            report.text,
            "    HITS   MISSES  DIRTIES   BUFFERS_MB  CACHED_MB    HIT%\n     \
             300      100        7            2         10  75.00%\n"
        );
    }

    #[test]
    fn readahead_makes_no_negative_hits() {
        let report = report(&[tally(ACCESSES, 1), tally(MISSES, 32)], "");
        assert_eq!(
            (&report.json["hits"], &report.json["misses"]),
            (&0.into(), &32.into())
        );
    }
}
