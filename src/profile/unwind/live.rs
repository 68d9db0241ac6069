//! Keeps the kernel side's tables and mappings in step with what processes do, and walks in user
//! space the stacks that were sampled before it was.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use anyhow::Result;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::UnwindModule;
use super::abi::MappingEntry;
use super::cache::Cache;
use super::elf::ElfLayout;
use super::maps::{Mapping, TableId, UnwindMaps};
use super::table::Table;
use super::walk::{
    AddressSpace, Captured, Registers, STACK_POINTER, Walk, WithoutCfi, unwind_user,
};
use crate::profile::processes::{Processes, Stretch};
use crate::profile::raw::ImageKey;
use crate::symbolize::modules::{ModuleId, Modules};

/// Kernel memory that tables may take: some hundred of the largest libraries there are.
const TABLES_BYTES_MAX: usize = 1 << 30;

/// Bytes of files whose tables are built together: a few megabytes of tables.
const BATCH_FILE_BYTES: u64 = 64 << 20;

/// A user stack that was copied because it could not be walked on the spot.
#[derive(Debug)]
pub struct CopiedStack {
    /// Whose stack.
    pub image: ImageKey,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// The registers then.
    pub registers: Registers,
    /// Where the program's arguments begin on its stack.
    pub start_stack: u64,
    /// The memory from the stack pointer upwards.
    pub bytes: Box<[u8]>,
}

/// A module's layout and table; `None` without a file or without call frame information.
type Read = Option<(ElfLayout, Table)>;

/// Tables that were read while the kernel side was still being loaded.
#[derive(Debug)]
pub struct ReadAhead {
    cache: Option<Cache>,
    tables: HashMap<ModuleId, Read>,
}

impl ReadAhead {
    /// Reads the tables of what these processes have mapped, as many as are ever held at a time.
    /// Without a usable cache folder they are built anew each time.
    #[must_use]
    pub fn of(processes: &Processes, modules: &Modules) -> Self {
        let cache = Cache::open()
            .inspect_err(|error| tracing::info!("unwind tables are not kept: {error:#}"))
            .ok();
        let layouts = processes.changed().iter().copied();
        let layouts = layouts.filter_map(|pid| processes.layout_now(pid));
        let mapped = layouts.flat_map(|layout| modules_of(&layout).collect::<Vec<_>>());
        let first = batches(mapped.collect(), modules).into_iter().next();
        let tables = first
            .unwrap_or_default()
            .into_par_iter()
            .map(|id| (id, read(modules, id, cache.as_ref())))
            .collect();
        Self { cache, tables }
    }
}

/// The unwinder's user-space half.
#[derive(Debug)]
pub struct Unwinder {
    maps: UnwindMaps,
    ahead: ReadAhead,
    /// `None` for a file without call frame information.
    modules: HashMap<ModuleId, Option<Loaded>>,
    by_table: HashMap<u32, ModuleId>,
    /// The processes whose stacks are wanted; all when `None`.
    wanted: Option<HashSet<u32>>,
    without_cfi: WithoutCfi,
    /// Modules whose table found no room, processes whose mappings did not.
    unplaced: u64,
}

/// A module whose table the kernel side has.
#[derive(Debug)]
struct Loaded {
    layout: ElfLayout,
    table: TableId,
    /// The table here, for stacks that are walked here; most modules never need it.
    local: OnceLock<Option<Table>>,
}

impl Unwinder {
    /// Takes over the kernel side's maps, which [`Unwinder::update`] fills.
    #[must_use]
    pub fn new(
        maps: UnwindMaps,
        ahead: ReadAhead,
        wanted: Option<HashSet<u32>>,
        without_cfi: WithoutCfi,
    ) -> Self {
        Self {
            maps,
            ahead,
            modules: HashMap::new(),
            by_table: HashMap::new(),
            wanted,
            without_cfi,
            unplaced: 0,
        }
    }

    /// Adds a process to those whose stacks are wanted, if its parent is one of them.
    pub fn follow(&mut self, parent: u32, child: u32) {
        if let Some(wanted) = &mut self.wanted
            && wanted.contains(&parent)
        {
            wanted.insert(child);
        }
    }

    /// Brings the kernel side up to date for processes that changed.
    ///
    /// # Errors
    /// When a BPF map refuses an update; a lack of room is counted instead.
    pub fn update(
        &mut self,
        changed: &HashSet<u32>,
        processes: &Processes,
        modules: &Modules,
    ) -> Result<()> {
        let is_wanted = |pid: &&u32| {
            self.wanted
                .as_ref()
                .is_none_or(|wanted| wanted.contains(pid))
        };
        let layouts: Vec<(u32, Option<Vec<Stretch>>)> = changed
            .iter()
            .filter(is_wanted)
            .map(|pid| (*pid, processes.layout_now(*pid)))
            .collect();
        let mapped = layouts.iter().filter_map(|(_, layout)| layout.as_ref());
        let new: HashSet<ModuleId> = mapped
            .flat_map(|layout| modules_of(layout))
            .filter(|module| !self.modules.contains_key(module))
            .collect();
        for batch in batches(new, modules) {
            self.load_batch(&batch, modules);
        }
        // Of a process that has ended since.
        self.ahead.tables.clear();
        for (pid, layout) in &layouts {
            let Some(layout) = layout else {
                self.maps.remove_process(*pid)?;
                continue;
            };
            let vdso = layout.iter().find(|stretch| {
                stretch
                    .file
                    .is_some_and(|(module, _)| modules.is_vdso(module))
            });
            let vdso = vdso.map_or(0, |stretch| stretch.start);
            if let Err(error) = self.maps.set_process(*pid, self.entries(layout), vdso) {
                tracing::debug!(pid, "no unwind mappings: {error:#}");
                self.unplaced += 1;
            }
        }
        Ok(())
    }

    fn load_batch(&mut self, batch: &[ModuleId], modules: &Modules) {
        let ahead: Vec<(ModuleId, Option<Read>)> = batch
            .iter()
            .map(|id| (*id, self.ahead.tables.remove(id)))
            .collect();
        let cache = self.ahead.cache.as_ref();
        let tables: Vec<(ModuleId, Read)> = ahead
            .into_par_iter()
            .map(|(id, ahead)| (id, ahead.unwrap_or_else(|| read(modules, id, cache))))
            .collect();
        let mut bytes = self.maps.memory_bytes();
        let mut kept: Vec<(ModuleId, ElfLayout, Table)> = Vec::new();
        for (id, read) in tables {
            self.modules.insert(id, None);
            let Some((layout, table)) = read else {
                continue;
            };
            bytes += size_of_val(table.words());
            if bytes > TABLES_BYTES_MAX {
                self.unplaced += 1;
                continue;
            }
            kept.push((id, layout, table));
        }
        if kept.is_empty() {
            return;
        }
        let tables: Vec<&Table> = kept.iter().map(|(_, _, table)| table).collect();
        let ids = match self.maps.add_tables(&tables) {
            Ok(ids) => ids,
            Err(error) => {
                tracing::debug!("{} unwind tables not loaded: {error:#}", tables.len());
                self.unplaced += tables.len() as u64;
                return;
            }
        };
        for ((id, layout, _), table) in kept.into_iter().zip(ids) {
            self.by_table.insert(table.number(), id);
            let loaded = Loaded {
                layout,
                table,
                local: OnceLock::new(),
            };
            self.modules.insert(id, Some(loaded));
        }
    }

    fn entries(&self, layout: &[Stretch]) -> Vec<MappingEntry> {
        let entry = |stretch: &Stretch| {
            let (module, file_offset) = stretch.file.unzip();
            let mapping = Mapping {
                start: stretch.start,
                end: stretch.end,
                file_offset: file_offset.unwrap_or(0),
            };
            match module
                .and_then(|id| self.modules.get(&id))
                .and_then(Option::as_ref)
            {
                Some(loaded) => mapping.of_module(&loaded.layout, loaded.table),
                None => mapping.by_frame_pointers(),
            }
        };
        layout.iter().map(entry).collect()
    }

    /// Walks a copied stack with what is known by now of its process.
    #[must_use]
    pub fn walk(&self, copied: &CopiedStack, processes: &Processes, modules: &Modules) -> Walk {
        let entries = self.entries(&processes.layout(copied.image, copied.time_ns));
        let parts = [(copied.registers[STACK_POINTER], &*copied.bytes)];
        let memory = Captured { parts: &parts };
        let process = AddressSpace {
            mappings: &entries,
            start_stack: copied.start_stack,
            without_cfi: self.without_cfi,
        };
        unwind_user(&copied.registers, &memory, &process, |table| {
            self.local(table, modules)
        })
    }

    fn local(&self, table: u32, modules: &Modules) -> Option<&Table> {
        let id = self.by_table.get(&table)?;
        let loaded = self.modules.get(id)?.as_ref()?;
        let read_again = || read(modules, *id, self.ahead.cache.as_ref()).map(|(_, table)| table);
        loaded.local.get_or_init(read_again).as_ref()
    }

    /// Kernel memory of tables and mappings, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.maps.memory_bytes() as u64
    }

    /// Modules' tables and processes' mappings that found no room.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.unplaced
    }
}

fn file_bytes(modules: &Modules, id: ModuleId) -> u64 {
    let metadata = modules
        .get(id)
        .file
        .as_ref()
        .and_then(|file| file.metadata().ok());
    metadata.map_or(0, |metadata| metadata.len())
}

fn modules_of(layout: &[Stretch]) -> impl Iterator<Item = ModuleId> {
    let files = layout.iter().filter_map(|stretch| stretch.file);
    files.map(|(module, _)| module)
}

/// Tables are built on all CPUs, and loaded batch by batch: the kernel waits for a grace period at
/// each load, but tables of a whole machine at once would be ours to hold.
fn batches(new: HashSet<ModuleId>, modules: &Modules) -> Vec<Vec<ModuleId>> {
    let new = new.into_iter().map(|id| (file_bytes(modules, id), id));
    let mut sizes: Vec<(u64, ModuleId)> = new.collect();
    // Small files first: most modules are there with the first batches.
    sizes.sort_unstable();
    let mut batch_bytes = 0;
    let batches = sizes.chunk_by(|_, (bytes, _)| {
        batch_bytes += bytes;
        let fits = batch_bytes < BATCH_FILE_BYTES;
        if !fits {
            batch_bytes = 0;
        }
        fits
    });
    batches
        .map(|batch| batch.iter().map(|(_, id)| *id).collect())
        .collect()
}

fn read(modules: &Modules, id: ModuleId, cache: Option<&Cache>) -> Read {
    let module = modules.get(id);
    let read = UnwindModule::read(module.file.as_ref()?, cache)
        .inspect_err(|error| tracing::debug!("{}: {error:#}", module.path.display()))
        .ok()?;
    Some((read.layout, read.table?))
}
