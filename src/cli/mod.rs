//! The command line: clap types in, plain configurations out.
//!
//! Modes are rows of one table; help, man page, completions and the names that a symbolic link
//! may have come from it.

mod man;
mod outputs;
mod profile;
mod surroundings;
mod targets;

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{ArgMatches, Args, FromArgMatches};
pub use clap_complete::Shell;
pub use man::write_man_page;
pub use surroundings::{ExecutableId, Surroundings};
pub(crate) use targets::parse_duration;

use crate::error::Error;
use crate::profile::config::ProfileConfig;
use crate::tools::{self, TOOLS, ToolRow};
use profile::ProfileArgs;

/// What the user asked for.
#[derive(Debug)]
pub struct Invocation {
    /// How many times `-v` was given.
    pub verbosity: u8,
    /// The mode and its configuration.
    pub command: Command,
}

/// A mode and its configuration.
#[derive(Debug)]
pub enum Command {
    /// Take a profile.
    Profile(Box<ProfileConfig>),
    /// Run a latency tool.
    Tool(Box<tools::session::Invocation>),
    /// Print the man page.
    Man,
    /// Print a shell's completion script.
    Completions(Shell),
    /// Print a text that clap made: help or the version.
    Print(String),
}

/// One row of the table of modes.
struct Mode {
    name: &'static str,
    /// Whether the binary becomes this mode when it is called by this name.
    by_symlink: bool,
    command: fn() -> clap::Command,
    resolve: fn(&ArgMatches, &Context) -> Result<Invocation, Error>,
}

/// What a mode's configuration depends on besides its own options.
struct Context<'a> {
    command_line: String,
    surroundings: &'a Surroundings,
}

static MODES: &[Mode] = &[
    Mode {
        name: "profile",
        by_symlink: true,
        command: profile_command,
        resolve: resolve_profile,
    },
    Mode {
        name: "man",
        by_symlink: false,
        command: || clap::Command::new("man").about("Print the manual page (roff)"),
        resolve: |_, _| {
            Ok(Invocation {
                verbosity: 0,
                command: Command::Man,
            })
        },
    },
    Mode {
        name: "completions",
        by_symlink: false,
        command: completions_command,
        resolve: resolve_completions,
    },
];

/// The names of all modes, in the order of the table.
fn mode_names() -> Vec<&'static str> {
    let tools = TOOLS.iter().map(|row| row.name);
    MODES.iter().map(|mode| mode.name).chain(tools).collect()
}

/// Understands a command line, the program's name first.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, Error> {
    parse_in(args, &Surroundings::of_this_process())
}

/// [`parse`] with surroundings of the caller's choice.
pub fn parse_in(
    args: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings,
) -> Result<Invocation, Error> {
    let args = expand_symlink_name(args.into_iter().collect());
    let context = Context {
        command_line: quote_command_line(&args),
        surroundings,
    };
    let matches = match command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return Err(usage_error(&error)),
        Err(error) => {
            let command = Command::Print(error.render().to_string());
            return Ok(Invocation {
                verbosity: 0,
                command,
            });
        }
    };
    match matches.subcommand() {
        Some((name, matches)) => match MODES.iter().find(|mode| mode.name == name) {
            Some(mode) => (mode.resolve)(matches, &context),
            None if let Some(row) = tools::by_name(name) => Ok(resolve_tool(row, matches)),
            None => Err(Error::Usage(format!("'{name}' is no mode of flame"))),
        },
        None => resolve_profile(&matches, &context),
    }
}

/// The whole command line as clap sees it: `profile`'s options at the top, since it is the
/// default mode, and every mode as a subcommand.
#[must_use]
pub fn command() -> clap::Command {
    // The texts come last, or the derived description of the options would replace them.
    ProfileArgs::augment_args(clap::Command::new("flame"))
        .version(env!("CARGO_PKG_VERSION"))
        .about("Where does the time go? A CPU flame graph in one command")
        .override_usage(format!("{}\n       flame MODE [OPTIONS]", profile::USAGE))
        .subcommand_value_name("MODE")
        .subcommand_help_heading("Modes")
        .args_conflicts_with_subcommands(true)
        .after_long_help(profile::EXAMPLES)
        .subcommands(MODES.iter().map(|mode| (mode.command)()))
        .subcommands(TOOLS.iter().map(|row| tools::command(row)))
}

/// A shell's completion script.
#[must_use]
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "flame", &mut script);
    script
}

fn profile_command() -> clap::Command {
    ProfileArgs::augment_args(clap::Command::new("profile"))
        .about("Sample stacks and draw a flame graph (the default mode)")
        .override_usage(profile::USAGE)
        .after_long_help(profile::EXAMPLES)
}

fn resolve_profile(matches: &ArgMatches, context: &Context) -> Result<Invocation, Error> {
    let args = ProfileArgs::from_arg_matches(matches).map_err(|error| usage_error(&error))?;
    let verbosity = args.verbosity();
    let config = args.resolve(context.command_line.clone(), context.surroundings)?;
    Ok(Invocation {
        verbosity,
        command: Command::Profile(Box::new(config)),
    })
}

fn resolve_tool(row: &'static ToolRow, matches: &ArgMatches) -> Invocation {
    let tool = tools::session::Invocation {
        row,
        matches: matches.clone(),
    };
    Invocation {
        verbosity: matches.get_count("verbose"),
        command: Command::Tool(Box::new(tool)),
    }
}

fn completions_command() -> clap::Command {
    clap::Command::new("completions")
        .about("Print a shell's completion script")
        .arg(
            clap::Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(clap::value_parser!(Shell)),
        )
}

fn resolve_completions(matches: &ArgMatches, _: &Context) -> Result<Invocation, Error> {
    match matches.get_one::<Shell>("shell") {
        Some(shell) => Ok(Invocation {
            verbosity: 0,
            command: Command::Completions(*shell),
        }),
        None => Err(Error::Usage(
            "completions needs the name of a shell".to_string(),
        )),
    }
}

/// clap's message without its own "error: ", which `main` puts before every error.
fn usage_error(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    Error::Usage(
        text.strip_prefix("error: ")
            .unwrap_or(&text)
            .trim_end()
            .to_string(),
    )
}

/// Called through a symbolic link named after a mode, the binary is that mode.
fn expand_symlink_name(mut args: Vec<OsString>) -> Vec<OsString> {
    let name = args
        .first()
        .and_then(|program| Path::new(program).file_name());
    let modes = MODES
        .iter()
        .filter(|mode| mode.by_symlink)
        .map(|mode| mode.name);
    let mode = modes
        .chain(TOOLS.iter().map(|row| row.name))
        .find(|mode| name == Some(OsStr::new(mode)));
    match mode {
        Some(mode) => {
            args.splice(..1, [OsString::from("flame"), OsString::from(mode)]);
        }
        None if args.is_empty() => args.push(OsString::from("flame")),
        None => {}
    }
    args
}

/// The command line as one could type it again; a picture's title needs text, so bytes that are
/// none are replaced.
fn quote_command_line(args: &[OsString]) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./,:=@%+".contains(c);
    let words = args.iter().skip(1).map(|arg| {
        let word = arg.to_string_lossy();
        if !word.is_empty() && word.chars().all(is_plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    });
    std::iter::once("flame".to_string())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests;
