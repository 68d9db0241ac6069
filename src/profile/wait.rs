//! Waiting for the kernel.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Sleeps until there is something to read or the time is over; whether there is.
pub fn wait_for<'fd>(
    fds: impl IntoIterator<Item = BorrowedFd<'fd>>,
    timeout: Duration,
) -> Result<bool> {
    let mut fds: Vec<PollFd<'_>> = fds
        .into_iter()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(timeout).context("duration out of range")?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("cannot wait for the kernel's buffers"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_arrives_ends_the_wait() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let start = Instant::now();
        assert!(!wait_for([read.as_fd()], Duration::from_millis(10)).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(10));
        rustix::io::write(&write, b"!").unwrap();
        assert!(wait_for([read.as_fd()], Duration::from_mins(1)).unwrap());
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
