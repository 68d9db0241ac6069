//! Compressed DWARF: unpacked once, kept in a folder, named as before.

// A helper of a test fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flame::cache::CacheFolder;
use flame::symbolize::Options;
use flame::symbolize::stable_file::StableFile;
use flame::symbolize::unpacked::unpacked;
use object::{Object, ObjectSection};
use proptest::prop_assert;
use proptest::test_runner::{Config as ProptestConfig, TestRunner};
use support::symbols::{C, Workbench, build_id, chain, module, names_with, nm, run};

/// A compiled program and a folder for what is unpacked.
struct Unpacking {
    bench: Workbench,
    vaddrs: [u64; 2],
}

impl Unpacking {
    fn new(flags: &[&str]) -> Option<Self> {
        let bench = Workbench::new();
        let binary = bench.build("gcc", "prog.c", C, flags)?;
        let symbols = nm(&binary)?;
        let vaddrs = [symbols["outer"].0 + 4, symbols["local"].0];
        Some(Self { bench, vaddrs })
    }

    fn folder(&self) -> CacheFolder {
        CacheFolder::open_in(&self.bench.path("cache"), "debug", 1 << 30).unwrap()
    }

    /// The chains of `outer` and `local`, with or without the folder.
    fn names(&self, keep: bool) -> [String; 2] {
        self.names_with(keep.then(|| self.folder()))
    }

    fn names_with(&self, folder: Option<CacheFolder>) -> [String; 2] {
        let options = Options {
            debug_dirs: vec![self.bench.path("debug")],
            unpacked: folder.map(Arc::new),
            ..Options::default()
        };
        let (names, _) = names_with(&module(&self.bench.path("prog")), &self.vaddrs, &options);
        [chain(&names[0]), chain(&names[1])]
    }

    /// Asserts that names are the same with the folder and without.
    fn assert_same_names(&self) {
        let names = self.names(false);
        assert_eq!(
            names,
            ["outer;middle_[i];innermost_[i]", "local"],
            "without the folder"
        );
        assert_eq!(self.names(true), names, "with the folder");
    }

    /// The files in the folder.
    fn kept(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.bench.path("cache/debug"));
        let entries = folder.into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn only_kept(&self) -> PathBuf {
        let [kept] = <[PathBuf; 1]>::try_from(self.kept()).expect("one file is kept");
        kept
    }
}

fn is_compressed(path: &Path) -> bool {
    let data = fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let info = file.section_by_name(".debug_info").unwrap();
    info.compressed_file_range().unwrap().format != object::CompressionFormat::None
}

#[test]
fn names_are_those_of_the_packed_file() {
    for format in ["zlib", "zstd"] {
        let Some(unpacking) = Unpacking::new(&["-O1", "-g"]) else {
            return;
        };
        let packing = format!("--compress-debug-sections={format}");
        run("objcopy", &[&packing, &unpacking.bench.arg("prog")]);
        assert!(is_compressed(&unpacking.bench.path("prog")));
        unpacking.assert_same_names();
        let kept = unpacking.only_kept();
        assert!(!is_compressed(&kept));
        // Every section is the same, as others read it.
        let dump = |path: &Path| {
            let dump = run("objdump", &["-s", "-W", "-t", path.to_str().unwrap()]).unwrap();
            let lines = dump
                .lines()
                .filter(|line| !line.contains("file format"))
                .map(str::to_owned);
            lines.collect::<Vec<_>>()
        };
        let plain = unpacking.bench.path("plain");
        let unpack = "--decompress-debug-sections";
        let packed = unpacking.bench.arg("prog");
        run("objcopy", &[unpack, &packed, plain.to_str().unwrap()]);
        assert_eq!(dump(&kept), dump(&plain));
    }
}

#[test]
fn a_separate_debug_file_is_unpacked_once_for_each_of_its_versions() {
    let flags = ["-O1", "-g", "-gz=zlib", "-Wl,--build-id"];
    let Some(unpacking) = Unpacking::new(&flags) else {
        return;
    };
    let bench = &unpacking.bench;
    let id = build_id(&bench.path("prog"));
    let folder = bench.path("debug/.build-id").join(&id[..2]);
    fs::create_dir_all(&folder).unwrap();
    let debug = folder.join(format!("{}.debug", &id[2..]));
    let (prog, debug_arg) = (bench.arg("prog"), debug.to_str().unwrap());
    run("objcopy", &["--only-keep-debug", &prog, debug_arg]);
    run("strip", &["--strip-all", &prog]);
    assert!(is_compressed(&debug));

    unpacking.assert_same_names();
    let inode = || fs::metadata(unpacking.only_kept()).unwrap().ino();
    let first = inode();
    unpacking.assert_same_names();
    assert_eq!(inode(), first, "used again, not written again");

    // What was torn is written anew, wherever it was.
    let kept = unpacking.only_kept();
    let good = fs::read(&kept).unwrap();
    for at in [0, 0x28, good.len() / 2, good.len() - 6, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(&kept, bad).unwrap();
        unpacking.assert_same_names();
        assert_eq!(fs::read(&kept).unwrap(), good, "byte {at}");
    }
    for length in [0, 7, 8, good.len() / 2] {
        fs::write(&kept, &good[..length]).unwrap();
        unpacking.assert_same_names();
        assert_eq!(fs::read(&kept).unwrap(), good, "cut to {length}");
    }

    // Another file in the same place has the same path, and even the same build id.
    let copy = bench.path("copy");
    fs::copy(&debug, &copy).unwrap();
    fs::rename(&copy, &debug).unwrap();
    unpacking.assert_same_names();
    assert_eq!(unpacking.kept().len(), 2);
}

#[test]
fn what_others_may_write_is_not_unpacked() {
    let Some(unpacking) = Unpacking::new(&["-O1", "-g", "-gz=zlib"]) else {
        return;
    };
    let prog = unpacking.bench.path("prog");
    fs::set_permissions(&prog, Permissions::from_mode(0o777)).unwrap();
    assert_eq!(unpacking.names(true), ["outer", "local"]);
    assert_eq!(unpacking.kept(), Vec::<PathBuf>::new());
}

#[test]
fn without_room_on_the_disk_names_are_the_same() {
    let Some(unpacking) = Unpacking::new(&["-O1", "-g", "-gz=zlib"]) else {
        return;
    };
    assert_eq!(unpacking.names(true)[1], "local");
    fs::remove_file(unpacking.only_kept()).unwrap();
    // A folder that cannot be written to, even by root: it is gone.
    let folder = unpacking.folder();
    fs::remove_dir(unpacking.bench.path("cache/debug")).unwrap();
    let names = unpacking.names_with(Some(folder));
    assert_eq!(names[0], "outer;middle_[i];innermost_[i]");
}

#[test]
fn a_section_that_lies_is_left_alone() {
    let Some(unpacking) = Unpacking::new(&["-O1", "-g", "-gz=zlib"]) else {
        return;
    };
    let prog = unpacking.bench.path("prog");
    let good = fs::read(&prog).unwrap();
    let file = object::File::parse(&*good).unwrap();
    let packed = file.section_by_name(".debug_info").unwrap();
    let header = packed.file_range().unwrap().0 as usize;
    // ch_size and ch_addralign of Elf64_Chdr.
    for (at, value) in [(8, u64::MAX), (8, 1 << 40), (8, 3), (16, 1 << 60), (16, 0)] {
        let mut bad = good.clone();
        bad[header + at..header + at + 8].copy_from_slice(&value.to_le_bytes());
        fs::write(&prog, bad).unwrap();
        let names = unpacking.names(true);
        assert!(names[1] == "local", "{at} {value}: {names:?}");
        let kept: u64 = unpacking
            .kept()
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum();
        assert!(kept < 1 << 20, "{at} {value}: {kept} bytes");
    }
}

#[test]
fn headers_that_lie_cause_no_panic() {
    let Some(unpacking) = Unpacking::new(&["-O1", "-g", "-gz=zlib"]) else {
        return;
    };
    let prog = unpacking.bench.path("prog");
    let good = fs::read(&prog).unwrap();
    let file = object::File::parse(&*good).unwrap();
    // The ELF header, the section headers, and the headers of compressed sections.
    let mut places: Vec<usize> = (16..64).collect();
    let headers_at = u64::from_le_bytes(good[0x28..0x30].try_into().unwrap()) as usize;
    places.extend(headers_at..good.len());
    for section in file.sections() {
        let range = section.compressed_file_range().unwrap();
        if range.format != object::CompressionFormat::None {
            let data = range.offset as usize;
            places.extend(data - 24..data);
        }
    }
    let folder = unpacking.folder();
    let lie = (0..places.len(), proptest::num::u8::ANY);
    let config = ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&lie, |(place, byte)| {
        let mut bad = good.clone();
        bad[places[place]] = byte;
        // A new file each time: the last one is mapped.
        fs::remove_file(&prog).ok();
        fs::write(&prog, bad).unwrap();
        let stable = StableFile::of(&fs::File::open(&prog).unwrap()).unwrap();
        if let Ok(Some(unpacked)) = unpacked(&stable, &folder) {
            prop_assert!(unpacked.data().len() <= 256 << 20);
        }
        Ok(())
    });
    outcome.unwrap();
}
