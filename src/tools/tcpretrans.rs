//! `tcpretrans`: retransmitted TCP segments, charged to the socket's owner.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::BorrowedFd;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Map, Value, json};

use super::hooks::{self, HookUse};
use super::interval::Rhythm;
use super::session::Context;
use super::tcp::{self, TcpEvent};
use super::{Report, Tool, ToolRow, clock};
use crate::bpf::{Bpf, Global, Ring};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "tcpretrans",
    about: "TCP retransmits as they happen, charged to the socket's owner",
    histogram: false,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Clone, Args)]
struct Options {
    /// Include tail-loss probes (T is then L)
    #[arg(short = 'l', long)]
    lossprobe: bool,

    /// Count retransmits per flow
    #[arg(short = 'c', long = "count", conflicts_with = "by_comm")]
    flows: bool,

    /// Count retransmits per command: that of the socket's owner, not of the interrupted task
    #[arg(long)]
    by_comm: bool,
}

/// What is counted together: a flow's ends, or a command.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    Flow(String, String),
    Command(String),
}

struct Tcpretrans {
    bpf: Bpf,
    hooks: Vec<HookUse>,
    ring: Ring,
    options: Options,
    counts: BTreeMap<Counted, u64>,
}

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let settings = context
        .settings()
        .global("with_loss_probes", Global::Bool(options.lossprobe));
    let mut bpf = context.load(ROW.name, &settings)?;
    let needs = [&tcp::STATES, &tcp::ACCEPTS, &tcp::RETRANSMITS];
    let used = hooks::attach(&mut bpf, &context.kernel, &needs)?;
    // After the programs that follow sockets from now on, so that none is missed between.
    let (program, iterator) = tcp::ADOPT;
    bpf.iterate(program, iterator)?;
    let ring = bpf.take_ring("events")?;
    Ok(Box::new(Tcpretrans {
        bpf,
        hooks: used,
        ring,
        options,
        counts: BTreeMap::new(),
    }))
}

impl Tcpretrans {
    fn drain(&mut self) -> Vec<TcpEvent> {
        let mut events = Vec::new();
        self.ring
            .drain(|record| events.extend(TcpEvent::parse(record)));
        events
    }

    fn counts_events(&self) -> bool {
        self.options.flows || self.options.by_comm
    }
}

impl Tool for Tcpretrans {
    fn rhythm(&self) -> Rhythm {
        if self.counts_events() {
            Rhythm::AtEnd
        } else {
            Rhythm::Stream
        }
    }

    fn bpf(&self) -> Option<&Bpf> {
        Some(&self.bpf)
    }

    fn hooks(&self) -> &[HookUse] {
        &self.hooks
    }

    fn collect(&mut self) -> Result<()> {
        Ok(())
    }

    fn report(&mut self) -> Report {
        let counts = std::mem::take(&mut self.counts);
        if self.options.by_comm {
            commands_report(counts)
        } else {
            flows_report(counts)
        }
    }

    fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn events_header(&self) -> Option<String> {
        (!self.counts_events()).then(|| {
            format!(
                "{:<8} {:<7} {:<2} {:<20} {:1}> {:<20} STATE\n",
                "TIME", "PID", "IP", "LADDR:LPORT", "T", "RADDR:RPORT"
            )
        })
    }

    fn events(&mut self) -> Vec<Report> {
        let events = self.drain();
        if !self.counts_events() {
            return events.iter().map(event_report).collect();
        }
        for event in events {
            let counted = if self.options.by_comm {
                Counted::Command(command(&event))
            } else {
                Counted::Flow(local_end(&event), remote_end(&event))
            };
            *self.counts.entry(counted).or_default() += 1;
        }
        Vec::new()
    }
}

fn local_end(event: &TcpEvent) -> String {
    format!("{}:{}", event.local(), event.local_port)
}

fn remote_end(event: &TcpEvent) -> String {
    format!("{}:{}", event.remote(), event.remote_port)
}

/// A socket that nobody accepted yet has no owner; the kernel's own have none either.
fn command(event: &TcpEvent) -> String {
    if event.tgid == 0 {
        "[unknown]".to_owned()
    } else {
        event.comm()
    }
}

fn event_report(event: &TcpEvent) -> Report {
    let kind = if event.loss_probe == 0 { 'R' } else { 'L' };
    let text = format!(
        "{:<8} {:<7} {:<2} {:<20} {kind}> {:<20} {}\n",
        clock::time_of_day(),
        event.tgid,
        event.ip_version(),
        local_end(event),
        remote_end(event),
        event.state_name(),
    );
    let json = json!({
        "pid": event.tgid,
        "comm": event.comm(),
        "ip": event.ip_version(),
        "laddr": event.local().to_string(),
        "lport": event.local_port,
        "raddr": event.remote().to_string(),
        "rport": event.remote_port,
        "type": kind.to_string(),
        "state": event.state_name(),
    });
    let json = match json {
        Value::Object(json) => json,
        _ => Map::new(),
    };
    Report { text, json }
}

fn by_count(counts: BTreeMap<Counted, u64>) -> Vec<(Counted, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| *count);
    counts
}

fn flows_report(counts: BTreeMap<Counted, u64>) -> Report {
    let mut text = format!(
        "{:<25} {:<25} {:<10}\n",
        "LADDR:LPORT", "RADDR:RPORT", "RETRANSMITS"
    );
    let mut rows = Vec::new();
    for (counted, count) in by_count(counts) {
        if let Counted::Flow(local, remote) = counted {
            let _ = writeln!(text, "{local:<20} <-> {remote:<20} {count:>10}");
            rows.push(json!({"local": local, "remote": remote, "retransmits": count}));
        }
    }
    Report {
        text,
        json: Map::from_iter([("flows".to_owned(), rows.into())]),
    }
}

fn commands_report(counts: BTreeMap<Counted, u64>) -> Report {
    let mut text = format!("{:<16} {:>11}\n", "COMM", "RETRANSMITS");
    let mut rows = Vec::new();
    for (counted, count) in by_count(counts) {
        if let Counted::Command(comm) = counted {
            let _ = writeln!(text, "{comm:<16} {count:>11}");
            rows.push(json!({"comm": comm, "retransmits": count}));
        }
    }
    Report {
        text,
        json: Map::from_iter([("commands".to_owned(), rows.into())]),
    }
}
