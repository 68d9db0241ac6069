//! The progress bar while sampling: on a terminal only, on stderr only.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::config::{ProfileConfig, Targets};

/// A bar over the duration, or a spinner without one. Draws nothing off a terminal.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts drawing.
    #[must_use]
    pub fn start(config: &ProfileConfig, cpus: usize) -> Self {
        if config.quiet || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let whom = match &config.targets {
            Targets::System => "all processes".to_owned(),
            Targets::Pids(pids) if pids.len() == 1 => format!("process {}", pids[0]),
            Targets::Pids(pids) => format!("{} processes", pids.len()),
            Targets::Command(_) => "the command".to_owned(),
        };
        let what = format!(
            "sampling {whom} on {cpus} CPUs at {} Hz",
            config.frequency_hz
        );
        let (length, template) = match config.duration {
            Some(duration) => {
                let millis = duration.as_millis() as u64;
                (Some(millis), "{msg} {wide_bar} {prefix} (Ctrl-C ends it)")
            }
            None => (None, "{spinner} {msg}, {prefix} (Ctrl-C ends it)"),
        };
        // At most four redraws a second: the bar must not show up in the profile.
        let target = ProgressDrawTarget::stderr_with_hz(4);
        let bar = ProgressBar::with_draw_target(length, target).with_message(what);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Moves the bar.
    pub fn update(&self, elapsed: Duration) {
        if !self.0.is_hidden() {
            self.0.set_prefix(format!("{:.0} s", elapsed.as_secs_f64()));
            self.0.set_position(elapsed.as_millis() as u64);
        }
    }

    /// Says in place of the bar why the end is not there yet.
    pub fn naming(&self) {
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            self.0.set_style(style);
            self.0.set_message("reading symbols (Ctrl-C gives up)");
            self.0.tick();
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
