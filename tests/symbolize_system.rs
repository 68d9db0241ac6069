//! Names of code in the machine's own files, against other tools' answers; in damaged files; in the
//! kernel.

// A helper of a test fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use flame::profile::model::FrameKind;
use flame::symbolize::modules::{Module, ModuleId};
use flame::symbolize::{Options, Queries, symbolize};
use object::{Object, ObjectSection, ObjectSegment};
use support::symbols::{C, Workbench, build_id, chain, module, names_of, names_with, run};

/// A fixed sequence of numbers (Knuth's MMIX generator): the same addresses every run.
fn numbers(mut seed: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Some(seed >> 20)
    })
}

/// Names at some thousand addresses of `path` are those of a symbol that covers the address in
/// `table`, and no symbol covers what has no name.
fn cross_check(path: &Path, table: &Path, dynamic: bool) {
    let mut args = vec!["-S", "--without-symbol-versions", table.to_str().unwrap()];
    if dynamic {
        args.push("-D");
    }
    let Some(listing) = run("nm", &args) else {
        return;
    };
    // (start, end, name) of functions with a size.
    let mut functions = Vec::new();
    for line in listing.lines() {
        if let [start, size, kind, name] = *line.split_whitespace().collect::<Vec<_>>()
            && "tTwWiuV".contains(kind)
        {
            let hex = |word| u64::from_str_radix(word, 16).unwrap();
            functions.push((hex(start), hex(start) + hex(size), name));
        }
    }
    functions.sort_unstable();
    let data = std::fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let code = file.segments().find(|segment| {
        matches!(segment.flags(), object::SegmentFlags::Elf { p_flags } if p_flags & 1 != 0)
    });
    let code = code.unwrap();
    let vaddrs: Vec<u64> = numbers(7)
        .map(|number| code.address() + number % code.size())
        .take(4000)
        .collect();
    for inline in [false, true] {
        let mut options = Options {
            inline,
            ..Options::default()
        };
        if path == table {
            options.debug_dirs.clear();
        }
        let (got, _) = names_with(&module(path), &vaddrs, &options);
        let mut named = 0;
        for (vaddr, frames) in vaddrs.iter().zip(got) {
            let behind = functions.partition_point(|(start, ..)| start <= vaddr);
            let covering: Vec<&str> = functions[..behind]
                .iter()
                .filter(|(_, end, _)| vaddr < end)
                .map(|(.., name)| *name)
                .collect();
            let name = &*frames[0].name;
            match frames[0].kind {
                FrameKind::Unknown => assert!(covering.is_empty(), "{vaddr:#x}: {covering:?}"),
                _ if name.ends_with("@plt") => assert!(covering.is_empty()),
                _ => {
                    named += 1;
                    let base = |symbol: &str| symbol.split('.').next().unwrap().to_owned();
                    assert!(
                        covering.iter().any(|symbol| base(symbol) == base(name))
                            // Assembly in libc has labels without sizes; they are not in `functions`.
                            || (covering.is_empty() && listing.contains(name)),
                        "{vaddr:#x}: {name} is not among {covering:?}"
                    );
                }
            }
        }
        assert!(
            named > 100,
            "{named} of {} named in {}",
            vaddrs.len(),
            path.display()
        );
        eprintln!(
            "{}: {named} of {} named, inline {inline}",
            path.display(),
            vaddrs.len()
        );
    }
}

#[test]
fn names_agree_with_nm_on_the_machines_own_files() {
    for path in [
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
        "/usr/lib/postgresql/15/bin/postgres",
    ] {
        let path = Path::new(path);
        if !path.exists() {
            eprintln!("skipped: no {}", path.display());
            continue;
        }
        let id = build_id(path);
        let debug = format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
        // C++ names would have to be demangled by someone else to be compared.
        if Path::new(&debug).exists() && !path.ends_with("libstdc++.so.6") {
            cross_check(path, Path::new(&debug), false);
        } else if !path.ends_with("libstdc++.so.6") {
            cross_check(path, path, true);
        }
    }
}

#[test]
fn dwarf_chains_agree_with_addr2line() {
    // This very test: a Rust program with symbols and DWARF.
    let path = std::env::current_exe().unwrap();
    let data = std::fs::read(&path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let text = file.section_by_name(".text").unwrap();
    let (start, size) = (text.address(), text.size());
    let vaddrs: Vec<u64> = numbers(11).map(|n| start + n % size).take(2000).collect();
    let list: Vec<String> = vaddrs.iter().map(|vaddr| format!("{vaddr:#x}")).collect();
    let bench = Workbench::new();
    std::fs::write(bench.path("list"), list.join("\n")).unwrap();
    let at = format!("@{}", bench.arg("list"));
    let Some(listing) = run("addr2line", &["-afi", "-e", path.to_str().unwrap(), &at]) else {
        return;
    };
    // Per address: a line with it, then pairs of function (innermost first) and place.
    let blocks = listing.split("0x").skip(1).map(|block| {
        block
            .lines()
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let got = names_of(&path, &vaddrs, true);
    let (mut compared, mut equal, mut inlined) = (0, 0, 0);
    for (frames, mut wanted) in got.iter().zip(blocks) {
        wanted.reverse();
        if wanted.iter().any(|name| name == "??") || frames[0].kind == FrameKind::Unknown {
            continue;
        }
        compared += 1;
        inlined += frames.len() - 1;
        let shown: Vec<_> = wanted
            .iter()
            .map(|name| flame::symbolize::names::display_name(name))
            .collect();
        equal += u32::from(frames.iter().map(|frame| &frame.name).eq(&shown));
    }
    assert!(
        compared > 1000 && inlined > 100,
        "{compared} compared, {inlined} inlined"
    );
    // binutils takes another one of several functions folded into one, and skips frames
    // whose ranges a compiler described in pieces.
    assert!(equal * 100 >= compared * 97, "{equal} of {compared} agree");
    eprintln!("{equal} of {compared} chains agree with addr2line, {inlined} inlined frames");
}

/// Names a file's code at all its places; must neither panic nor hang.
fn survives(data: &[u8], bench: &Workbench) {
    let path = bench.path("hostile");
    std::fs::write(&path, data).unwrap();
    let Ok(file) = File::open(&path) else { return };
    let module = Module {
        path,
        device_inode: (0, 0),
        file: Some(file),
        root: None,
    };
    let offsets: Vec<u64> = (0..data.len() as u64 + 64).step_by(97).collect();
    let id = ModuleId(0);
    let queries = Queries {
        files: HashMap::from([(id, offsets.clone())]),
        ..Queries::default()
    };
    for inline in [false, true] {
        let options = Options {
            inline,
            debug_dirs: Vec::new(),
            ..Options::default()
        };
        let symbols = symbolize(&queries, |_| &module, &options);
        assert!(
            offsets
                .iter()
                .all(|offset| !symbols.files[&(id, *offset)].is_empty())
        );
    }
}

#[test]
fn damaged_files_cost_names_and_nothing_else() {
    use proptest::prelude::*;
    let bench = Workbench::new();
    let flags = ["-O1", "-g", "-nostdlib", "-shared", "-fPIC"];
    let Some(library) = bench.build("gcc", "prog.c", C, &flags) else {
        return;
    };
    let good = std::fs::read(library).unwrap();
    let size = good.len();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    // Headers are hit more often than their share of the file.
    let place = prop_oneof![0..size, 0..64_usize, size - 2048..size];
    let damage = proptest::collection::vec((place, any::<u8>()), 0..24);
    let strategy = (damage, proptest::option::weighted(0.3, 0..size));
    runner
        .run(&strategy, |(damage, length)| {
            let mut bytes = good.clone();
            for (place, value) in damage {
                bytes[place] = value;
            }
            bytes.truncate(length.unwrap_or(size));
            survives(&bytes, &bench);
            Ok(())
        })
        .unwrap();
    survives(&[], &bench);
}

#[test]
fn kernel_symbols() {
    let kallsyms = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let find = |name: &str| {
        let suffix = format!(" T {name}");
        let line = kallsyms.lines().find(|line| line.ends_with(&suffix))?;
        u64::from_str_radix(line.split(' ').next()?, 16)
            .ok()
            .filter(|start| *start != 0)
    };
    let (Some(start), Some(end)) = (find("vfs_read"), find("_etext")) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "kernel symbols are hidden"
        );
        eprintln!("skipped: kernel symbols are hidden from this user");
        return;
    };
    let queries = Queries {
        kernel: vec![start + 5, start, end + 16, 1],
        ..Queries::default()
    };
    let symbols = symbolize(
        &queries,
        |_| unreachable!("no modules"),
        &Options::default(),
    );
    let got = |address: u64| {
        let [frame] = &*symbols.kernel[&address] else {
            panic!("one frame each")
        };
        (frame.name.to_string(), frame.kind)
    };
    assert_eq!(got(start), ("vfs_read".to_owned(), FrameKind::Kernel));
    assert_eq!(got(start + 5), ("vfs_read".to_owned(), FrameKind::Kernel));
    assert_eq!(got(end + 16), ("[unknown]".to_owned(), FrameKind::Unknown));
    assert_eq!(got(1), ("[unknown]".to_owned(), FrameKind::Unknown));
    assert_eq!(symbols.kernel_problem, None);
}

#[test]
fn the_vdso_has_names() {
    use std::io::{Read, Seek, SeekFrom, Write};
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else {
        eprintln!("skipped: this kernel maps no vDSO");
        return;
    };
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    let (start, end) = (
        u64::from_str_radix(start, 16).unwrap(),
        u64::from_str_radix(end, 16).unwrap(),
    );
    let mut memory = File::open("/proc/self/mem").unwrap();
    memory.seek(SeekFrom::Start(start)).unwrap();
    let mut image = vec![0; (end - start) as usize];
    memory.read_exact(&mut image).unwrap();
    let memory = rustix::fs::memfd_create("vdso", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(memory);
    file.write_all(&image).unwrap();
    let vdso = object::File::parse(&*image).unwrap();
    let symbol = object::Object::dynamic_symbols(&vdso)
        .find(|symbol| object::ObjectSymbol::name(symbol) == Ok("__vdso_clock_gettime"))
        .unwrap();
    let vaddr = object::ObjectSymbol::address(&symbol);
    let module = Module {
        path: "[vdso]".into(),
        device_inode: (0, 0),
        file: Some(file),
        root: None,
    };
    let id = ModuleId(0);
    let queries = Queries {
        files: HashMap::from([(id, vec![vaddr, vaddr + 2])]),
        ..Queries::default()
    };
    let symbols = symbolize(&queries, |_| &module, &Options::default());
    // One address, two names: the plain one is an alias.
    let got = chain(&symbols.files[&(id, vaddr + 2)]);
    assert!(got.ends_with("clock_gettime"), "{got}");
}
