//! What must be true before a BPF program is loaded: privileges, BTF, kernel features, targets.
//!
//! The kernel answers most of these with a bare `EPERM` or `EINVAL` later; asked beforehand, each
//! gets its own message and remedy. Every check is a pure function of what was read, so that each
//! can be tested on any machine; [`Facts::read`] and the `read_*` functions do the reading.

mod explain;
mod targets;

pub use explain::{explain_bpf_error, explain_perf_error};
pub use targets::{check_cpu, resolve_cgroup};

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use crate::error::Error;
use crate::profile::config::{ProfileConfig, Targets};

/// Nothing in `/proc` or `/sys` that is read here is longer, but for a mount table, which is cut.
const TEXT_LEN_MAX: u64 = 1 << 20;

/// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
const INIT_PID_NAMESPACE_INODE: u64 = 0xEFFF_FFFC;
/// `PROC_USER_INIT_INO` of the same file.
const INIT_USER_NAMESPACE_INODE: u64 = 0xEFFF_FFFD;

/// A set of capabilities, numbered as in `capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(pub u64);

const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYSLOG: u32 = 34;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// What `setcap` must give a binary that is not run as root.
const SETCAP_LIST: &str = "cap_bpf,cap_perfmon,cap_sys_ptrace,cap_syslog,cap_dac_read_search,\
                           cap_checkpoint_restore";

impl Capabilities {
    /// From the text of `/proc/PID/status`.
    #[must_use]
    pub fn from_status(status: &str) -> Option<Self> {
        let hex = status_field(status, "CapEff")?;
        u64::from_str_radix(hex, 16).ok().map(Self)
    }

    fn has(self, capability: u32) -> bool {
        self.0 >> capability & 1 == 1
    }

    /// `CAP_SYS_ADMIN` contains the younger, narrower `CAP_BPF`, `CAP_PERFMON` and
    /// `CAP_CHECKPOINT_RESTORE`, which were split off from it; not the others.
    fn missing(self, wanted: &[(u32, &'static str)]) -> Vec<&'static str> {
        let held = |capability: u32| {
            let contained = !matches!(
                capability,
                CAP_SYS_PTRACE | CAP_DAC_READ_SEARCH | CAP_SYSLOG
            );
            self.has(capability) || contained && self.has(CAP_SYS_ADMIN)
        };
        wanted
            .iter()
            .filter(|(number, _)| !held(*number))
            .map(|(_, name)| *name)
            .collect()
    }
}

/// One value of `/proc/PID/status`, without the white space around it.
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// What the checks of the machine look at, read once.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Effective capabilities of this process.
    pub capabilities: Option<Capabilities>,
    /// Inode of `/proc/self/ns/pid`.
    pub pid_namespace_inode: Option<u64>,
    /// Inode of `/proc/self/ns/user`.
    pub user_namespace_inode: Option<u64>,
    /// Whether the kernel describes its types.
    pub has_kernel_btf: bool,
    /// Text of `/sys/kernel/security/lockdown`; `None` where the kernel has no lockdown or
    /// securityfs is not mounted.
    pub lockdown: Option<String>,
    /// `kernel.perf_event_paranoid`.
    pub perf_event_paranoid: Option<i32>,
}

impl Facts {
    /// Reads them from `/proc` and `/sys`.
    #[must_use]
    pub fn read() -> Self {
        let inode = |path: &str| std::fs::metadata(path).ok().map(|metadata| metadata.ino());
        Self {
            capabilities: read_text("/proc/self/status")
                .and_then(|status| Capabilities::from_status(&status)),
            pid_namespace_inode: inode("/proc/self/ns/pid"),
            user_namespace_inode: inode("/proc/self/ns/user"),
            has_kernel_btf: std::fs::metadata("/sys/kernel/btf/vmlinux").is_ok(),
            lockdown: read_text("/sys/kernel/security/lockdown"),
            perf_event_paranoid: read_text("/proc/sys/kernel/perf_event_paranoid")
                .and_then(|text| text.trim().parse().ok()),
        }
    }

    /// Everything that any BPF mode needs, in the order in which a user can mend it.
    pub fn check(&self) -> Result<(), Error> {
        self.check_proc_is_mounted()?;
        self.check_capabilities()?;
        self.check_namespaces()?;
        self.check_lockdown()?;
        self.check_btf()
    }

    /// Capabilities that only names need, and that are missing: worth a warning, since without
    /// them other users' processes or the kernel stay nameless.
    #[must_use]
    pub fn capabilities_missing_for_names(&self) -> Vec<&'static str> {
        self.capabilities.unwrap_or(Capabilities(0)).missing(&[
            (CAP_SYS_PTRACE, "CAP_SYS_PTRACE"),
            (CAP_SYSLOG, "CAP_SYSLOG"),
            (CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
            (CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE"),
        ])
    }

    fn check_proc_is_mounted(&self) -> Result<(), Error> {
        if self.capabilities.is_some() && self.pid_namespace_inode.is_some() {
            return Ok(());
        }
        Err(not_available(
            "/proc cannot be read",
            "mount it: mount -t proc proc /proc",
        ))
    }

    fn check_capabilities(&self) -> Result<(), Error> {
        let capabilities = self.capabilities.unwrap_or(Capabilities(0));
        let missing = capabilities.missing(&[(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]);
        if missing.is_empty() {
            return Ok(());
        }
        // Lowering the sysctl is the usual advice for perf, but no way out here.
        let paranoid = self.perf_event_paranoid.map_or_else(String::new, |level| {
            format!(" (no kernel.perf_event_paranoid replaces them; here it is {level})")
        });
        Err(not_available(
            format!(
                "not permitted to load BPF programs and open perf events: missing {}{paranoid}",
                missing.join(" and ")
            ),
            format!(
                "run `sudo flame …`, or once: sudo setcap {SETCAP_LIST}+ep \"$(command -v flame)\""
            ),
        ))
    }

    fn check_namespaces(&self) -> Result<(), Error> {
        if self
            .user_namespace_inode
            .is_some_and(|inode| inode != INIT_USER_NAMESPACE_INODE)
        {
            return Err(not_available(
                "this is a user namespace of its own (a rootless container?), where capabilities \
                 do not count for BPF",
                "run flame on the host, or in a container of the host's user namespace \
                 (--userns=host --privileged, started by root)",
            ));
        }
        if self.pid_namespace_inode != Some(INIT_PID_NAMESPACE_INODE) {
            return Err(not_available(
                "this is a PID namespace of its own (a container?): the kernel's PIDs do not match \
                 those seen here",
                "start the container with --pid=host (Kubernetes: hostPID: true), or run flame on \
                 the host",
            ));
        }
        Ok(())
    }

    fn check_lockdown(&self) -> Result<(), Error> {
        // The active level stands in brackets: `none integrity [confidentiality]`.
        if self
            .lockdown
            .as_deref()
            .is_some_and(|text| text.contains("[confidentiality]"))
        {
            return Err(not_available(
                "the kernel is locked down for confidentiality: BPF programs may not read kernel \
                 memory",
                "boot with lockdown=integrity, or without lockdown=confidentiality, on the kernel's \
                 command line",
            ));
        }
        Ok(())
    }

    fn check_btf(&self) -> Result<(), Error> {
        if self.has_kernel_btf {
            return Ok(());
        }
        Err(not_available(
            "the kernel does not describe its types: /sys/kernel/btf/vmlinux is missing",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y (all large distributions have it \
             since 2021), and mount sysfs: mount -t sysfs sysfs /sys",
        ))
    }
}

/// Everything a `profile` run needs before it loads anything.
pub fn check_profile(config: &ProfileConfig) -> Result<(), Error> {
    Facts::read().check()?;
    if let Targets::Pids(pids) = &config.targets {
        // The session leaves out who has ended by itself: more may before it follows them.
        living_processes(pids)?;
    }
    if let Some(path) = &config.cgroup {
        resolve_cgroup(path)?;
    }
    if let Some(cpu) = config.cpu {
        check_cpu(
            cpu,
            &read_text("/sys/devices/system/cpu/online").unwrap_or_default(),
        )?;
    }
    Ok(())
}

/// Those of `pids` that are processes; a warning names the ones that have ended.
///
/// # Errors
/// When none lives, and when one is a thread.
pub fn living_processes(pids: &[u32]) -> Result<Vec<u32>, Error> {
    targets::living_processes(pids, |pid| read_text(&format!("/proc/{pid}/status")))
}

fn not_available(problem: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::NotAvailable {
        problem: problem.into(),
        remedy: remedy.into(),
    }
}

fn failed(problem: impl Into<String>, remedy: impl Into<String>) -> Error {
    Error::Failed {
        problem: problem.into(),
        remedy: remedy.into(),
    }
}

/// The text of a kernel file. A process's name may hold any bytes, so UTF-8 is not insisted on.
fn read_text(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(TEXT_LEN_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests;
