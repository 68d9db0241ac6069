//! Keeps the kernel side's tables and mappings in step with what processes do, and walks in user
//! space the stacks that were sampled before it was.

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;

use anyhow::Result;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::abi::MappingEntry;
use super::cache::Cache;
use super::elf::ElfLayout;
use super::maps::{Mapping, TableId, UnwindMaps};
use super::table::Table;
use super::walk::{CapturedStack, Registers, Walk, unwind_user};
use crate::profile::processes::{Processes, Stretch};
use crate::profile::raw::ImageKey;
use crate::symbolize::modules::{ModuleId, Modules};

/// Kernel memory that tables may take: some hundred of the largest libraries there are.
const TABLES_BYTES_MAX: usize = 1 << 30;

/// A user stack that was copied because it could not be walked on the spot.
#[derive(Debug)]
pub struct CopiedStack {
    /// Whose stack.
    pub image: ImageKey,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// The registers then.
    pub registers: Registers,
    /// The memory from the stack pointer upwards.
    pub bytes: Box<[u8]>,
}

/// The unwinder's user-space half.
#[derive(Debug)]
pub struct Unwinder {
    maps: UnwindMaps,
    cache: Option<Cache>,
    /// `None` for a file without call frame information.
    modules: HashMap<ModuleId, Option<Loaded>>,
    by_table: HashMap<u32, ModuleId>,
    /// The processes whose stacks are wanted; all when `None`.
    wanted: Option<HashSet<u32>>,
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
    /// Takes over the kernel side's maps. Without a usable cache folder tables are built anew
    /// each time.
    #[must_use]
    pub fn new(maps: UnwindMaps, wanted: Option<HashSet<u32>>) -> Self {
        let cache = Cache::open()
            .inspect_err(|error| tracing::info!("unwind tables are not kept: {error:#}"))
            .ok();
        Self {
            maps,
            cache,
            modules: HashMap::new(),
            by_table: HashMap::new(),
            wanted,
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
        let stretches = layouts
            .iter()
            .filter_map(|(_, layout)| layout.as_ref())
            .flatten();
        let new: HashSet<ModuleId> = stretches
            .filter_map(|stretch| stretch.file.map(|(module, _)| module))
            .filter(|module| !self.modules.contains_key(module))
            .collect();
        self.load_modules(&new, modules)?;
        for (pid, layout) in &layouts {
            let Some(layout) = layout else {
                self.maps.remove_process(*pid)?;
                continue;
            };
            if let Err(error) = self.maps.set_process(*pid, self.entries(layout)) {
                tracing::debug!(pid, "no unwind mappings: {error:#}");
                self.unplaced += 1;
            }
        }
        Ok(())
    }

    fn load_modules(&mut self, new: &HashSet<ModuleId>, modules: &Modules) -> Result<()> {
        let new: Vec<ModuleId> = new.iter().copied().collect();
        let cache = self.cache.as_ref();
        let built: Vec<Option<(ElfLayout, Table)>> = new
            .par_iter()
            .map(|id| build(modules, *id, cache))
            .collect();
        let mut bytes = self.maps.memory_bytes();
        let mut kept: Vec<(ModuleId, ElfLayout, Table)> = Vec::new();
        for (id, built) in new.into_iter().zip(built) {
            self.modules.insert(id, None);
            let Some((layout, table)) = built else {
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
            return Ok(());
        }
        let tables: Vec<&Table> = kept.iter().map(|(_, _, table)| table).collect();
        let ids = self.maps.add_tables(&tables)?;
        for ((id, layout, _), table) in kept.into_iter().zip(ids) {
            self.by_table.insert(table.number(), id);
            let loaded = Loaded {
                layout,
                table,
                local: OnceLock::new(),
            };
            self.modules.insert(id, Some(loaded));
        }
        Ok(())
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
        let memory = CapturedStack {
            start: copied.registers[super::walk::STACK_POINTER],
            bytes: &copied.bytes,
        };
        unwind_user(&copied.registers, &memory, &entries, |table| {
            self.local(table, modules)
        })
    }

    fn local(&self, table: u32, modules: &Modules) -> Option<&Table> {
        let id = self.by_table.get(&table)?;
        let loaded = self.modules.get(id)?.as_ref()?;
        let build = || build(modules, *id, self.cache.as_ref()).map(|(_, table)| table);
        loaded.local.get_or_init(build).as_ref()
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

/// A module's layout and table: from the cache, or built; `None` without call frame information.
fn build(modules: &Modules, id: ModuleId, cache: Option<&Cache>) -> Option<(ElfLayout, Table)> {
    let module = modules.get(id);
    let file = module.file.as_ref()?;
    let read = || -> Result<Option<(ElfLayout, Table)>> {
        let layout = ElfLayout::read(file)?;
        let source_bytes = file.metadata()?.len();
        let key = layout.build_id.as_deref().filter(|id| !id.is_empty());
        if let Some(table) = cache
            .zip(key)
            .and_then(|(cache, key)| cache.load(key, source_bytes))
        {
            return Ok(Some((layout, table)));
        }
        let Some(cfi) = layout.read_cfi(file)? else {
            return Ok(None);
        };
        let table = Table::build(&layout, &cfi)?;
        if let Some((cache, key)) = cache.zip(key)
            && let Err(error) = cache.store(key, source_bytes, &table)
        {
            tracing::debug!("unwind table not kept: {error:#}");
        }
        Ok(Some((layout, table)))
    };
    read()
        .inspect_err(|error| tracing::debug!("{}: {error:#}", module.path.display()))
        .ok()
        .flatten()
}
