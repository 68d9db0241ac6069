//! What the kernel's bare error numbers mean while a program is loaded or an event is opened.

use rustix::io::Errno;

use super::not_available;
use crate::error::Error;

/// Kernels before this one lack something that every object needs; distributions backport, so the
/// release is an explanation for a failure, never a reason to refuse beforehand.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Why `bpf(2)` refused to create a map or to load a program. `release` is `uname -r`'s.
#[must_use]
pub fn explain_bpf_error(errno: Errno, release: &str) -> Error {
    let age_hint = match parse_release(release) {
        Some(version) if version < OLDEST_KERNEL => {
            format!("; kernel {release} is older than 5.10, the oldest that flame is made for")
        }
        _ => String::new(),
    };
    let (problem, remedy) = match errno {
        Errno::PERM | Errno::ACCESS => (
            "the kernel does not permit BPF programs, although the capabilities are there",
            "look for a seccomp filter (containers: --security-opt seccomp=unconfined or \
             --privileged), a security module's denial in `dmesg`, or, before kernel 5.11, too \
             little locked memory (ulimit -l unlimited)",
        ),
        Errno::TOOBIG => (
            "the kernel finds a BPF program too large or of a newer form than it knows",
            "use kernel 5.10 or later; with -v the verifier's log says more",
        ),
        Errno::INVAL => (
            "the kernel does not know a feature that a BPF program or map needs",
            "use kernel 5.10 or later; with -v the verifier's log says more",
        ),
        Errno::NOSYS => (
            "this kernel has no BPF",
            "use a kernel built with CONFIG_BPF_SYSCALL=y; under gVisor and similar sandboxes run \
             flame on the host",
        ),
        Errno::NOMEM => (
            "the kernel has no memory left for BPF maps",
            "free memory, or raise the memory limit of flame's own cgroup",
        ),
        // Not ENOTSUP's meaning in the C library: the verifier's own number 524.
        errno if errno.raw_os_error() == 524 || errno == Errno::OPNOTSUPP => (
            "the kernel's BPF JIT cannot translate a program",
            "echo 1 > /proc/sys/net/core/bpf_jit_enable, on a kernel built with CONFIG_BPF_JIT=y",
        ),
        _ => (
            "loading a BPF program failed",
            "run again with -v for the verifier's log",
        ),
    };
    not_available(format!("{problem} ({}){age_hint}", describe(errno)), remedy)
}

/// Why `perf_event_open(2)` refused an event. `paranoid` is `kernel.perf_event_paranoid`.
#[must_use]
pub fn explain_perf_error(errno: Errno, event: &str, paranoid: Option<i32>) -> Error {
    let cause = describe(errno);
    match errno {
        Errno::PERM | Errno::ACCESS => {
            let level = paranoid.map_or_else(|| "unknown".to_string(), |level| level.to_string());
            not_available(
                format!(
                    "not permitted to open the perf event {event} ({cause}); \
                         kernel.perf_event_paranoid is {level}"
                ),
                "run as root; some distributions want CAP_SYS_ADMIN where it is above 2: \
                 sudo sysctl kernel.perf_event_paranoid=2; in a container, look for a seccomp filter",
            )
        }
        Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV | Errno::INVAL | Errno::NXIO => {
            not_available(
                format!("this machine cannot sample the event {event} ({cause})"),
                "use -e cpu-clock, which needs no hardware; virtual machines often have no hardware \
                 counters",
            )
        }
        Errno::MFILE | Errno::NFILE => not_available(
            format!("too many open files for one perf event a CPU ({cause})"),
            "raise the limit: ulimit -n 65536",
        ),
        Errno::BUSY => not_available(
            format!("another program holds the counter that {event} needs ({cause})"),
            "end the other profiler, or use -e cpu-clock",
        ),
        Errno::NOSYS => not_available(
            format!("this kernel has no perf events ({cause})"),
            "use a kernel built with CONFIG_PERF_EVENTS=y",
        ),
        _ => not_available(
            format!("opening the perf event {event} failed ({cause})"),
            "try -e cpu-clock, and -v for details",
        ),
    }
}

fn describe(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.raw_os_error())
}

/// Major and minor number of a release such as `5.10.0-28-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
