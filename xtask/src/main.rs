//! Chores of the repository: `cargo xtask <chore>`.

mod bench;
mod bpf;
mod guest;
mod verify;

use std::path::PathBuf;

use clap::Parser;

/// Chores of the repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Chore {
    /// Compile ebpf/*.bpf.c into ebpf/prebuilt/.
    Bpf {
        /// Prove that the committed objects match their sources, byte for byte; write nothing.
        #[arg(long)]
        check: bool,
    },
    /// Compare flame, perf and bpftrace on one `PostgreSQL` load; print a Markdown table.
    Bench(bench::Options),
    /// Run flame on Debian's kernels in virtual machines; print a table of checks.
    Guest(guest::Options),
    /// Hand every program of BPF objects to this kernel's verifier; runs inside a guest.
    #[command(hide = true)]
    Verify {
        /// The objects.
        #[arg(required = true)]
        objects: Vec<PathBuf>,
    },
    /// Turn `perf script` text on stdin into an SVG, as the benchmark's perf pipeline does.
    #[command(hide = true)]
    PerfScriptToSvg {
        /// The picture to write.
        svg: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let root = workspace_root();
    match Chore::parse() {
        Chore::Bpf { check: false } => bpf::build(&root),
        Chore::Bpf { check: true } => bpf::check(&root),
        Chore::Bench(options) => bench::run(&root, &options),
        Chore::Guest(options) => guest::run(&root, &options),
        Chore::Verify { objects } => verify::run(&objects),
        Chore::PerfScriptToSvg { svg } => bench::perf_script_to_svg(&svg),
    }
}

/// The repository's top folder, whatever folder cargo was called from.
fn workspace_root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .map_or_else(|| manifest.clone(), PathBuf::from)
}
