//! Whether what is to be profiled exists: processes, cgroups, CPUs.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{failed, read_text, status_field};
use crate::error::Error;

/// `CGROUP2_SUPER_MAGIC` of the kernel's `magic.h`.
const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// What a PID stands for.
enum Found {
    Process,
    Ended(Error),
    Thread(Error),
}

/// [`super::living_processes`], of what `status` reads: the text of a `/proc/PID/status`, which exists
/// for threads too, and for processes that ended but were not yet waited for.
///
/// A list is often what `pgrep` saw a moment ago, so one that has ended since is no error as long as
/// another one lives.
pub(super) fn living_processes(
    pids: &[u32],
    status: impl Fn(u32) -> Option<String>,
) -> Result<Vec<u32>, Error> {
    let mut living = Vec::new();
    let mut ended = Vec::new();
    for &pid in pids {
        match find_process(pid, status(pid).as_deref()) {
            Found::Process => living.push(pid),
            Found::Ended(error) => ended.push((pid, error)),
            Found::Thread(error) => return Err(error),
        }
    }
    if living.is_empty() && !ended.is_empty() {
        return Err(ended.swap_remove(0).1);
    }
    for (pid, _) in ended {
        tracing::warn!("process {pid} has ended: going on without it");
    }
    Ok(living)
}

fn find_process(pid: u32, status: Option<&str>) -> Found {
    let field = |name| status.and_then(|text| status_field(text, name));
    let (Some(state), Some(tgid)) = (field("State"), field("Tgid")) else {
        return Found::Ended(failed(
            format!("no such process: {pid}"),
            "list processes with `pgrep -l NAME` or `ps`; it may have ended, and if the command \
             that looks up PIDs found none, a duration after -p is taken for a PID",
        ));
    };
    if tgid.parse() != Ok(pid) {
        return Found::Thread(failed(
            format!("{pid} is a thread of process {tgid}, not a process"),
            format!("-p {tgid} takes all its threads, --per-thread keeps them apart"),
        ));
    }
    // The first thread may end before the others: it is a zombie then, the process is not.
    let threads = field("Threads").and_then(|count| count.parse::<u32>().ok());
    if state.starts_with(['Z', 'X', 'x']) && threads.is_none_or(|count| count <= 1) {
        return Found::Ended(failed(
            format!("process {pid} has ended (its parent has not yet waited for it)"),
            "leave it out; nothing of it runs any more",
        ));
    }
    Found::Process
}

/// The folder that `--cgroup` means: a path as it is, or one relative to the cgroup v2 mount, as
/// `/proc/PID/cgroup` and `systemctl show` print it.
pub fn resolve_cgroup(path: &Path) -> Result<PathBuf, Error> {
    let mount = cgroup2_mount(&read_text("/proc/self/mountinfo").unwrap_or_default());
    let inside = mount
        .as_ref()
        .map(|mount| mount.join(path.strip_prefix("/").unwrap_or(path)));
    let candidates = std::iter::once(path.to_path_buf()).chain(inside);
    let hint = match &mount {
        Some(mount) => format!(
            "name a folder below {}, where cgroup v2 is mounted",
            mount.display()
        ),
        None => "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup/unified".to_string(),
    };
    let mut problem = format!("no such cgroup: {}", path.display());
    for candidate in candidates {
        match std::fs::metadata(&candidate) {
            Ok(metadata) if metadata.is_dir() && is_cgroup2(&candidate) => return Ok(candidate),
            Ok(_) => problem = format!("{} is not a cgroup v2 folder", path.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => problem = format!("cgroup {}: {error}", candidate.display()),
        }
    }
    Err(failed(problem, hint))
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_MAGIC)
}

/// Where `/proc/self/mountinfo` says that cgroup v2 is mounted: the fifth field is the place, the
/// type follows a lone hyphen, see `proc_pid_mountinfo(5)`.
pub(super) fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        source.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })
}

/// Whether a CPU is online. `online` is the text of `/sys/devices/system/cpu/online`, a list such
/// as `0-3,6`; where it is empty, the kernel will say.
pub fn check_cpu(cpu: u32, online: &str) -> Result<(), Error> {
    let online = online.trim();
    let is_online = online.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&cpu),
            _ => false,
        }
    });
    if is_online || online.is_empty() {
        return Ok(());
    }
    Err(failed(
        format!("CPU {cpu} is not online"),
        format!("online CPUs: {online}"),
    ))
}
