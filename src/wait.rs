//! Waiting for the kernel.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, Timespec, poll};

/// Sleeps until one of these is ready or the time, if any, is over; whether one is. A signal may
/// end the wait early, with none ready.
pub fn wait_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<bool> {
    let timeout = timeout
        .map(|timeout| Timespec::try_from(timeout).context("the interval is too long"))
        .transpose()?;
    match poll(fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("cannot wait for events"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::event::PollFlags;

    use super::*;

    #[test]
    fn what_arrives_ends_the_wait() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let start = Instant::now();
        let mut fds = [PollFd::new(&read, PollFlags::IN)];
        assert!(!wait_for(&mut fds, Some(Duration::from_millis(10))).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(10));
        rustix::io::write(&write, b"!").unwrap();
        assert!(wait_for(&mut fds, Some(Duration::from_mins(1))).unwrap());
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
