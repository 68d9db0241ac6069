//! The options that all tools share.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::parse_duration;

/// The options that all tools share.
#[derive(Debug, Clone, Args)]
pub struct CommonArgs {
    /// Seconds (10, 0.5) or a unit (500ms, 5m) between reports
    #[arg(value_name = "INTERVAL", value_parser = interval)]
    pub interval: Option<Duration>,

    /// Number of reports
    #[arg(value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Only these processes: a PID or a comma list, repeatable
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub pids: Vec<u32>,

    /// Only tasks of this cgroup (v2) and those below it
    #[arg(long, value_name = "PATH")]
    pub cgroup: Option<PathBuf>,

    /// Print the time of day; without COUNT, go on until Ctrl-C
    #[arg(short = 'T', long = "timestamps")]
    pub timestamps: bool,

    /// One JSON object per report (or event), a line each
    #[arg(long)]
    pub json: bool,

    /// Attach, print which kernel hooks are used and why, and end
    #[arg(long)]
    pub explain_hooks: bool,

    /// Say more on standard error; repeatable
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// Histogram tools only.
#[derive(Debug, Clone, Args)]
pub struct HeatmapArgs {
    /// Also write a latency heat map over time
    #[arg(long, value_name = "FILE.svg")]
    pub heatmap: Option<PathBuf>,
}

pub fn with_heatmap(command: clap::Command) -> clap::Command {
    HeatmapArgs::augment_args(command)
}

fn interval(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "not a duration: write 10, 0.5, 500ms or 5m".to_owned())
}
