//! Puts tables and processes' mappings where the kernel side looks them up.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::mm::{MapFlags, ProtFlags};

use super::abi::{LINE_WORDS, MAPPINGS_MAX, MappingEntry, ProcessEntry, TABLES_MAX, mapping_kind};
use super::elf::ElfLayout;
use super::runs::{Place, Runs};
use super::table::Table;
use crate::bpf::raw_map;

const PAGE_BYTES: usize = 4096;

/// A loaded table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(u32);

impl TableId {
    /// Its number in `unwind_tables`.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// One executable mapping of a process, as `/proc/PID/maps` or a side-band record tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Offset in the file of the first address.
    pub file_offset: u64,
}

impl Mapping {
    /// The mapping of a file that has a table; by frame pointers when the file's segments do not
    /// explain the mapping.
    #[must_use]
    pub fn of_module(&self, layout: &ElfLayout, table: TableId) -> MappingEntry {
        match layout.bias(self.start, self.end, self.file_offset) {
            Some(bias) => MappingEntry {
                start: self.start,
                end: self.end,
                bias,
                table: table.0,
                kind: mapping_kind::TABLE,
            },
            None => self.by_frame_pointers(),
        }
    }

    /// The mapping of a JIT's code, or of a file without a table.
    #[must_use]
    pub fn by_frame_pointers(&self) -> MappingEntry {
        MappingEntry {
            start: self.start,
            end: self.end,
            kind: mapping_kind::FRAME_POINTERS,
            ..MappingEntry::default()
        }
    }
}

/// The kernel side's maps. Everything put into them is bounded: [`TABLES_MAX`] tables,
/// [`MAPPINGS_MAX`] mappings; what finds no room is an error that the caller counts.
#[derive(Debug)]
pub struct UnwindMaps {
    tables: OwnedFd,
    processes: OwnedFd,
    mappings: MappedArray,
    /// Size of each loaded table in bytes, 0 for a free number.
    table_bytes: Vec<usize>,
    free_tables: Vec<u32>,
    runs: Runs,
    /// Each process's run.
    process_runs: HashMap<u32, u32>,
}

impl UnwindMaps {
    /// Takes over the maps `unwind_tables`, `unwind_processes` and `unwind_mappings`.
    pub fn new(tables: OwnedFd, processes: OwnedFd, mappings: &OwnedFd) -> Result<Self> {
        let bytes = MAPPINGS_MAX as usize * size_of::<MappingEntry>();
        Ok(Self {
            tables,
            processes,
            mappings: MappedArray::new(mappings, bytes).context("cannot map unwind_mappings")?,
            table_bytes: Vec::new(),
            free_tables: Vec::new(),
            runs: Runs::new(MAPPINGS_MAX),
            process_runs: HashMap::new(),
        })
    }

    /// Loads tables; each gets an array of its exact size. Load many at once: the kernel waits
    /// for a grace period each time.
    pub fn add_tables(&mut self, tables: &[&Table]) -> Result<Vec<TableId>> {
        let mut arrays = Vec::with_capacity(tables.len());
        let mut keys = Vec::with_capacity(tables.len());
        for table in tables {
            arrays.push(table_array(table).context("cannot create an unwind table")?);
            keys.push(self.free_table_number().context("too many unwind tables")?);
        }
        if let Err(error) = raw_map::update_array_of_maps(self.tables.as_fd(), &keys, &arrays) {
            self.free_tables.extend(keys);
            return Err(error).context("cannot load unwind tables");
        }
        for (key, table) in keys.iter().zip(tables) {
            self.table_bytes[*key as usize] = array_bytes(table) + PAGE_BYTES;
        }
        Ok(keys.into_iter().map(TableId).collect())
    }

    fn free_table_number(&mut self) -> Option<u32> {
        self.free_tables.pop().or_else(|| {
            let number = self.table_bytes.len() as u32;
            (number < TABLES_MAX).then(|| self.table_bytes.push(0))?;
            Some(number)
        })
    }

    /// Removes a table that no process's mappings name any more.
    pub fn remove_table(&mut self, table: TableId) -> Result<()> {
        raw_map::delete(self.tables.as_fd(), table.0).context("cannot remove an unwind table")?;
        if let Some(bytes) = self.table_bytes.get_mut(table.0 as usize)
            && *bytes > 0
        {
            *bytes = 0;
            self.free_tables.push(table.0);
        }
        Ok(())
    }

    /// Makes these the process's executable mappings. Walks see the old ones or the new ones,
    /// never a mixture. Processes with the same mappings (forked workers) share the memory.
    /// `vdso` is where the process has it, 0 if that is not known: an exec in the meantime shows
    /// by it.
    pub fn set_process(
        &mut self,
        tgid: u32,
        mut mappings: Vec<MappingEntry>,
        vdso: u64,
    ) -> Result<()> {
        mappings.sort_unstable_by_key(|mapping| mapping.start);
        let count = mappings.len() as u32;
        let run = self.runs.add(mappings, |first, entries| {
            self.mappings.write(first, entries);
        });
        let Place { first, serial } = run.context("too many mappings")?;
        let entry = ProcessEntry {
            first,
            count,
            run: serial,
            vdso,
            ..ProcessEntry::default()
        };
        if let Err(error) = raw_map::update(self.processes.as_fd(), tgid, &entry) {
            self.runs.release(first);
            return Err(error).context("cannot register a process's mappings");
        }
        if let Some(old) = self.process_runs.insert(tgid, first) {
            self.runs.release(old);
        }
        Ok(())
    }

    /// Forgets a process that has ended.
    pub fn remove_process(&mut self, tgid: u32) -> Result<()> {
        if let Some(run) = self.process_runs.remove(&tgid) {
            self.runs.release(run);
            raw_map::delete(self.processes.as_fd(), tgid).context("cannot forget a process")?;
        }
        Ok(())
    }

    /// Kernel memory of the tables and the mappings, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.table_bytes.iter().sum::<usize>() + self.mappings.bytes
    }

    /// Tables loaded.
    #[must_use]
    pub fn table_count(&self) -> usize {
        self.table_bytes.len() - self.free_tables.len()
    }
}

fn array_bytes(table: &Table) -> usize {
    size_of_val(table.words()).next_multiple_of(PAGE_BYTES)
}

/// Creates a table's array and writes it through a mapping: no system call per element.
fn table_array(table: &Table) -> io::Result<OwnedFd> {
    let array = raw_map::create_inner_array(
        *b"unwind_table\0\0\0\0",
        (LINE_WORDS * size_of::<u32>()) as u32,
        table.lines(),
    )?;
    MappedArray::new(&array, array_bytes(table))?.write(0, table.words());
    Ok(array)
}

/// A BPF array mapped into our memory.
#[derive(Debug)]
struct MappedArray {
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping belongs to this value alone and is written through `&mut self` only.
unsafe impl Send for MappedArray {}

impl MappedArray {
    fn new(array: &OwnedFd, bytes: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                array,
                0,
            )?
        };
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    /// Writes elements from the given index on.
    fn write<T: Copy>(&mut self, index: u32, elements: &[T]) {
        let offset = index as usize * size_of::<T>();
        assert!(
            offset + size_of_val(elements) <= self.bytes,
            "elements beyond the array"
        );
        // SAFETY: the range lies within the mapping, as asserted; BPF programs only read it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                elements.as_ptr().cast(),
                self.start.add(offset),
                size_of_val(elements),
            );
        }
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and no reference into it is handed out.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start.cast(), self.bytes) } {
            tracing::debug!("munmap: {error}");
        }
    }
}
