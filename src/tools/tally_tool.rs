//! What all table tools are: counts by key, printed by the tool's own rule.

use std::collections::BTreeMap;

use anyhow::Result;

use super::hooks::HookUse;
use super::interval::Rhythm;
use super::kernel_side::{Epochs, ReportKey, Tally};
use super::{Report, Tool};
use crate::bpf::Bpf;

/// Makes a report of what was counted.
pub type Render = Box<dyn Fn(&[(ReportKey, Tally)]) -> Report>;

/// A table tool, attached.
pub struct TallyTool {
    bpf: Bpf,
    hooks: Vec<HookUse>,
    rhythm: Rhythm,
    render: Render,
    epochs: Epochs,
    gathered: BTreeMap<ReportKey, Tally>,
}

impl TallyTool {
    /// From a loaded object whose programs are attached.
    pub fn new(bpf: Bpf, hooks: Vec<HookUse>, rhythm: Rhythm, render: Render) -> Self {
        Self {
            bpf,
            hooks,
            rhythm,
            render,
            epochs: Epochs::default(),
            gathered: BTreeMap::new(),
        }
    }
}

impl Tool for TallyTool {
    fn rhythm(&self) -> Rhythm {
        self.rhythm
    }

    fn bpf(&self) -> Option<&Bpf> {
        Some(&self.bpf)
    }

    fn hooks(&self) -> &[HookUse] {
        &self.hooks
    }

    fn collect(&mut self) -> Result<()> {
        self.epochs.advance(&mut self.bpf)?;
        for (mut key, tally) in self.epochs.take_tallies(&self.bpf)? {
            key.epoch = 0;
            *self.gathered.entry(key).or_default() += tally;
        }
        Ok(())
    }

    fn report(&mut self) -> Report {
        let gathered: Vec<_> = std::mem::take(&mut self.gathered).into_iter().collect();
        (self.render)(&gathered)
    }
}
