//! bpftrace's script for the comparison, and its output.

use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

/// As short as can be: what tells the samples' number must not cost the program that takes them.
pub fn script(frequency_hz: u64) -> String {
    format!(
        "BEGIN {{ @first_ns = nsecs; }} \
         profile:hz:{frequency_hz} {{ @stacks[kstack, ustack, comm] = count(); }} \
         END {{ @last_ns = nsecs; }}"
    )
}

/// What it says at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Samples in all stacks.
    pub samples: u64,
    /// From its beginning to its end.
    pub span_ns: u64,
}

impl Summary {
    /// Reads `bpftrace -f json`: a line for each map.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = Maps::default();
        for line in text.lines() {
            if let Ok(Line { data }) = serde_json::from_str(line) {
                all.first_ns = all.first_ns.or(data.first_ns);
                all.last_ns = all.last_ns.or(data.last_ns);
                all.stacks = all.stacks.or(data.stacks);
            }
        }
        let (first_ns, last_ns) = all
            .first_ns
            .zip(all.last_ns)
            .context("bpftrace printed no times")?;
        let Sum(samples) = all.stacks.context("bpftrace printed no stacks")?;
        Ok(Self {
            samples,
            span_ns: last_ns.saturating_sub(first_ns),
        })
    }
}

#[derive(Debug, Deserialize)]
struct Line {
    data: Maps,
}

#[derive(Debug, Default, Deserialize)]
struct Maps {
    #[serde(rename = "@first_ns")]
    first_ns: Option<u64>,
    #[serde(rename = "@last_ns")]
    last_ns: Option<u64>,
    #[serde(rename = "@stacks")]
    stacks: Option<Sum>,
}

/// The values of a JSON object, added up. Its keys are stacks as text, and several may read the
/// same.
#[derive(Debug)]
struct Sum(u64);

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Adding;
        impl<'de> Visitor<'de> for Adding {
            type Value = Sum;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of counts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut counts: A) -> Result<Sum, A::Error> {
                let mut sum = 0;
                while let Some((_, count)) = counts.next_entry::<IgnoredAny, u64>()? {
                    sum += count;
                }
                Ok(Sum(sum))
            }
        }
        deserializer.deserialize_map(Adding)
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn stacks_that_read_the_same_count_each() {
        let text = r#"{"type": "attached_probes", "data": {"probes": 3}}

{"type": "map", "data": {"@first_ns": 1000}}
{"type": "map", "data": {"@last_ns": 3500}}
{"type": "map", "data": {"@stacks": {"\n    a+1\n,,x": 2, "\n    a+1\n,,x": 3, "\",,y": 1}}}
"#;
        let expected = Summary {
            samples: 6,
            span_ns: 2500,
        };
        assert_eq!(Summary::parse(text).unwrap(), expected);
        assert!(Summary::parse("").is_err());
    }
}
