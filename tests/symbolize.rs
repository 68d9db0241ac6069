//! Names of code in files that this test compiles itself.

// A helper of a test fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashMap;

use flame::symbolize::modules::{Module, ModuleId};
use flame::symbolize::{Options, Queries, symbolize};
use support::symbols::{C, Workbench, chain, names_of, nm, run};

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
