//! `funccount`: calls per function.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Map, json};

use super::functions::{self, Targets};
use super::hooks::HookUse;
use super::interval::Rhythm;
use super::kernel_side::{ReportKey, Tally};
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Report, Tool, ToolRow};
use crate::bpf::{Bpf, PerfLink};
use crate::error::Error;

/// The tool's row.
pub static ROW: ToolRow = ToolRow {
    name: "funccount",
    about: "Calls per function: kernel, tracepoint or user",
    histogram: false,
    options: Options::augment_args,
    start,
};

/// Each attachment holds two descriptors.
const DESCRIPTORS: u64 = 1 << 20;

#[derive(Debug, Args)]
struct Options {
    /// ext4_*, t:CATEGORY:EVENT, LIBRARY:FUNCTION or /PATH:FUNCTION
    #[arg(value_name = "PATTERN")]
    pattern: String,

    /// The pattern is a regular expression
    #[arg(short, long)]
    regexp: bool,
}

fn start(matches: &ArgMatches, context: &Context) -> Result<Box<dyn Tool>> {
    let options = Options::from_arg_matches(matches)?;
    let targets = functions::find(&options.pattern, options.regexp, &context.kernel)?;
    allow_many_descriptors();
    let mut bpf = context.load(ROW.name, &context.settings())?;
    let (names, links, used) = attach(&mut bpf, targets)?;
    let render = move |tallies: &[(ReportKey, Tally)]| {
        // What keeps the program attached lives as long as its reports.
        let _ = &links;
        report(tallies, &names)
    };
    Ok(Box::new(TallyTool::new(
        bpf,
        used,
        Rhythm::AtEnd,
        Box::new(render),
    )))
}

/// Attaches the target of this index.
type AttachOne = Box<dyn Fn(&mut Bpf, usize) -> Result<Option<PerfLink>>>;

type Attached = (Vec<String>, Vec<PerfLink>, Vec<HookUse>);

/// Attaches all that can be attached: some functions cannot be probed, and one of those must not
/// end the others' count.
fn attach(bpf: &mut Bpf, targets: Targets) -> Result<Attached> {
    let mut links = Vec::new();
    let attach_one: AttachOne;
    let names: Vec<String>;
    let kind;
    let program;
    match targets {
        Targets::Kernel(functions) => {
            (kind, program) = ("kprobe", "on_kernel_function");
            bpf.load_kprobe(program)?;
            names = functions.clone();
            attach_one = Box::new(move |bpf, index| {
                let link = bpf.link_function(program, &functions[index], index as u64)?;
                Ok(Some(link))
            });
        }
        Targets::Tracepoints(events) => {
            (kind, program) = ("tracepoint", "on_tracepoint");
            bpf.load_tracepoint(program)?;
            names = events.iter().map(|(name, _)| name.clone()).collect();
            attach_one = Box::new(move |bpf, index| {
                let link = bpf.link_tracepoint(program, events[index].1, index as u64)?;
                Ok(Some(link))
            });
        }
        Targets::User(path, functions) => {
            (kind, program) = ("uprobe", "on_function");
            bpf.load_uprobe(program)?;
            names = functions.iter().map(|(name, _)| name.clone()).collect();
            attach_one = Box::new(move |bpf, index| {
                bpf.attach_uprobe(program, &path, functions[index].1, index as u64)?;
                Ok(None)
            });
        }
    }
    let mut used = Vec::new();
    let mut refused = Vec::new();
    for (index, name) in names.iter().enumerate() {
        match attach_one(bpf, index) {
            Ok(link) => {
                links.extend(link);
                used.push(HookUse {
                    hook: format!("{kind}:{name}"),
                    program,
                    why: "calls of what the pattern matches (cookies: 5.15)".to_owned(),
                });
            }
            // No way at all, as opposed to this one function's.
            Err(error) if error.downcast_ref::<Error>().is_some() => return Err(error),
            Err(error) => refused.push((name, error)),
        }
    }
    if let Some((name, error)) = refused.first() {
        if used.is_empty() {
            return Err(Error::NotAvailable {
                problem: format!("nothing could be attached; {name}: {error:#}"),
                remedy: "cookies need kernel 5.15; count tracepoints (t:CATEGORY:EVENT) or user \
                         functions (LIBRARY:FUNCTION) instead"
                    .into(),
            }
            .into());
        }
        tracing::warn!(
            "{} of {} could not be attached, {name} among them: {error:#}",
            refused.len(),
            names.len()
        );
    }
    if used.is_empty() {
        return Err(anyhow!("nothing to attach"));
    }
    Ok((names, links, used))
}

/// Raises the soft limit as far as it goes; where that is too little, attaching will say so.
fn allow_many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(DESCRIPTORS);
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!("the limit of open files stays: {error}");
    }
}

/// bcc's table: the busiest last, what was not called left out.
fn report(tallies: &[(ReportKey, Tally)], names: &[String]) -> Report {
    let mut called: Vec<(&str, u64)> = tallies
        .iter()
        .filter_map(|(key, tally)| Some((names.get(key.id as usize)?.as_str(), tally.count)))
        .filter(|(_, count)| *count > 0)
        .collect();
    called.sort_by_key(|(name, count)| (*count, *name));
    let mut text = format!("{:<36} {:>8}\n", "FUNC", "COUNT");
    let mut rows = Vec::new();
    for (name, count) in called {
        let _ = writeln!(text, "{name:<36} {count:>8}");
        rows.push(json!({"func": name, "count": count}));
    }
    Report {
        text,
        json: Map::from_iter([("functions".to_owned(), rows.into())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_bccs_byte_for_byte() {
        let tally = |id, count| {
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
        };
        let names = ["vfs_read", "vfs_write", "vfs_open"].map(str::to_owned);
        let report = report(&[tally(0, 1200), tally(1, 7), tally(2, 0)], &names);
        assert_eq!(
            report.text,
            "FUNC                                    COUNT\n\
             vfs_write                                   7\n\
             vfs_read                                 1200\n"
        );
    }
}
