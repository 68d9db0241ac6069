//! What a workload says it really did.

use std::collections::BTreeMap;

/// The CPU times that a workload printed, in nanoseconds.
// Every field is a time: its unit belongs to its name.
#[allow(clippy::struct_field_names)]
#[derive(Debug, Default)]
pub struct Truth {
    /// By function, thread or process name.
    pub cpu_ns: BTreeMap<String, u64>,
    /// The whole process in user mode.
    pub user_ns: u64,
    /// The whole process in kernel mode.
    pub system_ns: u64,
}

impl Truth {
    /// Reads every line of JSON that a workload printed (one that calls `exec` prints several).
    pub fn parse(stdout: &str) -> Self {
        let mut truth = Self::default();
        for line in stdout.lines().filter(|line| line.starts_with('{')) {
            let json: serde_json::Value = serde_json::from_str(line).expect("a workload's JSON");
            for (name, ns) in json["cpu_ns"].as_object().expect("cpu_ns is an object") {
                truth
                    .cpu_ns
                    .insert(name.clone(), ns.as_u64().expect("nanoseconds"));
            }
            truth.user_ns += json["user_ns"].as_u64().unwrap_or(0);
            truth.system_ns += json["system_ns"].as_u64().unwrap_or(0);
        }
        assert!(
            !truth.cpu_ns.is_empty(),
            "the workload printed no truth: {stdout:?}"
        );
        truth
    }

    /// The nanoseconds of one name.
    pub fn ns(&self, name: &str) -> u64 {
        *self
            .cpu_ns
            .get(name)
            .unwrap_or_else(|| panic!("no truth about {name}: {self:?}"))
    }

    /// One name's part of all of them, in percent.
    pub fn share_pct(&self, name: &str) -> f64 {
        let total: u64 = self.cpu_ns.values().sum();
        100.0 * self.ns(name) as f64 / total as f64
    }
}
