//! Runs a workload and records its walks through the unwinder's own BPF object.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Once;
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::PerfEvent;
use aya::{Ebpf, EbpfLoader};
use flame::profile::unwind::abi::{CODE_BEFORE, FRAMES_MAX, INTERRUPTED, MappingEntry};
use flame::profile::unwind::elf::ElfLayout;
use flame::profile::unwind::maps::{Mapping, TableId, UnwindMaps};
use flame::profile::unwind::table::Table;
use flame::profile::unwind::walk::{
    AddressSpace, Captured, Registers, Walk, WithoutCfi, unwind_user,
};
use flame::symbolize::modules::vdso;
use object::{Object, ObjectSymbol, SymbolKind};
use perf_event_open_sys as perf;

use crate::peer::Peer;

/// A program under test; killed at the end.
pub struct Workload {
    pub pid: u32,
    child: Child,
    output: Option<BufReader<ChildStdout>>,
}

impl Workload {
    /// Compiles `tests/workloads/NAME.c`, starts it and waits for its first line of output.
    pub fn start(name: &str, flags: &[&str], argument: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{argument}-{}", flags.concat()));
        // Compiled beside its place and moved there: another test may be running the same.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let fresh = folder.path().join("program");
        run(Command::new("cc")
            .args(flags)
            .arg(root.join("tests/workloads").join(name).with_extension("c"))
            .arg("-o")
            .arg(&fresh));
        std::fs::rename(&fresh, &out).unwrap();
        let mut child = Command::new(&out)
            .arg(argument)
            .stdout(Stdio::piped())
            .spawn()
            .expect("workload");
        let mut line = String::new();
        // Kept open: what the workload executes later says it is ready, too.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self {
            pid: child.id(),
            child,
            output: Some(output),
        }
    }

    /// Starts a program of the system, and waits until it has mapped its libraries.
    pub fn of_system(command: &mut Command) -> Self {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        std::thread::sleep(Duration::from_millis(300));
        Self {
            pid: child.id(),
            child,
            output: None,
        }
    }

    /// Has the workload called `exec` go on, until the new program says that it is ready.
    pub fn exec(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        let mut line = String::new();
        let output = self.output.as_mut().expect("a workload of ours");
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// One finished walk of the kernel side, and what it walked over.
pub struct Record {
    pub outcome: u32,
    pub addresses: Vec<u64>,
    pub registers: Registers,
    code: [u8; 16],
    stack_start: u64,
    stack: Vec<u8>,
}

pub struct Recorder {
    ebpf: Ebpf,
    maps: UnwindMaps,
    _events: Vec<OwnedFd>,
    ring: RingBuf<MapData>,
    process: Process,
}

/// What is known of the workload.
#[derive(Default)]
struct Process {
    tables: HashMap<u32, Table>,
    mappings: Vec<MappingEntry>,
    vdso: u64,
    peer: Peer,
    symbols: Vec<(u64, u64, String)>,
}

const OBJECT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/unwind.bpf.o");

/// Compiles the object, once for all tests: they run side by side.
fn build_object() {
    static BUILT: Once = Once::new();
    BUILT.call_once(compile_object);
}

fn compile_object() {
    let root = env!("CARGO_MANIFEST_DIR");
    run(Command::new("clang-19")
        .args([
            "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror",
        ])
        .arg(format!("-I{root}/ebpf/include"))
        .arg(format!("{root}/tests/bpf/unwind.bpf.c"))
        .args(["-c", "-o", OBJECT]));
    run(Command::new("llvm-strip-19").args(["-g", OBJECT]));
}

fn owned_fd(map: Map) -> OwnedFd {
    let data = match map {
        Map::Array(data) | Map::HashMap(data) | Map::ArrayOfMaps(data) => data,
        other => panic!("unexpected map {other:?}"),
    };
    data.fd().as_fd().try_clone_to_owned().unwrap()
}

const RECORDS_MIN: usize = 200;
const RECORDING_MAX: Duration = Duration::from_secs(30);

impl Recorder {
    pub fn start(workload: &Workload, capture: bool) -> Self {
        build_object();
        let mut ebpf = EbpfLoader::new()
            .override_global("target_tgid", &workload.pid, true)
            .override_global("capture", &u8::from(capture), true)
            .load_file(OBJECT)
            .expect("load the object");
        // Before the maps are taken: a loaded program keeps them.
        let program: &mut PerfEvent = ebpf.program_mut("walk").unwrap().try_into().unwrap();
        program.load().unwrap();
        let program_fd = program.fd().unwrap().as_fd().try_clone_to_owned().unwrap();
        let tables = owned_fd(ebpf.take_map("unwind_tables").unwrap());
        let processes = owned_fd(ebpf.take_map("unwind_processes").unwrap());
        let mappings = owned_fd(ebpf.take_map("unwind_mappings").unwrap());
        let mut maps = UnwindMaps::new(tables, processes, &mappings).unwrap();
        let process = Process::load(&mut maps, workload.pid);
        maps.set_process(workload.pid, process.mappings.clone(), process.vdso)
            .unwrap();
        let ring = RingBuf::try_from(ebpf.take_map("records").unwrap()).unwrap();
        let events = (0..std::thread::available_parallelism().unwrap().get())
            .map(|cpu| open_event(cpu as i32, program_fd.as_raw_fd()))
            .collect();
        Self {
            ebpf,
            maps,
            _events: events,
            ring,
            process,
        }
    }

    /// The walks of so long a time; on a busy machine of a longer one, until there are enough.
    pub fn record(&mut self, time: Duration) -> Vec<Record> {
        let start = Instant::now();
        let mut records = Vec::new();
        while start.elapsed() < time
            || records.len() < RECORDS_MIN && start.elapsed() < RECORDING_MAX
        {
            std::thread::sleep(Duration::from_millis(20));
            while let Some(record) = self.ring.next() {
                records.push(Record::parse(&record));
            }
        }
        records
    }

    /// Drops the walks so far.
    pub fn skip(&mut self) {
        while self.ring.next().is_some() {}
    }

    /// Tells the kernel side once more what the process had mapped at the start.
    pub fn tell_again(&mut self, workload: &Workload) {
        let Process { mappings, vdso, .. } = &self.process;
        self.maps
            .set_process(workload.pid, mappings.clone(), *vdso)
            .unwrap();
    }

    /// Runs the user-space model over what the kernel side walked over.
    pub fn model(&self, record: &Record) -> Walk {
        let code_start = record.registers[16].wrapping_sub(CODE_BEFORE as u64);
        let parts = [
            (record.stack_start, record.stack.as_slice()),
            (code_start, record.code.as_slice()),
        ];
        let stack = Captured { parts: &parts };
        let process = AddressSpace {
            mappings: &self.process.mappings,
            start_stack: 0,
            without_cfi: WithoutCfi::FramePointers,
        };
        unwind_user(&record.registers, &stack, &process, |table| {
            self.process.tables.get(&table)
        })
    }

    /// Runs framehop over the same.
    pub fn walk_by_peer(&self, record: &Record) -> (Vec<u64>, Option<framehop::Error>) {
        let registers = &record.registers;
        let word = |address: u64| {
            let at = usize::try_from(address.checked_sub(record.stack_start)?).ok()?;
            let bytes = record.stack.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        let start = (registers[16], registers[19], registers[4]);
        self.process.peer.walk(start, word)
    }

    /// Time spent in the program and its runs; zero unless `kernel.bpf_stats_enabled`.
    pub fn run_time(&self) -> (Duration, u64) {
        let program: &PerfEvent = self.ebpf.program("walk").unwrap().try_into().unwrap();
        let info = program.info().unwrap();
        (info.run_time(), info.run_count())
    }

    pub fn memory_bytes(&self) -> usize {
        self.maps.memory_bytes()
    }

    /// The functions' names, outermost first. Local symbols of a stripped library are `?`.
    pub fn names(&self, record: &Record) -> Vec<&str> {
        let last = record.addresses.len() - 1;
        let names = record
            .addresses
            .iter()
            .enumerate()
            .rev()
            .map(|(index, address)| {
                // Neither the leaf's nor what a signal interrupted is a return address.
                let returned = index > 0 && index <= last && address & INTERRUPTED == 0;
                self.name((address & !INTERRUPTED) - u64::from(returned))
            });
        names.collect()
    }

    fn name(&self, address: u64) -> &str {
        let index = self
            .process
            .symbols
            .partition_point(|symbol| symbol.0 <= address);
        match index
            .checked_sub(1)
            .map(|index| &self.process.symbols[index])
        {
            Some((_, end, name)) if address < *end => name,
            _ => "?",
        }
    }
}

impl Record {
    /// What the model had to go by.
    pub fn captured(&self) -> String {
        let Self {
            registers,
            stack_start,
            stack,
            code,
            ..
        } = self;
        format!(
            "sp {:x}, stack {stack_start:x} + {:x}, code {code:x?}",
            registers[19],
            stack.len()
        )
    }

    /// `struct record` of tests/bpf/unwind.bpf.c.
    fn parse(bytes: &[u8]) -> Self {
        const STACK_BYTES: usize = 64 * 4096;
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let stack_at = bytes.len() - STACK_BYTES;
        let pages = word(stack_at - 8) as usize;
        let addresses_at = stack_at - 32 - FRAMES_MAX * 8;
        // struct unwind_state ends in: registers, hash, outcome, count, addresses.
        let (outcome, count) = (half(addresses_at - 8), half(addresses_at - 4));
        let registers_at = addresses_at - 16 - 21 * 8;
        Self {
            outcome,
            addresses: (0..count as usize)
                .map(|i| word(addresses_at + 8 * i))
                .collect(),
            registers: std::array::from_fn(|i| word(registers_at + 8 * i)),
            code: bytes[stack_at - 32..stack_at - 16].try_into().unwrap(),
            stack_start: word(stack_at - 16),
            stack: bytes[stack_at..stack_at + pages * 4096].to_vec(),
        }
    }
}

fn open_event(cpu: i32, program: i32) -> OwnedFd {
    let mut attr = perf::bindings::perf_event_attr {
        type_: perf::bindings::PERF_TYPE_SOFTWARE,
        config: u64::from(perf::bindings::PERF_COUNT_SW_CPU_CLOCK),
        size: size_of::<perf::bindings::perf_event_attr>() as u32,
        ..Default::default()
    };
    attr.__bindgen_anon_1.sample_freq = 997;
    attr.set_freq(1);
    // SAFETY: `attr` is initialised and lives through the call; the descriptor is ours.
    let fd = unsafe {
        let fd = perf::perf_event_open(&raw mut attr, -1, cpu, -1, 8);
        assert!(
            fd >= 0,
            "perf_event_open: {}",
            std::io::Error::last_os_error()
        );
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: both descriptors are open.
    unsafe {
        assert_eq!(perf::ioctls::SET_BPF(fd.as_raw_fd(), program as u32), 0);
        assert_eq!(perf::ioctls::ENABLE(fd.as_raw_fd(), 0), 0);
    }
    fd
}

impl Process {
    fn load(maps: &mut UnwindMaps, pid: u32) -> Self {
        let mut process = Self::default();
        let mut modules: HashMap<String, Option<(ElfLayout, TableId)>> = HashMap::new();
        for line in std::fs::read_to_string(format!("/proc/{pid}/maps"))
            .unwrap()
            .lines()
        {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if !fields[1].contains('x') || line.contains("[vsyscall]") {
                continue;
            }
            let (start, end) = fields[0].split_once('-').unwrap();
            let hex = |text| u64::from_str_radix(text, 16).unwrap();
            let mapping = Mapping {
                start: hex(start),
                end: hex(end),
                file_offset: hex(fields[2]),
            };
            let path = fields.get(5).copied().unwrap_or_default().to_owned();
            if path == "[vdso]" {
                process.vdso = mapping.start;
            }
            let module = modules.entry(path.clone()).or_insert_with(|| {
                let bytes = if path == "[vdso]" {
                    vdso::read_own().unwrap()
                } else {
                    {
                        // Unlike maps, map_files does not pad its addresses.
                        let name = format!("{:x}-{:x}", mapping.start, mapping.end);
                        std::fs::read(format!("/proc/{pid}/map_files/{name}")).ok()?
                    }
                };
                process.load_module(maps, &bytes, &mapping)
            });
            process.mappings.push(match module {
                Some((layout, table)) => mapping.of_module(layout, *table),
                None => mapping.by_frame_pointers(),
            });
        }
        process.symbols.sort();
        process
    }

    fn load_module(
        &mut self,
        maps: &mut UnwindMaps,
        bytes: &[u8],
        mapping: &Mapping,
    ) -> Option<(ElfLayout, TableId)> {
        let layout = ElfLayout::read(bytes).ok()?;
        let bias = layout.bias(mapping.start, mapping.end, mapping.file_offset)?;
        let object = object::File::parse(bytes).unwrap();
        self.peer.add(&object, mapping.start..mapping.end, bias);
        for symbol in object.symbols().chain(object.dynamic_symbols()) {
            if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
                let start = symbol.address().wrapping_add(bias);
                let name = symbol.name().unwrap().to_owned();
                self.symbols.push((start, start + symbol.size(), name));
            }
        }
        let table = Table::build(&layout, &layout.read_cfi(bytes).unwrap()?).unwrap();
        let id = maps.add_tables(&[&table]).unwrap()[0];
        self.tables
            .insert(mapping.of_module(&layout, id).table, table);
        Some((layout, id))
    }
}
