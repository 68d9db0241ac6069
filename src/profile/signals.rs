//! Ctrl-C: the first one ends the sampling and the profile is written; the next one gives up.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// SIGINT, SIGTERM and SIGHUP as a descriptor that polls readable. While it exists they do not
/// end the program.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals in this thread and those it starts.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn catch() -> Result<Self> {
        let set = signal_set();
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let result =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result)).context("cannot block signals");
        }
        // SAFETY: `set` is initialised; -1 asks for a new descriptor.
        let descriptor =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error()).context("cannot watch for signals");
        }
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }

    /// Takes one signal that has arrived, if any.
    #[must_use]
    pub fn take(&self) -> bool {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        matches!(rustix::io::read(&self.0, &mut info), Ok(read) if read > 0)
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn signal_set() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain data; `sigemptyset` initialises it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        set
    }
}
