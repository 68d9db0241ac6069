//! When reports are due: the `[INTERVAL [COUNT]]` rule that all tools share.

use std::time::{Duration, Instant};

/// What a tool does when no interval is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rhythm {
    /// One report at Ctrl-C: histograms.
    AtEnd,
    /// A report every second until Ctrl-C: tables.
    EverySecond,
    /// Events as they happen; an interval, where given, ends the run.
    Stream,
}

/// When reports are due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Time between reports; `None`: the only report comes with Ctrl-C.
    pub interval: Option<Duration>,
    /// Reports until the end; `None`: until Ctrl-C.
    pub reports: Option<u64>,
}

impl Schedule {
    /// Applies the rule: an interval alone means one report over that time, a count more of them;
    /// `-T` without a count goes on until Ctrl-C.
    #[must_use]
    pub fn new(
        rhythm: Rhythm,
        interval: Option<Duration>,
        count: Option<u64>,
        timestamps: bool,
    ) -> Self {
        match (interval, rhythm) {
            (Some(interval), _) => Self {
                interval: Some(interval),
                reports: count.or((!timestamps).then_some(1)),
            },
            (None, Rhythm::EverySecond) => Self {
                interval: Some(Duration::from_secs(1)),
                reports: None,
            },
            (None, Rhythm::AtEnd | Rhythm::Stream) => Self {
                interval: None,
                reports: None,
            },
        }
    }
}

/// The run's clock: deadlines are multiples of the interval after the start, so that delays of a
/// report do not add up.
#[derive(Debug)]
pub struct Timer {
    start: Instant,
    interval: Option<Duration>,
    done: u64,
}

impl Timer {
    /// A timer whose first deadline is an interval after `start`.
    #[must_use]
    pub fn new(start: Instant, interval: Option<Duration>) -> Self {
        Self {
            start,
            interval,
            done: 0,
        }
    }

    /// Until the next deadline; zero when it has passed, `None` when there is none.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let due = self.interval?.checked_mul(self.done as u32 + 1)?;
        Some((self.start + due).saturating_duration_since(now))
    }

    /// Goes on to the next deadline; those missed altogether are left out.
    pub fn advance(&mut self, now: Instant) {
        self.done += 1;
        if let Some(interval) = self.interval {
            let passed =
                now.saturating_duration_since(self.start).as_nanos() / interval.as_nanos().max(1);
            self.done = self.done.max(passed as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Option<Duration> = Some(Duration::from_secs(10));
    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    fn schedule(
        rhythm: Rhythm,
        interval: Option<Duration>,
        count: Option<u64>,
        timestamps: bool,
    ) -> (Option<Duration>, Option<u64>) {
        let schedule = Schedule::new(rhythm, interval, count, timestamps);
        (schedule.interval, schedule.reports)
    }

    #[test]
    fn the_rule() {
        use Rhythm::{AtEnd, EverySecond, Stream};
        for rhythm in [AtEnd, EverySecond, Stream] {
            assert_eq!(schedule(rhythm, TEN, None, false), (TEN, Some(1)));
            assert_eq!(schedule(rhythm, TEN, Some(3), false), (TEN, Some(3)));
            assert_eq!(schedule(rhythm, TEN, Some(3), true), (TEN, Some(3)));
            assert_eq!(schedule(rhythm, TEN, None, true), (TEN, None));
        }
        assert_eq!(schedule(AtEnd, None, None, true), (None, None));
        assert_eq!(schedule(Stream, None, None, false), (None, None));
        assert_eq!(schedule(EverySecond, None, None, false), (SECOND, None));
    }

    #[test]
    fn deadlines_do_not_drift() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut timer = Timer::new(start, SECOND);
        assert_eq!(
            timer.remaining(after(400)),
            Some(Duration::from_millis(600))
        );
        timer.advance(after(1050));
        assert_eq!(
            timer.remaining(after(1050)),
            Some(Duration::from_millis(950))
        );
        timer.advance(after(4300));
        assert_eq!(
            timer.remaining(after(4300)),
            Some(Duration::from_millis(700))
        );
        assert_eq!(Timer::new(start, None).remaining(start), None);
    }
}
