//! What all histogram tools are: a distribution per section of the report.

use anyhow::Result;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::histogram::{Histogram, ROWS};
use super::hooks::HookUse;
use super::interval::Rhythm;
use super::kernel_side::{Epochs, ReportKey, Tally};
use super::{Report, Tool};
use crate::bpf::Bpf;

/// What a histogram is of: `disk` and `vda`. Empty: all values together.
pub type Section = Vec<(&'static str, String)>;

/// Makes a table of what was tallied and measured, to stand above the histograms.
pub type Above =
    Box<dyn Fn(&BTreeMap<ReportKey, Tally>, &BTreeMap<ReportKey, Histogram>) -> Report>;

/// The unit of a histogram, and what it is worth in nanoseconds.
pub fn unit(milliseconds: bool) -> (&'static str, u64) {
    if milliseconds {
        ("msecs", 1_000_000)
    } else {
        ("usecs", 1000)
    }
}

/// A histogram tool, attached.
pub struct HistogramTool {
    bpf: Bpf,
    hooks: Vec<HookUse>,
    unit: &'static str,
    section_of: Box<dyn Fn(&ReportKey) -> Section>,
    epochs: Epochs,
    /// By key, since names are looked up when the report is made.
    gathered: BTreeMap<ReportKey, Histogram>,
    above: Option<Above>,
    tallied: BTreeMap<ReportKey, Tally>,
    heat: [u64; ROWS],
}

impl HistogramTool {
    /// From a loaded object whose programs are attached. `unit` is `usecs` or `msecs`.
    pub fn new(
        bpf: Bpf,
        hooks: Vec<HookUse>,
        unit: &'static str,
        section_of: Box<dyn Fn(&ReportKey) -> Section>,
    ) -> Self {
        Self {
            bpf,
            hooks,
            unit,
            section_of,
            epochs: Epochs::default(),
            gathered: BTreeMap::new(),
            above: None,
            tallied: BTreeMap::new(),
            heat: [0; ROWS],
        }
    }

    /// Adds a table above the histograms; the object must have the map of tallies, too.
    pub fn with_table_above(mut self, above: Above) -> Self {
        self.above = Some(above);
        self
    }

    /// Sections with the most values first; keys of one name are one section.
    fn take_sections(&mut self) -> Vec<(Section, Histogram)> {
        let mut sections: BTreeMap<Section, Histogram> = BTreeMap::new();
        for (key, histogram) in std::mem::take(&mut self.gathered) {
            sections
                .entry((self.section_of)(&key))
                .or_default()
                .merge(&histogram);
        }
        let mut sections: Vec<_> = sections.into_iter().collect();
        sections.sort_by_key(|(_, histogram)| std::cmp::Reverse(histogram.count()));
        sections
    }
}

impl Tool for HistogramTool {
    fn rhythm(&self) -> Rhythm {
        Rhythm::AtEnd
    }

    fn bpf(&self) -> Option<&Bpf> {
        Some(&self.bpf)
    }

    fn hooks(&self) -> &[HookUse] {
        &self.hooks
    }

    fn collect(&mut self) -> Result<()> {
        self.epochs.advance(&mut self.bpf)?;
        self.heat = [0; ROWS];
        for (mut key, histogram) in self.epochs.take_histograms(&self.bpf)? {
            key.epoch = 0;
            self.gathered.entry(key).or_default().merge(&histogram);
            for (row, count) in self.heat.iter_mut().zip(histogram.rows()) {
                *row += count;
            }
        }
        if self.above.is_some() {
            for (mut key, tally) in self.epochs.take_tallies(&self.bpf)? {
                key.epoch = 0;
                *self.tallied.entry(key).or_default() += tally;
            }
        }
        Ok(())
    }

    fn report(&mut self) -> Report {
        let tallied = std::mem::take(&mut self.tallied);
        let mut report = match &self.above {
            Some(above) => above(&tallied, &self.gathered),
            None => Report::default(),
        };
        let text = &mut report.text;
        let mut json = Vec::new();
        for (section, histogram) in self.take_sections() {
            let mut object = Map::new();
            if !section.is_empty() {
                let names: Vec<_> = section
                    .iter()
                    .map(|(what, name)| format!("{what} = {name}"))
                    .collect();
                text.extend(["\n", &names.join(", "), "\n"]);
            }
            for (what, name) in section {
                object.insert(what.into(), name.into());
            }
            *text += &histogram.table(self.unit);
            if let Value::Object(fields) = histogram.json(self.unit) {
                object.extend(fields);
            }
            json.push(Value::Object(object));
        }
        report.json.insert("histograms".to_owned(), json.into());
        report
    }

    fn heat(&mut self) -> Option<([u64; ROWS], &'static str)> {
        Some((self.heat, self.unit))
    }
}
