//! `flame … -- COMMAND`: a child that waits until we are ready to sample it.
//!
//! The process exists (so its id can be watched and its children followed) but does nothing
//! before [`Command::release`]: the first instruction of the program is already sampled.

use std::ffi::{CString, OsString};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;

/// A forked child, waiting to become the command.
#[derive(Debug)]
pub struct Command {
    pid: libc::pid_t,
    name: String,
    go: Option<std::fs::File>,
    failure: std::fs::File,
    exited: bool,
}

impl Command {
    /// Forks. Must be called before the program starts threads of its own.
    ///
    /// # Errors
    /// When the command contains a NUL byte or the kernel refuses to fork.
    pub fn prepare(words: &[OsString]) -> Result<Self> {
        let name = words
            .first()
            .context("no command given")?
            .to_string_lossy()
            .into_owned();
        let strings: Vec<CString> = words
            .iter()
            .map(|word| CString::new(word.as_bytes()))
            .collect::<Result<_, _>>()
            .context("the command contains a NUL byte")?;
        let (wait, go) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let (failure, report) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
        let mut arguments: Vec<*const libc::c_char> =
            strings.iter().map(|word| word.as_ptr()).collect();
        arguments.push(std::ptr::null());

        // SAFETY: the child calls only async-signal-safe functions until it execs or exits.
        let pid = unsafe { libc::fork() };
        if pid < 0 {
            return Err(io::Error::last_os_error()).context("cannot fork");
        }
        if pid == 0 {
            drop(go);
            drop(failure);
            become_command(&wait, &report, &arguments);
        }
        Ok(Self {
            pid,
            name,
            go: Some(go.into()),
            failure: failure.into(),
            exited: false,
        })
    }

    /// The child's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.cast_unsigned()
    }

    /// Lets the child become the command.
    ///
    /// # Errors
    /// When the command cannot be started: not found, not executable.
    pub fn release(&mut self) -> Result<()> {
        if let Some(mut go) = self.go.take() {
            go.write_all(&[1])
                .context("the command's process is gone before it started")?;
        }
        let mut errno = [0_u8; 4];
        // The pipe closes without a word when the exec works.
        if self
            .failure
            .read(&mut errno)
            .context("cannot hear from the command")?
            == 4
        {
            let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
            return Err(Error::Failed {
                problem: format!("cannot start {}: {error}", self.name),
                remedy: "check the spelling, the PATH and the file's execute permission".into(),
            }
            .into());
        }
        Ok(())
    }

    /// Whether the command has exited; reaps it.
    pub fn has_exited(&mut self) -> bool {
        if !self.exited {
            let mut status = 0;
            // SAFETY: plain call; `status` outlives it.
            let result = unsafe { libc::waitpid(self.pid, &raw mut status, libc::WNOHANG) };
            self.exited = result == self.pid || result < 0;
        }
        self.exited
    }
}

impl Drop for Command {
    fn drop(&mut self) {
        // A child that was never released sees its pipe close and exits; reap it. A running
        // command is left alone, as `perf record` would at the end of its time.
        if self.go.take().is_some() && !self.exited {
            // SAFETY: plain call without a status.
            unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
        }
    }
}

/// The child's side: wait for a byte, exec, report a failure. Async-signal-safe calls only.
fn become_command(wait: &OwnedFd, report: &OwnedFd, arguments: &[*const libc::c_char]) -> ! {
    let mut byte = [0_u8; 1];
    if !matches!(rustix::io::read(wait, &mut byte), Ok(1)) {
        // SAFETY: `_exit` never returns and runs no handlers of the parent's.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: `arguments` is a NULL-terminated array of C strings owned by the caller; signal
    // calls take initialised sets.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execvp(arguments[0], arguments.as_ptr());
    }
    let errno = io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO);
    let _told = rustix::io::write(report, &errno.to_ne_bytes());
    // SAFETY: as above.
    unsafe { libc::_exit(127) };
}
