//! `zfs-txg`: syncs of transaction groups, as they happen and as a histogram.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Map, Value, json};

use super::histogram::ROWS;
use super::histogram_tool::{self, HistogramTool, Section};
use super::hooks::{self, HookUse, Need, Shape, Way};
use super::interval::Rhythm;
use super::kernel_side::{ReportKey, printable_comm};
use super::session::Context;
use super::{Report, Tool, ToolRow, clock, zfs};
use crate::bpf::{Bpf, Global, Hook, Pod, Ring, split_record};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "zfs-txg",
    about: "ZFS transaction group syncs as they happen, and as a histogram",
    histogram: true,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Args)]
struct Options {
    /// Milliseconds instead of microseconds in the histogram
    #[arg(short, long)]
    milliseconds: bool,
}

static SYNCS: Need = Need {
    what: "syncs of transaction groups",
    ways: &[Way {
        attach: &[
            ("synced", Hook::Kretprobe("spa_sync")),
            ("sync", Hook::Kprobe("spa_sync")),
        ],
        shape: Shape::OfModule,
        since: "OpenZFS 0.8 and later, CONFIG_KPROBES",
    }],
    instead: "use a kernel built with CONFIG_KPROBES that lets root use them; without them \
              /proc/spl/kstat/zfs/POOL/txgs has the last hundred",
    optional: false,
};

/// `struct txg_event` of the kernel side.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TxgEvent {
    /// How long the sync took.
    pub duration_ns: u64,
    /// The transaction group's number.
    pub txg: u64,
    /// Tells pools apart.
    pub spa: u64,
    /// The pool's name, cut and padded with zeros.
    pub pool: [u8; 64],
}
// SAFETY: integers without padding, C layout.
unsafe impl Pod for TxgEvent {}

impl TxgEvent {
    fn parse(record: &[u8]) -> Option<Self> {
        split_record(record).map(|(event, _)| event)
    }
}

/// Names by `spa`, which the histograms' keys have.
type Pools = Rc<RefCell<BTreeMap<u64, String>>>;

struct ZfsTxg {
    histograms: HistogramTool,
    ring: Ring,
    pools: Pools,
}

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    zfs::require()?;
    let (unit, unit_ns) = histogram_tool::unit(options.milliseconds);
    let settings = context.settings().global("unit_ns", Global::U64(unit_ns));
    let mut bpf = context.load(ROW.name, &settings)?;
    let used = hooks::attach(&mut bpf, &context.kernel, &[&SYNCS])?;
    let ring = bpf.take_ring("events")?;
    let pools = Pools::default();
    let names = Rc::clone(&pools);
    let section_of = move |key: &ReportKey| -> Section {
        let name = names.borrow().get(&key.detail).cloned();
        vec![("pool", name.unwrap_or_else(|| "[unknown]".to_owned()))]
    };
    Ok(Box::new(ZfsTxg {
        histograms: HistogramTool::new(bpf, used, unit, Box::new(section_of)),
        ring,
        pools,
    }))
}

impl Tool for ZfsTxg {
    fn rhythm(&self) -> Rhythm {
        Rhythm::AtEnd
    }

    fn bpf(&self) -> Option<&Bpf> {
        self.histograms.bpf()
    }

    fn hooks(&self) -> &[HookUse] {
        self.histograms.hooks()
    }

    fn collect(&mut self) -> Result<()> {
        self.histograms.collect()
    }

    fn report(&mut self) -> Report {
        self.histograms.report()
    }

    fn heat(&mut self) -> Option<([u64; ROWS], &'static str)> {
        self.histograms.heat()
    }

    fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn events_header(&self) -> Option<String> {
        Some(format!(
            "{:<8} {:<16} {:>10} {:>12}\n",
            "TIME", "POOL", "TXG", "SYNC_MS"
        ))
    }

    fn events(&mut self) -> Vec<Report> {
        let mut events = Vec::new();
        self.ring
            .drain(|record| events.extend(TxgEvent::parse(record)));
        let mut pools = self.pools.borrow_mut();
        for event in &events {
            pools.insert(event.spa, printable_comm(&event.pool));
        }
        events.iter().map(event_report).collect()
    }
}

fn event_report(event: &TxgEvent) -> Report {
    let pool = printable_comm(&event.pool);
    let sync_ms = event.duration_ns as f64 / 1e6;
    let text = format!(
        "{:<8} {pool:<16} {:>10} {sync_ms:>12.3}\n",
        clock::time_of_day(),
        event.txg,
    );
    let json = json!({"pool": pool, "txg": event.txg, "sync_ns": event.duration_ns});
    let json = match json {
        Value::Object(json) => json,
        _ => Map::new(),
    };
    Report { text, json }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line_and_a_short_record_none() {
        let mut pool = [0; 64];
        pool[..5].copy_from_slice(b"ta\nnk");
        let event = TxgEvent {
            duration_ns: 12_345_678,
            txg: 99,
            spa: 1,
            pool,
        };
        let report = event_report(&event);
        assert_eq!(
            report.text[8..],
            *" ta?nk                    99       12.346\n"
        );
        assert_eq!(report.json["sync_ns"], 12_345_678);
        assert!(TxgEvent::parse(&[0; 87]).is_none());
        assert!(TxgEvent::parse(&[0; 88]).is_some());
    }
}
