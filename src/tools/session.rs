//! Runs any tool: waits for deadlines, events and signals, prints reports.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{ArgMatches, FromArgMatches};
use rustix::event::{PollFd, PollFlags};
use serde_json::{Map, Value, json};

use super::args::{CommonArgs, HeatmapArgs};
use super::clock;
use super::heatmap::Heatmap;
use super::interval::{Rhythm, Schedule, Timer};
use super::kernel_side::Losses;
use super::{Report, Tool, ToolRow};
use crate::bpf::{Bpf, Global, KernelBtf, Settings};
use crate::error::Error;
use crate::preflight;
use crate::profile::cgroup;
use crate::profile::signals::Signals;
use crate::render::output;
use crate::wait::wait_for;

/// A column of a heat map when the reports are not its columns.
const COLUMN: Duration = Duration::from_secs(1);

/// A tool and its command line.
#[derive(Debug)]
pub struct Invocation {
    /// Its row.
    pub row: &'static ToolRow,
    /// What the user typed.
    pub matches: ArgMatches,
}

/// What a tool starts from.
#[derive(Debug)]
pub struct Context {
    /// The hooks of this kernel.
    pub kernel: KernelBtf,
    pids: Vec<u32>,
    cgroup: Option<(u64, u32)>,
    /// Whether any filter on tasks is set.
    pub filters_tasks: bool,
    /// `-T`.
    pub timestamps: bool,
}

impl Context {
    /// The settings that every object takes: the filters.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let settings =
            Settings::default().global("filter_processes", Global::Bool(!self.pids.is_empty()));
        match self.cgroup {
            Some((id, level)) => settings
                .global("filter_cgroup_id", Global::U64(id))
                .global("filter_cgroup_level", Global::U32(level)),
            None => settings,
        }
    }

    /// Loads a tool's object and fills in the filter.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(&self, tool: &str, settings: &Settings) -> Result<Bpf> {
        let mut bpf = Bpf::load(tool, settings)?;
        for pid in &self.pids {
            bpf.insert("targets", *pid, 1_u8)?;
        }
        Ok(bpf)
    }

    fn new(common: &CommonArgs) -> Result<Self> {
        preflight::Facts::read().check()?;
        let pids = preflight::living_processes(&common.pids)?;
        let cgroup = common
            .cgroup
            .as_deref()
            .map(cgroup::id_and_level)
            .transpose()?;
        Ok(Self {
            kernel: KernelBtf::read()?,
            filters_tasks: !pids.is_empty() || cgroup.is_some(),
            pids,
            cgroup,
            timestamps: common.timestamps,
        })
    }
}

/// Runs a tool to its end.
///
/// # Errors
/// Those of starting it (status 3 when a hook is missing), of reading the maps, of writing.
pub fn run(invocation: &Invocation) -> Result<()> {
    let (row, matches) = (invocation.row, &invocation.matches);
    let common = CommonArgs::from_arg_matches(matches).map_err(|error| usage(&error))?;
    let heatmap = if row.histogram {
        HeatmapArgs::from_arg_matches(matches)
            .map_err(|error| usage(&error))?
            .heatmap
    } else {
        None
    };
    if let Some(path) = &heatmap {
        output::check_writable(path)?;
    }
    let context = Context::new(&common)?;
    let signals = Signals::catch()?;
    let tool = (row.start)(matches, &context)?;
    if common.explain_hooks {
        return explain_hooks(row, tool.as_ref(), common.json);
    }
    let schedule = Schedule::new(
        tool.rhythm(),
        common.interval,
        common.count,
        common.timestamps,
    );
    let mut session = Session {
        row,
        tool,
        json: common.json,
        timestamps: common.timestamps,
        heatmap: heatmap.as_ref().map(|_| Heatmap::default()),
        period_start: Instant::now(),
        out: io::stdout(),
    };
    session.run(&signals, schedule)?;
    if let (Some(path), Some(heatmap)) = (&heatmap, &session.heatmap) {
        output::write_atomically(path, |out| heatmap.write_svg(row.name, out))?;
    }
    Ok(())
}

fn usage(error: &clap::Error) -> Error {
    Error::Usage(error.to_string())
}

fn explain_hooks(row: &ToolRow, tool: &dyn Tool, as_json: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        let hooks: Vec<_> = tool
            .hooks()
            .iter()
            .map(|used| json!({"hook": used.hook, "program": used.program, "why": used.why}))
            .collect();
        writeln!(out, "{}", json!({"tool": row.name, "hooks": hooks}))?;
    } else {
        writeln!(out, "{:<40} {:<20} WHY", "HOOK", "PROGRAM")?;
        for used in tool.hooks() {
            writeln!(out, "{:<40} {:<20} {}", used.hook, used.program, used.why)?;
        }
    }
    Ok(out.flush()?)
}

struct Session {
    row: &'static ToolRow,
    tool: Box<dyn Tool>,
    json: bool,
    timestamps: bool,
    heatmap: Option<Heatmap>,
    period_start: Instant,
    out: io::Stdout,
}

enum Wake {
    Deadline,
    Signal,
}

impl Session {
    fn run(&mut self, signals: &Signals, schedule: Schedule) -> Result<()> {
        let mut stderr = io::stderr();
        // Where standard error is gone, results still matter.
        let _ = writeln!(stderr, "Tracing: {}... Hit Ctrl-C to end.", self.row.about);
        if !self.json
            && let Some(header) = self.tool.events_header()
        {
            self.print(&header)?;
        }
        let start = Instant::now();
        self.period_start = start;
        let mut reports = Timer::new(start, schedule.interval);
        let mut columns = Timer::new(start, self.heatmap.is_some().then_some(COLUMN));
        let repeated = schedule.interval.is_some() && schedule.reports != Some(1);
        if repeated {
            columns = Timer::new(start, None);
        }
        let mut left = schedule.reports;
        loop {
            let wake = self.wait(signals, &reports, &mut columns)?;
            reports.advance(Instant::now());
            self.report()?;
            left = left.map(|left| left - 1);
            if matches!(wake, Wake::Signal) || left == Some(0) {
                break;
            }
        }
        self.tell_losses()
    }

    /// Until a report is due; prints events and draws columns on the way.
    fn wait(&mut self, signals: &Signals, reports: &Timer, columns: &mut Timer) -> Result<Wake> {
        loop {
            self.print_events()?;
            let now = Instant::now();
            let until_report = reports.remaining(now);
            let until_column = columns.remaining(now);
            if until_report == Some(Duration::ZERO) {
                return Ok(Wake::Deadline);
            }
            if until_column == Some(Duration::ZERO) {
                self.collect()?;
                columns.advance(now);
                continue;
            }
            let timeout = until_report.into_iter().chain(until_column).min();
            if wait_for_signal(signals, self.tool.as_ref(), timeout)? && signals.take() {
                return Ok(Wake::Signal);
            }
        }
    }

    fn collect(&mut self) -> Result<()> {
        self.tool.collect()?;
        if let Some(heatmap) = &mut self.heatmap
            && let Some((rows, unit)) = self.tool.heat()
        {
            heatmap.push(clock::time_of_day(), &rows, unit);
        }
        Ok(())
    }

    fn report(&mut self) -> Result<()> {
        self.collect()?;
        // After it, so that every event a report counts has been told.
        self.print_events()?;
        let seconds = self.period_start.elapsed().as_secs_f64();
        self.period_start = Instant::now();
        let report = self.tool.report();
        if self.tool.rhythm() == Rhythm::Stream {
            return Ok(());
        }
        if self.json {
            return self.print_json(report, Some(seconds));
        }
        let mut text = String::from("\n");
        if self.timestamps {
            text += &clock::time_of_day();
            text.push('\n');
        }
        text += &report.text;
        self.print(&text)
    }

    fn print_events(&mut self) -> Result<()> {
        for event in self.tool.events() {
            if self.json {
                self.print_json(event, None)?;
            } else {
                self.print(&event.text)?;
            }
        }
        Ok(())
    }

    fn print_json(&mut self, report: Report, seconds: Option<f64>) -> Result<()> {
        let mut object = Map::new();
        object.insert("tool".into(), self.row.name.into());
        object.insert("time".into(), clock::unix_seconds().into());
        if let Some(seconds) = seconds {
            object.insert("seconds".into(), seconds.into());
            let losses = self.losses()?.into_iter();
            let losses: Map<_, _> = losses
                .map(|(cause, count)| (cause.to_owned(), count.into()))
                .collect();
            object.insert("losses".into(), losses.into());
        }
        object.extend(report.json);
        self.print(&format!("{}\n", Value::Object(object)))
    }

    fn print(&mut self, text: &str) -> Result<()> {
        let mut out = self.out.lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot write to standard output")
    }

    /// What was not counted since the tool was attached, by cause, without zeros.
    fn losses(&self) -> Result<Vec<(&'static str, u64)>> {
        let Some(bpf) = self.tool.bpf() else {
            return Ok(Vec::new());
        };
        let mut losses = Losses::read(bpf)?.named();
        losses.push(("nested", bpf.missed_runs()));
        losses.retain(|(_, count)| *count > 0);
        Ok(losses)
    }

    fn tell_losses(&self) -> Result<()> {
        for (cause, count) in self.losses()? {
            let _ = writeln!(io::stderr(), "not counted: {count} ({cause})");
        }
        Ok(())
    }
}

/// Whether a signal may have arrived; false for events and the end of the time.
fn wait_for_signal(signals: &Signals, tool: &dyn Tool, timeout: Option<Duration>) -> Result<bool> {
    let mut descriptors = vec![PollFd::new(signals, PollFlags::IN)];
    let events = tool.events_fd();
    if let Some(events) = &events {
        descriptors.push(PollFd::new(events, PollFlags::IN));
    }
    wait_for(&mut descriptors, timeout)?;
    Ok(!descriptors[0].revents().is_empty())
}
