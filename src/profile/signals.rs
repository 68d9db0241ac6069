//! Ctrl-C: the first one ends the sampling and the profile is written; the next one gives up.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};

use crate::render::output;

/// Signals that arrive so soon after the end of sampling were meant to end it: somebody was too
/// late, or sent two, as timeout(1) does.
const LATE: Duration = Duration::from_millis(200);

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
        let set = block().context("cannot block signals")?;
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

    /// Sampling is over: from now on a signal ends the program, and no half-written file stays.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn give_up_on_next(self) -> Result<()> {
        let watch = move || {
            std::thread::sleep(LATE);
            while self.take() {}
            let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
            while !self.take() {
                if poll(&mut fds, None).is_err_and(|error| error != rustix::io::Errno::INTR) {
                    return;
                }
            }
            output::abandon();
            let message = b"flame: error: interrupted before everything was written\n";
            // Nothing to do about a closed stderr: the exit status tells.
            let _ = io::stderr().write_all(message);
            std::process::exit(1);
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(watch)
            .map(drop)
            .context("cannot start a thread")
    }
}

/// Starts the worker threads, which no signal may end the program through. Must come before
/// anything runs in parallel.
///
/// # Errors
/// When no thread can be started.
pub fn start_workers() -> Result<()> {
    let block_signals = |_| {
        if let Err(error) = block() {
            tracing::debug!("a worker thread keeps its signals: {error}");
        }
    };
    rayon::ThreadPoolBuilder::new()
        .start_handler(block_signals)
        .build_global()
        .context("cannot start worker threads")
}

/// Blocks the signals in this thread and those it starts.
fn block() -> io::Result<libc::sigset_t> {
    let set = signal_set();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(set),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// SIGINT, SIGTERM and SIGHUP; the last not where nohup(1) had it ignored.
fn signal_set() -> libc::sigset_t {
    // SAFETY: `sigset_t` and `sigaction` are plain data; `sigemptyset` initialises the one,
    // `sigaction` without a new action fills in the other.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            let mut action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &raw mut action);
            if signal != libc::SIGHUP || action.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(&raw mut set, signal);
            }
        }
        set
    }
}
