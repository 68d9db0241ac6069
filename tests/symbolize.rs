//! Names of code in files that this test compiles itself, and in the machine's own.

// A helper of a test fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use flame::profile::model::{Frame, FrameKind};
use flame::symbolize::modules::{Module, ModuleId};
use flame::symbolize::{Options, Queries, Symbols, symbolize};
use object::{Object, ObjectSection, ObjectSegment};

/// Runs a tool; `None` (and a word on why) when it is not installed.
fn run(tool: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(tool).args(args).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "{tool} is missing: {error}"
            );
            eprintln!("skipped: {tool} is missing");
            return None;
        }
    };
    assert!(
        output.status.success(),
        "{tool} {args:?}: {}",
        text(&output.stderr)
    );
    Some(text(&output.stdout))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with sources and what is built from them.
struct Workbench(tempfile::TempDir);

impl Workbench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Compiles `source` into `binary`.
    fn build(&self, compiler: &str, name: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
        let binary = name.split('.').next().unwrap();
        std::fs::write(self.path(name), source).unwrap();
        let (input, output) = (self.arg(name), self.arg(binary));
        let mut args = vec![input.as_str(), "-o", &output];
        args.extend(flags);
        run(compiler, &args)?;
        Some(self.path(binary))
    }
}

fn module(path: &Path) -> Module {
    let file = File::open(path).unwrap();
    Module {
        path: path.to_owned(),
        device_inode: (0, 0),
        file: Some(file),
        root: None,
    }
}

/// `flame`'s names for virtual addresses of one file.
fn names_with(module: &Module, vaddrs: &[u64], options: &Options) -> (Vec<Vec<Frame>>, Symbols) {
    let data = std::fs::read(&module.path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let offset = |vaddr: u64| {
        let segment = file
            .segments()
            .find(|segment| {
                (segment.address()..segment.address() + segment.size()).contains(&vaddr)
            })
            .expect("an address inside a segment");
        vaddr - segment.address() + segment.file_range().0
    };
    let offsets: Vec<u64> = vaddrs.iter().map(|vaddr| offset(*vaddr)).collect();
    let id = ModuleId(3);
    let queries = Queries {
        files: HashMap::from([(id, offsets.clone())]),
        ..Queries::default()
    };
    let symbols = symbolize(&queries, |_| module, options);
    let frames = offsets
        .iter()
        .map(|offset| symbols.files[&(id, *offset)].to_vec())
        .collect();
    (frames, symbols)
}

fn names_of(path: &Path, vaddrs: &[u64], inline: bool) -> Vec<Vec<Frame>> {
    let options = Options {
        inline,
        debug_dirs: Vec::new(),
        ..Options::default()
    };
    names_with(&module(path), vaddrs, &options).0
}

/// Names of one address, outermost first, inlined ones marked.
fn chain(frames: &[Frame]) -> String {
    let mark = |frame: &Frame| match frame.kind {
        FrameKind::User => frame.name.to_string(),
        FrameKind::Inlined => format!("{}_[i]", frame.name),
        kind => format!("{kind:?}:{}", frame.name),
    };
    frames.iter().map(mark).collect::<Vec<_>>().join(";")
}

/// Symbols by name as `nm` prints them: start and size.
fn nm(path: &Path) -> Option<BTreeMap<String, (u64, u64)>> {
    let table = run("nm", &["-S", path.to_str().unwrap()])?;
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let hex = |word: &str| u64::from_str_radix(word, 16).ok();
        match *words.as_slice() {
            [start, size, _, name] => Some((name.to_owned(), (hex(start)?, hex(size)?))),
            [start, _, name] => Some((name.to_owned(), (hex(start)?, 0))),
            _ => None,
        }
    };
    Some(table.lines().filter_map(parse).collect())
}

const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
volatile long sink;
static inline __attribute__((always_inline)) void innermost(long n) { for (long i = 0; i < n; i++) sink += i; }
static inline __attribute__((always_inline)) void middle(long n) { innermost(n); }
__attribute__((noinline)) void outer(long n) { middle(n); }
__attribute__((noinline)) static int local(int n) { sink += n; return n * 3; }
int main(int argc, char **argv) { outer(argc); puts("x"); return local(argc) + atoi(argv[0]); }
"#;

#[test]
fn symbol_table_names_in_every_layout() {
    let layouts: [&[&str]; 5] = [
        &["-O1"],
        &["-O1", "-no-pie"],
        &["-O1", "-fuse-ld=lld"],
        &["-O1", "-no-pie", "-fuse-ld=lld"],
        &["-O1", "-Wl,-z,noseparate-code"],
    ];
    for flags in layouts {
        let bench = Workbench::new();
        let Some(binary) = bench.build("gcc", "prog.c", C, flags) else {
            return;
        };
        let Some(symbols) = nm(&binary) else { return };
        for function in ["outer", "local", "main"] {
            let (start, size) = symbols[function];
            let got = names_of(&binary, &[start, start + size - 1], false);
            assert_eq!(
                got.iter().map(|f| chain(f)).collect::<Vec<_>>(),
                [function; 2],
                "{flags:?}"
            );
        }
    }
}

#[test]
fn dwarf_names_inlined_functions_after_their_caller() {
    let bench = Workbench::new();
    for flags in [
        &["-O1", "-g"][..],
        &["-O1", "-g", "-fuse-ld=lld"],
        &["-O1", "-g", "-gz"],
    ] {
        let Some(binary) = bench.build("gcc", "prog.c", C, flags) else {
            return;
        };
        let (start, size) = nm(&binary).unwrap()["outer"];
        let all: Vec<u64> = (start..start + size).collect();
        let chains: Vec<String> = names_of(&binary, &all, true)
            .iter()
            .map(|f| chain(f))
            .collect();
        assert!(
            chains
                .iter()
                .any(|chain| chain == "outer;middle_[i];innermost_[i]"),
            "{chains:?}"
        );
        assert!(
            chains.iter().all(|chain| chain.starts_with("outer")),
            "{chains:?}"
        );
    }
}

#[test]
fn dwarf_names_inlined_cpp_and_rust_functions() {
    let bench = Workbench::new();
    let source = r"
        volatile long sink;
        namespace deep {
            template <class T> struct Box {
                __attribute__((noinline)) Box(T n) { sink += n; }
                inline __attribute__((always_inline)) void spin(T n) { for (T i = 0; i < n; i++) sink += i; }
            };
            __attribute__((noinline)) void run(long n) { Box<long> box(n); box.spin(n); }
        }
        int main(int argc, char **) { deep::run(argc); }";
    let Some(binary) = bench.build("g++", "cpp.cc", source, &["-O1", "-g"]) else {
        return;
    };
    let symbols = nm(&binary).unwrap();
    let (start, size) = symbols["_ZN4deep3runEl"];
    let all: Vec<u64> = (start..start + size).collect();
    let chains: Vec<String> = names_of(&binary, &all, true)
        .iter()
        .map(|f| chain(f))
        .collect();
    let wanted = "deep::run(long);deep::Box<long>::spin(long)_[i]";
    assert!(chains.iter().any(|chain| chain == wanted), "{chains:?}");
    let constructor = symbols
        .keys()
        .find(|name| name.contains("BoxIlEC"))
        .unwrap();
    let got = names_of(&binary, &[symbols[constructor].0], true);
    assert_eq!(chain(&got[0]), "deep::Box<long>::Box(long)");

    let source = r#"
        #[inline(always)] fn inner<T: Copy + Into<u64>>(n: T) -> u64 { (0..n.into()).map(std::hint::black_box).sum() }
        #[inline(never)] pub fn outer(n: u32) -> u64 { inner(n) }
        fn main() { println!("{}", outer(std::env::args().count() as u32)); }"#;
    for scheme in ["legacy", "v0"] {
        let mangling = format!("-Csymbol-mangling-version={scheme}");
        let unlocked = if scheme == "legacy" {
            "-Zunstable-options"
        } else {
            "-Cdebuginfo=2"
        };
        if scheme == "legacy" && !rustc_is_nightly() {
            continue;
        }
        let flags = ["-Copt-level=1", "-g", &mangling, unlocked];
        let Some(binary) = bench.build("rustc", "rust.rs", source, &flags) else {
            return;
        };
        let symbols = nm(&binary).unwrap();
        let name = symbols
            .keys()
            .find(|name| {
                name.contains("4rust5outer")
                    || name.contains("_4rust5outer")
                    || name.ends_with("4rust5outer")
            })
            .unwrap();
        let (start, size) = symbols[name];
        let all: Vec<u64> = (start..start + size).collect();
        let chains: Vec<String> = names_of(&binary, &all, true)
            .iter()
            .map(|f| chain(f))
            .collect();
        assert!(chains.iter().any(|chain| chain.starts_with("rust::outer;rust::inner")
            && chain.contains("_[i]")), "{chains:?}");
    }
}

fn rustc_is_nightly() -> bool {
    run("rustc", &["--version"]).is_some_and(|version| version.contains("nightly"))
}

/// Builds a stripped `prog` and its debug file; gives the chains of `outer` and `local`.
fn stripped(bench: &Workbench, debug_file: &str, flags: &[&str]) -> Option<[u64; 2]> {
    let binary = bench.build("gcc", "prog.c", C, flags)?;
    let symbols = nm(&binary)?;
    let binary = bench.arg("prog");
    let debug = bench.arg(debug_file);
    std::fs::create_dir_all(Path::new(&debug).parent().unwrap()).unwrap();
    run("objcopy", &["--only-keep-debug", &binary, &debug])?;
    run("strip", &["--strip-all", &binary])?;
    Some([symbols["outer"].0 + 4, symbols["local"].0])
}

fn build_id(path: &Path) -> String {
    let data = std::fs::read(path).unwrap();
    let file = object::File::parse(&*data).unwrap();
    let id = file.build_id().unwrap().unwrap();
    let digits: Vec<String> = id.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}

#[test]
fn stripped_with_a_debug_link() {
    // By the file's own build id, and, when it has none, by the link's checksum.
    for build_id in ["-Wl,--build-id=sha1", "-Wl,--build-id=none"] {
        for (place, inline) in [("prog.debug", true), (".debug/prog.debug", false)] {
            let bench = Workbench::new();
            let flags = ["-O1", "-g", build_id];
            let Some(vaddrs) = stripped(&bench, place, &flags) else {
                return;
            };
            let link = format!("--add-gnu-debuglink={}", bench.arg(place));
            run("objcopy", &[&link, &bench.arg("prog")]);
            let got = names_of(&bench.path("prog"), &vaddrs, inline);
            assert_eq!(got[0][0].name.as_ref(), "outer");
            assert_eq!(got[1][0].name.as_ref(), "local");
            // A file in its place that is not the one meant is not believed.
            let other = bench
                .build("gcc", "other.c", C, &["-O0", "-g", build_id])
                .unwrap();
            std::fs::copy(other, bench.path(place)).unwrap();
            let got = names_of(&bench.path("prog"), &vaddrs, inline);
            assert!(
                got.iter()
                    .all(|frames| frames[0].kind == FrameKind::Unknown),
                "{got:?}"
            );
        }
    }
}

#[test]
fn stripped_with_a_build_id_and_no_debug_link() {
    let bench = Workbench::new();
    let Some(vaddrs) = stripped(&bench, "tmp.debug", &["-O1", "-g", "-Wl,--build-id"]) else {
        return;
    };
    let id = build_id(&bench.path("prog"));
    let folder = bench.path("debug/.build-id").join(&id[..2]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::rename(
        bench.path("tmp.debug"),
        folder.join(format!("{}.debug", &id[2..])),
    )
    .unwrap();
    let module = module(&bench.path("prog"));
    let mut options = Options {
        inline: true,
        debug_dirs: vec![bench.path("debug")],
        ..Options::default()
    };
    let (got, symbols) = names_with(&module, &vaddrs, &options);
    assert!(chain(&got[0]).starts_with("outer"), "{got:?}");
    assert_eq!(chain(&got[1]), "local");
    assert!(symbols.file_problems.is_empty());

    // The same in a container: the directory is looked for below the process's root.
    let root = File::open(bench.0.path()).unwrap();
    let contained = Module {
        root: Some(std::sync::Arc::new(root.into())),
        ..module
    };
    options.debug_dirs = vec!["/debug".into()];
    let (got, _) = names_with(&contained, &vaddrs, &options);
    assert_eq!(chain(&got[1]), "local");

    // Without it the quality block tells how to get it.
    options.debug_dirs.clear();
    let (got, symbols) = names_with(&contained, &vaddrs, &options);
    assert_eq!(got[0][0].kind, FrameKind::Unknown);
    let problem = &symbols.file_problems[&ModuleId(3)];
    assert!(
        problem.contains(&id) && problem.contains("debuginfod-find"),
        "{problem}"
    );
}

#[test]
fn mini_debug_info() {
    let bench = Workbench::new();
    let Some(vaddrs) = stripped(&bench, "full.debug", &["-O1"]) else {
        return;
    };
    let (full, mini) = (bench.arg("full.debug"), bench.arg("mini"));
    run(
        "objcopy",
        &[
            "-S",
            "--keep-symbol=local",
            "--keep-symbol=outer",
            &full,
            &mini,
        ],
    );
    if run("xz", &["--keep", &mini]).is_none() {
        return;
    }
    let section = format!(".gnu_debugdata={mini}.xz");
    run("objcopy", &["--add-section", &section, &bench.arg("prog")]);
    for inline in [false, true] {
        let got = names_of(&bench.path("prog"), &vaddrs, inline);
        assert_eq!(
            (chain(&got[0]).as_str(), chain(&got[1]).as_str()),
            ("outer", "local")
        );
    }
}

#[test]
fn call_stubs_have_the_name_of_their_target() {
    for flags in [
        &["-O1"][..],
        &["-O1", "-fcf-protection"],
        &["-O1", "-no-pie"],
        &["-O1", "-fuse-ld=lld"],
        &["-O1", "-Wl,-z,now"],
    ] {
        let bench = Workbench::new();
        let Some(binary) = bench.build("gcc", "prog.c", C, flags) else {
            return;
        };
        // objdump knows the stubs by the same relocations, found its own way.
        let Some(listing) = run("objdump", &["-d", binary.to_str().unwrap()]) else {
            return;
        };
        let mut stubs = 0;
        for line in listing.lines() {
            let Some((address, name)) =
                line.strip_suffix("@plt>:").and_then(|l| l.split_once(" <"))
            else {
                continue;
            };
            let address = u64::from_str_radix(address, 16).unwrap();
            let got = names_of(&binary, &[address, address + 5], false);
            assert_eq!(chain(&got[0]), format!("{name}@plt"), "{flags:?}");
            assert_eq!(chain(&got[1]), format!("{name}@plt"), "{flags:?}");
            stubs += 1;
        }
        assert!(stubs > 0, "{flags:?} {listing}");
    }
}

#[test]
fn code_without_a_symbol_never_gets_a_neighbours_name() {
    let source = r#"
        .text
        .globl sized
        .type sized, @function
        sized: .cfi_startproc
            nop; nop; nop; nop
            ret
            .cfi_endproc
        .size sized, . - sized
        gap: .fill 64, 1, 0x90
        .globl sizeless
        .type sizeless, @function
        sizeless: nop; nop
            ret
        .section .text.hot,"ax",@progbits
        .cfi_startproc
        nameless: nop; nop; ret
        .cfi_endproc
        .section other_code,"ax",@progbits
        nop; nop; ret
        .globl with_cfi
        .section .text.z,"ax",@progbits
        .type with_cfi, @function
        with_cfi: .cfi_startproc
        nop
        inside: nop; nop; ret
        .cfi_endproc
    "#;
    let bench = Workbench::new();
    let flags = [
        "-nostdlib",
        "-shared",
        "-Wl,--build-id=none",
        "-Wl,--eh-frame-hdr",
    ];
    let Some(binary) = bench.build("gcc", "lib.s", source, &flags) else {
        return;
    };
    let symbols = nm(&binary).unwrap();
    let at = |name: &str| symbols[name].0;
    // `gap` and `nameless` serve to find the places; the file must not know them.
    let library = bench.arg("lib");
    run(
        "strip",
        &["--strip-symbol=gap", "--strip-symbol=nameless", &library],
    );
    let sections = run("objdump", &["-h", &library]).unwrap();
    let other = sections
        .lines()
        .find(|line| line.contains("other_code"))
        .unwrap();
    let other = u64::from_str_radix(other.split_whitespace().nth(3).unwrap(), 16).unwrap();
    for inline in [false, true] {
        let vaddrs = [
            at("sized") + 4,
            at("gap") + 8,
            at("sizeless") + 1,
            at("nameless") + 1,
            other + 1,
            at("with_cfi"),
            at("inside") + 1,
        ];
        let got: Vec<String> = names_of(&binary, &vaddrs, inline)
            .iter()
            .map(|frames| chain(frames))
            .collect();
        let unnamed = |vaddr: u64| format!("Unknown:[lib+{vaddr:#x}]");
        assert_eq!(
            got,
            [
                "sized".to_owned(),
                unnamed(at("gap") + 8),
                "sizeless".to_owned(),
                // Call frame information tells where this one starts.
                unnamed(at("nameless")),
                unnamed(other + 1),
                "with_cfi".to_owned(),
                "with_cfi".to_owned(),
            ]
        );
    }
}

#[test]
fn a_stripped_static_program_is_grouped_by_function() {
    let bench = Workbench::new();
    let Some(binary) = bench.build("gcc", "prog.c", C, &["-O1", "-static"]) else {
        return;
    };
    let (start, size) = nm(&binary).unwrap()["outer"];
    run("strip", &[&bench.arg("prog")]);
    for inline in [false, true] {
        let got = names_of(
            &binary,
            &[start, start + size / 2, start + size - 1],
            inline,
        );
        for frames in got {
            assert_eq!(chain(&frames), format!("Unknown:[prog+{start:#x}]"));
        }
    }
}

#[test]
fn modules_without_a_file_keep_module_and_offset() {
    let gone = Module {
        path: "/opt/gone; \u{1b}[31m.so".into(),
        device_inode: (1, 2),
        file: None,
        root: None,
    };
    let id = ModuleId(0);
    let queries = Queries {
        files: HashMap::from([(id, vec![0x10, 0x20])]),
        ..Queries::default()
    };
    let symbols = symbolize(&queries, |_| &gone, &Options::default());
    assert_eq!(
        chain(&symbols.files[&(id, 0x20)]),
        "Unknown:[gone_ __31m.so+0x20]"
    );
    assert!(symbols.file_problems[&id].contains("root"));
}

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
fn a_debug_link_to_a_fifo_does_not_make_us_wait() {
    let bench = Workbench::new();
    let Some(vaddrs) = stripped(&bench, "prog.debug", &["-O1", "-g"]) else {
        return;
    };
    let link = format!("--add-gnu-debuglink={}", bench.arg("prog.debug"));
    run("objcopy", &[&link, &bench.arg("prog")]);
    std::fs::remove_file(bench.path("prog.debug")).unwrap();
    run("mkfifo", &[&bench.arg("prog.debug")]);
    for inline in [false, true] {
        let got = names_of(&bench.path("prog"), &vaddrs, inline);
        assert_eq!(got[0][0].kind, FrameKind::Unknown);
    }
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
