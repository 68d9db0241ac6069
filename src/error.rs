//! Errors a user can act on: each carries its remedy and maps to one exit status.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

/// An error with an exit status of its own. Everything else travels as [`anyhow::Error`] and
/// exits 1; `main` downcasts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line cannot be understood: exit 2.
    #[error("{0}")]
    Usage(String),
    /// Not permitted, or the kernel lacks what the mode needs: exit 3.
    #[error("{problem}\n  remedy: {remedy}")]
    NotAvailable {
        /// What is missing, in one sentence.
        problem: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// A gate (`--min-quality`, `check`) was not met: exit 4.
    #[error("{0}")]
    GateFailed(String),
    /// The run failed in a way the user can mend: exit 1.
    #[error("{problem}\n  remedy: {remedy}")]
    Failed {
        /// What went wrong, in one sentence.
        problem: String,
        /// What the user can do about it.
        remedy: String,
    },
}

impl Error {
    /// The exit status documented in the command line's contract.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Usage(_) => 2,
            Self::NotAvailable { .. } => 3,
            Self::GateFailed(_) => 4,
        }
    }

    /// What went wrong, without the remedy.
    #[must_use]
    pub fn problem(&self) -> &str {
        match self {
            Self::Usage(problem)
            | Self::GateFailed(problem)
            | Self::NotAvailable { problem, .. }
            | Self::Failed { problem, .. } => problem,
        }
    }

    /// What the user can do about it, where the problem itself does not say.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Usage(_) | Self::GateFailed(_) => None,
            Self::NotAvailable { remedy, .. } | Self::Failed { remedy, .. } => Some(remedy),
        }
    }
}

/// The exit code for any error: a typed one's own, 1 for the rest.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(typed(error).map_or(1, Error::exit_status))
}

/// Whether an error only says that nobody reads our output any more, as under `flame … | head`:
/// no failure, and nothing to tell.
#[must_use]
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let broken = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    typed(error).is_none()
        && error
            .chain()
            .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(broken))
}

/// The message for a terminal: the error, its causes, and last the remedy.
#[must_use]
pub fn report(error: &anyhow::Error) -> String {
    let mut text = "flame: error: ".to_string();
    for (depth, cause) in error.chain().enumerate() {
        if depth > 0 {
            text.push_str("\n  cause: ");
        }
        let message = cause.to_string();
        let typed = typed(error).filter(|typed| typed.to_string() == message);
        push_harmless(&mut text, typed.map_or(&message, Error::problem));
    }
    if let Some(remedy) = typed(error).and_then(Error::remedy) {
        text.push_str("\n  remedy: ");
        push_harmless(&mut text, remedy);
    }
    text.push('\n');
    text
}

/// The typed error anywhere in the chain. `anyhow` itself finds one that was attached as a context,
/// the chain one that another error has as its source.
fn typed(error: &anyhow::Error) -> Option<&Error> {
    let as_source = || {
        error
            .chain()
            .find_map(|cause| cause.downcast_ref::<Error>())
    };
    error.downcast_ref::<Error>().or_else(as_source)
}

/// Names of files and processes in a message must not command the terminal.
fn push_harmless(text: &mut String, message: &str) {
    for c in message.chars() {
        if c.is_control() && c != '\n' {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}", c.escape_default());
        } else {
            text.push(c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    fn failed() -> Error {
        Error::Failed {
            problem: "no such process: 7".into(),
            remedy: "use ps".into(),
        }
    }

    #[test]
    fn a_report_tells_context_cause_and_remedy_once_each() {
        let error = Err::<(), _>(failed()).context("starting").unwrap_err();
        assert_eq!(
            report(&error),
            "flame: error: starting\n  cause: no such process: 7\n  remedy: use ps\n"
        );
        assert_eq!(exit_code(&error), ExitCode::from(1));
    }

    #[test]
    fn a_typed_error_keeps_its_status_and_remedy_as_a_context_too() {
        let error = anyhow::anyhow!("ENOENT")
            .context(failed())
            .context("starting");
        assert_eq!(
            report(&error),
            "flame: error: starting\n  cause: no such process: 7\n  cause: ENOENT\n  \
             remedy: use ps\n"
        );
        let gate = anyhow::anyhow!("x").context(Error::GateFailed("y".into()));
        assert_eq!(exit_code(&gate), ExitCode::from(4));
    }

    #[test]
    fn terminal_control_in_a_message_is_shown_not_sent() {
        let error = anyhow::anyhow!("cannot read a\u{1b}[2Jb\u{9b}1m\rc");
        assert_eq!(
            report(&error),
            "flame: error: cannot read a\\u{1b}[2Jb\\u{9b}1m\\rc\n"
        );
    }

    #[test]
    fn only_a_closed_pipe_is_a_closed_pipe() {
        let broken = || anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_closed_pipe(&broken()));
        assert!(is_closed_pipe(&broken().context("writing folded stacks")));
        assert!(!is_closed_pipe(
            &io::Error::from(io::ErrorKind::StorageFull).into()
        ));
        assert!(!is_closed_pipe(&broken().context(failed())));
        assert_eq!(exit_code(&broken().context(failed())), ExitCode::from(1));
    }

    #[test]
    fn exit_statuses_are_the_documented_ones() {
        let gate = Error::GateFailed("quality 10 % is below 95 %".into());
        let missing = Error::NotAvailable {
            problem: "no BTF".into(),
            remedy: "none".into(),
        };
        let statuses = [failed(), Error::Usage("x".into()), missing, gate].map(|e| e.exit_status());
        assert_eq!(statuses, [1, 2, 3, 4]);
    }
}
