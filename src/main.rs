//! The `flame` binary: parse, dispatch, map the result to an exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use flame::cli::{self, Command};
use flame::error;
use flame::profile::session;
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        // Rust ignores SIGPIPE, so a reader that left shows as an error of a write.
        Err(error) if error::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Where even standard error is gone, the exit status still tells.
            let _ = io::stderr().write_all(error::report(&error).as_bytes());
            error::exit_code(&error)
        }
    }
}

fn run() -> anyhow::Result<()> {
    let invocation = cli::parse(std::env::args_os())?;
    log_to_stderr(invocation.verbosity);
    match invocation.command {
        Command::Profile(config) => session::run(&config),
        Command::Tool(tool) => flame::tools::session::run(&tool),
        Command::Man => {
            let mut page = Vec::new();
            cli::write_man_page(&mut page)?;
            print(&page)
        }
        Command::Completions(shell) => print(&cli::completions(shell)),
        Command::Print(text) => print(text.as_bytes()),
    }
}

fn print(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    Ok(stdout.flush()?)
}

fn log_to_stderr(verbosity: u8) {
    let level = match verbosity {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .init();
}
