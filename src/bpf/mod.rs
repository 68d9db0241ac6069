//! The one loader every mode shares; the only place that names aya.
//!
//! A mode is one object (`ebpf/<mode>.bpf.c`). [`Settings`] say what differs from run to run;
//! [`Bpf::load`] creates the object's maps; a program is verified only when it is attached, so a
//! hook this kernel lacks fails alone.

mod attach;
mod batch;
mod fdinfo;
mod kernel_btf;
mod kprobe_multi;
mod perf_link;
pub(crate) mod raw_map;
mod syscall;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use aya::maps::{Map, MapData, PerCpuArray, RingBuf, StackTraceMap};
use aya::programs::{BtfTracePoint, PerfEvent, Program};
use aya::{Btf, Ebpf, EbpfLoader};
use rustix::io::Errno;

pub use attach::Hook;
pub use aya::Pod;
pub use kernel_btf::{KernelBtf, Parameter};
pub use kprobe_multi::MultiLink;
pub use perf_link::Link;

use crate::preflight;

/// What an attempt to attach after [`Bpf::forget_kernel_types`] is told.
const ATTACHED: &str = "everything was said to be attached";

/// The committed objects by mode.
static OBJECTS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/bpf_objects.rs"));

/// The object of a mode, as compiled from `ebpf/<mode>.bpf.c`.
#[must_use]
pub fn object(mode: &str) -> Option<&'static [u8]> {
    OBJECTS
        .iter()
        .find(|(name, _)| *name == mode)
        .map(|(_, bytes)| *bytes)
}

/// The names of all modes that have an object.
pub fn modes() -> impl Iterator<Item = &'static str> {
    OBJECTS.iter().map(|(name, _)| *name)
}

/// The value of a `const volatile` global of the object.
#[derive(Debug, Clone, Copy)]
pub enum Global {
    /// `bool`
    Bool(bool),
    /// `__u32`
    U32(u32),
    /// `__u64`
    U64(u64),
}

/// What a ring's record begins with, and what follows it; `None` when the record is shorter.
#[must_use]
pub fn split_record<T: Pod>(record: &[u8]) -> Option<(T, &[u8])> {
    let (head, rest) = record.split_at_checked(size_of::<T>())?;
    // SAFETY: `head` has the size, and a `Pod` is valid whatever its bytes are.
    let header = unsafe { head.as_ptr().cast::<T>().read_unaligned() };
    Some((header, rest))
}

/// What differs from run to run: the object's globals and the sizes of its maps.
#[derive(Debug, Default)]
pub struct Settings {
    globals: Vec<(&'static str, Vec<u8>)>,
    max_entries: Vec<(&'static str, u32)>,
}

impl Settings {
    /// Sets a `const volatile` global.
    #[must_use]
    pub fn global(mut self, name: &'static str, value: Global) -> Self {
        let bytes = match value {
            Global::Bool(value) => vec![u8::from(value)],
            Global::U32(value) => value.to_ne_bytes().to_vec(),
            Global::U64(value) => value.to_ne_bytes().to_vec(),
        };
        self.globals.push((name, bytes));
        self
    }

    /// Sets how many entries a map holds.
    #[must_use]
    pub fn max_entries(mut self, map: &'static str, entries: u32) -> Self {
        self.max_entries.push((map, entries));
        self
    }
}

/// A loaded object: its maps exist, its programs can be attached. Dropping it detaches all.
#[derive(Debug)]
pub struct Bpf {
    ebpf: Ebpf,
    /// The kernel's types, some 20 MB; gone once everything is attached.
    btf: Option<Btf>,
}

impl Bpf {
    /// Creates the maps of a mode's object.
    ///
    /// # Errors
    /// When the kernel has no BTF or refuses the object; the error carries the remedy.
    pub fn load(mode: &str, settings: &Settings) -> Result<Self> {
        let object = object(mode).ok_or_else(|| anyhow!("this build has no BPF object {mode}"))?;
        let btf = Btf::from_sys_fs()
            .map_err(|error| explain(error.into(), "reading the kernel's BTF"))?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf));
        for (name, bytes) in &settings.globals {
            loader.override_global(name, bytes.as_slice(), true);
        }
        for (name, entries) in &settings.max_entries {
            loader.map_max_entries(name, *entries);
        }
        let ebpf = loader
            .load(object)
            .map_err(|error| explain(error.into(), &format!("loading the programs of {mode}")))?;
        Ok(Self {
            ebpf,
            btf: Some(btf),
        })
    }

    /// Everything that needs the kernel's types is attached: gives their memory back.
    pub fn forget_kernel_types(&mut self) {
        self.btf = None;
    }

    /// Verifies a `tp_btf` program and attaches it to the tracepoint `hook`.
    ///
    /// # Errors
    /// When the kernel lacks the hook or the verifier refuses the program.
    pub fn attach_tp_btf(&mut self, program: &str, hook: &str) -> Result<()> {
        let btf = self.btf.as_ref().context(ATTACHED)?;
        let attach = |ebpf: &mut Ebpf| -> Result<()> {
            let tracepoint: &mut BtfTracePoint = typed_program(ebpf, program)?;
            tracepoint.load(hook, btf)?;
            tracepoint.attach()?;
            Ok(())
        };
        attach(&mut self.ebpf)
            .map_err(|error| explain(error, &format!("attaching to the tracepoint {hook}")))
    }

    /// Verifies a `perf_event` program; [`Bpf::run_on_event`] then attaches it.
    ///
    /// # Errors
    /// When the verifier refuses the program.
    pub fn load_perf_event(&mut self, program: &str) -> Result<()> {
        let load = |ebpf: &mut Ebpf| -> Result<()> {
            let program: &mut PerfEvent = typed_program(ebpf, program)?;
            Ok(program.load()?)
        };
        load(&mut self.ebpf).map_err(|error| explain(error, "loading the sampling program"))
    }

    /// Runs a loaded `perf_event` program on every overflow of a perf event of our own.
    ///
    /// # Errors
    /// When the kernel refuses (`PERF_EVENT_IOC_SET_BPF`).
    pub fn run_on_event(&mut self, program: &str, event: BorrowedFd<'_>) -> Result<()> {
        let program: &mut PerfEvent = typed_program(&mut self.ebpf, program)?;
        let program_fd = program.fd()?.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open and borrowed for the call.
        let result = unsafe {
            perf_event_open_sys::ioctls::SET_BPF(event.as_raw_fd(), program_fd.cast_unsigned())
        };
        if result < 0 {
            return Err(std::io::Error::last_os_error())
                .context("cannot attach the sampling program to a perf event");
        }
        Ok(())
    }

    /// All entries of a hash map, read in batches.
    ///
    /// # Errors
    /// When the map is missing or the kernel refuses.
    pub fn read_hash<K: Pod, V: Pod>(&self, map: &str) -> Result<Vec<(K, V)>> {
        batch::read_all(map_data(self.map(map)?)?.fd().as_fd())
            .with_context(|| format!("cannot read the map {map}"))
    }

    /// Whether a hash map has no entries: one system call.
    ///
    /// # Errors
    /// When the map is missing or the kernel refuses.
    pub fn is_empty(&self, map: &str) -> Result<bool> {
        Ok(batch::is_empty(map_data(self.map(map)?)?.fd().as_fd())?)
    }

    /// Inserts into a hash map.
    ///
    /// # Errors
    /// When the map is missing, of another shape, or full.
    pub fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        let data = self
            .ebpf
            .map_mut(map)
            .ok_or_else(|| anyhow!("no map {map}"))?;
        let mut hash = aya::maps::HashMap::<_, K, V>::try_from(data)?;
        hash.insert(key, value, 0)
            .with_context(|| format!("cannot insert into the map {map}"))
    }

    /// Takes entries out of a hash map.
    ///
    /// # Errors
    /// When the map is missing or the kernel refuses.
    pub fn remove_all<K: Pod>(&self, map: &str, keys: &[K]) -> Result<()> {
        batch::remove_all(map_data(self.map(map)?)?.fd().as_fd(), keys)
            .with_context(|| format!("cannot remove from the map {map}"))
    }

    /// Sets an entry of an array.
    ///
    /// # Errors
    /// When the map is missing, of another shape, or has no such index.
    pub fn set_array<V: Pod>(&mut self, map: &str, index: u32, value: V) -> Result<()> {
        let data = self
            .ebpf
            .map_mut(map)
            .ok_or_else(|| anyhow!("no map {map}"))?;
        let mut array = aya::maps::Array::<_, V>::try_from(data)?;
        array
            .set(index, value, 0)
            .with_context(|| format!("cannot write to the map {map}"))
    }

    /// Removes a key from a hash map, if it is there.
    ///
    /// # Errors
    /// When the map is missing or of another shape.
    pub fn remove(&mut self, map: &str, key: u32) -> Result<()> {
        let data = self
            .ebpf
            .map_mut(map)
            .ok_or_else(|| anyhow!("no map {map}"))?;
        let mut hash = aya::maps::HashMap::<_, u32, u8>::try_from(data)?;
        match hash.remove(&key) {
            Ok(()) | Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("cannot remove from the map {map}")),
        }
    }

    /// The per-CPU values of the first entry of a per-CPU array.
    ///
    /// # Errors
    /// When the map is missing or of another shape.
    pub fn read_per_cpu<V: Pod>(&self, map: &str) -> Result<Vec<V>> {
        let array = PerCpuArray::<_, V>::try_from(self.map(map)?)?;
        Ok(array.get(&0, 0)?.to_vec())
    }

    /// A stack-map reader.
    ///
    /// # Errors
    /// When the map is missing or of another type.
    pub fn stacks(&self, map: &str) -> Result<StackMap<'_>> {
        Ok(StackMap(StackTraceMap::try_from(self.map(map)?)?))
    }

    /// A descriptor of a map, for what this loader does not do itself.
    ///
    /// # Errors
    /// When the map is missing, or we are out of descriptors.
    pub fn map_fd(&self, map: &str) -> Result<OwnedFd> {
        let map = map_data(self.map(map)?)?;
        Ok(map.fd().as_fd().try_clone_to_owned()?)
    }

    /// Takes the ring buffer out of the object.
    ///
    /// # Errors
    /// When the map is missing or of another type.
    pub fn take_ring(&mut self, map: &str) -> Result<Ring> {
        let map = self
            .ebpf
            .take_map(map)
            .ok_or_else(|| anyhow!("no map {map}"))?;
        Ok(Ring(RingBuf::try_from(map)?))
    }

    /// Time the object's programs ran in nanoseconds and how often, while
    /// `kernel.bpf_stats_enabled` was on; zeros otherwise.
    #[must_use]
    pub fn run_time(&self) -> (u64, u64) {
        let mut totals = (0, 0);
        for (_, program) in self.ebpf.programs() {
            if let Ok(info) = program.info() {
                totals.0 += info.run_time().as_nanos() as u64;
                totals.1 += info.run_count();
            }
        }
        totals
    }

    /// How often a program was not run because its CPU was running it already, and an interrupt hit
    /// the same hook. Kernels count that since 5.12.
    #[must_use]
    pub fn missed_runs(&self) -> u64 {
        let programs = self.ebpf.programs();
        let missed = programs.filter_map(|(_, program)| {
            fdinfo::number(program.fd().ok()?.as_fd(), "recursion_misses")
        });
        missed.sum()
    }

    /// Bytes of kernel memory that the object's maps hold.
    #[must_use]
    pub fn map_memory_bytes(&self) -> u64 {
        self.ebpf
            .maps()
            .filter_map(|(_, map)| map_data(map).ok())
            .filter_map(|data| fdinfo::number(data.fd().as_fd(), "memlock"))
            .sum()
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).ok_or_else(|| anyhow!("no map {name}"))
    }
}

/// Stacks by id.
#[derive(Debug)]
pub struct StackMap<'a>(StackTraceMap<&'a MapData>);

impl StackMap<'_> {
    /// The addresses of a stack, leaf first.
    ///
    /// # Errors
    /// When the id is unknown.
    pub fn get(&self, id: u32) -> Result<Box<[u64]>> {
        Ok(self
            .0
            .get(&id, 0)?
            .frames()
            .iter()
            .map(|frame| frame.ip)
            .collect())
    }
}

/// A BPF ring buffer: records that the kernel side sent whole.
pub struct Ring(RingBuf<MapData>);

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// Readable when records wait, unless the kernel side sends them without a wake-up.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor lives as long as the ring, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }

    /// Hands every waiting record to `consume`.
    pub fn drain(&mut self, mut consume: impl FnMut(&[u8])) {
        while let Some(record) = self.0.next() {
            consume(&record);
        }
    }
}

/// Adds what was being done, and the remedy where the kernel's answer has a known one.
fn explain(error: anyhow::Error, doing: &str) -> anyhow::Error {
    tracing::debug!("{doing}: {error:?}");
    let errno = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .find_map(Errno::from_io_error);
    match errno {
        Some(errno) => {
            let release = rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned();
            error.context(preflight::explain_bpf_error(errno, &release))
        }
        None => error.context(format!("{doing} failed")),
    }
}

fn typed_program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program>,
    <&'a mut P as TryFrom<&'a mut Program>>::Error: std::error::Error + Send + Sync + 'static,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("no BPF program {name}"))?;
    Ok(program.try_into()?)
}

fn map_data(map: &Map) -> Result<&MapData> {
    Ok(match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuHashMap(data)
        | Map::StackTraceMap(data)
        | Map::LpmTrie(data)
        | Map::ArrayOfMaps(data)
        | Map::HashOfMaps(data)
        | Map::RingBuf(data) => data,
        other => return Err(anyhow!("unexpected kind of BPF map: {other:?}")),
    })
}
