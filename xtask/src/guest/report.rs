//! What a guest says on its second serial line, as `init.sh` writes it.

use std::collections::BTreeMap;

/// A guest's whole report.
#[derive(Debug, Default)]
pub struct Report {
    /// `uname -r`.
    pub kernel: String,
    /// Results by check.
    pub outcomes: BTreeMap<String, Outcome>,
    /// Modules that did not load.
    pub failed_modules: Vec<String>,
    /// Seconds from boot to the last check's end, by the guest's clock.
    pub uptime_seconds: f64,
    /// Did it come to its end?
    pub is_complete: bool,
    running: Option<String>,
}

/// What one check printed, and how it ended.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
    /// Its exit status; none if the guest died in it.
    pub status: Option<i32>,
}

impl Report {
    /// Reads a report; a broken one gives what there is.
    pub fn parse(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            report.take(word, rest);
        }
        report
    }

    /// The check that ran last.
    pub fn last_check(&self) -> Option<&str> {
        self.running.as_deref()
    }

    fn take(&mut self, word: &str, rest: &str) {
        match word {
            "kernel" => rest.clone_into(&mut self.kernel),
            "module-failed" => self.failed_modules.push(rest.to_owned()),
            "begin" => self.running = Some(rest.to_owned()),
            "uptime" => self.uptime_seconds = rest.parse().unwrap_or_default(),
            "done" => self.is_complete = true,
            "out" => append(&mut self.outcome().stdout, rest),
            "err" => append(&mut self.outcome().stderr, rest),
            "exit" => self.outcome().status = rest.parse().ok(),
            _ => {}
        }
    }

    fn outcome(&mut self) -> &mut Outcome {
        let check = self.running.clone().unwrap_or_default();
        self.outcomes.entry(check).or_default()
    }
}

fn append(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_report_is_read_by_check() {
        let report = Report::parse(
            "kernel 6.1.0\r\nbegin a\nout x;y 3\nout \nerr warning\nexit 3\n\
             begin b\nexit 0\nuptime 7.5\ndone\n",
        );
        assert_eq!(report.kernel, "6.1.0");
        let a = &report.outcomes["a"];
        assert_eq!(
            (a.stdout.as_str(), a.stderr.as_str()),
            ("x;y 3\n\n", "warning\n")
        );
        assert_eq!(a.status, Some(3));
        assert_eq!(report.outcomes["b"].status, Some(0));
        assert!(report.is_complete);
    }

    #[test]
    fn a_guest_that_dies_leaves_its_last_check() {
        let report = Report::parse("kernel 6.1.0\nbegin a\nout half a li");
        assert!(!report.is_complete);
        assert_eq!(report.last_check(), Some("a"));
        assert_eq!(report.outcomes["a"].status, None);
    }
}
