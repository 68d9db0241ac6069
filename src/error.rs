//! Errors a user can act on: each carries its remedy and maps to one exit status.

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
}

/// The exit code for any error: a typed one's own, 1 for the rest.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let status = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>());
    ExitCode::from(status.map_or(1, Error::exit_status))
}
