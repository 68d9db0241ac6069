//! `tcplife`: TCP sessions with their bytes and duration.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Value, json};

use super::hooks::{self, HookUse};
use super::interval::Rhythm;
use super::session::Context;
use super::tcp::{self, TcpEvent};
use super::{Report, Tool, ToolRow, clock};
use crate::bpf::{Bpf, Ring};

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "tcplife",
    about: "TCP sessions with their bytes and duration, as they end",
    histogram: false,
    options: Options::augment_args,
    start,
};

#[derive(Debug, Clone, Args)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "switches of the command line"
)]
struct Options {
    /// Print seconds since the start
    #[arg(short = 't', long = "seconds")]
    seconds: bool,

    /// Wide columns, which fit IPv6 addresses, and the IP version
    #[arg(short, long)]
    wide: bool,

    /// Comma-separated values
    #[arg(short = 's', long)]
    csv: bool,

    /// IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,

    /// IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,

    /// Only these local ports: a comma list
    #[arg(short = 'L', long, value_name = "PORT", value_delimiter = ',')]
    localport: Vec<u16>,

    /// Only these remote ports: a comma list
    #[arg(short = 'D', long, value_name = "PORT", value_delimiter = ',')]
    remoteport: Vec<u16>,
}

impl Options {
    fn wants(&self, event: &TcpEvent) -> bool {
        let port = |wanted: &[u16], port| wanted.is_empty() || wanted.contains(&port);
        let version = event.ip_version();
        port(&self.localport, event.local_port)
            && port(&self.remoteport, event.remote_port)
            && !(self.ipv4 && version != 4)
            && !(self.ipv6 && version != 6)
    }

    fn header(&self, time_of_day: bool) -> String {
        let mut line = String::new();
        if time_of_day {
            line += &self.time_cell("TIME", 8);
        }
        if self.seconds {
            line += &self.time_cell("TIME(s)", 9);
        }
        line += &self.row(&[
            "PID", "COMM", "IP", "LADDR", "LPORT", "RADDR", "RPORT", "TX_KB", "RX_KB", "MS",
        ]);
        line
    }

    fn time_cell(&self, text: &str, width: usize) -> String {
        if self.csv {
            format!("{text},")
        } else {
            format!("{text:<width$} ")
        }
    }

    /// bcc's columns.
    fn row(&self, cells: &[&str; 10]) -> String {
        let [pid, comm, ip, laddr, lport, raddr, rport, tx, rx, ms] = cells;
        if self.csv {
            return cells.join(",") + "\n";
        }
        if self.wide {
            return format!(
                "{pid:<5} {comm:<16.16} {ip:<2} {laddr:<26} {lport:<5} {raddr:<26} {rport:<5} \
                 {tx:>6} {rx:>6} {ms}\n"
            );
        }
        format!(
            "{pid:<5} {comm:<10.10} {laddr:<15} {lport:<5} {raddr:<15} {rport:<5} {tx:>5} {rx:>5} \
             {ms}\n"
        )
    }
}

struct Tcplife {
    bpf: Bpf,
    hooks: Vec<HookUse>,
    ring: Ring,
    options: Options,
    time_of_day: bool,
    start: Instant,
}

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let mut bpf = context.load(ROW.name, &context.settings())?;
    let needs = [&tcp::STATES, &tcp::ACCEPTS];
    let used = hooks::attach(&mut bpf, &context.kernel, &needs)?;
    let ring = bpf.take_ring("events")?;
    Ok(Box::new(Tcplife {
        bpf,
        hooks: used,
        ring,
        options,
        time_of_day: context.timestamps,
        start: Instant::now(),
    }))
}

impl Tool for Tcplife {
    fn rhythm(&self) -> Rhythm {
        Rhythm::Stream
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
        Report::default()
    }

    fn events_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn events_header(&self) -> Option<String> {
        Some(self.options.header(self.time_of_day))
    }

    fn events(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        let (options, time_of_day, start) = (&self.options, self.time_of_day, self.start);
        self.ring.drain(|record| {
            if let Some(event) = TcpEvent::parse(record).filter(|event| options.wants(event)) {
                let mut prefix = String::new();
                if time_of_day {
                    prefix += &options.time_cell(&clock::time_of_day(), 8);
                }
                if options.seconds {
                    let seconds = format!("{:.6}", start.elapsed().as_secs_f64());
                    prefix += &options.time_cell(&seconds, 9);
                }
                reports.push(session_report(&event, options, prefix));
            }
        });
        reports
    }
}

fn session_report(event: &TcpEvent, options: &Options, prefix: String) -> Report {
    let duration_ms = event.duration_ns as f64 / 1e6;
    let (local, remote) = (event.local().to_string(), event.remote().to_string());
    let row = options.row(&[
        &event.tgid.to_string(),
        &event.comm(),
        &event.ip_version().to_string(),
        &local,
        &event.local_port.to_string(),
        &remote,
        &event.remote_port.to_string(),
        &(event.sent_bytes / 1024).to_string(),
        &(event.received_bytes / 1024).to_string(),
        &format!("{duration_ms:.2}"),
    ]);
    let json = json!({
        "pid": event.tgid,
        "comm": event.comm(),
        "ip": event.ip_version(),
        "laddr": local,
        "lport": event.local_port,
        "raddr": remote,
        "rport": event.remote_port,
        "tx_bytes": event.sent_bytes,
        "rx_bytes": event.received_bytes,
        "duration_ms": duration_ms,
    });
    let json = match json {
        Value::Object(json) => json,
        _ => serde_json::Map::new(),
    };
    Report {
        text: prefix + &row,
        json,
    }
}
