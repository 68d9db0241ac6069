//! `funccount`: calls per function.

use std::fmt::Write as _;

use anyhow::Result;
use clap::{ArgMatches, Args, FromArgMatches};
use serde_json::{Map, json};

use super::function_hooks::{self, Attached};
use super::functions;
use super::interval::Rhythm;
use super::kernel_side::{ReportKey, Tally};
use super::session::Context;
use super::tally_tool::TallyTool;
use super::{Report, Tool, ToolRow};

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
    let targets = functions::find(&options.pattern, options.regexp)?;
    allow_many_descriptors();
    let mut bpf = context.load(ROW.name, &context.settings())?;
    let mut attached = function_hooks::attach(&mut bpf, targets)?;
    let hooks = std::mem::take(&mut attached.hooks);
    // What keeps the program attached lives as long as its reports.
    let render = move |tallies: &[(ReportKey, Tally)]| report(tallies, &attached);
    Ok(Box::new(TallyTool::new(
        bpf,
        hooks,
        Rhythm::AtEnd,
        Box::new(render),
    )))
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
fn report(tallies: &[(ReportKey, Tally)], attached: &Attached) -> Report {
    let mut called: Vec<(&str, u64)> = tallies
        .iter()
        .filter_map(|(key, tally)| Some((attached.name(key)?, tally.count)))
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
        let attached = Attached::told_by_cookie(names.into());
        let report = report(&[tally(0, 1200), tally(1, 7), tally(2, 0)], &attached);
        assert_eq!(
            report.text,
            "FUNC                                    COUNT\n\
             vfs_write                                   7\n\
             vfs_read                                 1200\n"
        );
    }
}
