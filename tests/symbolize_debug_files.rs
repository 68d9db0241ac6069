//! Names of stripped files, from wherever their symbols were put.

// A helper of a test fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::File;
use std::path::Path;

use flame::profile::model::FrameKind;
use flame::symbolize::Options;
use flame::symbolize::modules::{Module, ModuleId};
use support::symbols::{C, Workbench, build_id, chain, module, names_of, names_with, nm, run};

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
    let root = File::open(bench.path("")).unwrap();
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
