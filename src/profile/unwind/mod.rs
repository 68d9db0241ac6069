//! Unwinding user stacks by `.eh_frame`, in BPF, with nothing to recompile.
//!
//! [`elf`] finds a module's call frame information, [`table`] compiles it into one flat run of
//! words, [`cache`] keeps that on disk, [`maps`] puts it and the processes' mappings where the
//! kernel side (`ebpf/include/unwind.h`) looks them up; [`walk`] is that walk in user space, over
//! a captured stack. [`live`] keeps all of it in step with the processes.

use anyhow::Result;

use cache::Cache;
use elf::{ElfLayout, Source};
use table::Table;

pub mod abi;
pub mod cache;
pub mod elf;
pub mod live;
pub mod maps;
pub mod rule;
mod runs;
pub mod table;
pub mod walk;

/// A module as the unwinder sees it.
#[derive(Debug)]
pub struct UnwindModule {
    /// Where its segments go.
    pub layout: ElfLayout,
    /// Its table; `None` when it has no call frame information.
    pub table: Option<Table>,
}

impl UnwindModule {
    /// Takes a module's table from the cache, or compiles and caches it. Modules are independent:
    /// read many in parallel.
    pub fn read<S: Source + ?Sized>(source: &S, cache: Option<&Cache>) -> Result<Self> {
        let layout = ElfLayout::read(source)?;
        let Some(cfi) = layout.read_cfi(source)? else {
            return Ok(Self {
                layout,
                table: None,
            });
        };
        let entry = cache.zip(layout.build_id.as_deref());
        // A build id is only a claim; the table was made from the call frame information.
        let fingerprint = cfi.fingerprint(&layout);
        if let Some((cache, build_id)) = entry
            && let Some(table) = cache.load(build_id, fingerprint)
        {
            return Ok(Self {
                layout,
                table: Some(table),
            });
        }
        let table = Table::build(&layout, &cfi)?;
        if let Some((cache, build_id)) = entry
            && let Err(error) = cache.store(build_id, fingerprint, &table)
        {
            // A full or read-only disk costs time, not stacks.
            tracing::debug!("cannot cache an unwind table: {error:#}");
        }
        Ok(Self {
            layout,
            table: Some(table),
        })
    }
}
