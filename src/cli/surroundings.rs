//! What the meaning of a command line depends on besides its words.

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

/// The machine as the command line's rules see it; tests put in their own.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// The kernel's limit for `-F`, in hertz; `None` when it does not tell.
    pub max_sample_rate_hz: Option<u64>,
    /// Which executable a process runs; `None` for kernel threads and for PIDs that do not run
    /// or may not be looked at.
    pub executable_of: fn(u32) -> Option<ExecutableId>,
}

/// A file's identity: two processes run the same executable when these are equal, whatever it is
/// called, moved to or replaced by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecutableId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl Surroundings {
    /// This machine, now.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            stdout_is_terminal: std::io::stdout().is_terminal(),
            max_sample_rate_hz: max_sample_rate_hz(),
            executable_of,
        }
    }
}

fn max_sample_rate_hz() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/kernel/perf_event_max_sample_rate").ok()?;
    text.trim().parse().ok()
}

/// `/proc/PID/exe` is not a symbolic link that is followed by name: `stat` reaches the file that
/// runs, also when its path is gone or lies in another mount namespace.
fn executable_of(pid: u32) -> Option<ExecutableId> {
    let metadata = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    Some(ExecutableId {
        device: metadata.dev(),
        inode: metadata.ino(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_its_own_executable() {
        let own = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let expected = ExecutableId {
            device: own.dev(),
            inode: own.ino(),
        };
        assert_eq!(executable_of(std::process::id()), Some(expected));
        assert_eq!(executable_of(0), None);
    }
}
