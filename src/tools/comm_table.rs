//! A table of commands with counts: the busiest first.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Map, Value};

use super::Report;
use super::kernel_side::{ReportKey, Tally};
use super::tally_tool::Render;

/// `-n`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Commands of a report
    #[arg(short = 'n', long = "top", value_name = "N", default_value_t = 10)]
    pub top: usize,
}

/// What the numbers of a tally mean.
#[derive(Debug)]
pub struct Columns {
    /// Title of the count.
    pub count: &'static str,
    /// Title of the amount, its name in JSON, and the divisor of the printed number.
    pub amount: (&'static str, &'static str, u64),
    /// The same for the third number, where there is one.
    pub extra: Option<(&'static str, &'static str, u64)>,
}

/// Makes the tool's reports. `label` gives a column before the numbers, where rows of a command
/// are told apart.
pub fn renderer(
    columns: &'static Columns,
    top: &TopArgs,
    label: fn(&ReportKey) -> Option<(&'static str, String)>,
) -> Render {
    let top = top.top;
    Box::new(move |tallies| report(columns, top, label, tallies))
}

fn report(
    columns: &Columns,
    top: usize,
    label: fn(&ReportKey) -> Option<(&'static str, String)>,
    tallies: &[(ReportKey, Tally)],
) -> Report {
    let mut tallies = tallies.to_vec();
    tallies.sort_by_key(|(key, tally)| (std::cmp::Reverse((tally.count, tally.amount)), key.comm));
    tallies.truncate(top);
    let mut text = String::new();
    let label_title = tallies.first().and_then(|(key, _)| label(key));
    let mut titles = format!("{:<16}", "COMM");
    if let Some((title, _)) = label_title {
        let _ = write!(titles, " {title}");
    }
    let _ = write!(titles, " {:>10} {:>12}", columns.count, columns.amount.0);
    if let Some((title, ..)) = columns.extra {
        let _ = write!(titles, " {title:>12}");
    }
    text += &titles;
    text.push('\n');
    let mut rows = Vec::new();
    for (key, tally) in &tallies {
        let mut row = Map::new();
        row.insert("comm".into(), key.comm().into());
        let _ = write!(text, "{:<16}", key.comm());
        if let Some((title, value)) = label(key) {
            let _ = write!(text, " {value:<width$}", width = title.len());
            row.insert(title.to_lowercase(), value.into());
        }
        row.insert("count".into(), tally.count.into());
        let (_, name, divisor) = columns.amount;
        let _ = write!(text, " {:>10} {:>12}", tally.count, tally.amount / divisor);
        row.insert(name.into(), tally.amount.into());
        if let Some((_, name, divisor)) = columns.extra {
            let _ = write!(text, " {:>12}", tally.extra / divisor);
            row.insert(name.into(), tally.extra.into());
        }
        text.push('\n');
        rows.push(Value::Object(row));
    }
    Report {
        text,
        json: Map::from_iter([("rows".to_owned(), rows.into())]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static COLUMNS: Columns = Columns {
        count: "ALLOCS",
        amount: ("KB", "bytes", 1024),
        extra: None,
    };

    fn entry(comm: &[u8], count: u64) -> (ReportKey, Tally) {
        let mut key = ReportKey {
            epoch: 0,
            id: 0,
            detail: 0,
            comm: [0; 16],
        };
        key.comm[..comm.len()].copy_from_slice(comm);
        let tally = Tally {
            count,
            amount: 2048 * count,
            extra: 0,
        };
        (key, tally)
    }

    #[test]
    fn the_busiest_come_first_and_the_rest_is_left_out() {
        let entries = [entry(b"few", 1), entry(b"many", 9), entry(b"some", 5)];
        let report = report(&COLUMNS, 2, |_| None, &entries);
        assert_eq!(
            report.text,
            "COMM                 ALLOCS           KB\n\
             many                      9           18\n\
             some                      5           10\n"
        );
        assert_eq!(report.json["rows"][0]["bytes"], 18432);
    }
}
