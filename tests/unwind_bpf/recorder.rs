//! Runs a workload and records its walks through the unwinder's own BPF object.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, RingBuf};
use aya::programs::PerfEvent;
use aya::{Ebpf, EbpfLoader};
use flame::profile::unwind::abi::MappingEntry;
use flame::profile::unwind::elf::ElfLayout;
use flame::profile::unwind::maps::{Mapping, UnwindMaps};
use flame::profile::unwind::table::Table;
use flame::profile::unwind::vdso;
use object::{Object, ObjectSymbol, SymbolKind};
use perf_event_open_sys as perf;

/// A program under test; killed at the end.
pub struct Workload {
    pub pid: u32,
    child: Option<Child>,
}

impl Workload {
    /// Compiles `tests/workloads/NAME.c`, starts it and waits for its first line of output.
    pub fn start(name: &str, flags: &[&str], argument: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{argument}"));
        run(Command::new("cc")
            .args(flags)
            .arg(root.join("tests/workloads").join(name).with_extension("c"))
            .arg("-o")
            .arg(&out));
        let mut child =
            Command::new(&out).arg(argument).stdout(Stdio::piped()).spawn().expect("workload");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { pid: child.id(), child: Some(child) }
    }

    pub fn existing(pid: u32) -> Self {
        Self { pid, child: None }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

/// One finished walk.
pub struct Walk {
    pub outcome: u32,
    pub addresses: Vec<u64>,
}

pub struct Recorder {
    ebpf: Ebpf,
    maps: UnwindMaps,
    _events: Vec<OwnedFd>,
    ring: RingBuf<MapData>,
    symbols: Vec<(u64, u64, String)>,
}

const OBJECT: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/unwind.bpf.o");

fn build_object() {
    let root = env!("CARGO_MANIFEST_DIR");
    run(Command::new("clang-19")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
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

impl Recorder {
    pub fn start(workload: &Workload) -> Self {
        build_object();
        let mut ebpf = EbpfLoader::new()
            .override_global("target_tgid", &workload.pid, true)
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
        let mut symbols = Vec::new();
        let entries = load_process(&mut maps, workload.pid, &mut symbols);
        maps.set_process(workload.pid, entries).unwrap();
        symbols.sort();
        let ring = RingBuf::try_from(ebpf.take_map("records").unwrap()).unwrap();
        let _events = (0..std::thread::available_parallelism().unwrap().get())
            .map(|cpu| open_event(cpu as i32, program_fd.as_raw_fd()))
            .collect();
        Self { ebpf, maps, _events, ring, symbols }
    }

    pub fn record(&self, time: Duration) -> Vec<Walk> {
        // The ring is consumed through a mutable reference; a clone of the handle would not do.
        let ring = &raw const self.ring as *mut RingBuf<MapData>;
        // SAFETY: the test is single-threaded and holds no other reference to the ring.
        let ring = unsafe { &mut *ring };
        let end = Instant::now() + time;
        let mut walks = Vec::new();
        while Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
            while let Some(record) = ring.next() {
                walks.push(parse(&record));
            }
        }
        walks
    }

    pub fn print_stats(&self, frames: usize) {
        let program: &PerfEvent = self.ebpf.program("walk").unwrap().try_into().unwrap();
        let info = program.info().unwrap();
        eprintln!(
            "run time {:?} runs {} table memory {} KiB; {} frames: {:.0} ns/frame",
            info.run_time(),
            info.run_count(),
            self.maps.memory_bytes() / 1024,
            frames,
            info.run_time().as_nanos() as f64 / frames as f64
        );
    }

    pub fn name(&self, address: u64) -> &str {
        let index = self.symbols.partition_point(|symbol| symbol.0 <= address);
        match index.checked_sub(1).map(|index| &self.symbols[index]) {
            Some((_, end, name)) if address < *end => name,
            _ => "?",
        }
    }
}

fn parse(record: &[u8]) -> Walk {
    let word = |at: usize| u64::from_ne_bytes(record[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_ne_bytes(record[at..at + 4].try_into().unwrap());
    // struct unwind_state ends in: outcome, count, reserved, registers[21], addresses[512].
    let addresses_at = record.len() - 512 * 8;
    let outcome_at = addresses_at - 21 * 8 - 12;
    let outcome_at = outcome_at & !3;
    let count = half(outcome_at + 4) as usize;
    Walk {
        outcome: half(outcome_at),
        addresses: (0..count).map(|i| word(addresses_at + 8 * i)).collect(),
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
        assert!(fd >= 0, "perf_event_open: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: both descriptors are open.
    unsafe {
        assert_eq!(perf::ioctls::SET_BPF(fd.as_raw_fd(), program as u32), 0);
        assert_eq!(perf::ioctls::ENABLE(fd.as_raw_fd(), 0), 0);
    }
    fd
}

fn load_process(
    maps: &mut UnwindMaps,
    pid: u32,
    symbols: &mut Vec<(u64, u64, String)>,
) -> Vec<MappingEntry> {
    let vdso = vdso::read().unwrap();
    let mut entries = Vec::new();
    let mut loaded: HashMap<String, Option<(ElfLayout, _)>> = HashMap::new();
    for line in std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if !fields[1].contains('x') || line.contains("[vsyscall]") {
            continue;
        }
        let (start, end) = fields[0].split_once('-').unwrap();
        let hex = |text| u64::from_str_radix(text, 16).unwrap();
        let mapping = Mapping { start: hex(start), end: hex(end), file_offset: hex(fields[2]) };
        let path = fields.get(5).copied().unwrap_or_default();
        let module = loaded.entry(path.to_owned()).or_insert_with(|| {
            let (layout, cfi) = if path == "[vdso]" {
                let layout = ElfLayout::read(vdso.as_slice()).unwrap();
                let cfi = layout.read_cfi(vdso.as_slice()).unwrap()?;
                (layout, cfi)
            } else {
                let file = File::open(format!("/proc/{pid}/map_files/{}", fields[0])).ok()?;
                let layout = ElfLayout::read(&file).ok()?;
                let cfi = layout.read_cfi(&file).unwrap()?;
                add_symbols(&file, &layout, &mapping, symbols);
                (layout, cfi)
            };
            let table = Table::build(&layout, &cfi).unwrap();
            let id = maps.add_tables(&[&table]).unwrap()[0];
            Some((layout, id))
        });
        entries.push(match module {
            Some((layout, table)) => mapping.of_module(layout, *table),
            None => mapping.by_frame_pointers(),
        });
    }
    entries
}

fn add_symbols(
    file: &File,
    layout: &ElfLayout,
    mapping: &Mapping,
    symbols: &mut Vec<(u64, u64, String)>,
) {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let object = object::File::parse(bytes.as_slice()).unwrap();
    let Some(bias) = layout.bias(mapping.start, mapping.end, mapping.file_offset) else { return };
    for symbol in object.symbols().chain(object.dynamic_symbols()) {
        if symbol.kind() == SymbolKind::Text && symbol.size() > 0 {
            let start = symbol.address().wrapping_add(bias);
            symbols.push((start, start + symbol.size(), symbol.name().unwrap().to_owned()));
        }
    }
}
