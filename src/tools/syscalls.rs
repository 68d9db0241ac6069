//! System calls by name.

use std::str::FromStr;

use syscalls::Sysno;

use crate::error::Error;

/// Calls whose purpose is to wait: their latency says nothing about the kernel's speed.
const SLEEPING: &[Sysno] = &[
    Sysno::accept,
    Sysno::accept4,
    Sysno::clock_nanosleep,
    Sysno::epoll_pwait,
    Sysno::epoll_pwait2,
    Sysno::epoll_wait,
    Sysno::futex,
    Sysno::futex_waitv,
    Sysno::io_getevents,
    Sysno::io_pgetevents,
    Sysno::io_uring_enter,
    Sysno::mq_timedreceive,
    Sysno::msgrcv,
    Sysno::nanosleep,
    Sysno::pause,
    Sysno::poll,
    Sysno::ppoll,
    Sysno::pselect6,
    Sysno::recvfrom,
    Sysno::recvmmsg,
    Sysno::recvmsg,
    Sysno::restart_syscall,
    Sysno::rt_sigsuspend,
    Sysno::rt_sigtimedwait,
    Sysno::select,
    Sysno::semop,
    Sysno::semtimedop,
    Sysno::wait4,
    Sysno::waitid,
];

/// The number of a call.
///
/// # Errors
/// [`Error::Usage`] when this architecture has no call of that name.
pub fn number(name: &str) -> Result<u32, Error> {
    Sysno::from_str(name)
        .map(|call| call.id() as u32)
        .map_err(|()| Error::Usage(format!("'{name}' is not a system call of this machine")))
}

/// The numbers of all calls but those that sleep by design.
pub fn not_sleeping() -> impl Iterator<Item = u32> {
    Sysno::iter()
        .filter(|call| !SLEEPING.contains(call))
        .map(|call| call.id() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_this_machines() {
        assert_eq!(number("getppid").unwrap(), libc::SYS_getppid as u32);
        assert!(number("no_such_call").is_err());
        let awake: Vec<u32> = not_sleeping().collect();
        assert!(awake.contains(&(libc::SYS_pread64 as u32)));
        assert!(!awake.contains(&(libc::SYS_nanosleep as u32)));
    }
}
