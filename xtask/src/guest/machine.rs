//! One run of a virtual machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::report::Report;

/// From power-on to power-off. A guest that takes longer hangs; on a busy host it may need some
/// times what docs/guests.md says.
const TIMEOUT: Duration = Duration::from_mins(12);

/// What a guest is started from.
#[derive(Debug)]
pub struct Machine<'a> {
    /// The kernel.
    pub image: &'a Path,
    /// The first and only file system.
    pub initramfs: &'a Path,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Where console and report go.
    pub run: &'a Path,
}

impl Machine<'_> {
    /// The kernel's messages.
    pub fn console(&self) -> PathBuf {
        self.run.join("console.log")
    }

    /// Boots the machine, waits until it is off, and reads what it reported.
    ///
    /// # Errors
    /// When it cannot start, hangs, or ends without a complete report.
    pub fn boot(&self) -> Result<Report> {
        let report = self.run.join("report.txt");
        let mut guest = self
            .command(&report)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.run.join("qemu.log"))?)
            .spawn()
            .context(
                "cannot run qemu-system-x86_64\n  remedy: install the package qemu-system-x86",
            )?;
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = guest.try_wait()? {
                break Some(status);
            }
            if Instant::now() > deadline {
                guest.kill()?;
                guest.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let text = fs::read(&report).unwrap_or_default();
        let report = Report::parse(&String::from_utf8_lossy(&text));
        let end = match status {
            Some(status) if report.is_complete => return ok_or_status(report, status.success()),
            Some(status) => format!("ended early ({status})"),
            None => format!("was not done after {TIMEOUT:?}"),
        };
        bail!(
            "the guest {end}, in {}; its last words:\n{}",
            report.last_check().unwrap_or("its boot"),
            last_lines(&self.console(), 20)
        )
    }

    fn command(&self, report: &Path) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        // Emulation only: it needs no rights and works where there is no nested virtualization.
        // This processor boots all of Debian's kernels.
        qemu.args(["-accel", "tcg,thread=multi", "-cpu", "Nehalem,-cx16"])
            .args(["-smp", "2", "-m", &self.memory_mib.to_string()])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", "console=ttyS0 panic=-1 mitigations=off"]);
        for log in [&self.console(), report] {
            qemu.arg("-serial").arg(format!("file:{}", log.display()));
        }
        qemu
    }
}

fn ok_or_status(report: Report, success: bool) -> Result<Report> {
    if success {
        return Ok(report);
    }
    bail!("qemu failed after the guest was done")
}

fn last_lines(file: &Path, count: usize) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
