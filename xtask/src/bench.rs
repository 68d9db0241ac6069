//! x
use std::path::Path;
/// x
#[derive(Debug, clap::Args)]
pub struct Options {}
/// x
pub fn run(_root: &Path, _o: &Options) -> anyhow::Result<()> { Ok(()) }
/// x
pub fn perf_script_to_svg(_svg: &Path) -> anyhow::Result<()> { Ok(()) }
