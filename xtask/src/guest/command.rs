//! Other programs, with what they said in the error when they fail.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// Runs a program to its end.
///
/// # Errors
/// When it cannot start or fails; with its stderr.
pub fn run(command: &mut Command) -> Result<()> {
    finish(command).map(drop)
}

/// Runs a program and gives its stdout.
///
/// # Errors
/// When it cannot start, fails, or prints no UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(finish(command)?.stdout)?)
}

fn finish(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}\n{}", output.status, stderr.trim_end());
    }
    Ok(output)
}
